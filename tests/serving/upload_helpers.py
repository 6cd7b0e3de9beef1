"""A real endpoint that answers what it read of a request, and clients that speak HTTP byte by byte."""

import asyncio
import hashlib
import json
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foodray.corpus.photo import PhotoLimits
from foodray.serving.config import HttpConfig
from foodray.serving.problems import install
from foodray.serving.uploads import read_photos

BOUNDARY = "f00d"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The code of a problem, "" of a success."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


@dataclass
class Endpoint:
    """A running endpoint; `settings` may be changed between requests."""

    port: int
    http: HttpConfig = field(default_factory=HttpConfig)
    limits: PhotoLimits = field(default_factory=PhotoLimits)
    num_bytes_taken: int = 0
    """Bytes of bodies that the application took since it was last set to 0."""

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def post(self, body: bytes, content_type: str | None = FORM, **headers: str) -> Answer:
        """Send a whole body."""
        self.num_bytes_taken = 0
        with self.connect() as client:
            client.sendall(head(content_type, content_length=str(len(body)), **headers) + body)
            return answer(client)

    def stream(self, pieces: Iterable[bytes], content_type: str = FORM) -> Answer:
        """Send a body in chunks until it ends or the endpoint answers or hangs up, whichever is first."""
        self.num_bytes_taken = 0
        with self.connect() as client:
            client.sendall(head(content_type, transfer_encoding="chunked"))
            try:
                for piece in pieces:
                    if select.select([client], [], [], 0)[0]:
                        break
                    client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                else:
                    client.sendall(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            return answer(client)


def head(content_type: str | None, **headers: str) -> bytes:
    """The head of a request."""
    lines = ["POST /photos HTTP/1.1", "Host: localhost", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines += [] if content_type is None else [f"Content-Type: {content_type}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(client: socket.socket) -> Answer:
    """Read a response."""
    response = HTTPResponse(client)
    response.begin()
    return Answer(response.status, json.loads(response.read()), {name.lower(): value for name, value in response.headers.items()})


def part(name: str, content: bytes, more: str = '; filename="Erika Mustermann.jpg"', headers: str = "") -> bytes:
    """A part of a form."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A form of parts."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def images(*contents: bytes) -> bytes:
    """A form of files."""
    return form(*(part("image", content) for content in contents))


def specs(*values: Any) -> bytes:
    """The part that describes the images."""
    return part("photos", json.dumps(values).encode(), more="")


def sha256(data: bytes) -> str:
    """Hash of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def running() -> Iterator[Endpoint]:
    """An endpoint on this machine, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = Endpoint(listener.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(_Counting(_app(endpoint), endpoint), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield endpoint
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _app(endpoint: Endpoint) -> FastAPI:
    app = FastAPI()
    install(app)

    @app.post("/photos")
    async def photos(request: Request) -> list[dict[str, Any]]:
        asked = await read_photos(request, endpoint.http, endpoint.limits)
        return [
            {
                "spec": one.spec.model_dump(exclude_defaults=True),
                "sha256": sha256(one.data) if one.data else None,
                "refused": one.refused and [one.refused.reason, one.refused.detail],
            }
            for one in asked
        ]

    return app


@dataclass
class _Counting:
    app: ASGIApp
    endpoint: Endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            self.endpoint.num_bytes_taken += len(message.get("body", b""))
            return message

        await self.app(scope, counted, send)
