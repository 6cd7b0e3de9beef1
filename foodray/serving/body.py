"""The body of a request that is JSON, read no further than it may be long and no longer than a request may take.

FastAPI itself would read all of a body, of any length, before it asks for the key.
"""

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from foodray.serving.form import stop
from foodray.serving.problems import RequestError

M = TypeVar("M", bound=BaseModel)


async def read_message(request: Request, kind: type[M], *, max_bytes: int, timeout_s: float) -> M:
    """The message in a body; raises `RequestError`: unsupported_media_type, body_too_large, timeout, malformed_request, invalid_option."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise stop("unsupported_media_type", "send application/json")
    return parsed(await read_body(request, max_bytes=max_bytes, timeout_s=timeout_s), kind)


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The bytes of a body; raises `RequestError`: body_too_large, timeout, malformed_request."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise stop("body_too_large", f"the limit is {max_bytes} bytes")
    except TimeoutError as error:
        raise stop("timeout", f"the body did not arrive within {timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise stop("malformed_request", "the client went away before the end of the body") from error
    return bytes(body)


def parsed(body: bytes, kind: type[M]) -> M:
    """The message in the bytes of a body; raises `RequestError`: malformed_request, invalid_option."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> RequestError:
    """What is wrong with a message: its first fault."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return RequestError("malformed_request", "the body is not JSON in UTF-8")
    return RequestError("invalid_option", f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"[:300])
