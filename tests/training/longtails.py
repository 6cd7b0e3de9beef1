"""A long-tailed toy for the loop: the run's own feed, its squares in memory instead of Ray's object store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toys import Recorder

from foodray.corpus.splits import Pool
from foodray.tasks.base import Optimizer, Rows, Stage
from foodray.tasks.longtail import LongtailConfig, LongtailTask
from foodray.tasks.longtail.groups import GroupConfig
from foodray.training.config import LoopConfig
from foodray.training.data import Order, Part, PoolFeed, PrepareSteps
from foodray.training.loop import Loop

LABELS = ("apple", "bread", "cake", "dumpling")
COUNTS = (24, 8, 5, 3)
SGD = Optimizer(name="sgd", lr=0.05, weight_decay=0.0, schedule="constant")
CNN: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "side_px": 32, "stride_px": 0, "parts": False, "contrastive": 0.0}
TINY: dict[str, Any] = {**CNN, "epochs": 1, "optimizer": SGD, "groups": GroupConfig(by="thirds")}


class MemoryStore:
    """What `PoolFeed` wants of a sample store: squares of one grey a class, with noise, and labels."""

    def __init__(self, class_names: np.ndarray, participants: np.ndarray, side_px: int) -> None:
        self.labels: Rows = {"class_name": class_names, "participant_id": participants}
        rng = np.random.default_rng(0)
        shade = np.array([60 * (LABELS.index(name) if name in LABELS else 0) for name in class_names]).reshape(-1, 1, 1, 1)
        self.pixels = (shade + rng.integers(0, 40, (len(class_names), side_px, side_px, 3))).astype(np.uint8)

    def squares(self, indices: np.ndarray, *, masks: bool) -> dict[str, np.ndarray]:
        """`pixels` of some samples."""
        return {"pixels": self.pixels[indices]}


@dataclass(frozen=True, kw_only=True)
class MemoryPoolFeed(PoolFeed):
    """The run's feed, without Ray."""

    def train_batches(self, stage: Stage, batch_size: int, first_step: int, last_step: int, part: Part) -> Iterator[dict[str, Tensor]]:
        micro_batches = PrepareSteps(None, self.order(stage, batch_size), part, 0)._micro_batches
        for step in range(first_step, last_step):
            for entries, seeds in micro_batches(step):
                yield self.prepare(entries, seeds)


def feed_of(task: LongtailTask | None = None, *, counts: tuple[int, ...] = COUNTS, seed: int = 0, unknown: int = 0) -> MemoryPoolFeed:
    """A training side of so many photos a class, and of no class, each by a person of its own, and a validation side of three a class."""
    task = task or longtail_task(counts=counts)
    names = np.array([*np.repeat(LABELS[: len(counts)], counts), *[None] * unknown, *LABELS[: len(counts)] * 3], dtype=object)
    split = np.where(np.arange(len(names)) < sum(counts) + unknown, "train", "val")
    pool = Pool(sample=np.arange(len(names)), split=split, isometry=np.zeros(len(names), np.int8))
    people = np.array([f"p{index}" for index in range(len(names))], dtype=object)
    store: Any = MemoryStore(names, people, task.spec.stored_px)
    return MemoryPoolFeed(store=store, pool=pool, task=task, seed=seed)


def longtail_task(*, counts: tuple[int, ...] = COUNTS, **settings: Any) -> LongtailTask:
    """A tiny task of these classes."""
    names = np.repeat(np.array(LABELS[: len(counts)], dtype=object), counts)
    return LongtailTask.fit(LongtailConfig(**{**TINY, **settings}), {"class_name": names}, LABELS[: len(counts)])


def drawn(order: Order, epoch: int = 0) -> np.ndarray:
    """The entries of an epoch, step by step, (steps, batch)."""
    return np.stack([order.step(step)[0] for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)])


def states_of(task: LongtailTask, feed: PoolFeed | None = None, **settings: Any) -> dict[str, dict[str, Tensor]]:
    """The network after each stage, by its name, and before the first, under `start`."""
    recorder = Recorder()
    config = LoopConfig(**{"batch_size": 8, "eval_batch_size": 8, **settings})
    loop = Loop(task, feed or feed_of(task), config, hooks=recorder.hooks())
    start = {name: tensor.clone() for name, tensor in loop.network.state_dict().items()}
    loop.run()
    last = {place: max(step for at, step in recorder.states if at == place) for place, _ in recorder.states}
    names = [stage.name for stage in task.stages()]
    return {"start": start, **{names[place]: recorder.state(place, step)["network"] for place, step in last.items()}}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of what differs."""
    return {name for name in before if not torch.equal(before[name], after[name])}
