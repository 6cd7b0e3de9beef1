"""Joint distillation as a wrapper around a task that names classes or tags: the student's task does what it always does, beside a teacher.

The network holds both; the loss is that of both and what they tell each other; metrics, predictions and the bundle are the student's alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from foodray.config import from_plain
from foodray.corpus.samples import SampleSpec
from foodray.errors import ConfigError
from foodray.nn.backbone import load_start, num_parameters
from foodray.nn.distillation import STRIDES, Half, JointNet, feature_distance, map_distance, softened_distance
from foodray.tasks.base import Distillable, Rows, Stage, Task
from foodray.tasks.distillation.config import DistillationConfig
from foodray.tasks.longtail import LongtailConfig, LongtailTask
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.tasks.tagging import TaggingConfig, TaggingTask

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

BOTH = ("student", "teacher")


@dataclass(frozen=True, kw_only=True)
class DistillationTask(Task):
    """A student of some family and its teacher."""

    family: ClassVar[type[Task]]
    """The student's family."""
    settings: ClassVar[type[Any]]
    """Its config's class."""
    config: DistillationConfig[Any]
    """Settings."""
    student: Task
    """The student's task, fitted to the data."""
    stage: str = field(default="", compare=False)
    """Name of the stage that it is in; empty outside of training."""

    @classmethod
    def fit(cls, config: DistillationConfig[Any], samples: Rows, labels: tuple[str, ...]) -> "DistillationTask":
        """The student fitted; raises what its family raises, and `ConfigError` for one that cannot be a student."""
        return cls(config=config, student=_checked(cls.family.fit(config.student, samples, labels)))

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "DistillationTask":
        """The task as it was."""
        plain: DistillationConfig[Any] = from_plain(DistillationConfig[cls.settings], config)  # type: ignore[name-defined]
        return cls(config=plain, student=cls.family.from_state(config["student"], state))

    def state(self) -> dict[str, Any]:
        """What the student learned of the data; the teacher learned the same."""
        return self.student.state()

    @property
    def columns(self) -> tuple[str, ...]:
        """The student's."""
        return self.student.columns

    @property
    def spec(self) -> SampleSpec:
        """The student's: the teacher sees the same squares."""
        return self.student.spec

    @cached_property
    def teacher(self) -> Task:
        """The teacher's task: the student's, with the other backbone."""
        teacher = self.config.teacher
        weights = "random" if teacher.start else teacher.weights
        return replace(self.student, config=replace(self.student.config, backbone=teacher.backbone, weights=weights))  # type: ignore[type-var]

    @cached_property
    def meets(self) -> Distillable:
        """Where the two meet."""
        return self.student.distillable()

    def network(self, *, weights: str | None = None) -> nn.Module:
        """Both networks; raises `ConfigError` when the student is the larger one, or the two cannot be matched."""
        config, meets = self.config, self.meets
        student, teacher = self.student.network(weights=weights), self.teacher.network(weights=weights)
        sizes = [num_parameters(network.get_submodule(meets.backbone)) for network in (student, teacher)]
        if sizes[0] > sizes[1]:
            raise ConfigError(
                f"the student's backbone has {sizes[0]:,} parameters, more than its teacher's {sizes[1]:,} ({config.teacher.backbone}); "
                "choose a larger teacher.backbone or a smaller student.backbone"
            )
        if config.teacher.start and weights is None:
            load_start(teacher, str(Path(config.teacher.start) / "bundle" / "weights.safetensors"), own=())
        maps = None if config.maps == "none" else config.maps
        half = Half(backbone=meets.backbone, head=meets.head)
        return JointNet(student, teacher, half, num_classes=len(self.state()["labels"]), stages=config.stages, width=config.width, maps=maps)

    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """The student's batch."""
        return self.student.prepare(rows, train=train)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's outputs under their own names, and what is compared."""
        own = self._own
        return network(batch, {name: own[name].forward for name in BOTH}, self._truth(batch))  # type: ignore[no-any-return]

    @cached_property
    def _own(self) -> dict[str, Task]:
        """Both tasks as they are in the stage."""
        stage = Stage(name=self.stage, epochs=1, optimizer=self.config.optimizer)
        return {"student": self.student.at(stage), "teacher": self.teacher.at(stage)} if self.stage else {"student": self.student, "teacher": self.teacher}

    def _truth(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Which classes or tags each sample shows, (B, C)."""
        truth = batch.get(self.meets.truth)
        if truth is None or truth.ndim == 2:
            return truth
        classes_BC = one_hot(truth.clamp_min(0), len(self.state()["labels"]))
        return classes_BC * (truth >= 0)[:, None]

    def _known(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Samples whose class or tags are known, bool (B,)."""
        truth = batch[self.meets.truth]
        return truth >= 0 if truth.ndim == 1 else torch.ones(len(truth), dtype=torch.bool, device=truth.device)

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both families' counts, and the samples for what is compared."""
        own = {name: task.counts(batch) for name, task in self._own.items()}
        found = {f"{name}_{term}": count for name, counts in own.items() for term, count in counts.items()}
        term = own["student"][self.meets.term]
        return {name: found.get(name, term if name.endswith("_stages") else self._known(batch).sum()) for name in self.loss_weights}

    @property
    def loss_weights(self) -> dict[str, float]:
        """Factors of the terms once the comparisons are in."""
        config = self.config
        compared = {"logits": config.logits_weight, "features": config.features_weight * config.stages}
        compared["maps"] = config.maps_weight * (config.maps != "none")
        weights = {f"{name}_{term}": weight for name, task in self._own.items() for term, weight in task.loss_weights.items()}
        for name, factor in (("student", 1.0), ("teacher", config.rho)):
            weights |= {f"{name}_stages": config.stage_loss_weight} if config.stages else {}
            weights |= {f"{name}_{term}": factor * weight for term, weight in compared.items() if factor * weight}
        return weights

    def weights_at(self, epoch: float) -> dict[str, float]:
        """The comparisons come in along exp(-5 (1 - t)^2) (Laine and Aila 2017), t the share of the ramp that is over."""
        share = min(1.0, epoch / self.config.ramp_epochs) if self.config.ramp_epochs else 1.0
        ramp = math.exp(-5 * (1 - share) ** 2)
        return {name: weight * (ramp if name.endswith(("_logits", "_features", "_maps")) else 1.0) for name, weight in self.loss_weights.items()}

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each network's own loss, that of its strides' heads, and what it is told by the other."""
        said = {"student": {name: value for name, value in outputs.items() if "/" not in name}}
        said["teacher"] = {name.removeprefix("teacher/"): value for name, value in outputs.items() if name.startswith("teacher/")}
        known_B, wanted = self._known(batch), self.loss_weights
        terms: dict[str, Tensor] = {}
        for name, other in (BOTH, BOTH[::-1]):
            task = self._own[name]
            terms |= {f"{name}_{term}": value for term, value in task.loss(said[name], batch).items()}
            compared = {"logits": self._logits_gap, "features": self._features_gap, "maps": self._maps_gap}
            terms |= {f"{name}_{term}": (gap(said, outputs, name, other) * known_B).sum() for term, gap in compared.items() if f"{name}_{term}" in wanted}
            if f"{name}_stages" in wanted:
                heads = [task.loss({**said[name], self.meets.logits: outputs[f"{name}/logits_{stride}"]}, batch)[self.meets.term] for stride in STRIDES]
                terms[f"{name}_stages"] = torch.stack(heads).sum()
        return terms

    def _logits_gap(self, said: Mapping[str, Any], outputs: Mapping[str, Tensor], name: str, other: str) -> Tensor:
        """Mean over the final and the strides' heads."""
        key = self.meets.logits
        pairs = [(said[name][key], said[other][key])]
        pairs += [(outputs[f"{name}/logits_{stride}"], outputs[f"{other}/logits_{stride}"]) for stride in STRIDES if self.config.stages]
        exclusive = self.meets.truth == "class_id"
        return torch.stack([softened_distance(*pair, temperature=self.config.temperature, exclusive=exclusive) for pair in pairs]).mean(0)

    def _features_gap(self, said: Mapping[str, Any], outputs: Mapping[str, Tensor], name: str, other: str) -> Tensor:
        """Mean over strides."""
        return torch.stack([feature_distance(outputs[f"{name}/features_{stride}"], outputs[f"{other}/features_{stride}"]) for stride in STRIDES]).mean(0)

    def _maps_gap(self, said: Mapping[str, Any], outputs: Mapping[str, Tensor], name: str, other: str) -> Tensor:
        return map_distance(outputs[f"{name}/map_BMM"], outputs[f"{other}/map_BMM"])

    def metrics(self) -> "MetricCollection":
        """The student's, and how often the teacher is right."""
        from foodray.tasks.metrics import Share

        metrics = self.student.metrics()
        metrics.add_metrics({"teacher_accuracy": Share()})
        return metrics

    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add a batch: classes, or decisions about tags at a half, that the teacher has right."""
        self.student.measure(metrics, {name: value for name, value in outputs.items() if "/" not in name}, batch)
        logits, truth = outputs[f"teacher/{self.meets.logits}"], batch[self.meets.truth]
        right = logits.argmax(1) == truth if truth.ndim == 1 else ((logits > 0) == (truth > 0)).flatten()
        metrics["teacher_accuracy"].update(right[truth >= 0] if truth.ndim == 1 else right)

    def objective(self, metrics: Mapping[str, float]) -> float:
        """The student's."""
        return self.student.objective(metrics)

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The student's."""
        return self.student.predictions(outputs)

    def answers(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's."""
        return self.student.answers(outputs)

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """The student's."""
        return self.student.baselines(train, test, predicted)

    @property
    def calibrates_on(self) -> tuple[str, ...]:  # type: ignore[override]
        """The student's."""
        return self.student.calibrates_on

    @property
    def compares(self) -> frozenset[str]:  # type: ignore[override]
        """Those of both."""
        return frozenset(f"{name}_{term}" for name in BOTH for term in self.student.compares)

    def calibrate(self, outputs: Mapping[str, Tensor], rows: Rows) -> "DistillationTask":
        """With the student calibrated."""
        return replace(self, student=self.student.calibrate(outputs, rows))

    def reliability(self, test: Rows, predicted: Rows) -> dict[str, Any]:
        """The student's."""
        return self.student.reliability(test, predicted)

    def by_class(self, metrics: "MetricCollection") -> dict[str, dict[str, float]]:
        """The student's."""
        return self.student.by_class(metrics)

    def pictures(self, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The photos, and where each of the two looks in them for what they show, float (N, M, M)."""
        if "student/map_BMM" not in outputs:
            return {}
        maps = {f"map_{name}": outputs[f"{name}/map_BMM"].float().cpu().numpy() for name in BOTH[::-1]}
        return {"photo": batch["image"].permute(0, 2, 3, 1).cpu().numpy(), **maps}

    def stages(self) -> tuple[Stage, ...]:
        """One: both train together."""
        return (Stage(name="joint", epochs=self.config.epochs, optimizer=self.config.optimizer),)

    def at(self, stage: Stage) -> "DistillationTask":
        """With the terms of training."""
        return replace(self, stage=stage.name)

    def delivered(self, weights: Mapping[str, Tensor]) -> tuple[Task, dict[str, Tensor]]:
        """The student alone: an ordinary bundle of its family."""
        own = {name.removeprefix("student."): tensor for name, tensor in weights.items() if name.startswith("student.")}
        return replace(self.student, config=self.config.student), own  # type: ignore[type-var]


def _checked(student: Task) -> Task:
    student.distillable()
    return student


class MtlDistillation(DistillationTask):
    """A student of the multi-task family; its portion head learns from the truth alone."""

    name: ClassVar[str] = "mtl-distillation"
    level: ClassVar[Literal["item", "photo"]] = MtlTask.level
    family: ClassVar[type[Task]] = MtlTask
    settings: ClassVar[type[Any]] = MtlConfig


class TaggingDistillation(DistillationTask):
    """A student that tags photos; a hidden layer lies below the tags, so its maps are of attention."""

    name: ClassVar[str] = "tagging-distillation"
    level: ClassVar[Literal["item", "photo"]] = TaggingTask.level
    tags: ClassVar[bool] = True
    family: ClassVar[type[Task]] = TaggingTask
    settings: ClassVar[type[Any]] = TaggingConfig


class LongtailDistillation(DistillationTask):
    """A student for many similar classes."""

    name: ClassVar[str] = "longtail-distillation"
    level: ClassVar[Literal["item", "photo"]] = LongtailTask.level
    family: ClassVar[type[Task]] = LongtailTask
    settings: ClassVar[type[Any]] = LongtailConfig
