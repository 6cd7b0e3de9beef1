"""Ray's own job queue, as far as the endpoint needs it; whatever it answers with becomes a `RequestError` without its words."""

import logging
import shlex
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from foodray.serving.problems import RequestError

log = logging.getLogger(__name__)
T = TypeVar("T")
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

    def said(self, job_id: str) -> str:
        """What a job wrote; empty where that is lost."""
        try:
            return self._ask(lambda client: client.get_job_logs(job_id), none=True) or ""
        except RequestError:
            return ""

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


def _no_dashboard() -> RequestError:
    return RequestError("not_configured", "this endpoint takes no jobs: its Ray runs without a dashboard, or jobs.dashboard is not set")
