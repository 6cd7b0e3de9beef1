"""The examination: join the cluster, ask every node for its facts, try doors and storage, and judge what came back."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from foodray.cluster import Node, alive_nodes, connect, on_every_node, probe_storage
from foodray.cluster import facts as node_facts
from foodray.cluster.capacity import growth_of_cluster
from foodray.cluster.joining import knock
from foodray.cluster.nodes import by_value
from foodray.doctor.findings import DoctorConfig, Finding, Report, judge_clock, judge_doors, judge_node, judge_totals
from foodray.errors import StorageError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
WRONG_TOKEN = "0" * 64
DOOR_S = 5.0


def examine(config: DoctorConfig) -> Report:
    """Look at the cluster and at every node of it; raises `ClusterError` where it cannot be joined. Nothing is changed, and what storage is tried with
    is taken away again."""
    connect()
    by_value(node_facts.__name__)
    nodes = alive_nodes()
    log.info("asking %d node%s", len(nodes), "" if len(nodes) == 1 else "s")
    found = on_every_node(node_facts.facts, nodes, [node.resources.get("GPU", 0.0) for node in nodes], timeout_s=config.timeout_s)
    driver = {"versions": node_facts.versions(), "environment": node_facts.environment()}
    answers = [_node_findings(node, about, driver) for node, about in zip(nodes, found, strict=True)]
    healthy = [index for index, about in enumerate(found) if not isinstance(about, Exception)]
    for more in (_clocks, _storages(config), _readables(config)):
        for index, findings in zip(healthy, more([nodes[index] for index in healthy]), strict=True):
            answers[index] += findings
    seen = {str(node): 0 if isinstance(about, Exception) else len(about["gpus"]["seen"]) for node, about in zip(nodes, found, strict=True)}
    return Report(cluster=tuple(_cluster_findings(config, seen)), nodes={str(node): tuple(mine) for node, mine in zip(nodes, answers, strict=True)})


def _node_findings(node: Node, about: Any, driver: dict[str, Any]) -> list[Finding]:
    if isinstance(about, Exception):
        remedy = "look at its logs (`ray logs`); a node of another image may not be able to run this code at all"
        return [Finding(what="an answer", state="mend", value=f"none: {about}", remedy=remedy)]
    return judge_node(about, driver, node.resources)


def _clocks(nodes: Sequence[Node]) -> list[list[Finding]]:
    """One node at a time, twice: the first call may have to wait for a worker."""
    found = []
    for node in nodes:
        best: tuple[float, float, float] | None = None
        for _ in range(2):
            sent = time.time()
            (answered,) = on_every_node(node_facts.clock, [node])
            received = time.time()
            if not isinstance(answered, Exception) and (best is None or received - sent < best[2] - best[0]):
                best = (sent, answered, received)
        found.append([] if best is None else [judge_clock(*best)])
    return found


def _storages(config: DoctorConfig) -> Callable[[Sequence[Node]], list[list[Finding]]]:
    """Whether each node reads and writes in every place of `storage`."""
    remedy = "use a place that all nodes share and may write to, such as s3://; on AWS see the nodes' role, elsewhere AWS_* in every node's environment"

    def look(nodes: Sequence[Node]) -> list[list[Finding]]:
        found: list[list[Finding]] = [[] for _ in nodes]
        for place in config.storage:
            store = Store(place)
            try:
                problems: Sequence[str | None] = probe_storage(store, nodes, timeout_s=config.timeout_s)
            except (StorageError, OSError) as error:
                problems = [f"this process cannot write there: {error}"] * len(nodes)
            for findings, problem in zip(found, problems, strict=True):
                value = f"{store.root}: {problem or 'written, read and removed'}"
                findings.append(Finding(what="storage", state="mend" if problem else "ok", value=value, remedy=remedy if problem else ""))
        return found

    return look


def _readables(config: DoctorConfig) -> Callable[[Sequence[Node]], list[list[Finding]]]:
    """Whether each node reads from every place of `readable`."""
    remedy = "use a place that all nodes share, and let their role or keys list and read it"

    def look(nodes: Sequence[Node]) -> list[list[Finding]]:
        found: list[list[Finding]] = [[] for _ in nodes]
        for store in map(Store, config.readable):
            for findings, told in zip(found, on_every_node(try_reading, nodes, [store] * len(nodes), timeout_s=config.timeout_s), strict=True):
                good = isinstance(told, int)
                value = f"{store.root}: {f'one file read, {told:,} bytes' if good else told}"
                findings.append(Finding(what="reading", state="ok" if good else "mend", value=value, remedy="" if good else remedy))
        return found

    return look


def try_reading(store: Store) -> int | str:
    """Runs on a node: the size of one file that was read there, or why none was."""
    try:
        key = store.first()
        return "there is no file" if key is None else len(store.read(key))
    except (StorageError, OSError) as error:
        return f"cannot be read: {error}"


def _cluster_findings(config: DoctorConfig, seen_gpus: dict[str, int]) -> Iterator[Finding]:
    yield from judge_doors(list(_doors()))
    growth = growth_of_cluster()
    up = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    yield from judge_totals(config, up, seen_gpus, None if growth is None else growth.most, can_grow=growth is not None)
    dead = [node for node in ray.nodes() if not node["Alive"] and node.get("DeathReason") not in (None, 1)]  # type: ignore[no-untyped-call]
    if dead:
        last = dead[-1]
        told = f"{len(dead)} since the head was started, the last {last['NodeManagerAddress']}: {last.get('DeathReasonMessage') or 'no reason told'}"
        yield Finding(what="lost nodes", state="note", value=told)
    if not config.storage:
        yield Finding(what="storage", state="note", value="not examined", remedy="name the place for results: --storage s3://bucket/runs")


def _doors() -> Iterator[tuple[str, str, str]]:
    """The cluster's registry and its dashboard with no token and with a wrong one."""
    address = ray.get_runtime_context().gcs_address
    words = {"welcome": "open", "refused": "refused", "unreachable": "unreachable"}
    for token, header in (("no token", None), ("wrong token", f"Bearer {WRONG_TOKEN}")):
        yield f"the registry {address}", token, words[knock(address, header, timeout_s=DOOR_S).answer]
    node = ray._private.worker.global_worker.node
    if url := node and node.webui_url:
        for token, header in (("no token", None), ("wrong token", f"Bearer {WRONG_TOKEN}")):
            yield f"the dashboard {url}", token, _ask(f"http://{url}/api/version", header)


def _ask(url: str, header: str | None) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(urllib.request.Request(url, headers={"Authorization": header} if header else {}), timeout=DOOR_S).close()
    except urllib.error.HTTPError as error:
        return "refused" if error.code in (401, 403) else f"answers {error.code}"
    except OSError:
        return "unreachable"
    return "open"
