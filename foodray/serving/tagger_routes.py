"""Routes of taggers: a model is made from categories, taught with uploaded photos, trained on the cluster, and asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from foodray.errors import PhotoError
from foodray.serving.access import Key
from foodray.serving.body import read_message
from foodray.serving.form import stop as stop_reading
from foodray.serving.openapi import REVIEWED, SCHEMAS, answers
from foodray.serving.problems import RequestError
from foodray.serving.service import Service, allowed, service_of
from foodray.serving.tagger_messages import (
    PhotoEntry,
    PhotoTags,
    PredictReply,
    TaggerReply,
    TaggerRequest,
    TaggersReply,
    TagProbability,
    TrainRequest,
    UploadReply,
    WhyRefused,
)
from foodray.serving.tagger_uploads import Sent, entries_of, matched, read_files
from foodray.serving.taggers import Taggers
from foodray.serving.tagging import Tagged, Tagging

MAX_BODY_BYTES = 64 * 2**10
Caller = Annotated[Key, Depends(allowed("taggers"))]
_BODY = ("malformed_request", "unsupported_media_type", "body_too_large", "invalid_option", "timeout")
FILES = (*_BODY, "too_many_photos")
"""What a request with files can be refused with, besides what its tagger is refused with."""
_ONE = answers(*REVIEWED, "not_found")


def form_schema(*, entries: bool) -> dict[str, Any]:
    """The OpenAPI request body of a form with files, and with what is said of them."""
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": "JPEG, PNG or WEBP"}
    properties: dict[str, Any] = {"files": files}
    if entries:
        items = PhotoEntry.model_json_schema(ref_template=SCHEMAS)
        properties["data"] = {"type": "array", "items": items, "description": "what each file shows, by its name; without this part all are unlabelled"}
    schema = {"type": "object", "required": ["files"], "properties": properties, "additionalProperties": False}
    form: dict[str, Any] = {"schema": schema}
    if entries:
        form["encoding"] = {"data": {"contentType": "application/json"}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def _json(kind: type[TaggerRequest] | type[TrainRequest], *, required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/taggers", tags=["taggers"])
    make_answers, began = answers(*REVIEWED, *_BODY, "conflict"), answers(*REVIEWED, *_BODY, "not_found", "conflict")
    routes.post("", status_code=201, summary="Make a tagger", openapi_extra=_json(TaggerRequest, required=True), responses=make_answers)(make)
    routes.get("", summary="The taggers of this key", responses=answers(*REVIEWED))(show_all)
    routes.get("/{tagger_id}", summary="A tagger: state, photos, training, bundle", responses=_ONE)(show)
    routes.delete(
        "/{tagger_id}", status_code=204, summary="Delete a tagger with its photos and bundles", responses=answers(*REVIEWED, "not_found", "conflict")
    )(delete)
    routes.post(
        "/{tagger_id}/photos",
        summary="Upload photos with categories",
        openapi_extra=form_schema(entries=True),
        responses=answers(*REVIEWED, *FILES, "not_found"),
    )(upload)
    routes.post("/{tagger_id}/train", status_code=202, summary="Train it", openapi_extra=_json(TrainRequest, required=False), responses=began)(train)
    routes.post("/{tagger_id}/stop", status_code=202, summary="Stop its training", responses=_ONE)(stop)
    routes.post(
        "/{tagger_id}/predict",
        summary="The tags of photos",
        openapi_extra=form_schema(entries=False),
        responses=answers(*REVIEWED, *FILES, "not_found", "conflict", "model_error"),
    )(predict)
    return routes


async def make(request: Request, response: Response, key: Caller) -> TaggerReply:
    """The categories are the tags that it may give; they cannot be changed later."""
    taggers = taggers_of(request)[0]
    timeout_s = service_of(request).config.http.timeout_s
    reply = await run_in_threadpool(taggers.make, key, await read_message(request, TaggerRequest, max_bytes=MAX_BODY_BYTES, timeout_s=timeout_s))
    response.headers["Location"] = f"/v1/taggers/{reply.tagger_id}"
    return reply


async def show_all(request: Request, key: Caller) -> TaggersReply:
    """The newest first, a hundred at most; an admin sees those of all keys."""
    return await run_in_threadpool(taggers_of(request)[0].all, key)


async def show(request: Request, key: Caller, tagger_id: str) -> TaggerReply:
    """Ask again until it is `hosted`, or `failed` with the reason. While it is trained anew it goes on answering with the bundle it had."""
    return await run_in_threadpool(taggers_of(request)[0].get, key, tagger_id)


async def delete(request: Request, key: Caller, tagger_id: str) -> None:
    """Nothing of it is left. One that is being trained has to be stopped first."""
    await run_in_threadpool(taggers_of(request)[0].delete, key, tagger_id)


async def upload(request: Request, key: Caller, tagger_id: str) -> UploadReply:
    """Files as parts `files`, and one part `data`: a JSON array that says by name what each shows. Each file is accepted or refused by itself.
    The same photo again has its categories replaced; one without is kept as unlabelled and not learned from. Only pixels are kept: no
    metadata, no names of files."""
    service, taggers = service_of(request), taggers_of(request)[0]
    max_photos = taggers.config.photos_per_call
    await run_in_threadpool(taggers.book.taggers.find, key, tagger_id)  # before anything of the body is read
    async with in_time(service):
        form = await read_files(request, service.config.http, service.config.analyzer.limits, max_photos=max_photos)
        return await run_in_threadpool(taggers.upload, key, tagger_id, matched(form, entries_of(form, max_photos=max_photos)))


async def train(request: Request, response: Response, key: Caller, tagger_id: str) -> TaggerReply:
    """On the photos that have categories now. A training that failed or was stopped goes on where it ended, if nothing has changed since."""
    taggers, wish = taggers_of(request)[0], TrainRequest()
    if request.headers.get("content-type") or request.headers.get("content-length", "0") != "0":
        timeout_s = service_of(request).config.http.timeout_s
        wish = await read_message(request, TrainRequest, max_bytes=MAX_BODY_BYTES, timeout_s=timeout_s)
    reply = await run_in_threadpool(taggers.train, key, tagger_id, wish)
    response.headers["Location"] = f"/v1/taggers/{tagger_id}"
    return reply


async def stop(request: Request, key: Caller, tagger_id: str) -> TaggerReply:
    """Stopping takes a moment: the answer may still say training."""
    return await run_in_threadpool(taggers_of(request)[0].stop, key, tagger_id)


async def predict(request: Request, key: Caller, tagger_id: str) -> PredictReply:
    """Each photo has its own answer; one that cannot be read has a message and a reason in place of tags. Nothing is kept."""
    service, taggers = service_of(request), taggers_of(request)[0]
    hosted = await run_in_threadpool(taggers.hosted, key, tagger_id)
    async with in_time(service):
        form = await read_files(request, service.config.http, service.config.analyzer.limits, max_photos=taggers.config.photos_per_call)
        result = await tags_of(request, hosted.bundle, matched(form, None))
    return PredictReply(message="Success", result=result, tagger_id=tagger_id, training_id=hosted.training.training_id, bundle_id=hosted.bundle_id)


# ---- What the compatibility routes take too.


def taggers_of(request: Request) -> tuple[Taggers, Tagging]:
    """The taggers of the endpoint and where they answer; raises `RequestError` (not_configured)."""
    service = service_of(request)
    if service.taggers is None or service.tagging is None:
        raise RequestError("not_configured", "this endpoint makes no taggers: it was started without taggers.place")
    return service.taggers, service.tagging


@asynccontextmanager
async def in_time(service: Service) -> AsyncIterator[None]:
    """The time that a request has; beyond it `RequestError` (timeout)."""
    seconds = service.config.http.timeout_s
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise stop_reading("timeout", f"the request took more than {seconds:g} s") from error


async def tags_of(request: Request, bundle: str, photos: Sequence[Sent]) -> list[PhotoTags]:
    """The tags of photos, those that are refused among them with their reason."""
    good = [photo.data for photo in photos if photo.refused is None]
    found = iter(await taggers_of(request)[1].tag(bundle, good) if good else [])
    return [_said(photo, photo.refused or next(found)) for photo in photos]


def _said(photo: Sent, answer: Tagged | PhotoError | WhyRefused) -> PhotoTags:
    if isinstance(answer, PhotoError):
        answer = WhyRefused(code=answer.reason, detail=answer.detail)
    if isinstance(answer, WhyRefused):
        return PhotoTags(message=f"{answer.code}: {answer.detail}", filename=photo.name, prediction=[], tags=[], reason=answer)
    ranked = [TagProbability(label=label, probability=value) for label, value in zip(answer.labels, answer.probabilities, strict=True)]
    return PhotoTags(message="", filename=photo.name, prediction=ranked, tags=list(answer.tags))
