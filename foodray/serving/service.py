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
from foodray.serving.access import Key, KeyRing, Scope, bearer_of
from foodray.serving.config import ServeConfig
from foodray.serving.jobs import Jobs
from foodray.serving.problems import RequestError
from foodray.serving.reviews import Reviews
from foodray.serving.taggers import Taggers
from foodray.serving.tagging import Tagging


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
    taggers: Taggers | None = None
    """None where the endpoint makes no taggers."""
    tagging: Tagging | None = None
    """Where they answer; there whenever `taggers` is."""


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def allowed(scope: Scope, *, basic: bool = False) -> Callable[[Request], Awaitable[Key]]:
    """A dependency: the key of the request, if it has the scope and its rate allows; raises `RequestError`. `basic`: HTTP Basic, the key as user."""

    async def check(request: Request) -> Key:
        service = service_of(request)
        key = Key.anonymous() if service.keys is None else await run_in_threadpool(_key, service.keys, request.headers.get("authorization"), basic)
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


def _key(keys: KeyRing, header: str | None, basic: bool) -> Key:
    try:
        return keys.check(bearer_of(header) if basic else header)
    except RequestError as error:
        if not basic:
            raise
        told = {"WWW-Authenticate": 'Basic realm="foodray"'}
        raise RequestError(error.code, "send HTTP Basic with a valid API key as user and an empty password", headers=told) from error
