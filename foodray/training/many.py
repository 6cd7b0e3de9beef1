"""Several runs at once on Ray Tune, as many as the cluster holds: the runs of a table, each an ordinary run folder.

In: configs with names of their own and one results folder. Out: the finished runs in the same order. A run that fails does not stop the others;
the same call again finds finished runs finished and continues what was under way.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ray import tune
from ray.tune import Callback, FailureConfig, TuneConfig, Tuner

from foodray.cluster import connect, num_runs_at_once
from foodray.errors import ClusterError, ConfigError, ExistsError, FoodrayError
from foodray.storage.store import Store
from foodray.tasks.base import Task
from foodray.training.config import ConfigT, RunConfig
from foodray.training.run import Progress, Run, find_finished, train

log = logging.getLogger(__name__)
DRIVER_CPUS = 0.01  # a run's own process waits for its training workers, which hold the CPUs


@dataclass(frozen=True, kw_only=True)
class TableConfig(RunConfig[ConfigT]):
    """Every setting of a run, and over how many seeds each row of a table is trained."""

    seeds: int = 3
    """Seeds 0 … seeds - 1, of weights, order and augmentation; those of loop.seed and split.fold are added to them."""
    rotate_folds: bool = True
    """Whether each seed tests on another fold; else all test on split.fold."""
    concurrent: int = 0
    """Runs at a time; 0 takes as many as the cluster holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1 or self.concurrent < 0:
            raise ConfigError(f"seeds = {self.seeds} must be >= 1 and concurrent = {self.concurrent} >= 0")
        last = self.split.fold + self.seeds - 1
        if self.rotate_folds and last >= self.split.test_folds:
            raise ConfigError(
                f"{self.seeds} seeds need as many folds, from split.fold = {self.split.fold} on; raise split.test_folds = {self.split.test_folds}, "
                "lower seeds, or set rotate_folds = False"
            )
        if not self.evaluate_test:
            raise ConfigError("the table is of the test side; leave evaluate_test on")

    def run(self, task: ConfigT, row: str, seed: int, **split: Any) -> RunConfig[ConfigT]:
        """The run of a row and seed, in the folder results/name/ROW-SEED; `split` replaces settings of the split."""
        return RunConfig(
            task=task,
            corpus=self.corpus,
            results=Store(self.results).sub(self.name).root,
            name=f"{row}-{seed}",
            split=replace(self.split, fold=self.split.fold + seed * self.rotate_folds, **split),
            loop=replace(self.loop, seed=self.loop.seed + seed),
            workers=self.workers,
        )


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
    _RunTeller.told, _RunTeller.names, _RunTeller.started = staticmethod(told), [config.name for config in configs], time.monotonic()
    grid = Tuner(
        tune.with_resources(tune.with_parameters(_train, configs=sharing, family=family), {"cpu": DRIVER_CPUS}),
        param_space={"run": tune.grid_search(list(range(len(configs))))},
        tune_config=TuneConfig(max_concurrent_trials=places),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=Store(configs[0].results).root,
            failure_config=FailureConfig(max_failures=3),  # of a lost process, not of an error: the run continues from its checkpoint
            callbacks=[_RunTeller()],
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


class Teller(Callback):
    """Tells of each trial that ends. What it needs is of the class, not of the object: Tune pickles its callbacks, and one that continues talks to a copy."""

    told: ClassVar[Progress] = staticmethod(lambda record: None)
    """Who is told."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was given up."""
        self._ended(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, or was lost for good."""
        self._ended(trials, trial)

    def _ended(self, trials: list[Any], trial: Any) -> None:
        num_ended = len({one.trial_id for one in trials if one.status in ("TERMINATED", "ERROR")} | {trial.trial_id})
        type(self).told(self.record(trial, num_ended))

    def record(self, trial: Any, num_ended: int) -> dict[str, Any]:
        """What is told of a trial, the last of so many that have ended."""
        raise NotImplementedError


class _RunTeller(Teller):
    """Tells how many runs are done."""

    names: ClassVar[list[str]] = []
    """Names of the runs, by their number."""
    started: ClassVar[float] = 0.0
    """When the first run began, on the clock of `time.monotonic`."""

    def record(self, trial: Any, num_ended: int) -> dict[str, Any]:
        """Name and counts, and how long the others will take."""
        name = self.names[trial.config["run"]]
        if why := (trial.last_result or {}).get("failed"):
            log.error("run %s failed: %s", name, why)
        each = (time.monotonic() - self.started) / num_ended
        return {"name": name, "done": num_ended, "total": len(self.names), "eta_s": round(each * (len(self.names) - num_ended))}


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
