"""Bundles made ready to run: a `Network` is a task with its runtime."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foodray.analyzer.config import AnalyzerConfig
from foodray.corpus.samples import SampleSpec
from foodray.nn.runtime import Runtime, make_runtime
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store
from foodray.tasks import task_of
from foodray.tasks.base import Rows, Task
from foodray.tasks.facts import example_batch
from foodray.tasks.segmentation import SegmentationTask


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkFacts:
    """What the steps around a network must know of it; small enough to be sent."""

    location: str
    """Where its bundle was read."""
    card: Mapping[str, Any]
    """The bundle's card."""
    finds: bool
    """Whether it finds foods in a photo (segmentation); the others read what is in a box, or the whole photo."""
    tags: tuple[str, ...]
    """The tags that it may give a photo, which it then reads whole; empty for a network that reads boxes."""
    spec: SampleSpec
    """How its squares are cut."""
    columns: frozenset[str]
    """Names of its prediction columns."""
    interval_level: float | None
    """Nominal coverage of the intervals it gives; None where it gives none."""
    needs_scale: bool
    """Whether it was trained with the size of the box in mm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One bundle, ready to run."""

    location: str
    task: Task
    card: Mapping[str, Any]
    spec: SampleSpec
    runtime: Runtime
    columns: frozenset[str]
    """Names of the prediction columns."""

    @cached_property
    def facts(self) -> NetworkFacts:
        """What others must know of it."""
        fitted = getattr(self.task, "calibration", None)
        return NetworkFacts(
            location=self.location,
            card=self.card,
            finds=isinstance(self.task, SegmentationTask),
            tags=tuple(self.card["state"]["labels"]) if self.task.tags else (),
            spec=self.spec,
            columns=self.columns,
            interval_level=fitted.level if fitted and any("_lo_" in name for name in self.columns) else None,
            needs_scale=getattr(self.task.config, "scale_input", "none") == "marker",
        )

    def outputs(self, rows: Rows, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """What the network says of squares (N, P, P, 3), a few at a time."""
        for at in range(0, len(rows["pixels"]), batch_size):
            batch = self.task.prepare({name: values[at : at + batch_size] for name, values in rows.items()}, train=False)
            yield _on_cpu(self.runtime(batch))

    def __call__(self, rows: Rows, batch_size: int) -> dict[str, np.ndarray]:
        """Prediction columns of squares (N, P, P, 3)."""
        parts = [self.task.predictions(outputs) for outputs in self.outputs(rows, batch_size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load_network(location: str) -> tuple[Task, Mapping[str, Any], nn.Module]:
    """A bundle's task, card and network with its weights, verified; raises `BundleError`."""
    bundle = read_bundle(location)
    task = task_of(bundle.card)
    network = task.network(weights="random")
    network.load_state_dict(dict(bundle.weights))
    return task, bundle.card, network


def spec_of(task: Task) -> SampleSpec:
    """How squares are cut for a network that no longer trains."""
    # A tagger's square is cut as training cut it: without the slack it would differ in the last bit at sizes such as 299 px.
    return task.spec if task.tags else replace(task.spec, slack=0.0)


def make_network(location: str, config: AnalyzerConfig, *, quantized: str | None = None) -> Network:
    """A bundle verified and made ready as the config says; `quantized` is the folder of its int8 model."""
    task, card, network = load_network(location)
    model = (Store(quantized).read("model.xml"), Store(quantized).read("model.bin")) if quantized else None
    example = example_batch(task, 4)
    runtime = make_runtime(config.runtime, network, task.forward, example, device=torch.device(config.device), threads=config.threads, quantized=model)
    columns = frozenset(task.predictions(_on_cpu(runtime(example))))
    return Network(location=location, task=task, card=card, spec=spec_of(task), runtime=runtime, columns=columns)


def _on_cpu(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in outputs.items()}
