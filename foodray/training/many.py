"""Several runs at once, as many as the cluster holds: the runs of a table, each an ordinary run folder.

In: configs with names of their own. Out: the finished runs in the same order. A run that fails does not stop the others; the same call again
finds finished runs finished and continues what was under way.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from foodray.cluster import connect, num_runs_at_once
from foodray.errors import ClusterError, FoodrayError
from foodray.tasks.base import Task
from foodray.training.config import RunConfig
from foodray.training.run import Progress, Run, train

log = logging.getLogger(__name__)


def train_all(configs: Sequence[RunConfig[Any]], family: type[Task], *, concurrent: int = 0, told: Progress = lambda record: None) -> list[Run]:
    """Train every run, `concurrent` at a time (0: as many as the cluster holds), and tell after each how far the whole is.

    Raises `ClusterError` with the names and reasons of runs that failed, when all others are finished.
    """
    connect()
    places = at_once(configs[0], concurrent)
    waiting = [(index, sharing_cores(config, places)) for index, config in enumerate(configs)]
    running: dict[Any, int] = {}
    found: dict[int, Run] = {}
    failed: dict[str, str] = {}
    started = time.monotonic()
    while waiting or running:
        while waiting and len(running) < places:
            index, config = waiting.pop(0)
            running[_train.remote(config, family)] = index
        [done], _ = ray.wait(list(running), num_returns=1)
        index = running.pop(done)
        result = ray.get(done)
        if isinstance(result, str):
            found[index] = Run.open(result)
        else:
            failed[configs[index].name] = str(result)
            log.error("run %s failed: %s", configs[index].name, result)
        num_done = len(found) + len(failed)
        seconds = time.monotonic() - started
        told({"name": configs[index].name, "done": num_done, "total": len(configs), "eta_s": round(seconds / num_done * (len(configs) - num_done))})
    if failed:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ClusterError(f"{len(failed)} of {len(configs)} runs failed, the others are finished: {reasons}")
    return [found[index] for index in range(len(configs))]


def at_once(config: RunConfig[Any], wanted: int) -> int:
    """How many such runs are kept going side by side: those wanted, or with 0 as many as the cluster holds; raises `ClusterError` for more."""
    workers = config.workers
    return num_runs_at_once(workers.num_workers, cpus_per_worker=workers.cpus_per_worker, use_gpu=workers.use_gpu, wanted=wanted)


def sharing_cores(config: RunConfig[Any], places: int) -> RunConfig[Any]:
    """The config with torch's threads limited, where they are not set, to its share of a node's cores."""
    workers = config.workers
    if workers.threads or workers.use_gpu or places == 1:
        return config
    return replace(config, workers=replace(workers, threads=max(1, (os.cpu_count() or 1) // (places * workers.num_workers))))


@ray.remote(num_cpus=0, max_retries=3)  # of a lost process, not of an error: the run continues from its checkpoint
def _train(config: RunConfig[Any], family: type[Task]) -> str | FoodrayError:
    """The folder of the finished run, or why there is none."""
    try:
        return train(config, family).store.root
    except FoodrayError as error:
        return error
