"""The page on which a dietitian looks at a photo's items and corrects them: a few files of this package, open to all; what it shows needs a key.

The page may load nothing but itself (Content-Security-Policy), runs no inline script, and sends nothing anywhere but to this endpoint.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

from foodray.serving.problems import RequestError

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


@dataclass(frozen=True, kw_only=True)
class _File:
    data: bytes
    etag: str
    media_type: str

    def response(self, request: Request) -> Response:
        # A browser asks each time whether it still has the right one, so a new version is never mixed with an old one.
        headers = {
            "Content-Security-Policy": CSP,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "geolocation=(), microphone=()",
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


def router() -> APIRouter:
    """The page at / and its parts below /page/; their bytes are read now, once."""
    files = _read()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index(request: Request) -> Response:
        return files["index.html"].response(request)

    @routes.get("/page/{name}")
    async def part(request: Request, name: str) -> Response:
        if name not in files:
            raise RequestError("not_found", "the page has no such part")
        return files[name].response(request)

    return routes


def _read() -> dict[str, _File]:
    folder = resources.files("foodray.serving").joinpath("page")
    found: dict[str, _File] = {}
    for file in folder.iterdir():
        media_type = TYPES.get("." + file.name.rsplit(".", 1)[-1])
        if media_type is not None:
            data = file.read_bytes()
            found[file.name] = _File(data=data, etag=f'"{hashlib.sha256(data).hexdigest()[:32]}"', media_type=media_type)
    return found
