"""Jobs of the endpoint: a manifest in, a Ray job of archive scoring, its progress and its tables out.

The job is the command `foodray score` with the endpoint's own bundles and settings, so batch and online agree. The endpoint does no
scoring; it keeps the record (`JobBook`), asks Ray (`RayJobs`), and reads the run folder.
"""

import sys
from collections.abc import Iterator
from typing import Any

from ray.job_submission import JobDetails, JobStatus

from foodray.analyzer import AnalyzerConfig
from foodray.errors import StorageError
from foodray.serving.access import Key
from foodray.serving.config import JobsConfig
from foodray.serving.job_book import JobBook, JobRecord
from foodray.serving.job_messages import JobProgress, JobReply, JobRequest, JobsReply, State
from foodray.serving.problems import RequestError
from foodray.serving.ray_jobs import RayJobs, state_of, time_of
from foodray.serving.records import read_json

TABLES = {
    **{
        f"{table}.{end}": kind
        for table in ("image_results", "items", "occasions", "days", "quarantine")
        for end, kind in (("csv", "text/csv"), ("parquet", "application/vnd.apache.parquet"))
    },
    "dictionary.csv": "text/csv",
    "dictionary.json": "application/json",
    "datapackage.json": "application/json",
}
"""Files of a finished run that are handed out, and their types; run.json is not among them: it names locations."""
TOO_MANY_QUARANTINED = 3
"""Exit code of `foodray score`."""
_CHUNK_BYTES = 2**20


class Jobs:
    """The jobs of an endpoint; every method may be called from several threads, and raises `RequestError`."""

    def __init__(self, config: JobsConfig, analyzer: AnalyzerConfig, markers: str) -> None:
        self.config = config
        self.book, self.ray = JobBook(config, analyzer, markers), RayJobs(config.dashboard)

    def submit(self, key: Key, request: JobRequest, idempotency_key: str | None = None) -> JobReply:
        """Begin a job, or find the one that the same Idempotency-Key and request began."""
        record, is_new = self.book.claim(key, request, idempotency_key)
        try:
            if is_new:
                self._check_number(key, record)
            if is_new or (self.ray.find(record.job_id) is None and not self.book.run(record).exists("run.json")):
                words = [sys.executable, "-m", "foodray", "score", "--config", self.book.prepare(record, request)]
                self.ray.submit(record.job_id, words)
        except Exception:
            if is_new:
                self.book.records.forget(record)
            raise
        return self._reply(record)

    def get(self, key: Key, job_id: str) -> JobReply:
        """A job as it is now."""
        return self._reply(self.book.records.find(key, job_id))

    def all(self, key: Key) -> JobsReply:
        """The jobs that a key may see, the newest first."""
        known = self.ray.known()
        return JobsReply(jobs=[self._reply_of(record, known.get(record.job_id)) for record in self.book.of(key)])

    def stop(self, key: Key, job_id: str) -> JobReply:
        """Stop a job; what it has scored stays. One that has ended stays as it is."""
        record = self.book.records.find(key, job_id)
        self.ray.stop(record.job_id)
        return self._reply(record)

    def table(self, key: Key, job_id: str, file: str) -> Iterator[bytes]:
        """A file of a job's tables, in pieces; raises not_found for another file, conflict where the tables are not there yet."""
        record = self.book.records.find(key, job_id)
        if file not in TABLES:
            raise RequestError("not_found", "the tables of a job are listed with it")
        run = self.book.run(record)
        if self._reply(record).tables is None:
            raise RequestError("conflict", "the job has no tables yet; it lists them when it has")
        filesystem, path = run.arrow(f"tables/{file}")
        try:
            stream = filesystem.open_input_stream(path)
        except OSError as error:
            raise RequestError("storage_error", "the table could not be read", retry_after_s=5) from error
        return _pieces(stream)

    def _check_number(self, key: Key, record: JobRecord) -> None:
        mine = {other.job_id for other in self.book.of(key) if other.key_id == key.key_id} - {record.job_id}
        known = self.ray.known()
        if sum(not known[job_id].status.is_terminal() for job_id in mine & known.keys()) >= self.config.max_open:
            raise RequestError("rate_limited", f"{self.config.max_open} jobs of this key have not ended; wait for one, or stop one", retry_after_s=60)

    def _reply(self, record: JobRecord) -> JobReply:
        return self._reply_of(record, self.ray.find(record.job_id))

    def _reply_of(self, record: JobRecord, details: JobDetails | None) -> JobReply:
        run = self.book.run(record)
        try:
            progress, info = read_json(run, "progress.json"), read_json(run, "run.json")
        except StorageError as error:
            raise RequestError("storage_error", "the storage of the results did not answer", retry_after_s=5) from error
        state = _state(record, details, info)
        has_tables = info is not None and state.startswith("succeeded")
        return JobReply(
            job_id=record.job_id,
            name=record.name,
            manifest_uri=record.manifest_uri,
            state=state,
            created_at=record.created_at,
            started_at=time_of(details.start_time if details else None),
            finished_at=time_of(details.end_time if details else None),
            progress=None if progress is None else JobProgress(**{name: progress[name] for name in JobProgress.model_fields}),
            accounting=info["accounting"] if has_tables and info else None,
            tables={file: f"/v1/jobs/{record.job_id}/tables/{file}" for file in TABLES} if has_tables else None,
            error=self._error(record, details) if state == "failed" else None,
        )

    def _error(self, record: JobRecord, details: JobDetails | None) -> str:
        if details is None:
            return "the cluster does not know the job any more; post it again; with the same Idempotency-Key it goes on where it ended"
        return self.ray.why(details, hidden=(*self.book.roots, self.book.results.root))


def _state(record: JobRecord, details: JobDetails | None, info: dict[str, Any] | None) -> State:
    """From what Ray says, and where Ray has forgotten the job, from the run folder."""
    if info is not None and details is None:
        return "succeeded_with_quarantine" if info["share_quarantined"] > info["config"]["max_quarantined"] else "succeeded"
    if info is not None and details is not None and (details.status, details.driver_exit_code) == (JobStatus.FAILED, TOO_MANY_QUARANTINED):
        return "succeeded_with_quarantine"
    return state_of(details, record.created_at)


def _pieces(stream: Any) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(_CHUNK_BYTES):
            yield piece
