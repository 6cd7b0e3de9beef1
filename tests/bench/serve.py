"""The endpoint against the analyzer called directly: latency and throughput under load, and what a client sees of scaling, death and exchange.

    FOODRAY_DATA=../shared/data python -m tests.bench.serve throughput     # 1, 8 and 32 clients against one process without Ray
    FOODRAY_DATA=../shared/data python -m tests.bench.serve trouble        # 1 -> 3 -> 1 replicas, killed replicas, a bundle exchanged

By default the two-tower ResNet-18 at 224 px of the scoring bench on ECUSTFD's photos, whole photos as items; `--bundles` and `--photos` take others.
The load is closed: each client sends its next photo when the last is answered, over HTTP on loopback, from a process of its own. In both the
same bundles, settings and photos; start-up is excluded. `--max-replicas` spreads the graph; the direct analyzer is one process with one thread.
"""

import logging
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
import requests
import tyro
from ray import serve

from foodray.analyzer import Analyzer, AnalyzerConfig, PhotoInput
from foodray.cluster import connect
from foodray.nn.runtime import RuntimeName
from foodray.serving.access import add_key
from foodray.serving.config import BatchConfig, GraphConfig, HttpConfig, ReplicaConfig, ServeConfig
from foodray.serving.run import APPLICATION, start
from foodray.storage.bundle import read_bundle, write_bundle
from foodray.storage.store import Store
from tests.bench.score import make_two_towers

PORT = 8765
WARM_UP_S = 3.0


@dataclass
class Load:
    """What clients saw."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def row(self, name: str) -> dict[str, Any]:
        """A line of the table."""
        ordered = sorted(self.latencies_s) or [float("nan")]
        p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
        failed = sum(number for status, number in self.statuses.items() if status != "200")
        rate = self.statuses["200"] / self.seconds if self.seconds else float("nan")
        return {"name": name, "per_s": rate, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "requests": sum(self.statuses.values()), "failed": failed}


def clients(address: str, token: str, photos: list[bytes], *, num: int, seconds: float, event: Callable[[], Any] | None = None) -> Load:
    """A closed load of `num` clients, from a process of their own; `event` happens a quarter into the counted time."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_clients, args=(address, token, photos, num, seconds, queue))
    process.start()
    assert queue.get() == "begun"  # the process may take many seconds to come up, and an event before its load would show nothing
    timer = threading.Timer(WARM_UP_S + seconds / 4, event or (lambda: None))
    timer.start()
    load = queue.get()
    timer.join()
    process.join()
    assert isinstance(load, Load)
    return load


def _clients(address: str, token: str, photos: list[bytes], num: int, seconds: float, queue: Any) -> None:
    load, turn, lock = Load(), count(), threading.Lock()
    begin = time.monotonic() + WARM_UP_S
    end = begin + seconds
    queue.put("begun")

    def client() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            while (started := time.monotonic()) < end:
                photo = photos[next(turn) % len(photos)]
                try:
                    status = str(session.post(f"{address}/v1/analyze", files={"image": ("p.jpg", photo)}, timeout=120).status_code)
                except requests.RequestException as error:
                    status = type(error).__name__
                with lock:
                    if started >= begin:
                        load.latencies_s.append(time.monotonic() - started)
                        load.statuses[status] += 1

    threads = [threading.Thread(target=client) for _ in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.monotonic() - begin
    queue.put(load)


def direct(config: AnalyzerConfig, photos: list[bytes], seconds: float, *, at_a_time: int) -> Load:
    """The analyzer in this process, one thread, so many photos a call."""
    analyzer, load = Analyzer.load(config), Load()
    analyzer.analyze([PhotoInput(data=photo) for photo in photos[:at_a_time]])
    begin = time.monotonic()
    for turn in count():
        if time.monotonic() - begin > seconds:
            break
        started = time.monotonic()
        chosen = [photos[(turn * at_a_time + place) % len(photos)] for place in range(at_a_time)]
        load.statuses["200"] += sum(analysis.status != "quarantined" for analysis in analyzer.analyze([PhotoInput(data=photo) for photo in chosen]))
        load.latencies_s.append(time.monotonic() - started)
    load.seconds = time.monotonic() - begin
    return load


@contextmanager
def endpoint(config: ServeConfig) -> Iterator[tuple[ServeConfig, str, str]]:
    """A running endpoint: its config with keys, its address and a token."""
    with tempfile.TemporaryDirectory(prefix="foodray-bench-") as folder:
        keys = str(Path(folder) / "keys")
        token = add_key(keys, "bench", ["analyze"])
        config = replace(config, keys=keys, http=HttpConfig(requests_per_minute=1e6, burst=10**6))
        connect()
        try:
            yield config, start(config, port=PORT), token
        finally:
            serve.shutdown()
            ray.shutdown()


def _photos(folder: str, num: int) -> list[bytes]:
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:num]
    return [path.read_bytes() for path in files]


def _print(row: dict[str, Any]) -> None:
    print(
        f"{row['name']:<44} {row['per_s']:7.1f}/s  p50 {row['p50_ms']:7.0f} ms  p99 {row['p99_ms']:7.0f} ms  "
        f"{row['requests']} requests, {row['failed']} failed",
        flush=True,
    )


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is served."""

    bundles: tuple[str, ...] = ()
    """Bundles; by default one of random weights, made for the run."""
    photos: str = ""
    """Folder of JPEG files; by default ECUSTFD's."""
    runtime: RuntimeName = "openvino_bf16"
    """How networks are run, on both sides."""
    seconds: float = 20.0
    """Length of each load."""


@contextmanager
def _served(given: Given) -> Iterator[tuple[AnalyzerConfig, list[bytes]]]:
    with tempfile.TemporaryDirectory(prefix="foodray-bench-") as folder:
        bundles = given.bundles or (make_two_towers(Path(folder) / "bundle"),)
        photos = given.photos or str(Path(os.environ["FOODRAY_DATA"], "ecustfd", "JPEGImages"))
        yield AnalyzerConfig(bundles=bundles, runtime=given.runtime), _photos(photos, 128)


def run() -> list[dict[str, Any]]:
    """Rows with name, ratio, goal and detail, for `make bench`."""
    medians = throughput(Given(), rounds=2, num_clients=(8, 32))
    alone = medians["analyzer, 1 photo a call"]["per_s"]
    rows = []
    for name, row in medians.items():
        if name.startswith("endpoint"):
            detail = f"{row['per_s']:.1f} : {alone:.1f} photos/s, p50 {row['p50_ms']:.0f} ms"
            rows.append({"name": f"serving, {name.split(', ')[1]} / analyzer", "ratio": row["per_s"] / alone, "goal": 0.6, "detail": detail})
            rows.append({"name": f"serving, {name.split(', ')[1]}, p99 / p50", "ratio": row["p99_ms"] / row["p50_ms"], "goal": "<= 3", "detail": ""})
    return rows


def throughput(
    given: tyro.conf.OmitArgPrefixes[Given] = Given(), rounds: int = 2, num_replicas: int = 1, num_clients: tuple[int, ...] = (1, 8, 32)
) -> dict[str, dict[str, Any]]:
    """Clients against the analyzer called directly; returns each way's medians over the rounds."""
    wide = ReplicaConfig(min_replicas=num_replicas, max_replicas=num_replicas, num_cpus=0.2, max_ongoing=64, max_queued=256)
    graph = GraphConfig(ingress=replace(wide, min_replicas=1, max_replicas=1), decoder=wide, segmenter=wide, recogniser=wide, batch=BatchConfig())
    found: dict[str, list[dict[str, Any]]] = {}
    with _served(given) as (analyzer, photos), endpoint(ServeConfig(analyzer=analyzer, graph=graph)) as (_, address, token):
        for _ in range(rounds):
            for at_a_time in (1, 8):
                name = f"analyzer, {at_a_time} photo{'s' if at_a_time > 1 else ''} a call"
                found.setdefault(name, []).append(direct(analyzer, photos, given.seconds, at_a_time=at_a_time).row(name))
            for num in num_clients:
                name = f"endpoint, {num} client{'s' if num > 1 else ''}"
                found.setdefault(name, []).append(clients(address, token, photos, num=num, seconds=given.seconds).row(name))
    medians = {name: {**rows[0], **{key: statistics.median(row[key] for row in rows) for key in ("per_s", "p50_ms", "p99_ms")}} for name, rows in found.items()}
    for row in medians.values():
        _print(row)
    return medians


def trouble(given: tyro.conf.OmitArgPrefixes[Given] = Given(seconds=60.0), num_clients: int = 8) -> None:
    """Replicas that come, go and die, and a bundle that is exchanged, under load."""
    seconds = given.seconds
    scaled = ReplicaConfig(min_replicas=1, max_replicas=3, num_cpus=0.2, target_ongoing=2.0, upscale_delay_s=2.0, downscale_delay_s=5.0, max_queued=256)
    twice = ReplicaConfig(min_replicas=2, max_replicas=2, num_cpus=0.2, max_ongoing=64)
    graph = GraphConfig(
        ingress=twice, recogniser=scaled, decoder=ReplicaConfig(num_cpus=0.2, max_queued=256), segmenter=ReplicaConfig(num_cpus=0.2, max_queued=256)
    )
    with _served(given) as (analyzer, some), endpoint(ServeConfig(analyzer=analyzer, graph=graph)) as (config, address, token):
        seen, stop = _watch("Recogniser")
        _print(clients(address, token, some, num=4 * num_clients, seconds=seconds).row("scaling up"))
        time.sleep(45)
        stop()
        print(f"replicas of the recogniser, in order of time: {seen}")
        for name, event in {
            "a recogniser killed": _kill("Recogniser"),
            "the decoder killed": _kill("Decoder"),
            "one of two ingress replicas killed": _kill("Ingress"),
        }.items():
            _print(clients(address, token, some, num=num_clients, seconds=seconds, event=event).row(name))
        with tempfile.TemporaryDirectory() as copy:
            moved = _copied(analyzer.bundles[-1], Path(copy) / "bundle")
            changed = replace(config, analyzer=replace(analyzer, bundles=(*analyzer.bundles[:-1], moved)))
            exchange = partial(start, changed, port=PORT)
            _print(clients(address, token, some, num=num_clients, seconds=seconds, event=exchange).row("a bundle exchanged"))


def _copied(bundle: str, place: Path) -> str:
    """The same bundle with another identity."""
    whole = read_bundle(bundle)
    card = {name: whole.card[name] for name in ("task", "config", "state", "metrics", "data")}
    write_bundle(Store(str(place)), card, dict(whole.weights))
    return str(place)


def _kill(kind: str) -> Callable[[], None]:
    """End one process of a deployment, as the machine's memory killer would."""

    def kill() -> None:
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if f"#{kind}" in actor["name"]]
        ray.kill(ray.get_actor(names[0], namespace="serve"))

    return kill


def _watch(kind: str) -> tuple[list[int], Callable[[], None]]:
    """The number of running replicas over time, changes only."""
    seen: list[int] = []
    end = threading.Event()

    def look() -> None:
        while not end.wait(0.5):
            deployments = serve.status().applications[APPLICATION].deployments
            now = sum(states.replica_states.get("RUNNING", 0) for name, states in deployments.items() if name.startswith(kind))
            if not seen or seen[-1] != now:
                seen.append(now)

    threading.Thread(target=look, daemon=True).start()
    return seen, end.set


def _throughput(given: tyro.conf.OmitArgPrefixes[Given] = Given(), rounds: int = 2, num_replicas: int = 1) -> None:
    """Clients against the analyzer called directly."""
    throughput(given, rounds, num_replicas)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    tyro.extras.subcommand_cli_from_dict({"throughput": _throughput, "trouble": trouble})
