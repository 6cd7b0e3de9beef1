"""What Ray Tune adds to a run: the same training as the trials of a search, and without Tune.

    python -m tests.bench.tune

On the sample study; rounds (one takes five minutes) interleaved, the ratio is of medians. A search is timed from its start to its last trial,
divided by its trials, with one trial at a time; its checks and its look at the test side are left out, as Ray's start is of both.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from foodray.cluster import connect
from foodray.corpus.index import index_study
from foodray.corpus.manifest import load_study
from foodray.corpus.sample import SampleConfig, generate_sample_study
from foodray.storage.store import Store
from foodray.tasks.mtl import MtlTask, preset
from foodray.training.config import LoopConfig, RunConfig
from foodray.training.run import train
from foodray.training.search import SearchConfig, search

NUM_TRIALS = 3


def run(rounds: int = 1, epochs: int = 6) -> Iterator[dict[str, Any]]:
    """One row: seconds of a trial over seconds of a run."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        generate_sample_study(store.sub("study"), SampleConfig(num_participants=40))
        connect()
        index_study(load_study(store.uri("study")), store.sub("corpus"))
        task = replace(preset("default", "sps_cdfa_ln_bn"), weights="random", side_px=64, epochs=epochs)
        base = RunConfig(task=task, corpus=store.uri("corpus"), results=store.uri("runs"), loop=LoopConfig(precision="bf16"), evaluate_test=False)
        train(replace(base, name="warm"), MtlTask)
        alone, trials = [], []
        for at in range(rounds):
            alone.append(_timed_run(replace(base, name=f"alone-{at}")))
            trials.append(_timed_search(replace(base, name=f"search-{at}")))
    one, many = statistics.median(alone), statistics.median(trials)
    detail = f"{many:.1f} s a trial of {NUM_TRIALS}, {one:.1f} s a run without Tune ({epochs} epochs)"
    yield {"name": "a trial of a search / the same run", "ratio": many / one, "goal": "none set", "detail": detail}


def _timed_run(config: RunConfig[Any]) -> float:
    started = time.monotonic()
    train(config, MtlTask)
    return time.monotonic() - started


def _timed_search(config: RunConfig[Any]) -> float:
    """Seconds a trial, from when the search was written down to the end of its last trial."""
    ends: list[float] = []
    wanted = SearchConfig(space=("loop.seed=" + ",".join(map(str, range(NUM_TRIALS))),), method="grid", scheduler="none", concurrent=1)
    found, _ = search(config, wanted, MtlTask, told=lambda record: ends.append(time.time()))
    return (ends[-1] - (Path(found.store.root) / "search.json").stat().st_mtime) / NUM_TRIALS


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:45} {row['ratio']:7.3f}  (goal {row['goal']})  {row['detail']}", flush=True)
