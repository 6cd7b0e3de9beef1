"""How much work fits: what the nodes that are up have, and what an autoscaler could add.

Ray itself waits for ever for what can never come. A cluster without an autoscaler is what its nodes have; one of Ray's launcher may grow to the
`max_workers` of its node types, which the autoscaler's settings on the head tell; KubeRay's autoscaler runs in a container of its own, and its limits are
not known before it is asked. In both cases nodes that are missing are started, and waited for, before the run begins.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foodray.cluster.nodes import Node, alive_nodes
from foodray.errors import ClusterError

log = logging.getLogger(__name__)
START_S = 1_200.0
"""How long nodes that an autoscaler starts are waited for; one of a cloud takes minutes."""
LOOK_S = 2.0
TELL_S = 60.0
UNKNOWN = 1_000
"""Workers at most where an autoscaler does not tell its limits: Ray asks it for as many as have work, and it starts what it may."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What an autoscaler may make of the cluster."""

    most: dict[str, float] | None
    """Resources with every node that may be started, those that are up included; None where it is not told."""


def num_workers_at_most(*, use_gpu: bool) -> int:
    """How many workers of one CPU or GPU make sense: GPUs, or CPUs, those included that an autoscaler may add; of a private cluster this machine's cores,
    for its CPUs are logical."""
    if not use_gpu and not _is_shared():
        return os.cpu_count() or 1
    kind, total, growth = "GPU" if use_gpu else "CPU", _up(), growth_of_cluster()
    if growth is not None and growth.most is None:
        return UNKNOWN
    return max(1, int((total if growth is None else growth.most or {}).get(kind, 0)))


def num_runs_at_once(num_workers: int, *, cpus_per_worker: float, use_gpu: bool, wanted: int = 0) -> int:
    """How many training runs of so many workers to keep going side by side, at least 1: `wanted`, or with 0 as many as the cluster holds.

    Raises `ClusterError` for more than it holds: each worker waits for a Ray Data task, and where all CPUs are workers' nobody would go on.
    """
    growth = growth_of_cluster()
    most = _up() if growth is None or growth.most is None else growth.most
    total, need = most.get("CPU", 1), num_workers * (cpus_per_worker + 1)
    by_cpu = max(1, int(total // need))
    if wanted > by_cpu and not (growth is not None and growth.most is None):
        raise ClusterError(
            f"concurrent = {wanted} runs of {num_workers} workers need {wanted * need:g} CPUs with a Ray Data task beside each worker, the cluster has "
            f"{total:g}; set concurrent <= {by_cpu}, or add nodes"
        )
    by_gpu = int(most.get("GPU", 0)) // num_workers if use_gpu else by_cpu
    cores = by_cpu if use_gpu or _is_shared() else (os.cpu_count() or 1) // num_workers
    return wanted or max(1, min(by_cpu, by_gpu, cores))


def check_resources(num_workers: int, *, cpus_per_worker: float, use_gpu: bool) -> None:
    """See that the workers can be placed, starting nodes for them where there is an autoscaler; raises `ClusterError` when they never could, naming what
    each node has. Ray itself would wait for ever."""
    wanted = {"CPU": num_workers * cpus_per_worker + 1, "GPU": float(num_workers * use_gpu)}
    worker = {"CPU": cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    if _fits(wanted, _up()) and num_places(worker, alive_nodes()) >= num_workers:
        return
    growth = growth_of_cluster()
    if growth is None or (growth.most is not None and not _fits(wanted, growth.most)):
        raise ClusterError(_shortage(num_workers, wanted, growth))
    start_nodes([worker] * num_workers + [{"CPU": 1.0}])


def _fits(wanted: Mapping[str, float], total: Mapping[str, float]) -> bool:
    return all(total.get(kind, 0.0) >= amount for kind, amount in wanted.items())


def num_places(worker: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """How many such workers the nodes hold at a time when nothing else runs; one is on one node, wherever the rest is."""
    return (
        sum(min(int(node.resources.get(kind, 0.0) / amount) for kind, amount in worker.items() if amount) for node in nodes)
        if any(worker.values())
        else sys.maxsize
    )


def _shortage(num_workers: int, wanted: Mapping[str, float], growth: Growth | None) -> str:
    total = _up() if growth is None else growth.most or {}
    short = [kind for kind, amount in wanted.items() if total.get(kind, 0.0) < amount]
    if not short:
        kinds = [kind for kind, amount in wanted.items() if amount]
        has = "; ".join(f"{kind}s: {by_node(kind)}" for kind in kinds)
        return f"{num_workers} workers do not fit side by side on the nodes ({has}); lower workers.cpus_per_worker or workers.num_workers, or add nodes"
    kind = short[0]
    amount = wanted[kind] - (kind == "CPU")
    has = f"the cluster has {total.get(kind, 0):g}" if growth is None else f"its autoscaler may start no more than {total.get(kind, 0):g}"
    remedy = "add nodes" if growth is None else "raise max_workers of a node type in the cluster's settings"
    return (
        f"{num_workers} workers need {amount:g} {kind}s{' and one more for Ray Data' if kind == 'CPU' else ''}, {has} "
        f"({by_node(kind)}); lower workers.num_workers{' or set workers.use_gpu = False' if kind == 'GPU' else ''}, or {remedy}"
    )


def by_node(kind: str) -> str:
    """What each node that is up has of a resource, in words."""
    return ", ".join(f"{node} {node.resources.get(kind, 0):g}" for node in alive_nodes())


def start_nodes(bundles: Sequence[Mapping[str, float]], *, limit_s: float = START_S) -> None:
    """Have an autoscaler start what these bundles need beyond the nodes that are up, and wait for it. Raises `ClusterError` where it says that it
    cannot, or does not within the limit."""
    log.info("the cluster has %s; its autoscaler is asked to start nodes for %s", _told(_up()), _told(_sum(bundles)))
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    started = told = time.monotonic()
    try:
        while not group.wait(LOOK_S):
            refusal = _refusal(group)
            if refusal or time.monotonic() - started > limit_s:
                why = refusal or f"did not do so within {limit_s:.0f} s; `ray status` on the head says why"
                raise ClusterError(f"nodes for {_told(_sum(bundles))} were to be started, but the cluster's autoscaler {why} (up: {by_node('CPU')} CPUs)")
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                log.info("waiting for nodes for %.0f s; up are %s", told - started, _told(_up()))
    finally:
        remove_placement_group(group)
    log.info("the nodes are up: %s", _told(_up()))


def _refusal(group: PlacementGroup) -> str | None:
    """What the autoscaler says against a group, if it says that none of its node types could hold it."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    try:
        reply.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=10))  # type: ignore[attr-defined]
    except RayError:  # not now; the next look may tell
        return None
    refused = [request for request in reply.autoscaling_state.infeasible_gang_resource_requests if group.id.hex() in request.details]
    return "has no node types, or too few nodes of them, that could hold it; raise their limits, or ask for less" if refused else None


def growth_of_cluster() -> Growth | None:
    """What an autoscaler may add, or None where there is none."""
    if not _is_shared():
        return None
    reported = ray._private.state.state.get_max_resources_from_cluster_config()
    if reported:
        return Growth(most={kind: max(float(amount), _up().get(kind, 0.0)) for kind, amount in reported.items()})
    head = next((node for node in alive_nodes() if node.is_head), None)
    if head is None:
        return None
    place = NodeAffinitySchedulingStrategy(head.node_id, soft=False)
    look: Any = ray.remote(num_cpus=0)(autoscaler_settings)
    settings: dict[str, Any] | None = ray.get(look.options(scheduling_strategy=place).remote(ray.get_runtime_context().gcs_address))
    return None if settings is None else growth_of(settings, head, _up())


def growth_of(settings: Mapping[str, Any], head: Node, up: Mapping[str, float]) -> Growth:
    """What the settings of Ray's launcher allow: of each resource the head's, and that of as many of the largest workers as `max_workers` lets start."""
    kinds = settings.get("available_node_types") or {}
    workers = [about for name, about in kinds.items() if name != settings.get("head_node_type") and about.get("max_workers", settings.get("max_workers", 0))]
    if not workers or any(not about.get("resources") for about in workers):
        return Growth(most=None)
    most = dict(up)
    for resource in {resource for about in workers for resource in about["resources"]}:
        left, total = int(settings.get("max_workers", 2)), head.resources.get(resource, 0.0)
        for about in sorted(workers, key=lambda about: -float(about["resources"].get(resource, 0))):
            number = min(left, int(about.get("max_workers", left)))
            left -= number
            total += number * float(about["resources"].get(resource, 0))
        most[resource] = max(total, up.get(resource, 0.0))
    return Growth(most=most)


def autoscaler_settings(gcs_address: str) -> dict[str, Any] | None:
    """Runs on the head: the settings file of the autoscaler of this cluster, {} where it keeps them to itself, None where there is none."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_text(errors="replace").split("\0")
        except OSError:  # gone by now
            continue
        if any(word.endswith("monitor.py") for word in words) and f"--gcs-address={gcs_address}" in words:
            file = next((word.split("=", 1)[1] for word in words if word.startswith("--autoscaling-config=")), "")
            if not file:
                return None
            try:
                return dict(yaml.safe_load(Path(file).expanduser().read_text()))
            except (OSError, yaml.YAMLError, TypeError, ValueError):
                return {}
    return {} if "RAY_USAGE_STATS_KUBERAY_IN_USE" in os.environ else None  # KubeRay runs it beside the head and starts Ray with --no-monitor


def _is_shared() -> bool:
    """Whether the cluster is another's, which this process joined."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _up() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def _sum(bundles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for bundle in bundles for kind in bundle)
    return {kind: sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in kinds}


def _told(total: Mapping[str, float]) -> str:
    return f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
