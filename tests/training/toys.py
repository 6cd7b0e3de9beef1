"""A toy for the loop: squares with a coloured disc whose colour is the class and whose area is the portion, fed from memory.

Everything here is importable by its module name, so that spawned ranks can build the same task and feed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foodray.tasks.base import Optimizer, Rows, Stage
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.tasks.transform import Augmentation
from foodray.training.config import LoopConfig
from foodray.training.data import Order, Part, PrepareSteps
from foodray.training.loop import Hooks, Loop

LABELS = ("blue", "green", "red")
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SGD = Optimizer(name="sgd", lr=0.02, weight_decay=1e-4, schedule="cosine")
ADAMW = Optimizer(name="adamw", lr=1e-3, warmup_fraction=0.2)


@dataclass(frozen=True, kw_only=True)
class ToyTask(MtlTask):
    """The multi-task family with stages, dropout and objectives of our own choice."""

    plan: tuple[Stage, ...]
    """What `stages` returns."""
    dropout: float = 0.0
    """Probability of the dropout layers that the backbone has."""
    objectives: tuple[float, ...] = ()
    """What `objective` returns, one evaluation after the other; the family's own when empty."""
    asked: list[float] = field(default_factory=list)

    def stages(self) -> tuple[Stage, ...]:
        return self.plan

    def network(self, *, weights: str | None = None) -> nn.Module:
        network = super().network(weights=weights)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.dropout
        return network

    def objective(self, metrics: Mapping[str, float]) -> float:
        if not self.objectives:
            return super().objective(metrics)
        self.asked.append(self.objectives[len(self.asked)])
        return self.asked[-1]


def toy_task(
    *stages: Stage, backbone: str = "test_convnext", normalization: str = "ln", dropout: float = 0.0, objectives: tuple[float, ...] = (), **settings: Any
) -> ToyTask:
    """A task of three classes; test_convnext has LayerNorm only, test_resnet has BatchNorm."""
    config = MtlConfig(backbone=backbone, weights="random", side_px=32, normalization=normalization, augmentation=Augmentation(colour=0.1), **settings)  # type: ignore[arg-type]
    plan = stages or (stage(epochs=2),)
    return ToyTask(config=config, labels=LABELS, target_mean=200.0, target_std=100.0, plan=plan, dropout=dropout, objectives=objectives)


def stage(name: str = "joint", *, epochs: int = 1, optimizer: Optimizer = SGD, **settings: Any) -> Stage:
    """A stage over everything, with SGD, whose steps do not blow up the rounding of a gradient."""
    return Stage(name=name, epochs=epochs, optimizer=optimizer, **settings)


def toy_rows(count: int, side_px: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows as a corpus would give them; every seventh has no portion."""
    rng = np.random.default_rng(seed)
    names = np.array(LABELS, dtype=object)[rng.integers(0, len(LABELS), count)]
    radius = rng.uniform(0.2, 0.45, count)
    away_PP = np.hypot(*(np.mgrid[:side_px, :side_px] + 0.5 - side_px / 2)) / side_px
    pixels = rng.integers(90, 130, (count, side_px, side_px, 3), dtype=np.uint8)
    for row in range(count):
        pixels[row][away_PP < radius[row]] = COLOURS[names[row]]
    energy = 1500.0 * radius**2
    energy[::7] = np.nan
    unknown = np.full(count, np.nan)
    return {"pixels": pixels, "class_name": names, "energy_kcal": energy, "extent_w_mm": unknown, "extent_h_mm": unknown}


@dataclass(frozen=True, kw_only=True)
class MemoryFeed:
    """A `Feed` over rows in memory: the run's own order and shares, without Ray."""

    task: MtlTask
    rows: Rows
    sides: Mapping[str, np.ndarray]
    """Row numbers of each split."""
    seed: int = 0

    def steps_per_epoch(self, stage: Stage, batch_size: int) -> int:
        return self._order(stage, batch_size).steps_per_epoch

    def _order(self, stage: Stage, batch_size: int) -> Order:
        entries = self.sides["train"]
        return Order(entries, np.zeros(len(entries), np.int64), "instance", batch_size, epochs=stage.epochs, seed=(self.seed, len(stage.name)))

    def train_batches(self, stage: Stage, batch_size: int, first_step: int, last_step: int, part: Part) -> Iterator[dict[str, Tensor]]:
        micro_batches = PrepareSteps(None, self._order(stage, batch_size), part, 0)._micro_batches
        for step in range(first_step, last_step):
            for entries, seeds in micro_batches(step):
                yield self.prepare(entries, seeds)

    def eval_batches(self, split: str, batch_size: int, part: Part) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        start, stop = part.bounds(len(self.sides[split]))
        for at in range(start, stop, batch_size):
            entries = self.sides[split][at : min(at + batch_size, stop)]
            yield entries, self.prepare(entries, None)

    def prepare(self, entries: np.ndarray, seeds: np.ndarray | None) -> dict[str, Tensor]:
        rows = {name: values[entries] for name, values in self.rows.items()}
        return self.task.prepare(rows if seeds is None else {**rows, "seed": seeds}, train=seeds is not None)


def memory_feed(task: MtlTask, *, num_train: int = 24, num_val: int = 10, num_test: int = 5, seed: int = 0) -> MemoryFeed:
    """A feed of a few dozen rows."""
    total = num_train + num_val + num_test
    sides = np.split(np.arange(total), [num_train, num_train + num_val])
    return MemoryFeed(task=task, rows=toy_rows(total, task.spec.stored_px, seed), sides=dict(zip(("train", "val", "test"), sides, strict=True)), seed=seed)


class Recorder:
    """Hooks that keep every checkpoint as bytes, exactly as the worker writes them, and every line of progress."""

    def __init__(self) -> None:
        self.states: dict[tuple[int, int], bytes] = {}
        self.progress: list[dict[str, Any]] = []

    def hooks(self) -> Hooks:
        return Hooks(checkpoint=self._checkpoint, progress=lambda record: self.progress.append(record))

    def _checkpoint(self, state: dict[str, Any] | None, metrics: dict[str, float]) -> None:
        if state is not None:
            sink = BytesIO()
            torch.save(state, sink)
            self.states[state["position"]["stage"], state["position"]["step"]] = sink.getvalue()

    def state(self, stage: int, step: int) -> dict[str, Any]:
        """The checkpoint written at a position, read back as the worker reads it."""
        return torch.load(BytesIO(self.states[stage, step]), map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def trained(task: ToyTask, *, feed: MemoryFeed | None = None, state: dict[str, Any] | None = None, recorder: Recorder | None = None, **settings: Any) -> Loop:
    """A loop that has run to its end, from a checkpoint's state if there is one."""
    config = LoopConfig(**{"batch_size": 6, "eval_batch_size": 4, **settings})
    loop = Loop(task, feed or memory_feed(task), config, hooks=(recorder or Recorder()).hooks())
    if state is not None:
        loop.load(state)
    loop.run()
    return loop


def largest_difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Over all tensors of two states."""
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
