"""Throughput of the training loop as a ratio to a plain PyTorch loop: same network, same prepared tensors, interleaved.

Also the soft-sharing penalty's share of a step. Printed by `python -m tests.bench.train`; part of `make bench`.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foodray.tasks.base import Stage
from foodray.tasks.mtl import MtlTask, preset
from foodray.training.config import LoopConfig
from foodray.training.data import Part
from foodray.training.loop import Loop
from foodray.training.optim import make_optimizer, make_schedule

BATCH, STEPS, ROUNDS, SIDE = 32, 6, 5, 96
LABELS = tuple(f"food {index}" for index in range(20))


class PreparedFeed:
    """The same prepared batches over and over, from memory."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches

    def steps_per_epoch(self, stage: Stage, batch_size: int) -> int:
        """All of them."""
        return len(self.batches)

    def train_batches(self, stage: Stage, batch_size: int, first_step: int, last_step: int, part: Part) -> Iterator[dict[str, Tensor]]:
        """From memory."""
        return iter([self.batches[step % len(self.batches)] for step in range(first_step, last_step)])

    def eval_batches(self, split: str, batch_size: int, part: Part) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """One small batch: evaluation is not what is measured."""
        yield np.arange(2), {name: tensor[:2] for name, tensor in self.batches[0].items()}


def _task(row: str) -> MtlTask:
    config = dataclasses.replace(preset("default", row), weights="random", side_px=SIDE, epochs=1)
    return MtlTask(config=config, labels=LABELS, target_mean=100.0, target_std=50.0)


def _batches(task: MtlTask) -> list[dict[str, Tensor]]:
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {
        "pixels": rng.integers(0, 256, (BATCH * STEPS, SIDE, SIDE, 3), dtype=np.uint8),
        "class_name": np.array(LABELS, dtype=object)[rng.integers(0, len(LABELS), BATCH * STEPS)],
        "energy_kcal": rng.uniform(10, 400, BATCH * STEPS),
        "extent_w_mm": np.full(BATCH * STEPS, np.nan),
        "extent_h_mm": np.full(BATCH * STEPS, np.nan),
    }
    slices = [slice(start, start + BATCH) for start in range(0, BATCH * STEPS, BATCH)]
    return [task.prepare({name: values[at] for name, values in rows.items()}, train=False) for at in slices]


def _loop_seconds(loop: Loop) -> float:
    started = time.perf_counter()
    loop.position.stage = loop.position.step = 0
    loop.run()
    return time.perf_counter() - started


def _plain(network: nn.Module, task: MtlTask, batches: list[dict[str, Tensor]]) -> float:
    """What one would write in a notebook, step for step the same mathematics."""
    started = time.perf_counter()
    stage = task.stages()[0]
    optimizer = make_optimizer(network, stage)
    schedule = make_schedule(optimizer, stage, len(batches))
    cross_entropy, network = nn.CrossEntropyLoss(), network.train()
    for batch in batches:
        outputs = network(batch["image"].contiguous(memory_format=torch.channels_last), batch["scale"])
        target = (batch["portion"] - task.target_mean) / task.target_std
        loss = cross_entropy(outputs["logits_BC"], batch["class_id"]) + (outputs["portion_B"] - target).abs().mean()
        if "sharing" in outputs:
            loss = loss + task.config.sharing_weight * outputs["sharing"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


def _sharing_share(network: nn.Module, step_seconds: float) -> float:
    distance: Any = network.get_submodule("distance")

    def once() -> float:
        started = time.perf_counter()
        distance().backward()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(20)) / step_seconds


def run() -> list[dict[str, Any]]:
    """The rows of the benchmark: name, ratio, goal, detail."""
    task = _task("sps_cdfa_ln_bn")
    batches = _batches(task)
    loop = Loop(task, PreparedFeed(batches), LoopConfig(batch_size=BATCH, keep="last"))
    network = task.network().to(memory_format=torch.channels_last)
    ours, plain = [], []
    for _ in range(ROUNDS + 1):
        ours.append(_loop_seconds(loop))
        plain.append(_plain(network, task, batches))
    ours_s, plain_s = statistics.median(ours[1:]), statistics.median(plain[1:])
    share = _sharing_share(network, plain_s / STEPS)
    rates = f"{BATCH * STEPS / ours_s:.0f} against {BATCH * STEPS / plain_s:.0f} samples/s"
    detail = f"{rates} at {SIDE} px, {torch.get_num_threads()} threads, median of {ROUNDS} rounds"
    return [
        {"name": "training loop / plain PyTorch loop", "ratio": plain_s / ours_s, "goal": ">= 0.9", "detail": detail},
        {"name": "soft-sharing penalty, share of a step", "ratio": share, "goal": "<= 0.02", "detail": "683,072 parameters in each tower"},
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:45} {row['ratio']:6.3f}  (goal {row['goal']})  {row['detail']}")
