"""The HTTP application: keys and limits at the door, photos in, answers out; everything refused is problem+json.

`create_app(service)` is plain FastAPI over a `Service`, so the same routes stand on the deployments of the graph and on an analyzer
in this process.
"""

import asyncio
import base64
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from foodray import __version__
from foodray.analyzer import Analysis, GivenBox, PhotoInput
from foodray.analyzer.messages import AnalyzeReply, ModelsReply, PhotoReply
from foodray.corpus.hashing import sha256_hex
from foodray.errors import PhotoError
from foodray.serving import job_routes, legacy_routes, page_routes, problems, review_routes, tagger_routes
from foodray.serving.access import Key
from foodray.serving.openapi import EXAMPLE_ANSWER, SCHEMAS, WITH_KEY, answers, describe
from foodray.serving.pictures import clean_jpeg, crop_jpegs
from foodray.serving.problems import RequestError
from foodray.serving.service import Answer, Service, allowed, service_of
from foodray.serving.telemetry import Telemetry
from foodray.serving.uploads import Asked, PhotoSpec, References, read_photos

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
ATTEMPTS_AT_ONE_MODEL = 8
"""How often photos of one request are analysed again while the models are being exchanged, so that all have the same."""


class AnalyzeOptions(BaseModel):
    """What the answer holds."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(5, ge=1, le=5, description="most probable classes an item")
    include: list[Literal["masks", "crops"]] = Field([], description="masks as run-length codes, crops as JPEG")
    keep: Literal["none", "result", "photo"] = Field("none", description="keep the result, or the photo without its metadata too, for review")


_PHOTOS = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": "JPEG, PNG or WEBP"},
                "photos": {
                    "type": "array",
                    "items": PhotoSpec.model_json_schema(ref_template=SCHEMAS),
                    "description": "what is known of each photo, in order, without uri",
                },
            },
            "additionalProperties": False,
        },
        "encoding": {"photos": {"contentType": "application/json"}},
    },
    "application/json": {
        "schema": References.model_json_schema(ref_template=SCHEMAS),
        "example": {"photos": [{"uri": "s3://study/photos/p001/day1-lunch.jpg", "marker_id": "card"}]},
    },
}
_REFUSED = answers(
    *WITH_KEY, "malformed_request", "reference_not_allowed", "reference_not_found", "body_too_large", "image_too_large", "unsupported_media_type",
    "unsupported_format", "undecodable", "invalid_option", "too_many_photos", "model_error", "not_configured", "storage_error", "timeout",
)  # fmt: skip
routes = APIRouter()


@routes.post(
    "/v1/analyze",
    tags=["photos"],
    summary="Items, portions, totals and tags of photos",
    openapi_extra={"requestBody": {"required": True, "content": _PHOTOS}},
    responses={**_REFUSED, 200: {"content": {"application/json": {"example": EXAMPLE_ANSWER}}}},
)
async def analyze(request: Request, options: Annotated[AnalyzeOptions, Query()], key: Annotated[Key, Depends(allowed("analyze"))]) -> AnalyzeReply:
    """Send photos as multipart parts named `image`, or name some under an allowed root as JSON. A single photo that cannot be read is a
    problem; of several, each has its own status. Nothing is kept unless `keep` says so; metadata of a photo is never kept or answered."""
    service = service_of(request)
    if options.keep != "none" and service.reviews is None:
        raise RequestError("not_configured", "this endpoint keeps nothing: it was started without a place for reviews")
    try:
        async with asyncio.timeout(service.config.http.timeout_s):
            asked = await read_photos(request, service.config.http, service.config.analyzer.limits)
            _refuse_twins(asked)
            answers = await _answers(service, asked)
            replies = [_reply(one, answer) for one, answer in zip(asked, answers, strict=True)]
            request.app.state.telemetry.count_photos(replies)
            _refuse_single(replies)
            wanted = [reply.without(top_k=options.top_k, masks="masks" in options.include) for reply in replies]
            if "crops" in options.include:
                wanted = [await asyncio.to_thread(_with_crops, one, reply, service) for one, reply in zip(asked, wanted, strict=True)]
            versions = next(answer.versions for answer in answers if answer is not None) if any(answers) else (await service.graph.models()).versions
            kept = None
            if options.keep != "none":
                kept = [await asyncio.to_thread(_keep, service, one, reply, versions, key, request, options) for one, reply in zip(asked, replies, strict=True)]
    except TimeoutError as error:
        raise RequestError("timeout", f"the request took more than {service.config.http.timeout_s:g} s", retry_after_s=5) from error
    return AnalyzeReply(request_id=request.state.request_id, photos=wanted, versions=versions, analysis_ids=kept)


async def _answers(service: Service, asked: Sequence[Asked]) -> list[Answer | None]:
    """One answer a photo, all of the same models; None for a photo that could not be had."""
    answers: list[Answer | None] = [None] * len(asked)
    open_places = [place for place, one in enumerate(asked) if one.refused is None]
    for attempt in range(ATTEMPTS_AT_ONE_MODEL):
        await asyncio.sleep(0.05 * 2**attempt if attempt else 0)  # while two decoders of an exchange answer in turn, again at once would change little
        for place, answer in zip(open_places, await _together([service.graph.analyze(_input(asked[place])) for place in open_places]), strict=True):
            answers[place] = answer
        newest = next((answers[place].versions for place in reversed(open_places) if answers[place]), None)  # type: ignore[union-attr]
        open_places = [place for place, answer in enumerate(answers) if answer is not None and answer.versions != newest]
        if not open_places:
            return answers
    raise RequestError("not_ready", "the models are being exchanged", retry_after_s=5)


async def _together(calls: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All of them at a time; the first error ends the others."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _input(asked: Asked) -> PhotoInput:
    spec = asked.spec
    boxes = tuple(GivenBox(box=box.bbox_xywh_px, item_id=box.item_id) for box in spec.boxes)
    return PhotoInput(data=asked.data, boxes=boxes, marker_id=spec.marker_id, px_per_mm=spec.px_per_mm)


def _reply(asked: Asked, answer: Answer | None) -> PhotoReply:
    digest = sha256_hex(asked.data) if asked.data else None
    name = asked.spec.image_id or (digest[:16] if digest else "photo")
    analysis = answer.analysis if answer is not None else Analysis.refused(asked.refused or PhotoError("empty", "the file has no bytes"))
    return PhotoReply.of(analysis, image_id=name, image_sha256=digest, num_bytes=len(asked.data) or None)


def _refuse_twins(asked: Sequence[Asked]) -> None:
    names = [one.spec.image_id for one in asked if one.spec.image_id]
    if len(set(names)) < len(names):
        raise RequestError("invalid_option", "two photos have the same image_id")


def _refuse_single(replies: Sequence[PhotoReply]) -> None:
    """A single photo that failed is a problem of its own."""
    if len(replies) == 1 and replies[0].reason is not None:
        reason = replies[0].reason
        raise RequestError.of_reason(reason.code, reason.detail, image_id=replies[0].image_id)


def _with_crops(asked: Asked, reply: PhotoReply, service: Service) -> PhotoReply:
    if not reply.items:
        return reply
    crops = crop_jpegs(asked.data, [item.bbox_xywh_px for item in reply.items], service.config.analyzer.limits)
    items = [item.model_copy(update={"crop_jpeg_base64": base64.b64encode(crop).decode()}) for item, crop in zip(reply.items, crops, strict=True)]
    return reply.model_copy(update={"items": items})


def _keep(service: Service, asked: Asked, reply: PhotoReply, versions: Any, key: Key, request: Request, options: AnalyzeOptions) -> str:
    assert service.reviews is not None
    photo = clean_jpeg(asked.data, service.config.analyzer.limits) if options.keep == "photo" and reply.items is not None else None
    return service.reviews.keep(reply, versions, photo, key, request.state.request_id)


@routes.get("/v1/models", tags=["models"], summary="The models behind the endpoint", dependencies=[Depends(allowed("analyze"))], responses=answers(*WITH_KEY))
async def models(request: Request) -> ModelsReply:
    """What they were trained on, how they measured, and the identity that answers carry."""
    return await service_of(request).graph.models()


class LabelsReply(BaseModel):
    """The words that the models know."""

    labels: list[str] = Field(description="classes that an item may have")
    tags: list[str] = Field(description="tags that a photo may carry; empty where no model tags")


@routes.get(
    "/v1/labels",
    tags=["models"],
    summary="The classes that an item may have, and the tags of a photo",
    dependencies=[Depends(allowed("analyze"))],
    responses=answers(*WITH_KEY),
)
async def labels(request: Request) -> LabelsReply:
    """Both sorted; background is no class."""
    known = await service_of(request).graph.models()
    return LabelsReply(labels=known.class_names, tags=known.tags)


class State(BaseModel):
    """Whether it is well."""

    status: Literal["ok"]


@routes.get("/healthz", tags=["operations"], summary="Whether the process answers", responses=answers())
async def healthz() -> State:
    """Open to all; says nothing else."""
    return State(status="ok")


@routes.get("/readyz", tags=["operations"], summary="Whether photos can be analysed now", responses=answers("not_ready"))
async def readyz(request: Request) -> State:
    """Open to all; asks the graph for its models."""
    try:
        async with asyncio.timeout(5):
            await service_of(request).graph.models()
    except (RequestError, TimeoutError) as error:
        raise RequestError("not_ready", "the models do not answer", retry_after_s=5) from error
    return State(status="ok")


class _Door:
    """Around every request: an id, the headers that every answer has, and a line in the log with its counts."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, *, behind_serve: bool) -> None:
        self.app, self.telemetry, self.behind_serve = app, telemetry, behind_serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        has_more = any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])

        async def read() -> Any:
            nonlocal has_more
            message = await receive()
            has_more = has_more and message.get("more_body", False)
            return message

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if request_id != given or not self.behind_serve:  # Serve's proxy has sent it to us, and adds it itself
                    headers["X-Request-ID"] = request_id
                if has_more:  # refused before the body was read: nobody has to read the rest
                    headers["Connection"] = "close"
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, read, answer)
        except Exception as error:
            if status:
                raise  # half an answer is out
            await problems.internal(Request(scope), error)(scope, read, answer)
        finally:
            self.telemetry.request(scope, request_id, status, time.perf_counter() - started)


def create_app(service: Service, *, behind_serve: bool = False) -> FastAPI:
    """The application over a service, by itself or behind the proxy of Ray Serve."""
    app = FastAPI(
        title="foodray",
        version=__version__,
        description="Food items, portions, totals and tags of meal photographs.",
        redirect_slashes=False,  # a redirect would repeat whatever Host the request names
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.telemetry = service, Telemetry()
    problems.install(app)
    app.state.methods = defaultdict(set)
    for router in (routes, job_routes.router(), review_routes.router(), tagger_routes.router(), legacy_routes.router(), page_routes.router()):
        app.include_router(router)
        for route in router.routes:
            if isinstance(route, APIRoute):
                app.state.methods[route.path] |= route.methods
    app.add_middleware(_Door, telemetry=app.state.telemetry, behind_serve=behind_serve)
    describe(app)
    return app
