"""A real endpoint for tests: uvicorn on loopback over the application, in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import uvicorn

from foodray.analyzer import Analyzer, AnalyzerConfig
from foodray.serving.access import KeyRing
from foodray.serving.config import HttpConfig, ServeConfig
from foodray.serving.http import create_app
from foodray.serving.jobs import Jobs
from foodray.serving.limiter import LocalLimiter
from foodray.serving.local import LocalGraph
from foodray.serving.service import Service


def service(config: AnalyzerConfig, *, keys: str = "", markers_yaml: str | None = None, jobs: Jobs | None = None) -> Service:
    """An endpoint's parts around an analyzer."""
    whole = ServeConfig(analyzer=config, http=HttpConfig(requests_per_minute=1e6, burst=10_000))
    graph = LocalGraph(Analyzer.load(config), markers_yaml)
    return Service(config=whole, graph=graph, limiter=LocalLimiter(), keys=KeyRing.open(keys) if keys else None, reviews=None, jobs=jobs)


@contextmanager
def running(app: Any, port: int = 0) -> Iterator[str]:
    """An ASGI application on a port of loopback, as its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


class Door:
    """The application with faults before it.

    `faults` are the statuses that the next requests for an analysis get, first to last; 0 breaks the connection off. From request
    `breaks_at` for an analysis on, every connection is broken off. `swap_at` is the request before which the service is exchanged.
    """

    def __init__(self, service: Service) -> None:
        self.app = create_app(service)
        self.reset()

    def reset(self) -> None:
        """No faults, nothing counted."""
        self.headers: dict[str, str] = {}
        self.faults: list[int] = []
        self.asked: list[float] = []
        self.breaks_at: int | None = None
        self.swap_at: tuple[int, Service] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["path"] == "/v1/analyze":
            self.asked.append(time.monotonic())
            if self.swap_at is not None and len(self.asked) == self.swap_at[0]:
                self.app = create_app(self.swap_at[1])
        if self.breaks_at is not None and len(self.asked) >= self.breaks_at:
            await self._fail(0, receive, send)
        elif scope["path"] == "/v1/analyze" and self.faults:
            await self._fail(self.faults.pop(0), receive, send)
        else:
            await self.app(scope, receive, send)

    async def _fail(self, status: int, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        if status == 0:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b"half an ans", "more_body": True})
            raise ConnectionResetError("the test hangs up")
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class Client:
    """A client of the endpoint with a key."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, **more: Any) -> requests.Response:
        """One request."""
        headers = {**self.headers, **more.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **more)


def problem(answer: requests.Response) -> tuple[int, str]:
    """Status and code of an answer that is a problem, and nothing else."""
    assert answer.headers["Content-Type"].startswith("application/problem+json"), answer.text
    found = answer.json()
    assert "Traceback" not in answer.text
    assert found["status"] == answer.status_code
    return answer.status_code, found["code"]
