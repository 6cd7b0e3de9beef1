"""Claims about `foodray doctor`: what it says of a node follows from the node's facts, each with a remedy, and its exit code says whether to go on."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
import s3fs

from foodray.cli import main
from foodray.cluster import Node, check_resources, check_versions, connect, facts, joining
from foodray.cluster import nodes as cluster_nodes
from foodray.cluster.capacity import growth_of
from foodray.cluster.shared import probe_storage
from foodray.doctor import DoctorConfig, Finding
from foodray.doctor.findings import GIB, judge_clock, judge_doors, judge_node, judge_totals
from foodray.errors import ClusterError, ConfigError, StorageError
from foodray.storage.store import Store

GOOD: dict[str, Any] = {
    "versions": {
        "python": "3.11.7",
        "ray": "2.60.0",
        "torch": "2.15.0",
        "torchvision": "0.29",
        "pyarrow": "26",
        "numpy": "2",
        "foodray": "0.1.0",
        "code_sha256": "a" * 64,
    },
    "environment": {"packages": {"ray": "2.60.0", "timm": "1.0"}, "sha256": "b" * 64, "lock_sha256": "c" * 64},
    "gpus": {"seen": [{"name": "L4", "bytes": 24 * GIB}], "error": None},
    "disks": {"temporary": {"folder": "/tmp/ray", "total_bytes": 100 * GIB, "free_bytes": 50 * GIB}},
    "object_store": {"bytes": 4 * GIB, "folder": "/dev/shm", "shm_bytes": 8 * GIB, "memory_bytes": 16 * GIB},
    "open_files": 65_536,
}
WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "another torch": ({"versions": {**GOOD["versions"], "torch": "2.13.0"}}, "versions", "torch 2.13.0 instead of 2.15.0", "one image"),
    "other code": ({"versions": {**GOOD["versions"], "code_sha256": "d" * 64}}, "versions", "foodray's code dddddddd instead of aaaaaaaa", "one image"),
    "no foodray": ({"versions": {**GOOD["versions"], "foodray": "none", "code_sha256": "none"}}, "versions", "foodray none instead of 0.1.0", "one image"),
    "another package": (
        {"environment": {**GOOD["environment"], "packages": {"ray": "2.60.0", "timm": "0.9"}, "sha256": "e" * 64}},
        "packages",
        "timm 0.9 instead of 1.0",
        "one lock",
    ),
    "another lock": ({"environment": {**GOOD["environment"], "lock_sha256": "f" * 64}}, "packages", "this process has lock cccccccc", "--working-dir"),
    "a GPU that torch does not see": ({"gpus": {"seen": [], "error": None}}, "GPUs", "Ray offers 1, torch sees 0", "--num-gpus"),
    "a driver that is too old": ({"gpus": {"seen": [], "error": "CUDA driver too old"}}, "GPUs", "CUDA driver too old", "nvidia-smi"),
    "a full disk": (
        {"disks": {"temporary": {"folder": "/tmp/ray", "total_bytes": 100 * GIB, "free_bytes": GIB}}},
        "temporary disk",
        "1.0 of 100.0 GiB free at /tmp/ray",
        "--temp-dir",
    ),
    "a small /dev/shm": ({"object_store": {**GOOD["object_store"], "folder": "/tmp", "shm_bytes": GIB // 16}}, "object store", "4.0 GiB in /tmp", "--shm-size"),
    "a store that leaves no memory": (
        {"object_store": {**GOOD["object_store"], "memory_bytes": 6 * GIB}},
        "object store",
        "memory 6.0",
        "--object-store-memory",
    ),
    "few open files": ({"open_files": 256}, "open files", "at most 256", "ulimit -n"),
}


def mended(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state == "mend"]


def test_a_node_like_this_process_has_nothing_to_mend() -> None:
    assert [finding.state for finding in judge_node(GOOD, GOOD, {"GPU": 1.0})] == ["ok"] * 6


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_a_node_is_named_with_its_value_and_the_remedy(kind: str) -> None:
    facts_of_it, what, value, remedy = WRONG[kind]
    (found,) = mended(judge_node({**GOOD, **facts_of_it}, GOOD, {"GPU": 1.0}))
    assert found.what == what
    assert value in found.value
    assert remedy in found.remedy


@pytest.mark.parametrize(("off", "state"), [(0.0, "ok"), (0.9, "ok"), (-5.0, "note"), (5.0, "note"), (61.0, "mend"), (-61.0, "mend")])
def test_a_clock_is_off_only_by_what_the_time_of_asking_does_not_explain(off: float, state: str) -> None:
    assert judge_clock(100.0, 100.1 + off, 100.2).state == state
    assert judge_clock(100.0, 130.0, 160.0).state == "ok"  # the answer took a minute: nothing is known


@pytest.mark.parametrize(
    ("up", "most", "can_grow", "state", "words"),
    [
        (2, None, False, "ok", "2 wanted, 2 up"),
        (1, None, False, "mend", "2 wanted, 1 up; none on node b"),
        (0, {"GPU": 4.0}, True, "note", "the autoscaler may make it 4"),
        (0, {"GPU": 1.0}, True, "mend", "the autoscaler may make it 1"),
        (0, None, True, "note", "the autoscaler's limit is not known"),
    ],
)
def test_gpus_that_are_wanted_are_there_could_be_started_or_are_missed_by_node(
    up: int, most: dict[str, float] | None, can_grow: bool, state: str, words: str
) -> None:
    (found,) = judge_totals(DoctorConfig(gpus=2), {"CPU": 8.0}, {"node a": up, "node b": 0}, most, can_grow=can_grow)
    assert found.state == state
    assert words in found.value


def test_a_door_that_opens_without_a_token_must_be_mended() -> None:
    states = {
        finding.what: finding.state
        for finding in judge_doors(
            [
                ("GCS", "no token", "refused"),
                ("GCS", "wrong token", "refused"),
                ("dashboard", "no token", "open"),
                ("dashboard", "wrong token", "refused"),
                ("far", "no token", "unreachable"),
            ]
        )
    }
    assert states == {"access to GCS": "ok", "access to dashboard": "mend", "access to far": "note"}


def test_settings_of_the_doctor_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="gpus = -1"):
        DoctorConfig(gpus=-1)


class TestGrowth:
    HEAD = Node(node_id="h", address="10.0.0.1", is_head=True, resources={"CPU": 4.0})
    KINDS: ClassVar[dict[str, Any]] = {
        "head": {"resources": {"CPU": 4}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 4},
    }

    def test_an_autoscaler_at_zero_workers_may_start_what_its_settings_allow(self) -> None:
        growth = growth_of({"max_workers": 8, "head_node_type": "head", "available_node_types": self.KINDS}, self.HEAD, {"CPU": 4.0})
        assert growth.most == {"CPU": 4 + 4 * 16 + 4 * 8, "GPU": 4.0}

    def test_the_limit_over_all_workers_counts_for_the_largest_first(self) -> None:
        growth = growth_of({"max_workers": 3, "head_node_type": "head", "available_node_types": self.KINDS}, self.HEAD, {"CPU": 4.0})
        assert growth.most == {"CPU": 4 + 3 * 16, "GPU": 3.0}

    def test_node_types_without_resources_leave_the_limit_unknown(self) -> None:
        kinds = {**self.KINDS, "cpu": {"resources": {}, "max_workers": 4}}
        assert growth_of({"head_node_type": "head", "available_node_types": kinds}, self.HEAD, {}).most is None


@contextmanager
def exit_code(of: list[int]) -> Iterator[None]:
    with pytest.raises(SystemExit) as ended:
        yield
    of.append(int(ended.value.code or 0))


@pytest.mark.usefixtures("ray_session")
class TestOnACluster:
    def test_a_good_cluster_and_good_storage_end_with_code_0_and_leave_nothing_behind(
        self, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Store(f"{s3}/doctor").write("photos/one.jpg", b"123", replace=True)
        main(["doctor", "--storage", f"{s3}/doctor/out", str(tmp_path / "new" / "out"), "--readable", f"{s3}/doctor/photos", "--cpus", "2"])
        said = capsys.readouterr().out
        assert "nothing to mend" in said
        assert "MEND" not in said
        assert f"{s3}/doctor/out: written, read and removed" in said
        assert f"{s3}/doctor/photos: one file read, 3 bytes" in said
        assert "no token: refused, wrong token: refused" in said
        assert Store(f"{s3}/doctor").list() == ["photos/one.jpg"]
        assert not list(tmp_path.iterdir())

    def test_a_bucket_that_is_not_there_and_gpus_that_are_not_end_with_code_1_by_node_and_remedy(self, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
        codes: list[int] = []
        with exit_code(codes):
            main(["doctor", "--storage", "s3://no-such-bucket-here/out", "--readable", f"{s3}/nothing-here", "--gpus", "1"])
        said = capsys.readouterr().out
        address = ray.nodes()[0]["NodeManagerAddress"]
        assert codes == [1]
        assert "s3://no-such-bucket-here/out: this process cannot write there" in said
        assert f"{s3}/nothing-here: there is no file" in said
        assert f"1 wanted, 0 up; none on node {address} (head)" in said
        assert "3 things to mend" in said

    def test_a_node_of_another_version_is_named_before_a_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_versions()
        mine = facts.versions()
        monkeypatch.setattr(cluster_nodes, "versions", lambda: {**mine, "torch": "1.0"})
        monkeypatch.setattr(cluster_nodes, "on_every_node", lambda *_, **__: [mine])
        with pytest.raises(ClusterError, match=rf"node \S+ \(head\): torch {mine['torch']} instead of 1.0"):
            check_versions()

    def test_a_gpu_run_without_gpus_names_what_each_node_has(self) -> None:
        with pytest.raises(ClusterError, match=r"1 workers need 1 GPUs, the cluster has 0 \(node \S+ \(head\) 0\).*use_gpu = False.*add nodes"):
            check_resources(1, cpus_per_worker=1.0, use_gpu=True)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_storage_that_never_answers_is_an_error_in_time(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StorageError, match=r"s3://b/out did not answer within 1 s; check AWS_ENDPOINT_URL"):
            probe_storage(Store("s3://b/out"), [], timeout_s=1.0)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_an_address_where_nothing_listens_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "")
    codes: list[int] = []
    with exit_code(codes):
        main(["doctor", "--address", "127.0.0.1:1"])
    assert codes == [1]
    assert "no cluster answers at 127.0.0.1:1" in capsys.readouterr().err
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"  # taken back by the fixture


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_wrong_or_absent_token_is_told_with_the_remedy(token: str, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(joining, "own_header", lambda: f"Bearer {token}" if token else None)
    with pytest.raises(ClusterError, match=f"does not let this process in {'with this' if token else 'without a'} token; set RAY_AUTH_MODE=token"):
        connect()
