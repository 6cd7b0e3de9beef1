"""Routes of jobs: a whole manifest is scored on the cluster, and its tables are fetched when they are there."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from foodray.serving.access import Key
from foodray.serving.body import read_message
from foodray.serving.job_messages import JobReply, JobRequest, JobsReply
from foodray.serving.jobs import TABLES, Jobs
from foodray.serving.openapi import REVIEWED, answers
from foodray.serving.problems import RequestError
from foodray.serving.service import allowed, service_of

MAX_BODY_BYTES = 16 * 2**10
Caller = Annotated[Key, Depends(allowed("jobs"))]
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": JobRequest.model_json_schema()}}}}
_TABLE = {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(set(TABLES.values()))}}


_ONE = answers(*REVIEWED, "not_found")
_BEGIN = answers(
    *REVIEWED,
    "malformed_request",
    "unsupported_media_type",
    "body_too_large",
    "invalid_option",
    "reference_not_allowed",
    "reference_not_found",
    "conflict",
    "timeout",
)


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    routes.post("", status_code=202, summary="Score a whole manifest", openapi_extra=_BODY, responses=_BEGIN)(begin)
    routes.get("", summary="The jobs of this key", responses=answers(*REVIEWED))(show_all)
    routes.get("/{job_id}", summary="A job: state, progress, links", responses=_ONE)(show)
    routes.delete("/{job_id}", status_code=202, summary="Stop a job; its results stay", responses=_ONE)(stop)
    routes.get(
        "/{job_id}/tables/{file}",
        summary="A table of a finished job",
        response_class=StreamingResponse,
        responses={**answers(*REVIEWED, "not_found", "conflict"), 200: _TABLE},
    )(table)
    return routes


async def begin(request: Request, response: Response, key: Caller, idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> JobReply:
    """The body names a study package below a folder that the endpoint takes studies from. With an `Idempotency-Key` the same request again
    finds the job that the first one began."""
    jobs = _jobs(request)
    timeout_s = service_of(request).config.http.timeout_s
    asked = await read_message(request, JobRequest, max_bytes=MAX_BODY_BYTES, timeout_s=timeout_s)
    reply = await run_in_threadpool(jobs.submit, key, asked, idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{reply.job_id}"
    return reply


async def show_all(request: Request, key: Caller) -> JobsReply:
    """The newest first, a hundred at most; an admin sees those of all keys."""
    return await run_in_threadpool(_jobs(request).all, key)


async def show(request: Request, key: Caller, job_id: str) -> JobReply:
    """Ask again for its progress; when it has succeeded, the answer holds the accounting and the paths of the tables."""
    return await run_in_threadpool(_jobs(request).get, key, job_id)


async def stop(request: Request, key: Caller, job_id: str) -> JobReply:
    """Stopping takes a moment: the answer may still say running."""
    return await run_in_threadpool(_jobs(request).stop, key, job_id)


async def table(request: Request, key: Caller, job_id: str, file: str) -> StreamingResponse:
    """CSV that is safe to open in a spreadsheet, or exact Parquet, with a dictionary of the columns."""
    pieces = await run_in_threadpool(_jobs(request).table, key, job_id, file)
    return StreamingResponse(pieces, media_type=TABLES[file], headers={"Content-Disposition": f'attachment; filename="{job_id}-{file}"'})


def _jobs(request: Request) -> Jobs:
    jobs = service_of(request).jobs
    if jobs is None:
        raise RequestError("not_configured", "this endpoint takes no jobs: it was started without a place for their results")
    return jobs
