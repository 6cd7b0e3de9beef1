"""A training run from corpus to bundle: plan and check in the driver, train in Ray Train workers, leave one run folder.

    results/name/config.json          the whole config, written first
                 split.parquet        which sample is on which side
                 checkpoints/         Ray Train's own folder: resumable states, removed when the run is finished
                 progress.json        the latest line of progress
                 parts/               what the workers hand to the driver at the end
                 bundle/              the model
                 metrics.json         validation and test metrics, baselines, counts
                 predictions.parquet  one row a test sample: truth and prediction (not where evaluate_test is off)
                 run.json             written last: lineage, digests, times; a run with it is finished

The same name and config again continues where it stopped; a finished run is returned as it is.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import nn

from foodray.cluster import check_resources, check_storage, check_versions, connect
from foodray.config import differences, to_plain, without_nan
from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SPLIT_NAMES, Pool, make_pool
from foodray.errors import ClusterError, ConfigError, ExistsError, FoodrayError
from foodray.provenance import lineage
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes, read_parquet
from foodray.tasks.base import Rows, Task
from foodray.training.config import RunConfig
from foodray.training.data import PoolFeed, load_samples
from foodray.training.entry import train_worker
from foodray.training.files import check_starts, with_local_files
from foodray.training.worker import Assignment

log = logging.getLogger(__name__)
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    store: Store
    """Its folder."""
    metrics: dict[str, Any]
    """The content of metrics.json."""
    info: dict[str, Any]
    """The content of run.json."""

    @staticmethod
    def open(location: str) -> "Run":
        """A finished run; raises `FileNotFoundError` when it is not."""
        store = Store(location)
        return Run(store=store, metrics=json.loads(store.read("metrics.json")), info=json.loads(store.read("run.json")))


def train(config: RunConfig[Any], family: type[Task], progress: Progress | None = None, callbacks: Sequence[Any] = ()) -> Run:
    """Train one model of a family; raises a `FoodrayError` before a long wait wherever that is possible.

    `callbacks` are Ray Train's and run in its controller: a `UserCallback` is told of the metrics that go with each checkpoint.
    """
    store, wanted = Store(config.results).sub(config.name), _settings(config, family)
    if done := find_finished(config, family):
        log.info("run %s is finished already: nothing to do", store.root)
        return done
    corpus = Corpus.open(config.corpus)
    check_starts(config, family, labels_of(family, corpus), corpus.info["content_sha256"])
    plan = make_plan(config, family, corpus)
    connect()
    workers = config.workers
    check_resources(workers.num_workers, cpus_per_worker=workers.cpus_per_worker, use_gpu=workers.use_gpu)
    check_versions()
    check_storage(Store(config.results), ("corpus", corpus.store, "corpus.json"))
    network = replace(plan.task, config=plan.local).network()  # type: ignore[type-var]  # weights that cannot be had, or layers that are not there, fail here and not in every worker
    _check_batch_norm(config, network)
    store.write("config.json", json.dumps(wanted, indent=2).encode(), replace=True)  # now, so that a refused command may be corrected
    store.write("split.parquet", _split_table(plan), replace=True)
    started = time.monotonic()
    samples = load_samples(corpus, plan.samples, plan.task)
    feed = PoolFeed(
        store=samples, pool=plan.pool, task=plan.task, seed=config.loop.seed, augment_tasks=config.workers.augment_tasks or (4 if config.workers.use_gpu else 1)
    )
    for stage in plan.task.stages():  # one that has nothing to draw from is refused now, not after those before it
        feed.steps_per_epoch(stage, config.loop.batch_size)
    with _follow(store, progress):
        assignment = Assignment(
            task=plan.task,
            feed=feed,
            loop=config.loop,
            workers=config.workers,
            store=store,
            data=_data_card(corpus, plan),
            val_rows=plan.rows("val"),
            evaluate_test=config.evaluate_test,
        )
        _fit(config, store, assignment, callbacks)
    run = _finish(store, config, corpus, plan, time.monotonic() - started)
    if config.evaluate_test:
        drop_checkpoints(store)
    return run


def find_finished(config: RunConfig[Any], family: type[Task]) -> Run | None:
    """The run of these settings, if it is there and finished; raises `ExistsError` for a folder that is another run's, or no run's."""
    store = Store(config.results).sub(config.name)
    return Run.open(store.root) if _is_finished(store, _settings(config, family), config.evaluate_test) else None


def _settings(config: RunConfig[Any], family: type[Task]) -> dict[str, Any]:
    """What config.json holds."""
    return {"family": family.name, **to_plain(config), "corpus": Store(config.corpus).root, "results": Store(config.results).root}


def drop_checkpoints(store: Store) -> None:
    """Remove the resumable states of a run that will not go on: they take four to eight times the room of its bundle."""
    for key in store.list("checkpoints"):
        store.delete(key)


def _check_batch_norm(config: RunConfig[Any], network: nn.Module) -> None:
    """BatchNorm cannot normalise one sample: a worker's micro-batch needs two."""
    workers = max(config.workers.num_workers, config.workers.max_workers)
    least = config.loop.batch_size // workers // config.loop.accumulate
    if least < 2 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise ConfigError(
            f"loop.batch_size = {config.loop.batch_size} over {workers} workers x {config.loop.accumulate} micro-batches leaves {least} sample for a "
            f"network with BatchNorm, which needs 2; set loop.batch_size >= {2 * workers * config.loop.accumulate}"
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained on what."""

    task: Task
    local: Any
    """The task's settings with everything in storage fetched to this machine."""
    samples: Rows
    pool: Pool

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """The labels of a split's entries."""
        chosen = self.pool.sample[self.pool.entries(split)]
        return {name: values[chosen] for name, values in self.samples.items()}


def make_plan(config: RunConfig[Any], family: type[Task], corpus: Corpus) -> Plan:
    """Samples, split and fitted task; raises `CorpusError` or `SplitError` when the data does not allow it."""
    samples = corpus.samples(family.level, masks=family.masks, tags=family.tags)
    labels = labels_of(family, corpus)
    pool = make_pool(samples, config.split)
    chosen = pool.sample[(pool.split == "train") & (pool.isometry == 0)]
    local = with_local_files(config.task)
    task = family.fit(local, {name: values[chosen] for name, values in samples.items()}, labels)
    task = replace(task, config=config.task)  # type: ignore[type-var]  # as it was given: local copies are each machine's own
    plan = Plan(task=task, local=local, samples=samples, pool=pool)
    counts = {split: len(pool.entries(split)) for split in SPLIT_NAMES}
    log.info(
        "%s: %s samples, %d of them by balancing; %d %s",
        corpus.store.root,
        counts,
        int((pool.isometry > 0).sum()),
        len(labels),
        "tags" if family.tags else "classes",
    )
    unseen = set() if family.tags else set(plan.rows("test")["class_name"].astype(str)) - set(plan.rows("train")["class_name"].astype(str))
    if unseen:
        log.warning("%d classes of the test side have no training sample and cannot be recognised: %s", len(unseen), ", ".join(sorted(unseen)))
    return plan


def labels_of(family: type[Task], corpus: Corpus) -> tuple[str, ...]:
    """The words that a family learns of a corpus: its tags, or its classes."""
    return corpus.tags if family.tags else corpus.labels


def _is_finished(store: Store, wanted: dict[str, Any], evaluate_test: bool) -> bool:
    """Whether a run of the wanted settings is there and finished, its test side looked at if wanted; raises as `find_finished`."""
    try:
        found = json.loads(store.read("config.json"))
    except FileNotFoundError:
        if store.list():
            raise ExistsError(f"{store.root} exists and is not a run; choose another name") from None
        return False
    # Where a run is computed may change when it is continued, and how far; what is computed may not.
    may_change = {"workers": None, "evaluate_test": None}
    changed = differences({**found, **may_change}, {**wanted, **may_change})
    if changed:
        raise ExistsError(f"{store.root} is a run with other settings ({'; '.join(changed[:5])}); choose another name, or the same settings to continue it")
    return store.exists("run.json") and not (evaluate_test and json.loads(store.read("metrics.json"))["test"] is None)


def _fit(config: RunConfig[Any], store: Store, assignment: Assignment, callbacks: Sequence[Any]) -> None:
    workers = config.workers
    count = (workers.num_workers, workers.max_workers) if workers.max_workers > workers.num_workers else workers.num_workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"assignment": ray.put(assignment)},
        scaling_config=ScalingConfig(num_workers=count, use_gpu=workers.use_gpu, resources_per_worker=_worker_resources(config)),  # type: ignore[arg-type]
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=store.root,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _own_error(error) from error


def _worker_resources(config: RunConfig[Any]) -> dict[str, float]:
    return {"CPU": config.workers.cpus_per_worker, **({"GPU": 1.0} if config.workers.use_gpu else {})}


def _own_error(error: TrainingFailedError) -> Exception:
    """The error of foodray inside Ray's, if there is one: its message is the one that helps."""
    for worker_error in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = worker_error
        while cause is not None:
            if isinstance(cause, FoodrayError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    log.error("%s", error)
    return ClusterError(f"training failed: {str(error).strip().splitlines()[-1] if str(error).strip() else error!r}; the workers' traceback is above")


@contextmanager
def _follow(store: Store, progress: Progress | None) -> Iterator[None]:
    """Pass on what rank 0 writes to progress.json while the run goes on."""
    done = threading.Event()

    def watch() -> None:
        last, over = b"", False
        while not over:
            over = done.wait(2.0 if store.remote else 0.5)  # once more at the end, for the last line
            try:
                latest = store.read("progress.json")
            except (FileNotFoundError, FoodrayError):
                continue
            if latest != last and progress is not None:
                last = latest
                progress(json.loads(latest))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _data_card(corpus: Corpus, plan: Plan) -> dict[str, Any]:
    counts = {split: len(plan.pool.entries(split)) for split in SPLIT_NAMES}
    return {"corpus": corpus.store.root, "content_sha256": corpus.info["content_sha256"], "sample_data": corpus.is_sample_data, "num_samples": counts}


def _split_table(plan: Plan) -> bytes:
    columns = {name: pa.array(plan.samples[name][plan.pool.sample].tolist()) for name in ("sample_id", "image_id", "participant_id", "class_name")}
    table = pa.table({**columns, "split": pa.array(plan.pool.split.tolist()), "isometry": pa.array(plan.pool.isometry)})
    return parquet_bytes(table)


def _finish(store: Store, config: RunConfig[Any], corpus: Corpus, plan: Plan, seconds: float) -> Run:
    """Join the workers' results with the truth, add the baselines, and write run.json."""
    results = json.loads(store.read("parts/results.json"))
    metrics = {
        "test": results["test"],
        "val": results["val"],
        "objective": results["objective"],
        **(_against_truth(store, config, plan, results) if config.evaluate_test else {"baselines": {}, "reliability": {}}),
        "num_samples": {split: len(plan.pool.entries(split)) for split in SPLIT_NAMES},
        "num_participants": {split: len(set(plan.rows(split)["participant_id"])) for split in SPLIT_NAMES},
        "num_left_out": len(plan.pool.split) - sum(len(plan.pool.entries(split)) for split in SPLIT_NAMES),
        "num_merged_groups": plan.pool.num_merged,
        "num_by_class": {split: dict(Counter(plan.rows(split)["class_name"].astype(str).tolist())) for split in SPLIT_NAMES},
        "by_class": results["by_class"],
        "kept_epoch": results["kept_epoch"],
        "history": results["history"],
        "sample_data": corpus.is_sample_data,
    }
    store.write("metrics.json", json.dumps(without_nan(metrics), indent=2).encode(), replace=True)
    info = {
        "family": type(plan.task).name,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "train_seconds": round(results["train_seconds"], 1),
        "bundle_id": results["bundle_id"],
        "calibration": results["state"].get("calibration"),
        "data": _data_card(corpus, plan),
        "split": to_plain(config.split),
        "world_size": results["world_size"],
        "lineage": lineage(),
    }
    store.write("run.json", json.dumps(info, indent=2).encode(), replace=True)
    return Run.open(store.root)


def _against_truth(store: Store, config: RunConfig[Any], plan: Plan, results: dict[str, Any]) -> dict[str, Any]:
    """Write predictions.parquet; the test side's baselines, and how well what was calibrated holds on it."""
    predicted = read_parquet(store, "parts/predicted.parquet").to_pandas()
    test = plan.rows("test")
    columns = {f"pred_{name}" if name in test else name: predicted[name].to_numpy() for name in predicted.columns if name != "entry"}
    own = {name: predicted[name].to_numpy() for name in predicted.columns}
    truth = {name: test[name].tolist() for name in test if name not in ("phash", "split")}
    predictions = pa.table({name: pa.array(list(values)) for name, values in {**truth, **columns}.items()})
    store.write("predictions.parquet", parquet_bytes(predictions), replace=True)
    calibrated = type(plan.task).from_state(to_plain(config.task), results["state"])
    return {"baselines": plan.task.baselines(plan.rows("train"), test, own), "reliability": calibrated.reliability(test, own)}
