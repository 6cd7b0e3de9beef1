"""What must be true of the cluster before a long run starts: Ray is there, has the resources, and shares the storage."""

import logging
import os
import socket
import uuid
from pathlib import Path

import ray
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foodray.errors import ClusterError, StorageError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
LOGICAL_CPUS = 4  # Ray Data's stages and the training workers wait for each other for ever when there are too few


def connect(*, dashboard: bool = False) -> None:
    """Join the cluster of RAY_ADDRESS (a submitted job has one), or start a private one on this machine, with its dashboard (and job queue) if
    asked, for which Ray's agent needs its port; raises `ClusterError`."""
    # The controller asks its workers for news every 2 s by default, and a report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        if dashboard:
            _check_agent_port()
        ray.init(address="local", num_cpus=max(LOGICAL_CPUS, (os.cpu_count() or 1) + 2), include_dashboard=dashboard, log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    log.info("Ray %s on %d node%s, %s", ray.__version__, len(nodes), "" if len(nodes) == 1 else "s", _resources())


def _check_agent_port() -> None:
    """Raise `ClusterError` where jobs could be submitted to a private cluster but would never begin: Ray's job agent has one fixed port a machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
        except OSError as error:
            raise ClusterError(
                f"port {DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}, on which Ray's jobs begin, is taken, probably by another Ray on this machine; wait until that "
                "has ended, or run `ray start --head --dashboard-agent-listen-port PORT` with another port and give the command RAY_ADDRESS"
            ) from error


def _resources() -> str:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"{total.get('CPU', 0):g} logical CPUs, {total.get('GPU', 0):g} GPUs"


def num_workers_at_most(*, use_gpu: bool) -> int:
    """How many workers of one CPU or GPU make sense: GPUs, or CPUs; of a private cluster this machine's cores, for its CPUs are logical."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if use_gpu:
        return max(1, int(total.get("GPU", 0)))
    return max(1, int(total.get("CPU", 1)) if os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1)


def num_runs_at_once(num_workers: int, *, cpus_per_worker: float, use_gpu: bool, wanted: int = 0) -> int:
    """How many training runs of so many workers to keep going side by side, at least 1: `wanted`, or with 0 as many as the cluster holds.

    Raises `ClusterError` for more than it holds: each worker waits for a Ray Data task, and where all CPUs are workers' nobody would go on.
    """
    total, need = ray.cluster_resources().get("CPU", 1), num_workers * (cpus_per_worker + 1)  # type: ignore[no-untyped-call]
    by_cpu = max(1, int(total // need))
    if wanted > by_cpu:
        raise ClusterError(
            f"concurrent = {wanted} runs of {num_workers} workers need {wanted * need:g} CPUs with a Ray Data task beside each worker, the cluster has "
            f"{total:g}; set concurrent <= {by_cpu}, or add nodes"
        )
    return wanted or max(1, min(by_cpu, num_workers_at_most(use_gpu=use_gpu) // num_workers))


def check_resources(num_workers: int, *, cpus_per_worker: float, use_gpu: bool) -> None:
    """Raise `ClusterError` when the workers could never be placed; Ray itself would wait for ever."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = {"CPU": num_workers * cpus_per_worker, "GPU": float(num_workers * use_gpu)}
    for kind, amount in wanted.items():
        if total.get(kind, 0.0) < amount + (1 if kind == "CPU" else 0):
            raise ClusterError(
                f"{num_workers} workers need {amount:g} {kind}s{' and one more for Ray Data' if kind == 'CPU' else ''}, the cluster has "
                f"{total.get(kind, 0):g}; lower workers.num_workers{' or set workers.use_gpu = False' if kind == 'GPU' else ''}, or add nodes"
            )


def check_storage(results: Store, *needed: tuple[str, Store, str]) -> None:
    """Raise `ClusterError` unless every node can read what is needed (a setting's name, its store, a key there) and write where
    the driver reads, and the other way round."""
    token = uuid.uuid4().hex
    probe = results.sub(f".probe-{token[:8]}")
    probe.write("driver", token.encode())
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        problem = ray.get(_probe.options(scheduling_strategy=place).remote(probe, needed, node["NodeID"], token))
        name = f"node {node['NodeManagerAddress']}"
        if problem:
            raise ClusterError(f"{name}: {problem}; use a location that all nodes share, such as s3://")
        try:
            back = probe.read(node["NodeID"])
        except (StorageError, FileNotFoundError) as error:
            raise ClusterError(
                f"{name} wrote to results = {results.root}, but this process cannot read it back; use a location that all nodes share, such as s3://"
            ) from error
        if back != token.encode():
            raise ClusterError(f"{name} wrote to results = {results.root}, but something else came back; use another folder")
    _remove_probe(probe)


def _remove_probe(probe: Store) -> None:
    """Take away what the check itself wrote."""
    for key in probe.list():
        probe.delete(key)
    if not probe.remote:
        Path(probe.root).rmdir()


@ray.remote(num_cpus=0)
def _probe(probe: Store, needed: tuple[tuple[str, Store, str], ...], node_id: str, token: str) -> str | None:
    for setting, store, key in needed:
        try:
            store.read(key)
        except (StorageError, OSError):
            return f"cannot read {setting} = {store.root}"
    try:
        if probe.read("driver") != token.encode():
            return f"sees another results = {probe.root} than the driver"
    except (StorageError, OSError):
        return f"cannot read what the driver wrote to results = {probe.root}"
    try:
        probe.write(node_id, token.encode())
    except (StorageError, OSError) as error:
        return f"cannot write to results = {probe.root} ({error})"
    return None
