"""Killed and submitted again: the driver, a worker, a whole node. The tables come out the same, bit for bit, and nothing is scored twice.

Slow (`make acceptance`): real photographs (ECUSTFD as an archive) and the sample study, the command as a user types it, real processes and kill -9.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from odd import make_bundle

from foodray.corpus.importers.ecustfd import import_ecustfd
from foodray.corpus.sample import SampleConfig, generate_sample_study
from foodray.scoring.files import read_tables
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

pytestmark = pytest.mark.slow
FOODRAY = str(Path(sys.executable).parent / "foodray")
SETTINGS = ["--runtime", "bf16", "--max-workers", "2", "--photos-per-block", "32", "--name", "archive"]


@pytest.fixture(scope="module", params=["ecustfd", "sample"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """ECUSTFD as an archive (1,245 photographs with boxes), and the sample study (rendered photos, some of them broken)."""
    store = Store(str(tmp_path_factory.mktemp(request.param) / "study"))
    if request.param == "sample":
        generate_sample_study(store, SampleConfig(num_participants=40))
    else:
        import_ecustfd(str(request.getfixturevalue("data") / "ecustfd"), store)
    return store.root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two ResNet-18 towers with random weights, at 96 px: real work."""
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle", backbone="resnet18", side_px=96)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def command(study: str, model: str, results: Path) -> list[str]:
    return [FOODRAY, "score", "--study", study, "--results", str(results), "--bundles", model, *SETTINGS]


def finish(study: str, model: str, results: Path) -> dict[str, Any]:
    done = subprocess.run(command(study, model, results), env=environment(), capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    info: dict[str, Any] = json.loads((results / "archive" / "run.json").read_text())
    return info


@pytest.fixture(scope="module")
def uninterrupted(study: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What run.json says when nothing happens."""
    results = tmp_path_factory.mktemp("whole")
    return {**finish(study, model, results), "photos_in_parts": photos_in_parts(results)}


@pytest.fixture
def running(study: str, model: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, at work: some blocks are done, most are not."""
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(command(study, model, tmp_path), env=environment(), stdout=log, stderr=subprocess.STDOUT)
    wait_for_parts(tmp_path, 5, process)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait(30)


def wait_for_parts(results: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while len(list((results / "archive" / "parts").glob("[!.]*.parquet"))) < number:
        assert process.poll() is None, (results / "log").read_text()[-3000:]
        assert time.monotonic() < end, "no blocks were scored"
        time.sleep(0.05)


def photos_in_parts(results: Path) -> int:
    store = Store(str(results / "archive" / "parts"))
    return sum(read_parquet(store, key).num_rows for key in store.list() if key.endswith(".parquet") and not key.startswith("."))


def check(results: Path, uninterrupted: dict[str, Any]) -> None:
    """One row a photo, each scored once, the same digests."""
    info = json.loads((results / "archive" / "run.json").read_text())
    assert info["digests"] == uninterrupted["digests"]
    assert info["accounting"] == uninterrupted["accounting"]
    ids = read_tables(Store(str(results / "archive")))["image_results"]["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == info["accounting"]["manifest"]
    assert photos_in_parts(results) == uninterrupted["photos_in_parts"]


def test_a_killed_driver_submitted_again_scores_only_the_open_blocks(
    running: subprocess.Popen[bytes], study: str, model: str, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    time.sleep(5)  # Ray's processes follow their driver
    done = photos_in_parts(tmp_path)
    assert 0 < done < uninterrupted["photos_in_parts"]
    assert not (tmp_path / "archive" / "run.json").exists()
    info = finish(study, model, tmp_path)
    assert info["submissions"][-1]["num_scored"] == uninterrupted["photos_in_parts"] - done
    check(tmp_path, uninterrupted)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(running: subprocess.Popen[bytes], tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    family = psutil.Process(running.pid).children(recursive=True)
    workers = [process for process in family if "Scorer" in " ".join(process.cmdline())]
    assert workers, [process.cmdline() for process in family]
    workers[0].kill()
    assert running.wait(500) == 0, (tmp_path / "log").read_text()[-3000:]
    check(tmp_path, uninterrupted)


NODES = """
import logging, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from foodray.cli import main

results = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)

def kill_a_node():
    while len(list((results / "archive" / "parts").glob("[!.]*.parquet"))) < 5:
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)
    print("a node was killed", flush=True)

killer = threading.Thread(target=kill_a_node)
killer.start()
main(sys.argv[2:])
killer.join()
ray.shutdown()
cluster.shutdown()
"""


def test_a_killed_node_costs_its_open_blocks_and_nothing_else(study: str, model: str, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    script = tmp_path / "nodes.py"
    script.write_text(textwrap.dedent(NODES))
    words = [sys.executable, str(script), str(tmp_path), *command(study, model, tmp_path)[1:]]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "a node was killed" in done.stdout
    check(tmp_path, uninterrupted)
