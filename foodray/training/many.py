"""Several runs at once on Ray Tune, as many as the cluster holds: the runs of a table, each an ordinary run folder.

In: configs with names of their own and one results folder. Out: the finished runs in the same order. A run that fails does not stop the others;
the same call again finds finished runs finished and continues what was under way.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ray import tune
from ray.tune import Callback, FailureConfig, TuneConfig, Tuner

from foodray.cluster import connect, num_runs_at_once
from foodray.errors import ClusterError, ExistsError, FoodrayError
from foodray.storage.store import Store
from foodray.tasks.base import Task
from foodray.training.config import RunConfig
from foodray.training.run import Progress, Run, find_finished, train

log = logging.getLogger(__name__)
DRIVER_CPUS = 0.01  # a run's own process waits for its training workers, which hold the CPUs


def train_all(configs: Sequence[RunConfig[Any]], family: type[Task], *, concurrent: int = 0, told: Progress = lambda record: None) -> list[Run]:
    """Train every run, `concurrent` at a time (0: as many as the cluster holds), and tell after each how far the whole is.

    Raises `ClusterError` with the names and reasons of runs that failed, when all others are finished.
    """
    done = [_found(config, family) for config in configs]
    if missing := [config for config, run in zip(configs, done, strict=True) if run is None]:
        _train_missing(missing, family, concurrent, told)
    return [run or Run.open(Store(config.results).sub(config.name).root) for config, run in zip(configs, done, strict=True)]


def _found(config: RunConfig[Any], family: type[Task]) -> Run | None:
    """The run, if it is finished; a folder that is in its way is told when its turn comes, as any other failure."""
    try:
        return find_finished(config, family)
    except ExistsError:
        return None


def _train_missing(configs: Sequence[RunConfig[Any]], family: type[Task], concurrent: int, told: Progress) -> None:
    """Train them as trials of Ray Tune."""
    connect()
    places = at_once(configs[0], concurrent)
    sharing = [sharing_cores(config, places) for config in configs]
    _Teller.told, _Teller.names, _Teller.started = staticmethod(told), [config.name for config in configs], time.monotonic()
    grid = Tuner(
        tune.with_resources(tune.with_parameters(_train, configs=sharing, family=family), {"cpu": DRIVER_CPUS}),
        param_space={"run": tune.grid_search(list(range(len(configs))))},
        tune_config=TuneConfig(max_concurrent_trials=places),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=Store(configs[0].results).root,
            failure_config=FailureConfig(max_failures=3),  # of a lost process, not of an error: the run continues from its checkpoint
            callbacks=[_Teller()],
            verbose=0,
        ),
    ).fit()
    ended = {result.config["run"]: result for result in map(grid.__getitem__, range(len(grid))) if result.config is not None}
    reasons = {place: _reason(ended.get(place)) for place in range(len(configs))}
    if failed := {configs[place].name: why for place, why in reasons.items() if why}:
        told_reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ClusterError(f"{len(failed)} of {len(configs)} runs failed, the others are finished: {told_reasons}")


def _train(point: dict[str, int], configs: Sequence[RunConfig[Any]], family: type[Task]) -> None:
    """One run; its own errors are its result, or they would be tried again."""
    try:
        train(configs[point["run"]], family)
    except FoodrayError as error:
        tune.report({"failed": str(error)})
        return
    tune.report({"failed": ""})


def _reason(result: Any) -> str:
    """Why a run is not finished; empty where it is."""
    if result is None or result.error:
        return str(result.error).strip().splitlines()[-1] if result is not None else "Ray Tune knows nothing of it"
    return str((result.metrics or {}).get("failed", "its process ended without a word"))


class _Teller(Callback):
    """Tells how many runs are done."""

    told: ClassVar[Progress] = staticmethod(lambda record: None)
    """Of the class, not of the object: Tune pickles its callbacks."""
    names: ClassVar[list[str]] = []
    """Names of the runs, by their number."""
    started: ClassVar[float] = 0.0
    """When the first run began, on the clock of `time.monotonic`."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run came to its end."""
        self._tell(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run was lost for good."""
        self._tell(trials, trial)

    def _tell(self, trials: list[Any], trial: Any) -> None:
        name = self.names[trial.config["run"]]
        if why := (trial.last_result or {}).get("failed"):
            log.error("run %s failed: %s", name, why)
        num_done = len({one.trial_id for one in trials if one.status in ("TERMINATED", "ERROR")} | {trial.trial_id})
        each = (time.monotonic() - self.started) / num_done
        type(self).told({"name": name, "done": num_done, "total": len(self.names), "eta_s": round(each * (len(self.names) - num_done))})


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
