"""The task contract: what a family of models says about itself, so that one loop can train all of them.

A task owns its network, its loss, its metrics and its output columns. The loop owns devices, DDP, precision, compile,
EMA, checkpoints and logging, and never asks which family it trains. A task is plain PyTorch and runs in a notebook.

A batch is a dict of tensors, first dimension B, made by `prepare` from rows of the corpus; targets travel in it beside
the input, so that a family may condition its network on labels. A term of the loss is a *sum*, its count is told apart
from targets alone: the loop adds both over ranks and accumulated micro-batches and divides once, so the gradient is
the same for any number of workers.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from foodray.corpus.samples import SampleSpec
from foodray.errors import ConfigError

if TYPE_CHECKING:  # torchmetrics takes 3 s of CPU to import, which serving and scoring need not spend
    from torchmetrics import MetricCollection

Rows = Mapping[str, np.ndarray]
"""Columns of samples as arrays of one length; `pixels` is uint8 (N, P, P, 3)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How parameters move."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Algorithm; sgd has momentum."""
    lr: float = 1e-3
    """Learning rate of parameters that no group scales."""
    weight_decay: float = 1e-4
    """Decoupled in adamw, L2 in adam and sgd."""
    momentum: float = 0.9
    """Momentum of sgd; unused by the others."""
    beta2: float = 0.999
    """Decay of the mean square in adam and adamw."""
    eps: float = 1e-8
    """Added to its root in adam and adamw."""
    decay_all: bool = True
    """Whether the decay is on biases, norms and single numbers too; else on weights of two dimensions and more."""
    backbone_lr_scale: float = 1.0
    """Factor on the learning rate of the backbones."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """Course of the learning rate over the stage."""
    milestones: tuple[int, ...] = (30, 60, 90)
    """Epochs at which multistep multiplies the rate by `gamma`."""
    gamma: float = 0.1
    """Factor of multistep."""
    warmup_fraction: float = 0.0
    """Share of the stage over which the rate rises linearly from zero."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.weight_decay < 0 or not 0 <= self.warmup_fraction < 1 or not 0 <= self.beta2 < 1 or not self.eps > 0:
            raise ConfigError(
                f"optimizer: lr = {self.lr} must be > 0, weight_decay = {self.weight_decay} >= 0, 0 <= warmup_fraction = {self.warmup_fraction} < 1, "
                f"0 <= beta2 = {self.beta2} < 1, eps = {self.eps} > 0"
            )


Sampler = Literal["instance", "class_balanced", "square_root", "progressive", "class_unique"]
"""How an epoch draws. instance: every sample once. class_balanced, square_root: class j with p_j ~ n_j^q, q = 0 or 1/2, and any of its samples.
progressive: p_j goes from n_j / n to 1 / C over the stage. class_unique: no class twice in a step, each step's classes drawn with p_j ~ n_j."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with its own trainable parameters, sampler, length and rates."""

    name: str
    """Name in logs and checkpoints, unique in a task."""
    epochs: int
    """Length in epochs."""
    optimizer: Optimizer
    """How the trainable parameters move."""
    trainable: tuple[str, ...] = ("*",)
    """Patterns over parameter names; a module whose parameters are all frozen stays in eval mode (BatchNorm too)."""
    frozen: tuple[str, ...] = ()
    """Patterns over parameter names that do not train, whatever `trainable` says."""
    backbone: tuple[str, ...] = ()
    """Patterns over the parameter names that `backbone_lr_scale` applies to."""
    reset: tuple[str, ...] = ()
    """Patterns over module names that are initialised anew when the stage begins."""
    keeps: bool = True
    """Whether its epochs may become the bundle; not those of a stage that trains only a part of what is delivered."""
    sampler: Sampler = "instance"
    """How an epoch draws."""
    classes: tuple[str, ...] = ()
    """Names of the classes that it draws from; empty for all samples."""
    part: Literal["all", "most", "rest"] = "all"
    """Of the training side: all, four fifths of its participants, or the fifth that those leave out, on which no weight of theirs was trained."""


@dataclass(frozen=True, kw_only=True)
class Distillable:
    """Where a family's network and batch have what teacher and student compare."""

    backbone: str
    """Name of the backbone among the network's modules."""
    head: str | None
    """Name of the linear layer from pooled features to logits; None where other layers lie between."""
    logits: str
    """The output that tells classes (B, C), or tags (B, T)."""
    truth: str
    """What the batch calls the truth: class ids (B,), -1 for unknown, or tags (B, T)."""
    term: str
    """The loss's term of these logits."""


class Task(ABC):
    """One family of models. Subclasses are small immutable objects: a config and what was learned from the labels."""

    name: ClassVar[str]
    """Word for the family in bundles and commands."""
    level: ClassVar[Literal["item", "photo"]]
    """What a sample of the family is."""
    masks: ClassVar[bool] = False
    """Whether it learns from masks: only photos with one are samples, and rows carry `mask`, int16 (N, P, P), beside `pixels`: 0 background,
    1 + the index of a label, -1 unlabelled."""
    tags: ClassVar[bool] = False
    """Whether its labels are the corpus's tags: only photos whose tags are known are samples, and rows carry `tags`, a list each, beside `pixels`."""
    calibrates_on: ClassVar[tuple[str, ...]] = ()
    """Outputs on the validation side that `calibrate` wants; small ones, they are held in memory."""
    compares: ClassVar[frozenset[str]] = frozenset()
    """Terms of the loss that compare the samples of a worker's micro-batch with each other, so that how a step is divided counts."""
    variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    """Settings that only make sense together, under one name: name to word to fields of the config, for searches and tables."""
    search_space: ClassVar[Mapping[str, Any]] = {}
    """What a search varies unless told otherwise: field or variant to its values (`foodray.training.search`)."""
    config: Any
    """The family's frozen config dataclass."""

    @classmethod
    @abstractmethod
    def fit(cls, config: Any, samples: Rows, labels: tuple[str, ...]) -> "Task":
        """The task for these training samples and the corpus's labels; raises `CorpusError` when a column is unfit."""

    @classmethod
    @abstractmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "Task":
        """The task that a bundle describes."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `fit` learned, as plain values."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the samples that `prepare` reads beside `pixels`."""

    @property
    @abstractmethod
    def spec(self) -> SampleSpec:
        """How a sample is cut from a photo."""

    @abstractmethod
    def network(self, *, weights: str | None = None) -> nn.Module:
        """The network, its initial weights as configured, or `weights` instead ("random" before a bundle is loaded)."""

    @abstractmethod
    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """A batch from rows: images uint8 (N, 3, S, S) and targets where the rows have them. In training rows also carry
        `seed`, from which the random part of the transform is drawn, one seed a row."""

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network on a batch."""
        return network(batch["image"])  # type: ignore[no-any-return]

    @abstractmethod
    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The denominators of the loss terms, from the batch alone."""

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums of the loss terms, under the names of `counts`."""

    @property
    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term in the total."""

    @abstractmethod
    def metrics(self) -> "MetricCollection":
        """Fresh metrics; their states add up over ranks."""

    def metric_names(self) -> tuple[str, ...]:
        """Names of the numbers that `metrics` gives."""
        with warnings.catch_warnings():  # of metrics that have seen nothing
            warnings.simplefilter("ignore")
            return tuple(self.metrics().compute())

    @abstractmethod
    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Update the metrics with one batch."""

    @abstractmethod
    def objective(self, metrics: Mapping[str, float]) -> float:
        """One number for choosing an epoch on validation data; lower is better."""

    @abstractmethod
    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Named columns of a batch's predictions, in reported units, the same in tables and in replies."""

    def answers(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `predictions` reports, as float32 tensors in the order of the labels, for a file that leaves foodray; empty for a family of maps.

        `prob_BC` of each class or `prob_BT` of each tag, calibrated, and the portion in reported units under the target's name.
        """
        return {}

    @abstractmethod
    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """What trivial predictors score on the test rows: name to metrics; `predicted` are this model's own columns."""

    def calibrate(self, outputs: Mapping[str, Tensor], rows: Rows) -> "Task":
        """The task with its probabilities and intervals fitted on samples that no weight was trained on; itself where it has none.

        `outputs` are those of `calibrates_on`, `rows` all columns of the same samples, participants among them.
        """
        return self

    def reliability(self, test: Rows, predicted: Rows) -> dict[str, Any]:
        """How well what was calibrated holds on the test rows; empty where nothing was."""
        return {}

    def by_class(self, metrics: "MetricCollection") -> dict[str, dict[str, float]]:
        """What the metrics know of each class, for the table of a finished run; empty where that is nothing."""
        return {}

    def pictures(self, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Arrays worth a look, one entry a photo, for the figures of the run: taken before the first stage and after each; empty for none."""
        return {}

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """How the network is trained."""

    def at(self, stage: Stage) -> "Task":
        """The task as it is in a stage, where its forward pass or its loss differs there."""
        return self

    def weights_at(self, epoch: float) -> dict[str, float]:
        """`loss_weights` after so many epochs of the stage, where they change in its course."""
        return self.loss_weights

    def delivered(self, weights: Mapping[str, Tensor]) -> tuple["Task", dict[str, Tensor]]:
        """What becomes the bundle: the task and its network's weights, without what served training alone."""
        return self, dict(weights)

    def distillable(self) -> Distillable:
        """Where teacher and student meet; raises `ConfigError` for a model that cannot be a student."""
        raise ConfigError(f"a {self.name} model cannot be a student: it does not name classes or tags of a square; distil mtl, tagging or longtail")
