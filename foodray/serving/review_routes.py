"""The routes of kept analyses: look at them, correct them, take them away, export them. Every one needs a key with the scope review.

A body is read here and not by FastAPI, which would read all of it before it asks for the key.
"""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from foodray.errors import StorageError
from foodray.serving.access import Key
from foodray.serving.body import read_message
from foodray.serving.corrections import Correction, Reviewed, Save
from foodray.serving.openapi import REVIEWED, answers
from foodray.serving.problems import RequestError
from foodray.serving.reviews import Order, Reviews, Summary
from foodray.serving.service import allowed, service_of

T = TypeVar("T")
MAX_BODY_BYTES = 2 * 2**20
"""Largest body of corrections."""
ReviewKey = Annotated[Key, Depends(allowed("review"))]
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_EXAMPLE = {
    "based_on": 0,
    "reviewer": "A. Meier",
    "corrections": [
        {"item_id": "9f86d081884c7d65#0", "field": "class_name", "new": "rice", "seconds": 4.2},
        {"item_id": "9f86d081884c7d65#0", "field": "energy_kcal", "new": 210, "reason": "weighed"},
        {"item_id": None, "field": "added", "new": {"class_name": "apple", "bbox_xywh_px": [10, 20, 300, 280], "energy_kcal": 52}},
    ],
}


_ONE = answers(*REVIEWED, "not_found")
_SAVING = answers(*REVIEWED, "not_found", "malformed_request", "unsupported_media_type", "body_too_large", "invalid_option", "conflict", "timeout")


class Listing(BaseModel):
    """A part of the list of analyses."""

    analyses: list[Summary]
    next: str | None = Field(description="send it as `after` for the part that follows; null where there is none")


def router() -> APIRouter:
    """The routes; they find the service in the application's state."""
    routes = APIRouter(prefix="/v1", tags=["review"])
    _add_reading(routes)
    _add_writing(routes)
    _add_exports(routes)
    return routes


def _add_reading(routes: APIRouter) -> None:
    @routes.get("/analyses", summary="List kept analyses", responses=answers(*REVIEWED, "invalid_option"))
    async def list_analyses(
        request: Request,
        key: ReviewKey,
        response: Response,
        after: Annotated[str | None, Query(description="`next` of the part before", max_length=32)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        order: Annotated[Order, Query(description="newest: the newest first; uncertainty: first those of which the items are least certain")] = "newest",
    ) -> Listing:
        """Of the study that the key is bound to; a key without a study sees all."""
        found = await _in_thread(_reviews(request).listing, key, order=order, after=after, limit=limit + 1)
        response.headers.update(_PRIVATE)
        return Listing(analyses=found[:limit], next=found[limit - 1].analysis_id if len(found) > limit else None)

    @routes.get("/analyses/{analysis_id}", summary="One kept analysis with its corrections", responses=_ONE)
    async def get_analysis(request: Request, key: ReviewKey, response: Response, analysis_id: str) -> Reviewed:
        """The answer as it was given, what reviewers said of it, and what holds now."""
        response.headers.update(_PRIVATE)
        return await _in_thread(_reviews(request).get, analysis_id, key)

    @routes.get(
        "/analyses/{analysis_id}/photo",
        summary="The photo of a kept analysis",
        response_class=Response,
        responses={**_ONE, 200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def get_photo(request: Request, key: ReviewKey, analysis_id: str) -> Response:
        """Its pixels alone, as a JPEG of at most 1600 px a side; not_found where the client did not ask to keep it."""
        data = await _in_thread(_reviews(request).photo, analysis_id, key)
        return Response(data, media_type="image/jpeg", headers={**_PRIVATE, "Content-Disposition": "inline"})


def _add_writing(routes: APIRouter) -> None:
    @routes.post(
        "/analyses/{analysis_id}/corrections",
        summary="Correct the items of an analysis",
        responses=_SAVING,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(), "example": _EXAMPLE}}}},
    )
    async def post_corrections(request: Request, key: ReviewKey, response: Response, analysis_id: str) -> Reviewed:
        """All are kept or none. What the model said stays as it is; the answer is what holds now."""
        reviews, timeout_s = _reviews(request), service_of(request).config.http.timeout_s
        save = await read_message(request, Save, max_bytes=MAX_BODY_BYTES, timeout_s=timeout_s)
        labels = (await service_of(request).graph.models()).class_names
        response.headers.update(_PRIVATE)
        return await _in_thread(reviews.correct, analysis_id, save, key=key, labels=labels)

    @routes.delete("/analyses/{analysis_id}", summary="Take an analysis away", status_code=204, responses=_ONE)
    async def delete_analysis(request: Request, key: ReviewKey, analysis_id: str) -> None:
        """With its photo and its corrections, as for a participant who withdraws. It cannot be undone."""
        await _in_thread(_reviews(request).delete, analysis_id, key)


def _add_exports(routes: APIRouter) -> None:
    @routes.get("/corrections.csv", summary="Every correction", response_class=Response, responses=_of_type("text/csv"))
    async def corrections_csv(request: Request, key: ReviewKey) -> Response:
        """One row a correction: item, field, old, new, who, when, why."""
        return _download(await _in_thread(_reviews(request).corrections_csv, key), "text/csv; charset=utf-8", "corrections.csv")

    @routes.get("/items_reviewed.csv", summary="Every item after corrections", response_class=Response, responses=_of_type("text/csv"))
    async def items_csv(request: Request, key: ReviewKey) -> Response:
        """One row an item: its review status, what holds, and what was predicted."""
        return _download(await _in_thread(_reviews(request).items_csv, key), "text/csv; charset=utf-8", "items_reviewed.csv")

    @routes.get(
        "/corrections.coco.json", summary="The items after corrections as a COCO data set", response_class=Response, responses=_of_type("application/json")
    )
    async def coco(request: Request, key: ReviewKey) -> Response:
        """Images, categories and annotations of every item that is there, for annotation tools and for training."""
        reviews = _reviews(request)
        data = await _in_thread(lambda: json.dumps(reviews.coco(key), allow_nan=False).encode())
        return _download(data, "application/json", "corrections.coco.json")


def _reviews(request: Request) -> Reviews:
    reviews = service_of(request).reviews
    if reviews is None:
        raise RequestError("not_configured", "this endpoint keeps no analyses; it was started without a folder for them (reviews)")
    return reviews


async def _in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """A call that waits for the store, beside the event loop; what the store fails at becomes storage_error without its location."""
    try:
        return await anyio.to_thread.run_sync(functools.partial(call, *args, **kwargs))
    except (StorageError, PermissionError) as error:
        raise RequestError("storage_error", "the analyses cannot be read or written now; try again, and ask the operator if it stays so") from error


def _schema() -> dict[str, Any]:
    """The schema of a save in one piece: FastAPI does not collect the parts of a body that it does not read."""
    schema = Save.model_json_schema()
    schema.pop("$defs", None)
    part = Correction.model_json_schema()
    part.pop("$defs", None)
    part["properties"]["new"].pop("$ref", None)
    schema["properties"]["corrections"]["items"] = part
    return schema


def _download(data: bytes, media_type: str, name: str) -> Response:
    return Response(data, media_type=media_type, headers={**_PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'})


def _of_type(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {**answers(*REVIEWED), 200: {"content": {media_type: {"schema": {"type": "string" if media_type == "text/csv" else "object"}}}}}
