"""What the HTTP routes stand on, and who may use them: one `Service` in the application's state.

A route takes `service_of(request)` and guards itself with `Depends(allowed("analyze"))`, which checks the key and its rate before
anything of the body is read.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from foodray.analyzer import Analysis, PhotoInput
from foodray.analyzer.messages import ModelsReply, Versions
from foodray.serving.access import Key, KeyRing, Scope
from foodray.serving.config import ServeConfig
from foodray.serving.jobs import Jobs
from foodray.serving.problems import RequestError
from foodray.serving.reviews import Reviews


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the graph says of a photo, and what said it."""

    analysis: Analysis
    versions: Versions


class Graph(Protocol):
    """Where photos are analysed: in this process, or in the deployments behind it."""

    async def models(self) -> ModelsReply:
        """The models as they are now; raises `RequestError` (not_ready) before there are any."""
        ...

    async def analyze(self, photo: PhotoInput) -> Answer:
        """One photo; raises `RequestError` (overloaded, not_ready) when it cannot be done now."""
        ...


class Limiter(Protocol):
    """Counts the requests of each key."""

    async def take(self, key_id: str, requests_per_minute: float, burst: int) -> float:
        """Count one request; 0 when it may go on, else the seconds to wait."""
        ...


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of an endpoint."""

    config: ServeConfig
    graph: Graph
    limiter: Limiter
    keys: KeyRing | None
    """None only with FOODRAY_INSECURE_NO_AUTH=1."""
    reviews: Reviews | None
    jobs: Jobs | None


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def allowed(scope: Scope) -> Callable[[Request], Awaitable[Key]]:
    """A dependency: the key of the request, if it has the scope and its rate allows; raises `RequestError`."""

    async def check(request: Request) -> Key:
        service = service_of(request)
        key = Key.anonymous() if service.keys is None else await run_in_threadpool(service.keys.check, request.headers.get("authorization"))
        request.state.key = key
        limits = service.config.http
        wait = await service.limiter.take(key.key_id, key.requests_per_minute or limits.requests_per_minute, limits.burst)
        if wait:
            raise RequestError(
                "rate_limited", f"this key may send {key.requests_per_minute or limits.requests_per_minute:g} requests a minute", retry_after_s=wait
            )
        if not key.may(scope):
            raise RequestError("forbidden", f"the key needs the scope {scope!r}")
        return key

    return check
