"""Ray's own job queue, as far as the endpoint needs it; whatever it answers with becomes a `RequestError` without its words."""

import logging
import re
import shlex
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from foodray.serving.problems import RequestError

log = logging.getLogger(__name__)
T = TypeVar("T")
JobState = Literal["queued", "running", "succeeded", "failed", "stopped"]
LOST_AFTER_S = 60.0
"""Age at which a job that Ray does not know is lost rather than on its way."""
_PLACE = re.compile(r"""(?:[A-Za-z][A-Za-z0-9+.-]*://|(?<![\w.~])[~.]{0,2}/)[^\s'",;:()]+""")
INHERITED = ("working_dir", "py_modules", "env_vars")
"""What of this process's runtime environment a job gets too, so that it runs the same code."""


class RayJobs:
    """The jobs of the cluster that this process belongs to, or of the one whose dashboard is named. Safe to use from several threads."""

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard
        self._client: JobSubmissionClient | None = None
        self._lock = threading.Lock()

    def submit(self, job_id: str, words: Sequence[str]) -> None:
        """Run a command as a job, unless there is one with this id already."""
        environment = dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}
        inherited = {name: environment[name] for name in INHERITED if environment.get(name)}
        try:
            self._ask(lambda client: client.submit_job(entrypoint=shlex.join(words), submission_id=job_id, runtime_env=inherited))
        except RequestError:
            if self.find(job_id) is None:
                raise

    def find(self, job_id: str) -> JobDetails | None:
        """A job; None where Ray knows none with this id (any more)."""
        return self._ask(lambda client: client.get_job_info(job_id), none=True)

    def known(self) -> dict[str, JobDetails]:
        """Every job that was submitted, by its id."""
        jobs = self._ask(lambda client: client.list_jobs()) or []
        return {job.submission_id: job for job in jobs if job.submission_id}

    def stop(self, job_id: str) -> None:
        """Ask a job to end; nothing happens when it has, or never began."""
        self._ask(lambda client: client.stop_job(job_id), none=True)

    def why(self, details: JobDetails, *, hidden: Sequence[str]) -> str:
        """Why a job failed, in the words that `foodray` ended with, without locations; `hidden` are some that it may have named."""
        try:
            log = self._ask(lambda client: client.get_job_logs(details.submission_id or ""), none=True) or ""
        except RequestError:
            log = ""
        if told := last_error(log, hidden=hidden):
            return told
        if (number := _signal(details.driver_exit_code)) is not None:
            return f"its process was ended from outside (signal {number}) before it was done; memory that runs out does that too"
        return "it ended without saying why; the cluster's log of the job has the details"

    def _ask(self, call: Callable[[JobSubmissionClient], T], *, none: bool = False) -> T | None:
        """A call; `none`: None where Ray says that there is no such job."""
        try:
            return call(self._connected())
        except (ConnectionError, requests.RequestException, AuthenticationError) as error:
            log.warning("Ray's dashboard cannot be used: %s", error)
            self._client = None  # the head may have moved
            raise RequestError("not_ready", "the cluster's job queue does not answer", retry_after_s=10) from error
        except RuntimeError as error:
            if none and "status code 404" in str(error):
                return None
            log.warning("Ray's dashboard refused: %s", error)
            raise RequestError("not_ready", "the cluster's job queue refused; it may still be starting", retry_after_s=10) from error

    def _connected(self) -> JobSubmissionClient:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> JobSubmissionClient:
        if self.dashboard:
            return JobSubmissionClient(self.dashboard)
        if not ray.is_initialized():
            raise _no_dashboard()
        try:
            client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
        except (ConnectionError, ValueError) as error:
            raise _no_dashboard() from error
        # A cluster without a dashboard names the default port all the same, where that of another cluster may listen.
        about: Any = client._do_request("GET", "/api/version").json()
        if about.get("session_name") != ray.get_runtime_context().get_session_name():
            raise _no_dashboard()
        return client


def state_of(details: JobDetails | None, created_at: str) -> JobState:
    """How it stands with a job that was asked for at `created_at` (UTC, ISO 8601); one that Ray does not know is on its way, or lost."""
    if details is None:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()
        return "queued" if age_s < LOST_AFTER_S else "failed"
    states: dict[JobStatus, JobState] = {
        JobStatus.PENDING: "queued",
        JobStatus.RUNNING: "running",
        JobStatus.SUCCEEDED: "succeeded",
        JobStatus.STOPPED: "stopped",
    }
    return states.get(details.status, "failed")


def time_of(ms: int | None) -> str | None:
    """A time of Ray's (milliseconds) as UTC, ISO 8601."""
    return datetime.fromtimestamp(ms / 1e3, UTC).isoformat(timespec="seconds") if ms else None


def last_error(log: str, *, hidden: Sequence[str] = ()) -> str:
    """The message that `foodray` ended with, without locations; empty where it said none."""
    _, found, message = log.rpartition("\nerror: ") if "\nerror: " in log else log.partition("error: ") if log.startswith("error: ") else ("", "", "")
    lines = [line for line in message.splitlines() if line.strip()][:20] if found else []
    text = "\n".join(lines)
    for place in hidden:
        text = text.replace(place, "…")
    return re.sub("…+", "…", _PLACE.sub("…", text))[:2000]


def _signal(exit_code: int | None) -> int | None:
    """The signal that ended a process, or the shell's program (128 and the number); None where it ended by itself."""
    if exit_code is None or 0 <= exit_code <= 128:
        return None
    return -exit_code if exit_code < 0 else exit_code - 128


def _no_dashboard() -> RequestError:
    return RequestError("not_configured", "this endpoint runs no jobs: its Ray runs without a dashboard, or jobs.dashboard is not set")
