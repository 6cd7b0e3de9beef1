"""From corpus shards to batches: photos are decoded once per run by Ray Data and held in the object store as squares.

`SampleStore` holds one row a sample: its stored square (uint8) and mask in Arrow blocks, its labels as columns. `train_batches`
streams an endless, seeded order of augmented batches out of it through Ray Data, so that the process that trains does
nothing else; `eval_batches` walks a part of it once. What a step sees depends on (seed, stage, step) alone: not on the
number of workers, not on restarts.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ExecutionOptions, TaskPoolStrategy
from torch import Tensor

from foodray.corpus.corpus import Corpus
from foodray.corpus.cutting import cut_corpus
from foodray.corpus.splits import Pool
from foodray.errors import ConfigError
from foodray.tasks.base import Rows, Stage, Task
from foodray.tasks.transform import apply_isometry

log = logging.getLogger(__name__)
STEPS_PER_TASK = 4  # steps that one Ray task prepares: amortises its overhead, bounds the memory of a block
STEPS_PER_PIPELINE = 5_000  # steps of one Ray Data pipeline: bounds its plan


class Feed(Protocol):
    """Where the loop's batches come from; the run's feed is `PoolFeed`, tests and notebooks may bring their own."""

    def steps_per_epoch(self, stage: Stage, batch_size: int) -> int:
        """Optimizer steps in an epoch of a stage, the same on every rank."""

    def train_batches(self, stage: Stage, batch_size: int, first_step: int, last_step: int, part: "Part") -> Iterator[dict[str, Tensor]]:
        """This rank's share of each global batch, from `first_step` up to `last_step` of the stage."""

    def eval_batches(self, split: str, batch_size: int, part: "Part") -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """This rank's share of a split, once, in order: entry indices and batch."""


@dataclass(frozen=True)
class Part:
    """Which share of a batch or split a rank takes, and in how many micro-batches it takes it."""

    rank: int = 0
    world: int = 1
    micro: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        """Start and stop of this rank's contiguous share of `count` things; shares differ by one at most."""
        return self.rank * count // self.world, (self.rank + 1) * count // self.world


class SampleStore:
    """Squares in the object store, labels in memory; small to send, shared by all workers of a node without copying."""

    def __init__(self, blocks: list[Any], block_of: np.ndarray, row_of: np.ndarray, labels: Rows, stored_px: int) -> None:
        self.blocks, self.block_of, self.row_of, self.labels, self.stored_px = blocks, block_of, row_of, labels, stored_px

    def __len__(self) -> int:
        return len(self.block_of)

    def squares(self, indices: np.ndarray, *, masks: bool) -> dict[str, np.ndarray]:
        """`pixels` of some samples, uint8 (N, P, P, 3), and, where wanted, `mask`, int16 (N, P, P)."""
        shape = (len(indices), self.stored_px, self.stored_px)
        out = {"pixels": np.empty((*shape, 3), np.uint8)} | ({"mask": np.empty(shape, np.int16)} if masks else {})
        for block in np.unique(self.block_of[indices]):
            here = np.flatnonzero(self.block_of[indices] == block)
            table = ray.get(self.blocks[block])
            for name, values in out.items():
                values[here] = _without_copy(table[name], values.shape[1:], values.dtype)[self.row_of[indices[here]]]
        return out


def _without_copy(column: pa.ChunkedArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A column of fixed-size binaries as an array (N, *shape) that shares its memory."""
    array = column.combine_chunks()
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(array.buffers()[1], np.uint8, count=len(array) * size, offset=array.offset * size).view(dtype).reshape(len(array), *shape)


def load_samples(corpus: Corpus, samples: Rows, task: Task) -> SampleStore:
    """Every sample of the corpus as the task wants it; raises `CorpusError` when one is missing."""
    blocks, places = cut_corpus(corpus, samples["sample_id"], task.spec, masks=task.masks)
    labels = {name: samples[name] for name in task.columns}
    return SampleStore(blocks, places[:, 0], places[:, 1], labels, task.spec.stored_px)


@dataclass(frozen=True, kw_only=True)
class PoolFeed:
    """The run's feed: a sample store, the pool of entries that may be drawn, and the task that prepares them."""

    store: SampleStore
    pool: Pool
    task: Task
    seed: int
    augment_tasks: int = 1
    """Ray Data tasks that prepare batches at a time, per rank."""

    def steps_per_epoch(self, stage: Stage, batch_size: int) -> int:
        """Whole batches in an epoch; the rest of a permutation waits for the next one. At least one step."""
        return self.order(stage, batch_size).steps_per_epoch

    def train_batches(self, stage: Stage, batch_size: int, first_step: int, last_step: int, part: Part) -> Iterator[dict[str, Tensor]]:
        """This rank's micro-batches in order, prepared by Ray Data ahead of the loop."""
        feed, order = ray.put(self), self.order(stage, batch_size)
        context = ray.data.DataContext.get_current()
        context.execution_options = ExecutionOptions(preserve_order=True)
        context.enable_progress_bars = False
        for start in range(first_step, last_step, STEPS_PER_PIPELINE):
            stop = min(start + STEPS_PER_PIPELINE, last_step)
            steps = ray.data.range(stop - start, override_num_blocks=max(1, (stop - start) // STEPS_PER_TASK))
            prepare = PrepareSteps(feed, order, part, start)
            batches = steps.map_batches(prepare, batch_size=STEPS_PER_TASK, compute=TaskPoolStrategy(size=self.augment_tasks))
            for block in batches.iter_batches(batch_size=None, prefetch_batches=2):
                yield from _unpack(block)

    def order(self, stage: Stage, batch_size: int) -> "Order":
        """The order in which a stage draws from the training entries; raises `ConfigError` when it has none to draw from."""
        entries = self.pool.entries("train")
        if stage.part != "all":
            entries = entries[set_aside(self._of(entries, "participant_id")) == (stage.part == "rest")]
        if stage.classes:
            entries = entries[np.isin(self._of(entries, "class_name"), stage.classes)]
        if stage.sampler != "instance":  # they draw classes: a sample without one is in none
            entries = entries[self._of(entries, "class_name") != "None"]
        if not len(entries):
            raise ConfigError(f"stage {stage.name!r} has no training sample (part {stage.part}, {len(stage.classes) or 'all'} classes)")
        classes = np.unique(self._of(entries, "class_name"), return_inverse=True)[1] if stage.sampler != "instance" else np.zeros(len(entries), np.int64)
        stage_seed = int.from_bytes(hashlib.sha256(stage.name.encode()).digest()[:4], "little")
        return Order(entries, classes, stage.sampler, batch_size, epochs=stage.epochs, seed=(self.seed, stage_seed))

    def _of(self, entries: np.ndarray, column: str) -> np.ndarray:
        return np.asarray(self.store.labels[column][self.pool.sample[entries]].astype(str))

    def eval_batches(self, split: str, batch_size: int, part: Part) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """This rank's share of a split, once, in order, read ahead by a thread."""
        entries = self.pool.entries(split)
        start, stop = part.bounds(len(entries))
        chunks = [entries[at : min(at + batch_size, stop)] for at in range(start, stop, batch_size)]
        with ThreadPoolExecutor(1) as ahead:
            pending = [ahead.submit(self.prepare, chunk, None) for chunk in chunks[:2]]
            for index, chunk in enumerate(chunks):
                batch = pending[index].result()
                if index + 2 < len(chunks):
                    pending.append(ahead.submit(self.prepare, chunks[index + 2], None))
                pending[index] = None  # type: ignore[call-overload]
                yield chunk, batch

    def prepare(self, entries: np.ndarray, seeds: np.ndarray | None) -> dict[str, Tensor]:
        """The task's batch of some entries; with seeds it is a training batch."""
        samples, codes = self.pool.sample[entries], self.pool.isometry[entries]
        squares = self.store.squares(samples, masks=self.task.masks)
        for row in np.flatnonzero(codes):
            for values in squares.values():
                values[row] = apply_isometry(values[row], int(codes[row])).copy()
        rows = {**squares, **{name: values[samples] for name, values in self.store.labels.items()}}
        if seeds is not None:
            rows["seed"] = seeds
        return self.task.prepare(rows, train=seeds is not None)


def set_aside(participants_N: np.ndarray) -> np.ndarray:
    """Which samples (N,) belong to the fifth of participants that `Stage.part` sets aside: by their names alone, whatever else is in the corpus."""
    people, of_person = np.unique(participants_N.astype(str), return_inverse=True)
    aside = np.array([hashlib.sha256(b"aside|" + person.encode()).digest()[0] < 256 // 5 for person in people], bool)
    return aside[of_person]


class Order:
    """The seeded order in which a stage draws entries: a function of the step, so any step can be made anywhere."""

    def __init__(self, entries: np.ndarray, classes: np.ndarray, sampler: str, batch_size: int, *, epochs: int, seed: tuple[int, int]) -> None:
        self.entries, self.classes, self.sampler = entries, classes, sampler
        self.batch_size, self.epochs, self.seed = min(batch_size, len(entries)), epochs, seed
        self.steps_per_epoch = len(entries) // self.batch_size
        if sampler == "class_unique" and self.batch_size > (num_classes := len(np.unique(classes))):
            raise ConfigError(
                f"loop.batch_size = {batch_size} is more than the {num_classes} classes of which a step may show none twice; lower it to {num_classes}"
            )

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Entries (G,) and augmentation seeds (G,) of a global batch."""
        epoch, at = divmod(step, self.steps_per_epoch)
        first = at * self.batch_size
        drawn = self._epoch(epoch)[first : first + self.batch_size]
        seeds = np.random.default_rng((*self.seed, 1, step)).integers(0, 2**62, len(drawn))
        return self.entries[drawn], seeds

    @lru_cache(maxsize=2)  # noqa: B019 - one short-lived object a task
    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((*self.seed, 0, epoch))
        if self.sampler == "instance":
            return rng.permutation(len(self.entries))
        counts_C = np.bincount(self.classes)
        if self.sampler == "class_unique":
            return np.concatenate([self._one_of_each(rng, counts_C) for _ in range(self.steps_per_epoch)])
        weight = (self._class_shares(counts_C, epoch) / counts_C)[self.classes]  # uniform within a class
        return rng.choice(len(self.entries), size=self.steps_per_epoch * self.batch_size, p=weight / weight.sum())

    def _class_shares(self, counts_C: np.ndarray, epoch: int) -> np.ndarray:
        """How often each class is drawn (C,), up to a factor (Kang et al. 2020, equations 1 and 2)."""
        if self.sampler == "progressive":
            done = epoch / max(1, self.epochs - 1)
            return np.asarray((1 - done) * counts_C / counts_C.sum() + done / len(counts_C))
        return np.asarray(counts_C ** {"class_balanced": 0.0, "square_root": 0.5}[self.sampler])

    def _one_of_each(self, rng: np.random.Generator, counts_C: np.ndarray) -> np.ndarray:
        """A step in which no class is twice: classes by their counts, then any sample of each."""
        chosen = rng.choice(len(counts_C), size=self.batch_size, replace=False, p=counts_C / counts_C.sum())
        chosen = rng.permutation(chosen)  # large classes are drawn first: the first rank would have most of them
        by_class = np.argsort(self.classes, kind="stable")
        first_C = np.cumsum(counts_C) - counts_C
        return np.asarray(by_class[first_C[chosen] + rng.integers(0, counts_C[chosen])])


class PrepareSteps:
    """Step numbers to this rank's micro-batches of those steps, each packed as one row of flat tensors."""

    def __init__(self, feed: Any, order: Order, part: Part, first_step: int) -> None:
        self.feed, self.order, self.part, self.first_step = feed, order, part, first_step

    def __call__(self, batch: Any) -> dict[str, Any]:
        """One row a micro-batch, in order of steps; ids count from `first_step`."""
        torch.set_num_threads(1)
        feed: PoolFeed = ray.get(self.feed)
        packed = [_pack(feed.prepare(entries, seeds)) for step in batch["id"] for entries, seeds in self._micro_batches(self.first_step + int(step))]
        return {"tensors": np.array([data for data, _ in packed], dtype=object), "layout": np.array([layout for _, layout in packed], dtype=object)}

    def _micro_batches(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        entries, seeds = self.order.step(step)
        start, stop = self.part.bounds(len(entries))
        for index in range(self.part.micro):
            low, high = (start + part * (stop - start) // self.part.micro for part in (index, index + 1))
            yield entries[low:high], seeds[low:high]


def _pack(batch: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """A dict of tensors as bytes and a layout; ragged batches then travel in one column, whatever the family."""
    parts, layout, offset = [], [], 0
    for name, tensor in batch.items():
        data = tensor.contiguous().numpy().tobytes()
        layout.append(f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{','.join(map(str, tensor.shape))}|{offset}")
        padding = -len(data) % 16
        parts += [data, b"\0" * padding]
        offset += len(data) + padding
    return b"".join(parts), ";".join(layout)


def _unpack(block: Any) -> Iterator[dict[str, Tensor]]:
    for data, layout in zip(block["tensors"], block["layout"], strict=True):
        memory = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        batch = {}
        for entry in layout.split(";"):
            name, dtype_name, shape_text, offset = entry.split("|")
            dtype, shape = getattr(torch, dtype_name), [int(size) for size in shape_text.split(",") if size]
            size = int(np.prod(shape)) * dtype.itemsize
            batch[name] = memory[int(offset) : int(offset) + size].view(dtype).view(shape)
        yield batch
