"""One task on every node: where something must be true of each, it is asked there and not assumed.

A task is pinned to its node and sent by value, so that it runs, and can say what is wrong, on a node whose foodray is of another version or not there.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foodray.cluster import facts
from foodray.cluster.facts import differing, versions
from foodray.errors import ClusterError

log = logging.getLogger(__name__)
ANSWER_S = 180.0  # a worker's start takes up to 20 s on a loaded node, longer where the job's files are fetched first


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that is alive."""

    node_id: str
    address: str
    """Its IP address."""
    is_head: bool
    resources: dict[str, float]
    """What Ray advertises of it."""

    def __str__(self) -> str:
        return f"node {self.address}{' (head)' if self.is_head else ''}"


def alive_nodes() -> list[Node]:
    """The nodes that are alive, the head first."""
    found = [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            is_head="node:__internal_head__" in node["Resources"],
            resources=dict(node["Resources"]),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (not node.is_head, node.address, node.node_id))


def on_every_node(task: Callable[..., Any], nodes: Sequence[Node], *arguments: Sequence[Any], timeout_s: float = ANSWER_S) -> list[Any]:
    """What `task` returns on each node, or the exception with which it did not; `arguments` are one sequence a parameter, with an entry a node."""
    remote = ray.remote(num_cpus=0, max_retries=1)(task)
    given = list(zip(*arguments, strict=True)) if arguments else [()] * len(nodes)
    sent = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(*words)
        for node, words in zip(nodes, given, strict=True)
    ]
    with ThreadPoolExecutor(max(1, len(sent))) as pool:
        return list(pool.map(lambda answer: _wait(answer, timeout_s), sent))


def _wait(answer: Any, timeout_s: float) -> Any:
    try:
        return ray.get(answer, timeout=timeout_s)
    except GetTimeoutError:
        ray.cancel(answer, force=True)
        return ClusterError(f"did not answer within {timeout_s:.0f} s; look at the node's load and at Ray's logs there")
    except RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return ClusterError(lines[-1].strip() if lines else repr(error))


@cache
def by_value(module_name: str) -> None:
    """Send the functions of a module themselves rather than its name: for modules that import nothing of foodray at their top."""
    cloudpickle.register_pickle_by_value(sys.modules[module_name])  # type: ignore[no-untyped-call]


def check_versions() -> None:
    """Raise `ClusterError` that names the nodes whose Python, Ray, torch … or foodray is not this process'."""
    by_value(facts.__name__)
    nodes, mine = alive_nodes(), versions()
    wrong = []
    for node, found in zip(nodes, on_every_node(versions, nodes), strict=True):
        told = str(found) if isinstance(found, Exception) else "; ".join(differing(mine, found))
        if told:
            wrong.append(f"{node}: {told}")
    if wrong:
        raise ClusterError("\n  ".join(["nodes of another version than this process; start all of them from one image or one lock:", *wrong]))
