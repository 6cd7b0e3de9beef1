"""Claims about storage that misbehaves: what passes is tried again, what stays is a row with its reason, and nothing stops the run."""

import os
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pyarrow as pa
import pytest
import s3fs
from odd import encoded, picture

from foodray.analyzer import AnalyzerConfig
from foodray.corpus import fetch
from foodray.scoring.blocks import JOB_SCHEMA
from foodray.scoring.scorer import Scorer, ScorerJob
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

FAULTS = ("fine", "unavailable-once", "unavailable", "cut-once", "cut", "denied", "absent")


class Faults(BaseHTTPRequestHandler):
    """A proxy before the real endpoint that spoils the reading of objects as their names say."""

    real = ""
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        fault = next((name for name in sorted(FAULTS, key=len, reverse=True) if f"/{name}.jpg" in self.path), "")
        self.asked[fault] += 1
        first = self.asked[fault] == 1
        if fault == "unavailable" or (fault == "unavailable-once" and first):
            self._answer(503, b"<Error><Code>ServiceUnavailable</Code><Message>Slow down.</Message></Error>")
        elif fault == "denied":
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        else:
            self._forward(cut=fault == "cut" or (fault == "cut-once" and first))

    def do_HEAD(self) -> None:
        self._forward(cut=False)

    def _forward(self, *, cut: bool) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        request = urllib.request.Request(self.real + self.path, data=self.rfile.read(size) if size else None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, headers, body = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, headers, body = error.code, error.headers, error.read()
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def faulty(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A place on S3 that holds a photo under each name, read through the proxy."""
    place = Store(f"{s3}/faulty")
    for name in FAULTS:
        if name != "absent":
            place.write(f"{name}.jpg", encoded(picture(3)), replace=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    server.daemon_threads = True
    Faults.real, Faults.asked = os.environ["AWS_ENDPOINT_URL"], Counter()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # so that the attempts counted here are foodray's own
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    yield place
    server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def test_faults_that_pass_are_survived_and_those_that_stay_are_reasons(faulty: Store, bundle: str, tmp_path: object) -> None:
    job = ScorerJob(
        photos=faulty, parts=Store(str(tmp_path)), analyzer=AnalyzerConfig(bundles=(bundle,), runtime="eager"), markers={}, fetch_threads=4, run_id="r"
    )
    rows = [{"image_id": name, "image_uri": f"{name}.jpg", "row_sha256": name, "attempts": 1, "block": "0001-000000"} for name in FAULTS]
    counts = Scorer(job)(pa.Table.from_pylist(rows, schema=JOB_SCHEMA)).to_pylist()
    ended = {row["image_id"]: row["reason_code"] or row["status"] for row in read_parquet(job.parts, "0001-000000.parquet").to_pylist()}
    assert ended == {
        "fine": "ok",
        "unavailable-once": "ok",
        "cut-once": "ok",
        "unavailable": "timeout",
        "cut": "timeout",
        "denied": "access_denied",
        "absent": "not_found",
    }
    assert [row["quarantined"] for row in counts] == [4]
    assert Faults.asked["unavailable"] >= fetch.ATTEMPTS
    assert Faults.asked["denied"] == 1  # what will not change is not asked again
