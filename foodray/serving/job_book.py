"""The record of jobs: who asked for what, and where it is scored. Plain files, so that every ingress replica sees the same.

    results/jobs/<key_id>/<job_id>.json      the record: owner, request, time
                          <job_id>.score     the settings that `foodray score --config` reads
            <key_id>/<job_id>/               the run folder

The id of a job follows from its owner and its Idempotency-Key, so of two requests with the same one, however close, one makes the job and
the other finds it. What a client writes is checked here and then travels in a file, never through a shell.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from foodray.analyzer import AnalyzerConfig
from foodray.config import digest, to_plain
from foodray.corpus.manifest import PACKAGE_FILES, SUFFIXES, package_photos
from foodray.errors import PhotoError, StorageError, StudyError
from foodray.serving.access import Key
from foodray.serving.config import JobsConfig
from foodray.serving.job_messages import JobRequest
from foodray.serving.problems import RequestError
from foodray.serving.records import NEWEST, Records
from foodray.serving.references import locate
from foodray.storage.store import Store, is_remote

JOB_ID = re.compile(r"job-[0-9a-f]{20}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")
MAX_INFO_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as it was asked for."""

    job_id: str
    key_id: str
    """Whose it is."""
    name: str
    """For people."""
    manifest_uri: str
    """As the client wrote it."""
    body_sha256: str
    """Of the request, to tell a repeated one from another."""
    created_at: str
    """UTC, ISO 8601."""

    @property
    def record_id(self) -> str:
        """Its name among the records."""
        return self.job_id


class JobBook:
    """The records below one results folder."""

    def __init__(self, config: JobsConfig, analyzer: AnalyzerConfig, markers: str) -> None:
        self.analyzer, self.markers = analyzer, markers
        local = [str(Path(Store(root).root).resolve()) for root in config.study_roots if not is_remote(root)]
        self.roots = (*config.study_roots, *local)  # a root may be reached through a link; what is checked once has its links followed
        self.results = Store(config.results)
        self.records = Records(store=self.results.sub("jobs"), kind=JobRecord, pattern=JOB_ID, missing="there is no such job")

    def claim(self, key: Key, request: JobRequest, idempotency_key: str | None) -> tuple[JobRecord, bool]:
        """The record of a request, and whether it is new. Raises `RequestError`: reference_not_allowed, reference_not_found, conflict, invalid_option."""
        if idempotency_key is not None and not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise RequestError("invalid_option", "Idempotency-Key must be 1 to 200 printable ASCII characters without spaces")
        named = secrets.token_hex(32) if idempotency_key is None else f"{key.key_id} {idempotency_key}"
        record = JobRecord(
            job_id=f"job-{hashlib.sha256(named.encode()).hexdigest()[:20]}",
            key_id=key.key_id,
            name=request.name,
            manifest_uri=request.manifest_uri,
            body_sha256=digest(request.model_dump()),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        before = self.records.get(record.key_id, record.job_id)
        if before is None:
            self._score_settings(record, request)  # what is refused leaves no record
            if self.records.create(record):
                return record, True
            before = self.records.get(record.key_id, record.job_id) or record
        if before.body_sha256 != record.body_sha256:
            raise RequestError("conflict", "this Idempotency-Key was used for another request")
        return before, False

    def prepare(self, record: JobRecord, request: JobRequest) -> str:
        """Write the settings of a job's scoring and return where they are; raises `RequestError` as `claim` does."""
        settings = json.dumps(self._score_settings(record, request), indent=1).encode()
        return self.records.store.write(f"{record.key_id}/{record.job_id}.score", settings, replace=True)

    def of(self, key: Key) -> list[JobRecord]:
        """The jobs that a key may see, the newest first, not more than a hundred."""
        return self.records.of(key)[:NEWEST]

    def run(self, record: JobRecord) -> Store:
        """The run folder of a job."""
        return self.results.sub(record.key_id).sub(record.job_id)

    def _score_settings(self, record: JobRecord, request: JobRequest) -> dict[str, object]:
        """The `ScoreConfig` of a job: what the endpoint runs, over what the client asked for."""
        study = inside(request.manifest_uri, self.roots)
        if not _is_package(study):
            raise RequestError("reference_not_found", "there is no images.csv or images.parquet at manifest_uri")
        # The package itself may say where its photos are; the scoring is told that place, so what was checked is what is read.
        photos = inside(request.photos_root or _photos_of(study), self.roots)
        return {
            "study": study,
            "photos_root": photos,
            "results": self.results.sub(record.key_id).root,
            "name": record.job_id,
            "markers": self.markers,
            "analyzer": to_plain(self.analyzer),
            "use_gpu": self.analyzer.device.startswith("cuda"),
        }


def inside(location: str, roots: Sequence[str]) -> str:
    """A location below (or at) one of the roots, its symbolic links followed; raises `RequestError`, which does not repeat it."""
    plain = location.rstrip("/")
    for root in map(Store, roots):
        if plain == root.root:
            return root.root
    try:
        store, key = locate(plain, roots)
    except PhotoError as error:
        if error.reason == "not_found":
            raise RequestError("reference_not_found", "nothing is stored at the location") from error
        raise RequestError("reference_not_allowed", "the location is not below a folder from which this endpoint takes studies") from error
    return store.uri(key)


def _is_package(study: str) -> bool:
    folder, _, name = study.rpartition("/")
    try:
        return Store(folder).exists(name) if name.endswith(SUFFIXES) else any(Store(study).exists(file) for file in PACKAGE_FILES)
    except StorageError as error:
        raise RequestError("storage_error", "the storage of the study did not answer", retry_after_s=5) from error


def _photos_of(study: str) -> str:
    """Where a package says that its photos are."""
    folder = study.rpartition("/")[0] if study.endswith(SUFFIXES) else study
    try:
        if Store(folder).exists("study.json") and Store(folder).size("study.json") > MAX_INFO_BYTES:
            raise RequestError("invalid_option", f"study.json of the package is larger than {MAX_INFO_BYTES} bytes")
        return package_photos(study).root
    except RequestError:
        raise
    except StudyError as error:
        raise RequestError("invalid_option", "study.json of the package cannot be read, or its photos_root is no location") from error
    except (StorageError, OSError) as error:
        raise RequestError("storage_error", "the storage of the study did not answer", retry_after_s=5) from error
