"""The routes of the hosted service that the tagging tutorial compares with, over the same taggers: its public scripts run here by another base URL.

Base /api/v2, HTTP Basic with the API key as user and no password; every path with and without a slash at its end. Whatever is refused is
problem+json, as everywhere. Locations in `urls` are never fetched from the web: they name photos below the endpoint's own `http.photo_roots`.
"""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foodray.errors import PhotoError
from foodray.serving.access import Key
from foodray.serving.body import parsed, read_body
from foodray.serving.openapi import REVIEWED, answers
from foodray.serving.problems import RequestError
from foodray.serving.references import read_references
from foodray.serving.service import allowed, service_of
from foodray.serving.tagger_messages import (
    STATE_NUMBERS,
    STATE_WORDS,
    PhotoEntry,
    PhotoTags,
    TaggerReply,
    TaggerRequest,
    TagProbability,
    TrainRequest,
    UploadReply,
)
from foodray.serving.tagger_routes import FILES, MAX_BODY_BYTES, form_schema, in_time, taggers_of, tags_of
from foodray.serving.tagger_uploads import MAX_ENTRY_BYTES, Sent, entries_of, matched, read_entries, read_files, refused

BASE = "/api/v2/MultiLabelClassification/Model"
Caller = Annotated[Key, Depends(allowed("taggers", basic=True))]
_FORM_WORDS = ("urls", "data", "categories", "modelId")
_URLS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "urls": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "locations below the endpoint's photo roots; never fetched from the web",
                        },
                        "data": {"type": "string", "description": "JSON: for each location, as filename, its categories"},
                        "categories": {"type": "array", "items": {"type": "string"}, "description": "of a single location"},
                        "modelId": {"type": "string", "description": "left alone"},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


class Category(BaseModel):
    """A category and how many photos have it."""

    name: str
    count: int


class ModelReply(BaseModel):
    """A tagger in the words of the hosted service."""

    model_config = ConfigDict(protected_namespaces=())

    message: str = "Success"
    model_id: str
    model_type: str = "multilabelclassification"
    state: int = Field(description="; ".join(f"{STATE_NUMBERS[state]}: {words}" for state, words in STATE_WORDS.items()))
    status: str = Field(description="the state in words; of a training that failed, why")
    categories: list[Category]

    @staticmethod
    def of(tagger: TaggerReply) -> "ModelReply":
        """The tagger in these words."""
        error = tagger.training.error if tagger.state == "failed" and tagger.training is not None else None
        return ModelReply(
            model_id=tagger.tagger_id,
            state=STATE_NUMBERS[tagger.state],
            status=STATE_WORDS[tagger.state] + (f": {error}" if error else ""),
            categories=[Category(name=name, count=count) for name, count in tagger.num_by_category.items()],
        )


class UploadedReply(BaseModel):
    """What became of each photo."""

    class Outcome(BaseModel):
        """Of one photo."""

        filename: str
        message: str = Field(description="Success, or why it was not taken")

    message: str = Field(description="Success where all were taken")
    result: list[Outcome]

    @staticmethod
    def of(uploaded: UploadReply) -> "UploadedReply":
        """The outcome in these words."""
        said = [f"{photo.reason.code}: {photo.reason.detail}" if photo.reason else "Success" for photo in uploaded.photos]
        outcomes = [UploadedReply.Outcome(filename=photo.filename, message=message) for photo, message in zip(uploaded.photos, said, strict=True)]
        return UploadedReply(message=f"{uploaded.num_refused} not taken" if uploaded.num_refused else "Success", result=outcomes)


class LabelsReply(BaseModel):
    """The tags of photos."""

    class Labels(BaseModel):
        """Of one photo."""

        message: str = Field(description="empty, or why there is no prediction")
        prediction: list[TagProbability] = Field(description="every tag, the most probable first")

    message: str = "Success"
    result: list[Labels]

    @staticmethod
    def of(result: Sequence[PhotoTags]) -> "LabelsReply":
        """The tags in these words."""
        return LabelsReply(result=[LabelsReply.Labels(message=one.message, prediction=one.prediction) for one in result])


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=BASE, tags=["compatibility"])
    new = {"requestBody": {"required": True, "content": {"application/json": {"schema": TaggerRequest.model_json_schema()}}}}
    common = (*REVIEWED, *FILES)

    def add(method: str, path: str, handler: Any, summary: str, codes: Sequence[str], body: dict[str, Any] | None = None) -> None:
        for shown, end in ((True, path), (False, path.removesuffix("/") if path.endswith("/") else f"{path}/")):
            routes.add_api_route(end, handler, methods=[method], summary=summary, responses=answers(*codes), openapi_extra=body, include_in_schema=shown)

    add("POST", "/", make, "Make a model", (*REVIEWED, "malformed_request", "body_too_large", "invalid_option", "timeout", "conflict"), new)
    add("GET", "/{model_id}", show, "State of a model", (*REVIEWED, "not_found"))
    add("POST", "/{model_id}/UploadFiles/", upload_files, "Upload photos with categories", (*common, "not_found"), form_schema(entries=True))
    add("POST", "/{model_id}/UploadUrls/", upload_urls, "Name photos with categories", (*common, "not_found"), _URLS)
    add("POST", "/{model_id}/Train/", train, "Train a model", (*REVIEWED, "not_found", "conflict", "invalid_option"))
    add("POST", "/{model_id}/LabelFiles/", label_files, "The tags of photos", (*common, "not_found", "conflict", "model_error"), form_schema(entries=False))
    add("POST", "/{model_id}/LabelUrls/", label_urls, "The tags of named photos", (*common, "not_found", "conflict", "model_error"), _URLS)
    return routes


async def make(request: Request, key: Caller) -> ModelReply:
    """The body is JSON with the categories; its content type is not asked for, as the tutorial's script names none."""
    taggers, timeout_s = taggers_of(request)[0], service_of(request).config.http.timeout_s
    body = await read_body(request, max_bytes=MAX_BODY_BYTES, timeout_s=timeout_s)
    return ModelReply.of(await run_in_threadpool(taggers.make, key, parsed(body, TaggerRequest)))


async def show(request: Request, key: Caller, model_id: str) -> ModelReply:
    """States are numbers here; 5 is a model that answers."""
    return ModelReply.of(await run_in_threadpool(taggers_of(request)[0].get, key, model_id))


async def upload_files(request: Request, key: Caller, model_id: str) -> UploadedReply:
    """Parts `files`, and `data`: JSON with the categories of each by its name. See POST /v1/taggers/{tagger_id}/photos."""
    service, taggers = service_of(request), taggers_of(request)[0]
    most = taggers.config.photos_per_call
    await run_in_threadpool(taggers.book.taggers.find, key, model_id)
    async with in_time(service):
        form = await read_files(request, service.config.http, service.config.analyzer.limits, max_photos=most, others=("modelId",))
        photos = matched(form, entries_of(form, max_photos=most))
        return UploadedReply.of(await run_in_threadpool(taggers.upload, key, model_id, photos))


async def upload_urls(request: Request, key: Caller, model_id: str) -> UploadedReply:
    """A form with `urls` and `data`, JSON with the categories of each location as `filename`; or one of `urls` with its `categories`."""
    taggers = taggers_of(request)[0]
    await run_in_threadpool(taggers.book.taggers.find, key, model_id)
    async with in_time(service_of(request)):
        fields = await _fields(request)
        entries = _entries(fields, taggers.config.photos_per_call)
        photos = await _named(request, entries)
        return UploadedReply.of(await run_in_threadpool(taggers.upload, key, model_id, photos))


async def train(request: Request, key: Caller, model_id: str) -> ModelReply:
    """With the endpoint's own settings; what the body says is not read."""
    return ModelReply.of(await run_in_threadpool(taggers_of(request)[0].train, key, model_id, TrainRequest()))


async def label_files(request: Request, key: Caller, model_id: str) -> LabelsReply:
    """Parts `files`; `data` and `modelId` may be there and are left alone."""
    service, taggers = service_of(request), taggers_of(request)[0]
    hosted = await run_in_threadpool(taggers.hosted, key, model_id)
    async with in_time(service):
        limits, most = service.config.analyzer.limits, taggers.config.photos_per_call
        form = await read_files(request, service.config.http, limits, max_photos=most, others=("modelId",))
        return LabelsReply.of(await tags_of(request, hosted.bundle, matched(form, None)))


async def label_urls(request: Request, key: Caller, model_id: str) -> LabelsReply:
    """A form with `urls`, locations below the endpoint's photo roots."""
    taggers = taggers_of(request)[0]
    hosted = await run_in_threadpool(taggers.hosted, key, model_id)
    async with in_time(service_of(request)):
        photos = await _named(request, _entries(await _fields(request), taggers.config.photos_per_call))
        return LabelsReply.of(await tags_of(request, hosted.bundle, photos))


async def _fields(request: Request) -> dict[str, list[str]]:
    """The fields of a form; raises `RequestError`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise RequestError("unsupported_media_type", "send application/x-www-form-urlencoded", headers={"Connection": "close"})
    service, taggers = service_of(request), taggers_of(request)[0]
    most = taggers.config.photos_per_call
    body = await read_body(request, max_bytes=min(service.config.http.max_body_bytes, most * MAX_ENTRY_BYTES), timeout_s=service.config.http.timeout_s)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=4 * most + len(_FORM_WORDS))
    except ValueError as error:
        raise RequestError("malformed_request", "the body is no form in UTF-8, or has too many fields") from error
    if unknown := fields.keys() - set(_FORM_WORDS):
        raise RequestError("invalid_option", f"{len(unknown)} fields of the form are unknown; choose from: {', '.join(_FORM_WORDS)}")
    return fields


def _entries(fields: dict[str, list[str]], most: int) -> list[PhotoEntry]:
    """Each location with its categories, in the order of `urls`, or of `data` where there are none."""
    urls, said = fields.get("urls", []), fields.get("data", [])
    entries = read_entries(said[0].encode(), max_photos=most) if said else []
    if not urls and not entries:
        raise RequestError("malformed_request", "the form names no urls")
    if max(len(urls), len(entries)) > most:
        raise RequestError("too_many_photos", f"the limit is {most} photos in one request")
    if categories := fields.get("categories"):
        if len(urls) != 1 or entries:
            raise RequestError("invalid_option", "categories: they are of a single location; for several say them in data")
        return [_entry(urls[0], categories)]
    known = {entry.filename: entry for entry in entries}
    if said and (strangers := set(urls) ^ known.keys() if urls else set()):
        raise RequestError("invalid_option", f"data and urls differ in {len(strangers)} locations")
    return [known.get(url) or _entry(url, []) for url in urls] or entries


def _entry(url: str, categories: list[str]) -> PhotoEntry:
    try:
        return PhotoEntry(filename=url, categories=categories)
    except ValidationError as error:
        raise RequestError("invalid_option", "a location may have 2048 letters, a category 200, and a photo 400 categories") from error


async def _named(request: Request, entries: Sequence[PhotoEntry]) -> list[Sent]:
    """The photos at the locations, those that are refused with their reason."""
    service = service_of(request)
    http, limits = service.config.http, service.config.analyzer.limits
    found = await read_references([entry.filename for entry in entries], http.photo_roots, limits, http.max_body_bytes)
    pairs = zip(entries, found, strict=True)
    return [
        refused(entry.filename, data.reason, data.detail)
        if isinstance(data, PhotoError)
        else Sent(name=entry.filename, data=data, categories=tuple(entry.categories))
        for entry, data in pairs
    ]
