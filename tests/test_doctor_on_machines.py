"""Claims about `foodray doctor` on machines of their own: what is wrong with one of them is told of that one, and a run refuses it by name.

Slow (`make acceptance`): three machines with a Ray node each (`tests/helpers/machines.py`), needs root.
"""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import ROOT, Machine, Network, network, ray_nodes, shared_storage, start_ray, wait_for_nodes, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
FOODRAY = [sys.executable, "-m", "foodray"]


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def nodes(net: Network, s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """A head; a node that offers a GPU it does not have; and one whose foodray is another and which has no way to the storage."""
    log = tmp_path_factory.mktemp("nodes") / "log"
    with shared_storage(net) as storage:
        found = ray_nodes(net, log, [{"num_cpus": 2}, {"num_cpus": 2, "num_gpus": 1}], head=(), **storage)
        third = net.add(**found[0].environment)
        own = "cp -r $1/foodray $1/infra /tmp/other/ && echo '# changed' >> /tmp/other/foodray/errors.py && ip route add prohibit $2"
        done = third.run(["bash", "-c", f"mkdir /tmp/other && {own}", "bash", str(ROOT), net.gateway])
        assert done.returncode == 0, done.stderr
        third.environment = {**third.environment, "PYTHONPATH": "/tmp/other"}
        start_ray(third, log, {"num_cpus": 2}, head=found[0])
        wait_for_nodes(found[0], 3, log)
        yield [*found, third]


def parts(said: str) -> dict[str, str]:
    """What was said of the cluster and of each node."""
    return {part.strip().splitlines()[0].removesuffix(" (head)"): part for part in said.split("\n\n") if part.strip()}


@pytest.fixture(scope="module")
def examined(nodes: list[Machine], s3: str) -> "subprocess.CompletedProcess[str]":
    return nodes[0].run([*FOODRAY, "doctor", "--storage", f"{s3}/doctor/out", "--gpus", "2", "--timeout-s", "90"])


def test_each_node_is_told_what_is_wrong_with_it_and_how_to_mend_it(examined: "subprocess.CompletedProcess[str]", nodes: list[Machine], s3: str) -> None:
    said = parts(examined.stdout)
    head, gpu, other = (said[f"node {machine.address}"] for machine in nodes)
    assert examined.returncode == 1, examined.stdout + examined.stderr
    assert "MEND" not in head
    assert f"{s3}/doctor/out: written, read and removed" in head
    assert "MEND  GPUs             Ray offers 1, torch sees 0" in gpu
    assert "MEND  versions         foodray's code" in other
    assert "MEND  storage" in other
    assert "one image" in other
    assert gpu.count("MEND") == 1
    assert f"2 wanted, 0 up; none on node {nodes[0].address} (head), node {nodes[1].address}, node {nodes[2].address}" in said["the cluster"]
    assert said["the cluster"].count("no token: refused, wrong token: refused") == 2  # the registry and the dashboard


def test_a_run_refuses_a_node_of_another_version_by_its_address(nodes: list[Machine], s3: str) -> None:
    code = "from foodray.cluster import check_versions, connect; connect(); check_versions()"
    done = nodes[0].run([sys.executable, "-c", code])
    assert done.returncode != 0
    assert f"node {nodes[2].address}: foodray's code" in done.stderr
    assert f"node {nodes[1].address}" not in done.stderr.splitlines()[-1]


def test_a_run_refuses_a_node_without_a_way_to_the_storage_by_its_address(nodes: list[Machine], s3: str) -> None:
    code = f"from foodray.cluster import check_storage, connect; from foodray.storage.store import Store; connect(); check_storage(Store('{s3}/doctor/out'))"
    done = nodes[0].run([sys.executable, "-c", code])
    assert done.returncode != 0
    assert f"ClusterError: node {nodes[2].address}: " in done.stderr
    assert f"{s3}/doctor/out" in done.stderr
    code = "from foodray.cluster import check_storage, connect; from foodray.storage.store import Store; connect(); check_storage(Store('/tmp/out'))"
    done = nodes[0].run([sys.executable, "-c", code])
    assert f"ClusterError: node {nodes[1].address}: cannot read what this process wrote to /tmp/out" in done.stderr


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_wrong_token_ends_a_command_at_once_with_what_to_set(token: str, nodes: list[Machine]) -> None:
    done = nodes[0].run([*FOODRAY, "doctor"], RAY_AUTH_TOKEN=token)
    assert done.returncode == 1
    assert "token" in done.stderr.splitlines()[-1]
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr
