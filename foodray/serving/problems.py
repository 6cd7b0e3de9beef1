"""Everything the endpoint refuses, as problem+json (RFC 9457) with a stable `code`; a client may rely on the codes, not on the words.

A handler raises `RequestError`; whatever else it raises becomes `internal_error` without a word of it in the answer. The log has the
traceback beside the request id that the answer carries.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from foodray.errors import FoodrayError, PhotoError, StorageError

log = logging.getLogger(__name__)

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "The request could not be read"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "The API key does not allow this"),
    "reference_not_allowed": (403, "The location is outside the allowed roots"),
    "not_found": (404, "There is nothing here"),
    "reference_not_found": (404, "Nothing is stored at the location"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "conflict": (409, "It is in another state"),
    "body_too_large": (413, "The body is larger than the limit"),
    "image_too_large": (413, "A photo is larger than the limit"),
    "unsupported_media_type": (415, "The content type is not supported"),
    "unsupported_format": (415, "The image format is not supported"),
    "undecodable": (422, "The photo cannot be read"),
    "invalid_option": (422, "An option is unknown or impossible"),
    "too_many_photos": (422, "Too many photos in one request"),
    "rate_limited": (429, "Too many requests with this key"),
    "internal_error": (500, "Something failed here"),
    "model_error": (500, "The model failed on the photo"),
    "not_configured": (501, "This endpoint was started without it"),
    "not_ready": (503, "Not ready yet"),
    "overloaded": (503, "Too many requests are waiting"),
    "storage_error": (503, "The storage did not answer"),
    "timeout": (504, "It took too long"),
}
"""Every code with its HTTP status and title."""

OF_REASON = {
    "not_found": "reference_not_found",
    "access_denied": "reference_not_allowed",
    "outside_root": "reference_not_allowed",
    "too_large": "image_too_large",
    "too_many_pixels": "image_too_large",
    "format_not_allowed": "unsupported_format",
    "format_needs_extra": "unsupported_format",
    "timeout": "storage_error",
    "oom": "image_too_large",
    "model_error": "model_error",
    "bad_box": "invalid_option",
}
"""The problem of a photo that was refused; every other reason is `undecodable`."""


class RequestError(FoodrayError):
    """A request that is refused. `extra` is added to the answer, `headers` to its headers."""

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        self.code, self.detail, self.extra = code, detail, extra
        self.status, self.title = PROBLEMS[code]
        wait = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        self.headers = {**wait, **(headers or {})}
        super().__init__(f"{code}: {detail}")

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        """As it was, in another process."""
        return (partial(RequestError, headers=self.headers, **self.extra), (self.code, self.detail))

    @staticmethod
    def of_reason(reason: str, detail: str, **extra: Any) -> "RequestError":
        """The problem of a photo that was refused with a reason code."""
        return RequestError(OF_REASON.get(reason, "undecodable"), detail, reason=reason, **extra)

    def response(self, request: Request) -> JSONResponse:
        """The answer."""
        body = {"type": "about:blank", "title": self.title, "status": self.status, "code": self.code, "detail": self.detail}
        body |= {"request_id": getattr(request.state, "request_id", None), **self.extra}
        return JSONResponse(body, status_code=self.status, media_type="application/problem+json", headers=self.headers)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return error.response(request)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return RequestError("invalid_option", f"{where or 'body'}: {first['msg']}"[:300]).response(request)


async def _storage(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s: the storage failed", getattr(request.state, "request_id", None), exc_info=error)
    return RequestError("storage_error", "the storage of the endpoint did not answer", retry_after_s=5).response(request)


async def _photo(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PhotoError)
    return RequestError.of_reason(error.reason, error.detail).response(request)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "malformed_request")
    path = getattr(request.scope.get("route"), "path", None)
    methods = getattr(request.app.state, "methods", {}).get(path)
    headers = {"Allow": ", ".join(sorted(methods))} if methods and error.status_code == 405 else error.headers
    return RequestError(code, str(error.detail), headers=headers).response(request)


def internal(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error of our own; its traceback goes to the log."""
    log.error("request %s failed", getattr(request.state, "request_id", None), exc_info=error)
    return RequestError("internal_error", "the log has the details beside the request id").response(request)


def install(app: FastAPI) -> None:
    """Make every refusal of an application a problem."""
    app.add_exception_handler(RequestError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StorageError, _storage)
    app.add_exception_handler(PhotoError, _photo)
