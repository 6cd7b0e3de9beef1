"""Claims about a cluster whose nodes an autoscaler starts: with none up a GPU run is not refused but waited for, and what could never be is refused at once.

Slow (`make acceptance`): Ray's own autoscaler (the version that `ray up` chooses) with its provider for tests, whose nodes are further Ray nodes of one
machine; the GPUs are offered, not there. Needs root (`tests/helpers/machines.py`).
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from machines import Machine, network, start_ray, wait_for_nodes, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
HEAD_ID = "f" * 51 + "00000"  # what the provider calls its head
LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
SETTINGS = {
    "cluster_name": "made-up",
    "max_workers": 2,
    "idle_timeout_minutes": 30,
    "provider": {
        "type": "fake_multinode",
        "head_node_id": HEAD_ID,
        **dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple"), True),
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 2, "GPU": 1, "object_store_memory": 200 * 2**20}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in (*LISTS, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A head with an autoscaler that may start two nodes of a GPU each, and none of them up."""
    log = tmp_path_factory.mktemp("autoscaling") / "log"
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "2"}
    with network({**fake, "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}) as net:
        machine = net.add(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4)
        machine.environment = {**machine.environment, "RAY_ADDRESS": f"{machine.address}:6379"}
        # The wheel lacks the provider's table of defaults, so it is put beside the provider, on this machine alone.
        folder = Path(ray.__file__).parent / "autoscaler/_private/fake_multi_node"
        copy = f"cp -r {folder} /tmp/provider && cp /tmp/settings.yaml /tmp/provider/example.yaml"
        mend = f"cat > /tmp/settings.yaml && {copy} && mount --bind /tmp/provider {folder}"
        done = subprocess.run(machine.words(["bash", "-c", mend]), input=yaml.safe_dump(SETTINGS), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        start_ray(machine, log, {"num_cpus": 2}, head=None, more=["--autoscaling-config=/tmp/settings.yaml"])
        wait_for_nodes(machine, 1, log)
        yield machine


def said(head: Machine, code: str) -> str:
    """What a driver prints, or the error that it ends with."""
    begin = "import logging; logging.basicConfig(level=logging.INFO); from foodray.cluster import *; from foodray.cluster.capacity import *; connect(); "
    done = head.run([sys.executable, "-c", begin + code], timeout_s=300)
    return done.stdout + done.stderr


def test_at_zero_workers_the_limits_of_the_autoscaler_count_and_not_the_nodes_that_are_up(head: Machine) -> None:
    told = said(
        head, "print(num_workers_at_most(use_gpu=True), num_workers_at_most(use_gpu=False), sum(node.resources.get('GPU', 0) for node in alive_nodes()))"
    )
    assert told.splitlines()[-1].split() == ["2", "6", "0"]


def test_more_than_the_autoscaler_may_start_is_refused_at_once(head: Machine) -> None:
    told = said(head, "check_resources(3, cpus_per_worker=1.0, use_gpu=True)")
    assert "3 workers need 3 GPUs, its autoscaler may start no more than 2" in told
    assert "raise max_workers of a node type" in told


def test_what_may_be_started_is_started_and_waited_for_and_what_no_node_type_holds_is_refused(head: Machine) -> None:
    told = said(head, "check_resources(2, cpus_per_worker=1.0, use_gpu=True); print(len(alive_nodes()), 'nodes')")
    assert "its autoscaler is asked to start nodes for 3 CPUs and 2 GPUs" in told
    assert told.splitlines()[-1] == "3 nodes"
    told = said(head, "check_resources(1, cpus_per_worker=3.0, use_gpu=True)")
    assert "has no node types, or too few nodes of them, that could hold it" in told
