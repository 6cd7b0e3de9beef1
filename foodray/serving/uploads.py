"""The photos of a request: files of a multipart form, or locations under the allowed roots; every limit is enforced while the body streams.

Uploads stay in memory, where `max_body_bytes` bounds them; nothing is spooled to disk. Where a request is refused before its body was
read, the connection ends with the answer, so that nobody has to read the rest.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from foodray.corpus.photo import PhotoLimits
from foodray.errors import PhotoError
from foodray.serving.config import HttpConfig
from foodray.serving.form import Form, FormLimits, stop
from foodray.serving.problems import RequestError
from foodray.serving.references import read_references

T = TypeVar("T")
MAX_BOXES = 200
MAX_SPEC_BYTES = 128 * 2**10
"""JSON that may come with one photo: 200 boxes with long ids."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BoxSpec(_Asked):
    """A box that comes with a photo."""

    item_id: str | None = Field(default=None, max_length=200, description="id of the item in the study, given back with it")
    bbox_xywh_px: tuple[Finite, Finite, Side, Side] = Field(description="x, y, width and height in px of the oriented photo")


class PhotoSpec(_Asked):
    """What is known of a photo beforehand."""

    image_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="its name in the answer")
    uri: str | None = Field(default=None, min_length=1, max_length=2048, description="its location under a root of the endpoint, where it is not uploaded")
    boxes: list[BoxSpec] = Field(default=[], max_length=MAX_BOXES, description="boxes of the items; none: the endpoint looks for them")
    marker_id: str | None = Field(default=None, max_length=100, description="the reference object to look for")
    px_per_mm: float | None = Field(default=None, ge=1e-3, le=1e4, description="scale on the table plane, where it was measured before")


class References(_Asked):
    """The body of a request that names its photos."""

    photos: list[PhotoSpec]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One photo of a request."""

    spec: PhotoSpec
    """What the client says of it."""
    data: bytes = field(repr=False)
    """The encoded file; empty where it was refused."""
    refused: PhotoError | None = None
    """Why it cannot be analysed; the other photos of the request can."""


async def read_photos(request: Request, http: HttpConfig, limits: PhotoLimits) -> list[Asked]:
    """The photos of a request, in its order, 1 to `http.max_photos`.

    multipart/form-data has parts `image` (files) and at most one `photos` (a JSON array of `PhotoSpec` without uri, one per image, in order).
    application/json is a `References`, each photo with its uri. Raises `RequestError`; a photo that is empty, too large or cannot be read
    from its location is refused alone.
    """
    try:
        async with asyncio.timeout(http.timeout_s):
            kind, boundary = content_type(request)
            if kind == b"multipart/form-data":
                return await _uploaded(request, boundary, http, limits)
            if kind == b"application/json":
                return await _referenced(request, http, limits)
            raise stop("unsupported_media_type", "send multipart/form-data with parts named image, or application/json")
    except TimeoutError as error:
        raise stop("timeout", f"the photos did not arrive within {http.timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise stop("malformed_request", "the client went away before the end of the body") from error


def content_type(request: Request) -> tuple[bytes, bytes]:
    """The content type without its parameters, and the boundary."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8", b"us-ascii"):
        raise stop("malformed_request", "the charset must be utf-8")
    return kind, options.get(b"boundary", b"")


async def body_of(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces; raises `RequestError` (body_too_large) at once for an announced length, else when the limit is passed."""
    length = request.headers.get("content-length", "")
    too_large = stop("body_too_large", f"the limit is {max_bytes} bytes")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise too_large
    num_bytes = 0
    async with aclosing(request.stream()) as stream:
        async for piece in stream:
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise too_large
            yield piece


async def _referenced(request: Request, http: HttpConfig, limits: PhotoLimits) -> list[Asked]:
    text = bytearray()
    async with aclosing(body_of(request, min(http.max_body_bytes, http.max_photos * MAX_SPEC_BYTES))) as pieces:
        async for piece in pieces:
            text += piece
    specs = validated(TypeAdapter(References), bytes(text)).photos
    if not specs:
        raise RequestError("malformed_request", "photos names no photo")
    if len(specs) > http.max_photos:
        raise RequestError("too_many_photos", f"{len(specs)} photos, the limit is {http.max_photos}")
    if missing := [index for index, spec in enumerate(specs) if spec.uri is None]:
        raise RequestError("invalid_option", f"photos.{missing[0]}.uri: a photo that is not uploaded needs its location")
    found = await read_references([spec.uri or "" for spec in specs], http.photo_roots, limits, http.max_body_bytes)
    return [_asked(spec, data) for spec, data in zip(specs, found, strict=True)]


async def _uploaded(request: Request, boundary: bytes, http: HttpConfig, limits: PhotoLimits) -> list[Asked]:
    text_bytes = http.max_photos * MAX_SPEC_BYTES
    form = await read_form(request, boundary, FormLimits(max_photos=http.max_photos, max_image_bytes=limits.max_bytes, max_text_bytes=text_bytes), http)
    return [_asked(spec, data) for spec, data in zip(_specs(form), form.images, strict=True)]


async def read_form(request: Request, boundary: bytes, limits: FormLimits, http: HttpConfig) -> Form:
    """A whole multipart form; raises `RequestError` as soon as it cannot become right."""
    form = Form(boundary, limits)
    async with aclosing(body_of(request, http.max_body_bytes)) as pieces:
        async for piece in pieces:
            form.write(piece)
    form.finish()
    return form


def _specs(form: Form) -> list[PhotoSpec]:
    """What is said of each image."""
    if "photos" not in form.texts:
        return [PhotoSpec() for _ in form.images]
    specs = validated(TypeAdapter(list[PhotoSpec]), form.texts["photos"], "photos")
    if len(specs) != len(form.images):
        raise RequestError("invalid_option", f"photos describes {len(specs)} photos, {len(form.images)} came")
    if any(spec.uri is not None for spec in specs):
        raise RequestError("invalid_option", "photos: a photo that is uploaded has no uri")
    return specs


def _asked(spec: PhotoSpec, data: bytes | PhotoError) -> Asked:
    return Asked(spec=spec, data=b"", refused=data) if isinstance(data, PhotoError) else Asked(spec=spec, data=data)


def validated(kind: TypeAdapter[T], text: bytes, *inside: str) -> T:
    """JSON of a client as its message; raises `RequestError` with the place of the first fault, which lies `inside` of what the client knows."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, (*inside, *first["loc"])))[:100] or "the body"
        if first["type"] == "json_invalid":
            raise RequestError("malformed_request", f"{place} is not JSON in UTF-8") from error
        raise RequestError("invalid_option", f"{place}: {first['msg'][:200]}") from error
