"""The one training loop: any task, any number of ranks, from any step of any stage.

In: a task, a feed of batches and the loop's settings. Out: the kept weights and the history of metrics. It knows no
family and no storage: checkpoints and reports leave through `Hooks`. The state of the random generators is a function of
(seed, stage, step, rank), so the position in the run is all there is to save of it: a resumed run repeats the same steps.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MetricCollection

from foodray.errors import ConfigError
from foodray.tasks.base import Stage, Task
from foodray.training.config import LoopConfig
from foodray.training.data import Feed, Part
from foodray.training.optim import make_optimizer, make_schedule

log = logging.getLogger(__name__)
Collect = Callable[[np.ndarray, Mapping[str, Tensor]], None]
NUM_PICTURES = 8


@dataclass
class Position:
    """Where a run is: `step` optimizer steps into the stage of this index."""

    stage: int = 0
    step: int = 0


@dataclass
class Hooks:
    """What the loop tells the outside; every rank calls both, at the same points."""

    checkpoint: Callable[[dict[str, Any] | None, dict[str, float]], None] = lambda state, metrics: None
    """A resumable state (rank 0; None on the others) and the latest metrics."""
    progress: Callable[[dict[str, Any]], None] = lambda record: None
    """A line of progress, a few times an epoch (rank 0)."""
    pictures: Callable[[int, str, dict[str, np.ndarray]], None] = lambda number, when, arrays: None
    """`Task.pictures` of a few validation photos: 0 and "start" before the first stage, then the number and name of each (rank 0)."""


@dataclass
class Kept:
    """The weights that become the bundle, and how they were chosen."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    objective: float = float("inf")
    epoch: int = 0


class Loop:
    """One rank's training. `run` goes from wherever the state is to the end; every rank calls it."""

    def __init__(self, task: Task, feed: Feed, config: LoopConfig, *, device: torch.device | None = None, hooks: Hooks | None = None) -> None:
        self.task, self.feed, self.config = task, feed, config
        self.device = device or torch.device("cpu")
        self.hooks = hooks or Hooks()
        self.part = Part(*_rank_and_world(), micro=config.accumulate)
        torch.manual_seed(config.seed)
        self.network: nn.Module = task.network().to(self.device)
        if config.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True) if config.ema_decay else None  # type: ignore[no-untyped-call]
        if config.compile:
            self.network.compile()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.position, self.kept, self.history = Position(), Kept(), list[dict[str, Any]]()
        self._resume: dict[str, Any] | None = None
        self._clock = _Clock()
        self._seconds, self._since = 0.0, time.monotonic()

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `Hooks.checkpoint` was given."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        self.kept = Kept(**state["kept"])
        self.history = list(state["history"])
        self._seconds = state["seconds"]
        self._resume = {name: state[name] for name in ("optimizer", "schedule", "totals")}

    def run(self) -> Kept:
        """Train every stage that is left and return the kept weights."""
        self._since = time.monotonic()
        for index, stage in enumerate(self.task.stages()):
            if index == self.position.step == 0:
                self._pictures(0, "start", self.task)
            if index >= self.position.stage:
                self._stage(index, stage)
                self._pictures(index + 1, stage.name, self.task.at(stage))
        if not self.kept.weights:  # nothing to train: a zero-shot model, or a rule that is fitted after training
            self._keep({"objective": self.task.objective(self.evaluate("val"))}, 0)
        return self.kept

    def _stage(self, index: int, stage: Stage) -> None:
        resume, self._resume = self._resume, None
        self._clock = _Clock()  # steps count from zero in each stage
        if resume is None:
            self.position = Position(index, 0)
            torch.manual_seed(_draw(self.config.seed, index))  # or a resumed run would reset to other weights
            reset_modules(self.network, stage.reset)
        run = _StageRun(self, stage)
        if resume is not None:
            run.optimizer.load_state_dict(resume["optimizer"])
            run.schedule.load_state_dict(resume["schedule"])
            run.totals += resume["totals"].to(self.device) * (self.part.rank == 0)  # they are of all ranks
        batches = self.feed.train_batches(stage, self.config.batch_size, self.position.step, run.last_step, self.part)
        _set_training(self.network, run.trained)
        while self.position.step < run.last_step:
            run.step(self._take(batches))
            self.position.step += 1
            self._after_step(run)

    def _take(self, batches: Iterator[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        return [self.to_device(next(batches)) for _ in range(self.config.accumulate)]

    def to_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device, images in the memory order that the network prefers."""
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        if self.config.channels_last and moved["image"].ndim == 4:
            moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
        return moved

    def _after_step(self, run: "_StageRun") -> None:
        epoch, in_epoch = divmod(self.position.step, run.steps_per_epoch)
        ends_epoch, ends_stage = in_epoch == 0, self.position.step == run.last_step
        if ends_epoch:
            record = {"stage": run.stage.name, "epoch": epoch, "lr": run.schedule.get_last_lr()[-1], **run.mean_losses()}
            if epoch % self.config.evaluate_every == 0 or ends_stage:
                metrics = self.evaluate("val", task=run.task)
                if run.stage.keeps:
                    metrics["objective"] = self.task.objective(metrics)
                    self._keep(metrics, epoch)
                _set_training(self.network, run.trained)
                record |= {f"val_{name}": value for name, value in metrics.items()}
            self.history.append(record)
        if self.part.rank == 0 and (self._clock.due() or ends_epoch):
            self._progress(run)
        every = self.config.checkpoint_every
        if ends_stage or (self.position.step % every == 0 if every else ends_epoch):
            self._checkpoint(run)

    def _progress(self, run: "_StageRun") -> None:
        at = self.position.step
        speed = self._clock.rate(at) * self.config.batch_size
        record = {"stage": run.stage.name, "epoch": min(at // run.steps_per_epoch + 1, run.stage.epochs), "epochs": run.stage.epochs}
        record |= {"step": at, "steps": run.last_step, "samples_per_s": round(speed, 1)}
        record["eta_s"] = round((run.last_step - at) * self.config.batch_size / speed) if speed else None
        self.hooks.progress({**record, "latest": self.history[-1] if self.history else {}})

    def _keep(self, metrics: Mapping[str, float], epoch: int) -> None:
        objective = metrics["objective"]
        objective = math.inf if math.isnan(objective) else objective  # nothing is less than nan: it would be kept for ever
        if self.config.keep == "last" or objective < self.kept.objective or not self.kept.weights:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.weights_to_keep().items()}
            self.kept = Kept(weights, objective, epoch)

    @property
    def seconds(self) -> float:
        """How long `run` has taken, validation and all earlier parts of a continued run included."""
        return self._seconds + time.monotonic() - self._since

    @property
    def evaluated(self) -> nn.Module:
        """What is evaluated and kept: the network, or its moving average where there is one."""
        return self.average.module if self.average is not None else self.network

    def weights_to_keep(self) -> dict[str, Tensor]:
        """The state that becomes the bundle."""
        return dict(self.evaluated.state_dict())

    def _checkpoint(self, run: "_StageRun") -> None:
        state, totals = None, run.all_totals()
        if self.part.rank == 0:
            state = {
                "totals": totals,
                "network": self.network.state_dict(),
                "average": self.average.state_dict() if self.average is not None else {},
                "optimizer": run.optimizer.state_dict(),
                "schedule": run.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "position": vars(self.position),
                "kept": vars(self.kept),
                "history": self.history,
                "seconds": self.seconds,
            }
        latest = {k: v for k, v in (self.history[-1] if self.history else {}).items() if isinstance(v, float | int)}
        self.hooks.checkpoint(state, {"step": self.position.step, "num_epochs": len(self.history), **latest})

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision context of the forward pass."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def evaluate(self, split: str, collect: Collect | None = None, *, task: Task | None = None) -> dict[str, float]:
        """Metrics of a split, exact over all ranks; see `measured`."""
        return numbers(self.measured(split, collect, task=task))

    @torch.inference_mode()
    def measured(self, split: str, collect: Collect | None = None, *, task: Task | None = None) -> MetricCollection:
        """The metrics after a whole split; every rank calls it. `collect` is given the entries and outputs of each of this rank's batches."""
        task = task or self.task
        network = self.evaluated
        if self.part.world > 1:  # BatchNorm statistics are each rank's own: all evaluate, and keep, those of rank 0
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        network.eval()
        metrics = task.metrics().to(self.device)
        for entries, batch in self.feed.eval_batches(split, self.config.eval_batch_size, self.part):
            moved = self.to_device(batch)
            with self.autocast():
                outputs = task.forward(network, moved)
            task.measure(metrics, outputs, moved)
            if collect is not None:
                collect(entries, outputs)
        return metrics

    @torch.inference_mode()
    def _pictures(self, number: int, when: str, task: Task) -> None:
        """Show what the network now makes of the first validation photos."""
        if self.part.rank or type(task).pictures is Task.pictures:
            return
        network = self.evaluated
        network.eval()
        _, batch = next(iter(self.feed.eval_batches("val", NUM_PICTURES, self.part)))
        moved = self.to_device(batch)
        with self.autocast():
            outputs = task.forward(network, moved)
        self.hooks.pictures(number, when, task.pictures(moved, outputs))


def numbers(metrics: MetricCollection) -> dict[str, float]:
    """The values of metrics by name."""
    return {name: float(value) for name, value in metrics.compute().items()}


class _StageRun:
    """A stage under way: its optimizer, schedule and length, and its steps: counts first, then sums divided by the counts of
    all ranks and micro-batches."""

    def __init__(self, loop: Loop, stage: Stage) -> None:
        self.loop, self.stage, self.task = loop, stage, loop.task.at(stage)
        self.steps_per_epoch = loop.feed.steps_per_epoch(stage, loop.config.batch_size)
        self.last_step = self.steps_per_epoch * stage.epochs
        self.trained = freeze(loop.network, stage)
        self.optimizer = make_optimizer(loop.network, stage)
        self.schedule = make_schedule(self.optimizer, stage, self.steps_per_epoch)
        self.model = _distributed(loop.network, loop.device) if loop.part.world > 1 else loop.network
        self.seed = (loop.config.seed, loop.position.stage, loop.part.rank)
        self.names = sorted(self.task.loss_weights)
        self.weights, self._weights_by_name = torch.zeros(0), dict[str, float]()
        self.totals = torch.zeros(2, len(self.names), dtype=torch.float64, device=loop.device)

    def step(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """Forward, backward and update."""
        loop = self.loop
        torch.manual_seed(_draw(*self.seed, loop.position.step))
        counts = torch.stack([self._vector(self.task.counts(batch)) for batch in micro_batches]).sum(0)
        if loop.part.world > 1:
            dist.all_reduce(counts)
        scale = self._weights_now() * loop.part.world / counts.clamp(min=1)  # DDP averages over ranks: undo it
        for index, batch in enumerate(micro_batches):
            with self._no_sync(index < len(micro_batches) - 1):
                with loop.autocast():
                    outputs = self.task.forward(self.model, batch)
                    sums = self._vector(self.task.loss(outputs, batch))
                loop.scaler.scale((sums * scale).sum()).backward()  # type: ignore[no-untyped-call]
            self.totals[0] += sums.detach().double()
        self.totals[1] += counts / loop.part.world
        self._update()

    def _weights_now(self) -> Tensor:
        """Weights of the terms at this step, on the device; sent there only when they have changed."""
        by_name = self.task.weights_at(self.loop.position.step / self.steps_per_epoch)
        if by_name != self._weights_by_name:
            self._weights_by_name = by_name
            self.weights = torch.tensor([by_name[name] for name in self.names], device=self.loop.device)
        return self.weights

    def _vector(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([terms[name].to(self.loop.device, torch.float32) for name in self.names])

    def _no_sync(self, holds: bool) -> AbstractContextManager[Any]:
        return self.model.no_sync() if holds and isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _update(self) -> None:
        loop = self.loop
        if loop.config.clip_norm:
            loop.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([p for p in loop.network.parameters() if p.grad is not None], loop.config.clip_norm)
        loop.scaler.step(self.optimizer)
        loop.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if loop.average is not None:
            loop.average.update_parameters(loop.network)

    def mean_losses(self) -> dict[str, float]:
        """Mean of each term since the last call, over all ranks."""
        sums, counts = self.all_totals().tolist()
        self.totals.zero_()
        return {f"train_{name}_loss": value / max(count, 1.0) for name, value, count in zip(self.names, sums, counts, strict=True)}

    def all_totals(self) -> Tensor:
        """Sums and counts (2, terms) of the epoch under way, over all ranks."""
        totals = self.totals.clone()
        if self.loop.part.world > 1:
            dist.all_reduce(totals)
        return totals


class _Clock:
    """When a line of progress is due, and the rate of steps over the last half minute."""

    def __init__(self, every_s: float = 2.0, window_s: float = 30.0) -> None:
        self.every_s, self.window_s, self.last = every_s, window_s, time.monotonic()
        self.seen: deque[tuple[float, int]] = deque()

    def due(self) -> bool:
        """Whether the last line is old enough."""
        if time.monotonic() - self.last < self.every_s:
            return False
        self.last = time.monotonic()
        return True

    def rate(self, step: int) -> float:
        """Steps per second; 0 at the first call."""
        now = time.monotonic()
        self.seen.append((now, step))
        while len(self.seen) > 2 and now - self.seen[1][0] > self.window_s:
            self.seen.popleft()
        seconds = now - self.seen[0][0]
        return (step - self.seen[0][1]) / seconds if seconds > 0 else 0.0


def _draw(*place: int) -> int:
    """A seed of its own for a place in the run."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def _rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _distributed(network: nn.Module, device: torch.device) -> nn.Module:
    ids = [device.index or 0] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=True)


def freeze(network: nn.Module, stage: Stage) -> set[str]:
    """Let only the stage's parameters train; returns the names of modules that stay in training mode.

    A module with parameters of which none trains is kept in eval mode, so that frozen BatchNorm keeps its statistics.
    """
    chosen = 0
    for name, parameter in network.named_parameters():
        wanted, frozen = (any(fnmatchcase(name, pattern) for pattern in patterns) for patterns in (stage.trainable, stage.frozen))
        parameter.requires_grad_(wanted and not frozen)
        chosen += parameter.requires_grad
    if not chosen:
        raise ConfigError(f"stage {stage.name!r}: no parameter matches trainable = {stage.trainable}; its patterns are of parameter names such as {name!r}")
    own = {name: [p.requires_grad for p in module.parameters(recurse=False)] for name, module in network.named_modules()}
    return {name for name, flags in own.items() if not flags or any(flags)}


def _set_training(network: nn.Module, trained: set[str]) -> None:
    for name, module in network.named_modules():
        module.training = name in trained


def reset_modules(network: nn.Module, patterns: tuple[str, ...]) -> None:
    """Initialise the matching modules anew; raises `ConfigError` for a pattern that no module with parameters of its own matches."""
    modules = {name: module for name, module in network.named_modules() if hasattr(module, "reset_parameters")}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise ConfigError(f"stage.reset = {pattern!r} matches no module that can be initialised; their names are such as {', '.join(list(modules)[-3:])}")
    for name, module in modules.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            module.reset_parameters()
