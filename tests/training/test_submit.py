"""The job as a user submits it: `ray job submit` to a running head with token authentication, corpus and results on S3.

Slow (a head, three jobs): `make acceptance`. The S3 server is moto in a process of its own, or, with FOODRAY_TEST_S3 set to
an `s3://bucket` and AWS_* to a real server, that one (see conftest).
"""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_head import RAY, ray_head

from foodray.corpus.corpus import Corpus
from foodray.storage.store import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("--task.backbone", "test_convnext", "--task.normalization", "ln", "--task.weights", "random", "--task.side-px", "32"),
    *("--task.epochs", "30", "--loop.batch-size", "8", "--loop.checkpoint-every", "10", "--split.test-folds", "3", "--split.val-folds", "3"),
]


@pytest.fixture(scope="module")
def head(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head of our own; yields the environment with which a user reaches it. It starts after the S3 server, whose settings it inherits."""
    with ray_head(tmp_path_factory.mktemp("head") / "log") as user:
        yield user


@pytest.fixture(scope="module")
def remote_corpus(corpus: Corpus, s3: str) -> str:
    """The small corpus, copied to S3."""
    target = Store(f"{s3}/submitted/corpus")
    for key in corpus.store.list():
        target.write(key, corpus.store.read(key), replace=True)
    return target.root


def submit(user: dict[str, str], corpus: str, results: str, name: str, *, wait: bool = True) -> "subprocess.CompletedProcess[str]":
    command = [RAY, "job", "submit", "--working-dir", str(ROOT), *([] if wait else ["--no-wait"]), "--"]
    command += ["python", "jobs/train_mtl.py", "--corpus", corpus, "--results", results, "--name", name, *SETTINGS]
    while True:
        done = subprocess.run(command, env=user, capture_output=True, text=True, timeout=540, check=False)
        if "No available agent" not in done.stderr:  # the head answers before its agent does
            return done
        time.sleep(2)


def metrics(results: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Store(results).read(f"{name}/metrics.json"))
    return found


def test_a_submitted_job_trains_from_s3_to_s3_and_a_killed_one_resubmitted_gives_the_same_metrics(head: dict[str, str], remote_corpus: str, s3: str) -> None:
    results = f"{s3}/submitted/runs-{secrets.token_hex(3)}"
    whole = submit(head, remote_corpus, results, "whole")
    assert whole.returncode == 0, whole.stdout[-3000:] + whole.stderr[-3000:]
    assert "run folder" in whole.stdout
    assert {"config.json", "run.json", "metrics.json", "predictions.parquet", "bundle/bundle.json"} <= set(Store(results).sub("whole").list())

    started = submit(head, remote_corpus, results, "killed", wait=False)
    assert started.returncode == 0, started.stderr[-2000:]
    store = Store(results).sub("killed")
    deadline = time.monotonic() + 300
    while not (store.exists("progress.json") and json.loads(store.read("progress.json"))["step"] >= 25):
        assert time.monotonic() < deadline, "the job did not get to step 25"
        time.sleep(0.2)
    drivers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "jobs/train_mtl.py" in (process.info["cmdline"] or []) and "killed" in process.info["cmdline"]
    ]
    assert drivers, "no driver process found"
    for process in drivers:
        process.kill()
    time.sleep(5)
    assert not store.exists("run.json")
    again = submit(head, remote_corpus, results, "killed")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert metrics(results, "killed")["test"] == metrics(results, "whole")["test"]
