"""A lease on a run folder: of two submissions of the same run one works, the other says who does.

The holder of `lease/<n>.json` with the highest n works; it renews the file's time while it does. A lease that was not renewed
for `TTL_S`, or whose process on this machine is gone, is void, and the next submission creates n + 1 in one indivisible step.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foodray.errors import RunningError, StorageError
from foodray.storage.store import Store

TTL_S = 60.0
"""Age at which a lease that was not renewed is void."""
RENEW_S = 10.0


@contextmanager
def lease(store: Store, *, ttl_s: float = TTL_S) -> Iterator[None]:
    """Hold the folder while the block runs; raises `RunningError` when another process holds it."""
    number, holder = _latest(store)
    if holder is not None and _is_alive(holder, ttl_s):
        raise RunningError(
            f"{store.root} is being scored by process {holder['pid']} on {holder['host']} (last sign of life {time.time() - holder['at']:.0f} s ago); "
            f"wait for it, or stop it; a dead one is taken over {ttl_s:.0f} s after its last sign"
        )
    key = f"lease/{number + 1:06d}.json"
    if not store.create(key, _card()):
        raise RunningError(f"{store.root}: another submission has just begun to score it")
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(store, key, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        store.write(key, _card(released=True), replace=True)


def _latest(store: Store) -> tuple[int, dict[str, Any] | None]:
    keys = [key for key in store.list("lease") if key.endswith(".json")]
    if not keys:
        return 0, None
    number = int(Path(keys[-1]).stem)
    try:
        return number, json.loads(store.read(keys[-1]))
    except ValueError:
        return number, None


def _is_alive(holder: dict[str, Any], ttl_s: float) -> bool:
    if holder["released"] or time.time() - holder["at"] > ttl_s:
        return False
    if holder["host"] != socket.gethostname() or holder["boot"] != _boot_id():
        return True
    return Path(f"/proc/{holder['pid']}").exists() if Path("/proc").exists() else True


def _boot_id() -> str:
    """Tells containers and reboots of one host name apart."""
    path = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{path.read_text().strip() if path.exists() else ''}{namespace.readlink() if namespace.exists() else ''}"


def _card(*, released: bool = False) -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id(), "at": time.time(), "released": released}).encode()


def _renew(store: Store, key: str, stop: threading.Event) -> None:
    while not stop.wait(RENEW_S):
        try:
            store.write(key, _card(), replace=True)
        except StorageError:
            continue  # the next try may succeed; after TTL_S others may take over
