"""What runs in each Ray Train worker: the loop with Ray's checkpoints and reports, then the final evaluation and the bundle."""

import dataclasses
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.v2.api.report_config import CheckpointUploadMode
from torch import Tensor

from foodray.config import to_plain, without_nan
from foodray.provenance import lineage
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes
from foodray.tasks.base import Rows, Task
from foodray.training.config import LoopConfig, WorkerConfig
from foodray.training.data import PoolFeed
from foodray.training.files import with_local_files
from foodray.training.loop import Hooks, Loop, numbers

log = logging.getLogger(__name__)
STATE = "state.pt"
Columns = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Everything a worker needs; it travels once, through the object store."""

    task: Task
    feed: PoolFeed
    loop: LoopConfig
    workers: WorkerConfig
    store: Store
    data: dict[str, Any]
    val_rows: Rows
    """All columns of the validation side, in the order of its entries."""
    evaluate_test: bool = True
    """Whether the test side is looked at."""


def work(config: dict[str, Any]) -> None:
    """Train to the end from the latest checkpoint, if there is one; rank 0 leaves the results in the run's folder."""
    assignment: Assignment = ray.get(config["assignment"])
    context = ray.train.get_context()
    gpu = assignment.workers.use_gpu
    if not gpu:
        torch.set_num_threads(assignment.workers.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    device = ray.train.torch.get_device() if gpu else torch.device("cpu")
    task = dataclasses.replace(assignment.task, config=with_local_files(assignment.task.config))  # type: ignore[type-var]
    hooks = Hooks(checkpoint=_save, progress=_ProgressFile(assignment.store), pictures=partial(_save_pictures, assignment.store))
    loop = Loop(task, dataclasses.replace(assignment.feed, task=task), assignment.loop, device=device, hooks=hooks)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            loop.load(torch.load(Path(folder) / STATE, map_location=device, weights_only=True))
        log.info("continuing at stage %d, step %d", loop.position.stage, loop.position.step)
    loop.run()
    _results(loop, assignment, loop.seconds)


def _save(state: dict[str, Any] | None, metrics: dict[str, float]) -> None:
    """Report a checkpoint; it is uploaded while training goes on."""
    if state is None:
        ray.train.report(metrics, checkpoint=None, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
        return
    folder = tempfile.mkdtemp(prefix="foodray-checkpoint-")
    torch.save(state, Path(folder) / STATE)
    checkpoint = Checkpoint.from_directory(folder)
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.ASYNC, delete_local_checkpoint_after_upload=True)


def _save_pictures(store: Store, number: int, when: str, arrays: dict[str, np.ndarray]) -> None:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    store.write(f"parts/pictures/{number}-{when}.npz", sink.getvalue(), replace=True)


class _ProgressFile:
    """progress.json in the run's folder, for people and for the driver."""

    def __init__(self, store: Store) -> None:
        self.store, self.last, self.every_s = store, 0.0, 5.0 if store.remote else 1.0

    def __call__(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self.last < self.every_s and record["step"] < record["steps"]:
            return
        self.last = now
        self.store.write("progress.json", json.dumps(without_nan({**record, "at": time.time()})).encode(), replace=True)


def _results(loop: Loop, assignment: Assignment, seconds: float) -> None:
    """Evaluate the kept weights on validation and, where wanted, on test, gather the predictions, write bundle and results."""
    state = {name: tensor.to(loop.device) for name, tensor in loop.kept.weights.items()}
    loop.evaluated.load_state_dict(state)
    raw: list[Columns] = []
    wanted = loop.task.calibrates_on
    validation = loop.evaluate("val", lambda entries, outputs: raw.append({"entry": entries, **as_columns(outputs, wanted)}))
    loop.task = loop.task.calibrate(_tensors(_gathered(raw, loop.part.world)), assignment.val_rows) if wanted else loop.task
    test, by_class = _test(loop, assignment.store) if assignment.evaluate_test else (None, {})
    if loop.part.rank == 0:
        task, weights = loop.task.delivered(loop.kept.weights)
        card = _card(task, assignment, validation, test)
        bundle = write_bundle(assignment.store.sub("bundle"), card, weights, replace=True)
        results: dict[str, Any] = {"val": validation, "test": test, "history": loop.history, "state": loop.task.state(), "by_class": by_class}
        results |= {"bundle_id": bundle.bundle_id, "world_size": loop.part.world, "kept_epoch": loop.kept.epoch, "objective": loop.kept.objective}
        results["train_seconds"] = seconds
        assignment.store.write("parts/results.json", json.dumps(without_nan(results)).encode(), replace=True)
    if loop.part.world > 1:
        dist.barrier()


def _test(loop: Loop, store: Store) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the test side, whole and by class; rank 0 leaves the predictions."""
    predicted: list[Columns] = []
    measured = loop.measured("test", lambda entries, outputs: predicted.append({"entry": entries, **loop.task.predictions(outputs)}))
    test = numbers(measured)
    by_class = loop.task.by_class(measured)  # sums over ranks, as `numbers`: every rank takes part
    columns = _gathered(predicted, loop.part.world)
    if loop.part.rank == 0:
        table = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
        store.write("parts/predicted.parquet", parquet_bytes(table), replace=True)
    return test, by_class


def _card(task: Task, assignment: Assignment, validation: dict[str, float], test: dict[str, float] | None) -> dict[str, Any]:
    return {
        "task": type(task).name,
        "config": to_plain(assignment.task.delivered({})[0].config),  # as it was given, not with the weights' local copy
        "state": task.state(),
        "preprocessing": {**dataclasses.asdict(task.spec), "input": "uint8 RGB; normalisation is the network's first layer"},
        "metrics": without_nan({"val": validation, "test": test}),
        "data": assignment.data,
        "lineage": lineage(),
    }


def _gathered(parts: list[Columns], world: int) -> Columns:
    """Every rank's columns joined, ordered by entry; the same on every rank."""
    everyone: list[list[Columns]] = [parts]
    if world > 1:
        everyone = [[] for _ in range(world)]
        dist.all_gather_object(everyone, parts)
    joined = [columns for part in everyone for columns in part]
    order = np.argsort(np.concatenate([columns["entry"] for columns in joined]), kind="stable")
    return {name: np.concatenate([columns[name] for columns in joined])[order] for name in joined[0]}


def as_columns(outputs: Mapping[str, Tensor], wanted: Sequence[str]) -> Columns:
    """The wanted ones among a network's outputs as arrays in single precision, whatever it was run in."""
    return {name: outputs[name].float().cpu().numpy() for name in wanted if name in outputs}


def _tensors(columns: Columns) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in columns.items() if name != "entry"}
