"""Claims about runs over several machines that share an object store and nothing else: training, a search and scoring end as they do on one, and a
machine whose power fails costs its open work and nothing else.

Slow (`make acceptance`): machines of namespaces (`tests/helpers/machines.py`), each with its own address, home and /tmp, everything else read-only; needs
root. The object store is that of conftest, or with FOODRAY_TEST_S3 a real one.
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from machines import Machine, Network, network, ray_nodes, shared_storage, start_ray, wait_for_nodes, why_not
from odd import make_bundle

from foodray.scoring.files import read_tables
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
FOODRAY = [sys.executable, "-m", "foodray"]
CPUS = 3
"""Of each machine; a worker of training takes two, so that two workers are on two machines."""
SETTINGS = [
    *("--task.backbone", "test_convnext", "--task.normalization", "ln", "--task.weights", "random", "--task.side-px", "32", "--task.epochs", "12"),
    *("--loop.batch-size", "16", "--loop.checkpoint-every", "10", "--split.test-folds", "3", "--split.val-folds", "3"),
    *("--workers.num-workers", "2", "--workers.cpus-per-worker", "2", "--workers.threads", "1"),
]


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def place(s3: str) -> str:
    """A fresh place in the object store."""
    return f"{s3}/machines-{secrets.token_hex(3)}"


class Cluster:
    """Machines with a Ray node each, of which one may be turned off and another turned on."""

    def __init__(self, net: Network, log: Path, storage: dict[str, str], number: int) -> None:
        self.net, self.log = net, log
        self.machines = ray_nodes(net, log, [{"num_cpus": CPUS}] * number, **storage)

    @property
    def head(self) -> Machine:
        return self.machines[0]

    def add(self) -> Machine:
        machine = self.net.add(**self.head.environment)
        start_ray(machine, self.log, {"num_cpus": CPUS}, head=self.head)
        self.machines.append(machine)
        return machine

    def off(self) -> Machine:
        machine = self.machines.pop()
        machine.off()
        return machine

    def resize(self, number: int) -> None:
        while len(self.machines) > number:
            self.off()
        while len(self.machines) < number:
            self.add()
        wait_for_nodes(self.head, number, self.log)

    def foodray(self, *words: str, timeout_s: float = 580) -> "subprocess.CompletedProcess[str]":
        done = self.head.run([*FOODRAY, *words], timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done


@pytest.fixture(scope="module")
def cluster(net: Network, s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_storage(net) as storage:
        yield Cluster(net, tmp_path_factory.mktemp("nodes") / "log", storage, 2)


@pytest.fixture(scope="module")
def corpus(cluster: Cluster, place: str) -> str:
    """The sample study, made and indexed on the machines."""
    cluster.foodray("sample", f"{place}/study", "--num-participants", "12", "--num-days", "1")
    cluster.foodray("index", f"{place}/study", f"{place}/corpus")
    return f"{place}/corpus"


def content(location: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Store(location).read(key))
    return found


def train(place: str, corpus: str, name: str) -> list[str]:
    return ["train", "mtl", "--corpus", corpus, "--results", f"{place}/runs", "--name", name, *SETTINGS]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, place: str, corpus: str) -> str:
    """A run over two machines."""
    cluster.resize(2)
    cluster.foodray(*train(place, corpus, "whole"))
    return f"{place}/runs/whole"


def test_a_run_over_two_machines_is_finished_by_both(whole: str) -> None:
    assert content(whole, "run.json")["world_size"] == 2
    assert {"bundle/bundle.json", "predictions.parquet", "metrics.json"} <= set(Store(whole).list())


def test_a_machine_that_fails_in_training_is_replaced_and_the_result_is_the_same(cluster: Cluster, whole: str, place: str, corpus: str, tmp_path: Path) -> None:
    cluster.resize(2)
    store = Store(f"{place}/runs").sub("failed")
    with (tmp_path / "log").open("w") as log:
        running = cluster.head.start([*FOODRAY, *train(place, corpus, "failed")], log)
        wait_for_step(store, 15, running, tmp_path / "log")
        cluster.off()
        cluster.add()
        assert running.wait(560) == 0, (tmp_path / "log").read_text()[-4000:]
    assert content(store.root, "run.json")["world_size"] == 2
    assert content(store.root, "metrics.json")["test"] == content(whole, "metrics.json")["test"]


def wait_for_step(store: Store, step: int, running: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 400
    while not (store.exists("progress.json") and content(store.root, "progress.json")["step"] >= step):
        assert running.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, "training did not get that far"
        time.sleep(0.2)


def test_a_search_over_two_machines_trains_its_trials_on_both(cluster: Cluster, place: str, corpus: str, tmp_path: Path) -> None:
    cluster.resize(2)
    words = ["tune", "mtl", "--corpus", corpus, "--results", f"{place}/searches", "--name", "search", *SETTINGS]
    cluster.foodray(*words, "--task.epochs", "2", "--num-trials", "2", "--concurrent", "1", "--scheduler", "none", timeout_s=1_200)
    store = Store(f"{place}/searches/search")
    trials = pq.read_table(store.fetch("trials.parquet", tmp_path / "trials.parquet")).to_pylist()
    assert [trial["state"] for trial in trials] == ["finished", "finished"]
    assert {content(store.uri(f"trials/{trial['trial']}"), "run.json")["world_size"] for trial in trials} == {2}


def score(place: str, name: str) -> list[str]:
    words = ["score", "--study", f"{place}/archive", "--results", f"{place}/scored", "--bundles", f"{place}/model", "--name", name]
    return [*words, "--runtime", "eager", "--min-workers", "3", "--max-workers", "6", "--photos-per-block", "8"]


@pytest.fixture(scope="module")
def scored(cluster: Cluster, place: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive with broken files, scored by three machines; and the model."""
    folder = make_bundle(tmp_path_factory.mktemp("model") / "bundle", backbone="resnet18", side_px=96)
    for key in Store(folder).list():
        Store(f"{place}/model").write(key, Store(folder).read(key))
    cluster.resize(3)
    cluster.foodray("sample", f"{place}/archive", "--num-participants", "40", "--num-days", "2")
    cluster.foodray(*score(place, "whole"))
    return f"{place}/scored/whole"


def test_a_machine_that_fails_in_scoring_costs_its_open_blocks_and_no_photo(cluster: Cluster, scored: str, place: str, tmp_path: Path) -> None:
    cluster.resize(3)
    store = Store(f"{place}/scored").sub("failed")
    with (tmp_path / "log").open("w") as log:
        running = cluster.head.start([*FOODRAY, *score(place, "failed")], log)
        wait_for_parts(store, 5, running, tmp_path / "log")
        cluster.off()
        at = photos_in_parts(store)
        assert running.wait(560) == 0, (tmp_path / "log").read_text()[-4000:]
    run, unhurt = content(store.root, "run.json"), content(scored, "run.json")
    assert run["digests"] == unhurt["digests"]
    assert run["accounting"] == unhurt["accounting"]
    ids = read_tables(store)["image_results"]["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == run["accounting"]["manifest"]
    assert 0 < at < photos_in_parts(store) == photos_in_parts(Store(scored))


def wait_for_parts(store: Store, number: int, running: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 300
    while len(store.list("parts")) < number:
        assert running.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, "no blocks were scored"
        time.sleep(0.1)


def photos_in_parts(store: Store) -> int:
    parts = store.sub("parts")
    return sum(read_parquet(parts, key).num_rows for key in parts.list() if key.endswith(".parquet"))


def test_results_on_a_machines_own_disk_are_refused_before_anything_starts(cluster: Cluster, place: str, scored: str) -> None:
    cluster.resize(2)
    words = [word if word != f"{place}/scored" else "/tmp/scored" for word in score(place, "local")]
    done = cluster.head.run([*FOODRAY, *words])
    assert done.returncode == 1
    assert f"node {cluster.machines[1].address}: " in done.stderr
    assert "use a location that all nodes share, such as s3://" in done.stderr
