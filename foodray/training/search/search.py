"""A search from first to last: check, run or continue the trials on Ray Tune, keep the table, look at the test side once.

    results/name/search.json      what is searched and how, written first
                 tune/            Ray Tune's own state: what a killed search continues from
                 trials/ID/       a run folder a trial, without a test side
                 trials.parquet   one row a trial, trials.csv too: state, error, settings, validation metrics, seconds
                 history.parquet  every evaluation of every trial
                 best.json        written last: the best trial, its bundle, and the test side that was looked at for it alone

The same name and settings again continue a killed search: finished trials are not repeated, those under way go on from their checkpoints.
Tune's state is pickled: whoever can write to the results folder can run code in the search.
"""

import json
import logging
from dataclasses import replace
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune import FailureConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from foodray.cluster import check_resources, check_storage, check_versions, connect
from foodray.config import to_plain, without_nan
from foodray.corpus.corpus import Corpus
from foodray.errors import ClusterError, ConfigError, ExistsError
from foodray.storage.store import Store
from foodray.storage.tables import csv_bytes, parquet_bytes
from foodray.tasks.base import Task
from foodray.training.config import RunConfig
from foodray.training.many import DRIVER_CPUS, Teller, at_once, sharing_cores
from foodray.training.run import Progress, Run, drop_checkpoints, labels_of, make_plan, train
from foodray.training.search.config import OWN_OBJECTIVE, SearchConfig
from foodray.training.search.results import Found, collect
from foodray.training.search.rooms import Rooms
from foodray.training.search.space import Space, make_space, same_search, settings_of
from foodray.training.search.trial import Setup, run_trial

log = logging.getLogger(__name__)


def search(
    config: RunConfig[Any], wanted: SearchConfig, family: type[Task], *, told: Progress = lambda record: None, progress: Progress | None = None
) -> tuple[Found, Run]:
    """The finished search and its best trial's run, with its test side evaluated.

    Raises a `FoodrayError` before the first trial for anything that would keep trials from running.

    `config` holds every setting that is not searched. `told` hears of each trial that ends, `progress` of the last evaluation.
    """
    store = Store(config.results).sub(config.name)
    space = make_space(config, wanted, family)
    corpus = Corpus.open(config.corpus)
    longest = _check_points(space, wanted, corpus)
    connect()
    workers = config.workers
    check_resources(workers.num_workers, cpus_per_worker=workers.cpus_per_worker, use_gpu=workers.use_gpu)
    check_versions()
    check_storage(Store(config.results), ("corpus", corpus.store, "corpus.json"))
    places = at_once(config, wanted.concurrent)
    _write_down(store, config, wanted, family)
    setup = Setup(space=replace(space, base=sharing_cores(config, places)), folder=store.sub("trials").root, directions=wanted.directions, rooms=Rooms.remote())  # type: ignore[attr-defined]
    _TrialTeller.told, _TrialTeller.rooms, _TrialTeller.gone = staticmethod(told), setup.rooms, []
    grid = _tuner(store, setup, wanted, places, longest).fit()
    ray.get(_TrialTeller.gone)
    found = collect(grid, setup, wanted, store)
    store.write("trials.parquet", parquet_bytes(found.trials), replace=True)
    store.write("trials.csv", csv_bytes(found.trials), replace=True)
    store.write("history.parquet", parquet_bytes(found.history), replace=True)
    if found.best is None:
        raise ClusterError(f"none of {found.trials.num_rows} trials finished; their errors are in {store.uri('trials.csv')}, the first: {found.first_error}")
    run = train(replace(setup.config(found.best, found.points[found.best]), evaluate_test=True), family, progress)
    said = {"trial": found.best, "bundle": run.store.uri("bundle"), "run": run.store.root, "settings": found.points[found.best]}
    said |= {"objectives": list(wanted.objectives), "front": list(found.front), "val": run.metrics["val"], "test": run.metrics["test"]}
    store.write("best.json", json.dumps(without_nan(said), indent=2).encode(), replace=True)
    for trial in found.points:
        drop_checkpoints(store.sub(f"trials/{trial}"))
    return found, run


def _check_points(space: Space, wanted: SearchConfig, corpus: Corpus) -> int:
    """Epochs of the longest trial; raises for a metric that some point would not report, and for data that no trial could be trained on."""
    plan = make_plan(space.base, space.family, corpus)
    rows, longest = plan.rows("train"), 0
    for point in space.points():
        task = space.family.fit(space.config(point).task, rows, labels_of(space.family, corpus))
        longest = max(longest, sum(stage.epochs for stage in task.stages()))
        for name, _ in wanted.directions:
            if name != OWN_OBJECTIVE and name not in (known := task.metric_names()):
                where, others = settings_of(point), ", ".join((OWN_OBJECTIVE, *known))
                raise ConfigError(f"objectives: no {name!r} is reported where {where}; choose from: {others}, or narrow the space")
    return longest


def _write_down(store: Store, config: RunConfig[Any], wanted: SearchConfig, family: type[Task]) -> None:
    """Write search.json, or raise `ExistsError` where another search is."""
    said = {"family": family.name, "run": to_plain(config), "search": to_plain(wanted)}
    try:
        found = json.loads(store.read("search.json"))
    except FileNotFoundError:
        if store.list():
            raise ExistsError(f"{store.root} exists and is not a search; choose another name") from None
        store.write("search.json", json.dumps(said, indent=2).encode())
        return
    if changed := same_search(found, said):
        raise ExistsError(f"{store.root} is a search with other settings ({'; '.join(changed[:5])}); choose another name, or the same settings to continue it")


def _tuner(store: Store, setup: Setup, wanted: SearchConfig, places: int, longest: int) -> Tuner:
    """A new search, or the one that was begun."""
    trainable = tune.with_resources(tune.with_parameters(run_trial, setup=setup), {"cpu": DRIVER_CPUS})
    begun = f"{store.root}/tune"
    if Tuner.can_restore(begun):
        log.info("continuing the search in %s", store.root)
        return Tuner.restore(begun, trainable, resume_unfinished=True, restart_errored=wanted.retry_failed)
    domains = setup.space.domains
    grid = wanted.method == "grid"
    return Tuner(
        trainable,
        param_space={field: tune.grid_search(domain.listed()) if grid else domain.sampled() for field, domain in domains.items()},
        tune_config=TuneConfig(
            num_samples=1 if grid else wanted.num_trials,
            search_alg=_search_algorithm(wanted, places),
            scheduler=_scheduler(wanted, longest),
            max_concurrent_trials=places,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=store.root,
            failure_config=FailureConfig(max_failures=0),
            callbacks=[_TrialTeller()],
            verbose=0,
        ),
    )


def _search_algorithm(wanted: SearchConfig, places: int) -> OptunaSearch | BasicVariantGenerator:
    if wanted.method != "optuna":
        return BasicVariantGenerator(random_state=wanted.search_seed, max_concurrent=places)  # Tune's own limit is not for it
    names, modes = ([f"val_{name}" for name, _ in wanted.directions], [direction for _, direction in wanted.directions])
    several = len(names) > 1
    return OptunaSearch(metric=names if several else names[0], mode=modes if several else modes[0], seed=wanted.search_seed)


def _scheduler(wanted: SearchConfig, longest: int) -> ASHAScheduler | MedianStoppingRule | FIFOScheduler:
    name, direction = wanted.directions[0]
    metric = f"val_{name}"
    grace = wanted.grace_epochs or max(1, longest // 4)
    if wanted.scheduler == "asha":
        return ASHAScheduler("num_epochs", metric, direction, max_t=longest + 1, grace_period=grace, reduction_factor=wanted.reduction_factor)
    if wanted.scheduler == "median":
        return MedianStoppingRule("num_epochs", metric, direction, grace_period=grace)
    return FIFOScheduler()  # type: ignore[no-untyped-call]


class _TrialTeller(Teller):
    """Tells of each trial that ends, and gives back what it held."""

    rooms: ClassVar[Any] = None
    """The search's `Rooms`."""
    gone: ClassVar[list[Any]] = []
    """One object reference a trial that is over, there once all that it held is free."""

    def record(self, trial: Any, num_ended: int) -> dict[str, Any]:
        """State, settings and the last evaluation."""
        self.gone.append(self.rooms.give_back.remote(trial.trial_id))
        last = trial.last_result or {}
        values = {name: value for name, value in last.items() if name.startswith("val_")}
        state = "failed" if trial.status == "ERROR" else "finished" if last.get("finished") else "stopped early"
        return {"trial": trial.trial_id, "state": state, "ended": num_ended, "num_epochs": last.get("num_epochs"), "settings": trial.config, **values}
