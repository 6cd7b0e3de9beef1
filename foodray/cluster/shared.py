"""Storage that all nodes share: each writes what the others read, and nothing is left behind."""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from foodray.cluster.nodes import Node, alive_nodes, on_every_node
from foodray.errors import ClusterError, StorageError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
ANSWER_S = 90.0
"""How long storage is waited for: a bucket that is not reachable answers nothing at all."""
Needed = tuple[str, Store, str]
"""A setting's name, its store, and a key that must be readable there."""


def check_storage(results: Store, *needed: Needed) -> None:
    """Raise `ClusterError` unless every node can read what is needed (a setting's name, its store, a key there) and write where
    the driver reads, and the other way round."""
    nodes = [node for node in alive_nodes() if node.resources.get("CPU")]
    for node, problem in zip(nodes, probe_storage(results, nodes, needed), strict=True):
        if problem:
            raise ClusterError(f"{node}: {problem}; use a location that all nodes share, such as s3://, and that they may read and write")


def probe_storage(results: Store, nodes: Sequence[Node], needed: Sequence[Needed] = (), *, timeout_s: float = ANSWER_S) -> list[str | None]:
    """For each node what is wrong with its storage, or None: whether it reads what is needed and what this process wrote to `results`, and this process
    what it wrote. Raises `StorageError` where this process itself cannot write there. Everything written lies under a fresh name and is removed."""
    token = secrets.token_hex(16)
    probe = results.sub(f".probe-{token[:8]}")
    folders = [] if results.remote else [Path(probe.root), *(folder for folder in (Path(results.root), *Path(results.root).parents) if not folder.exists())]
    try:
        _in_time(lambda: probe.write("driver", token.encode()), results, timeout_s)
        found = on_every_node(_try_storage, nodes, *zip(*[(probe, tuple(needed), node.node_id, token) for node in nodes], strict=True), timeout_s=timeout_s)
        return [str(told) if told else _read_back(probe, node, token) for node, told in zip(nodes, found, strict=True)]
    finally:
        with suppress(StorageError):
            _in_time(lambda: _remove(probe, ["driver", *(node.node_id for node in nodes)], folders), results, timeout_s)


def _in_time(action: Callable[[], object], store: Store, timeout_s: float) -> None:
    """Do it, or raise `StorageError` when it takes longer; what hangs is left to a thread that does not hold this process up."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # raised again where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise StorageError(f"{store.root} did not answer within {timeout_s:.0f} s; check AWS_ENDPOINT_URL, the region and the way there")
    if failed:
        raise failed[0]


def _read_back(probe: Store, node: Node, token: str) -> str | None:
    try:
        back = probe.read(node.node_id)
    except (StorageError, OSError):
        return f"wrote to {_parent(probe)}, but this process cannot read it back"
    return None if back == token.encode() else f"wrote to {_parent(probe)}, but something else came back"


def _try_storage(probe: Store, needed: tuple[Needed, ...], node_id: str, token: str) -> str | None:
    for setting, store, key in needed:
        try:
            store.read(key)
        except (StorageError, OSError) as error:
            return f"cannot read {setting} = {store.root} ({error})"
    try:
        if probe.read("driver") != token.encode():
            return f"sees another {_parent(probe)} than this process"
    except (StorageError, OSError) as error:
        return f"cannot read what this process wrote to {_parent(probe)} ({type(error).__name__})"
    try:
        probe.write(node_id, token.encode())
    except (StorageError, OSError) as error:
        return f"cannot write to {_parent(probe)} ({error})"
    return None


def _parent(probe: Store) -> str:
    return probe.root.rpartition("/")[0]


def _remove(probe: Store, keys: Sequence[str], folders: Sequence[Path]) -> None:
    """Take away what the check itself wrote, as far as that is allowed; of folders those that it made and that are empty."""
    for key in keys:
        with suppress(StorageError, OSError):
            probe.delete(key)
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
