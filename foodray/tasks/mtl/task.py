"""The multi-task family's task: network, loss, metrics, predictions and calibration under the contract of `foodray.tasks.base`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from foodray.config import from_plain, to_plain
from foodray.corpus.samples import SampleSpec
from foodray.errors import ConfigError, CorpusError
from foodray.nn.multitask import MultiTaskNet, MultiTaskShape
from foodray.tasks.base import Distillable, Rows, Stage, Task
from foodray.tasks.calibration import Calibration, coverage, day_scores, group_quantile, top_class_ece
from foodray.tasks.classes import calibrated_classes, class_columns, class_ids, most_frequent
from foodray.tasks.mtl.config import ROWS, SCALE_POWER, SEARCH_SPACE, MtlConfig
from foodray.tasks.mtl.portion import portion_baselines, scale_features
from foodray.tasks.transform import augment, middle

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass(frozen=True, kw_only=True)
class MtlTask(Task):
    """The multi-task family with its labels and target scale."""

    name: ClassVar[str] = "mtl"
    level: ClassVar[Literal["item", "photo"]] = "item"
    calibrates_on: ClassVar[tuple[str, ...]] = ("logits_BC", "portion_B")
    variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {"row": ROWS}
    search_space: ClassVar[Mapping[str, Any]] = SEARCH_SPACE
    config: MtlConfig
    """Settings."""
    labels: tuple[str, ...]
    """Class names by class id."""
    target_mean: float = 0.0
    """Mean of the scaled target over the training samples."""
    target_std: float = 1.0
    """Standard deviation of the scaled target over the training samples."""
    target_spread: float = 1.0
    """Standard deviation of the target itself over the training samples, in reported units."""
    size_mean: float = 0.0
    """Mean log size of the training boxes whose scale is known; an unknown size counts as this one."""
    calibration: Calibration | None = None
    """Temperature and intervals, fitted on the validation side after training."""

    @classmethod
    def fit(cls, config: MtlConfig, samples: Rows, labels: tuple[str, ...]) -> "MtlTask":
        """Labels and target scale from training samples; raises `CorpusError` when a label or the portion is missing."""
        if config.heads != "portion" and len(labels) < 2:
            raise CorpusError(f"a classifier needs at least two classes, the corpus has {len(labels)}: {', '.join(labels)}")
        if config.heads == "classification":
            return cls(config=config, labels=labels)
        if config.scale_input == "marker" and not np.isfinite(samples["extent_w_mm"]).any():
            raise CorpusError(
                "scale_input = 'marker', but no training photo has a known scale (marker_px_per_mm); "
                "set scale_input = 'none', or add markers.yaml and index again"
            )
        truth = samples[config.target][np.isfinite(samples[config.target])]
        if not len(truth):
            raise CorpusError(f"no training item has a value in {config.target}; choose another target, or heads = 'classification'")
        if (truth < 0).any():
            raise CorpusError(f"{int((truth < 0).sum())} training items have a negative {config.target}; correct the study's truth_items")
        spread = float(truth.std()) or 1.0
        if config.target_scale == "raw":
            return cls(config=config, labels=labels, target_spread=spread)
        scaled = np.log1p(truth) if config.target_scale == "log1p" else truth
        size = scale_features(samples["extent_w_mm"], samples["extent_h_mm"], 0.0)
        known = size[size[:, 2] > 0, 0]
        size_mean = float(known.mean()) if len(known) else 0.0
        mean, std = float(scaled.mean()), float(scaled.std()) or 1.0
        return cls(config=config, labels=labels, target_mean=mean, target_std=std, target_spread=spread, size_mean=size_mean)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "MtlTask":
        """The task that a bundle describes."""
        calibration = from_plain(Calibration, state["calibration"]) if state.get("calibration") else None
        return cls(config=from_plain(MtlConfig, config), **{**state, "labels": tuple(state["labels"]), "calibration": calibration})

    def state(self) -> dict[str, Any]:
        """Labels and target scale."""
        learned = ("target_mean", "target_std", "target_spread", "size_mean")
        calibration = to_plain(self.calibration) if self.calibration else None
        return {"labels": list(self.labels), **{name: getattr(self, name) for name in learned}, "calibration": calibration}

    @property
    def columns(self) -> tuple[str, ...]:
        """Class name, the target, and the box's size where a marker gave the scale."""
        return ("class_name", self.config.target, "extent_w_mm", "extent_h_mm")

    @property
    def spec(self) -> SampleSpec:
        """Square crops of items."""
        slack = 0.125 if self.config.augmentation.shift else 0.0
        return SampleSpec(level=self.level, side_px=self.config.side_px, margin=self.config.margin, slack=slack, color=self.config.color)

    def network(self, *, weights: str | None = None) -> nn.Module:
        """The two towers and their heads."""
        shared = {name: getattr(self.config, name) for name in ("backbone", "heads", "sharing", "shared_layers", "sharing_reduction", "cdfa", "normalization")}
        return MultiTaskNet(
            MultiTaskShape(
                num_classes=len(self.labels),
                weights=weights or self.config.weights,
                detach_classifier=self.config.detach_classifier,
                class_head_init=self.config.class_head_init,
                scale_slope=SCALE_POWER / self.target_std if self.config.scale_input == "marker" else None,
                **shared,
            )
        )

    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """image uint8 (N, 3, S, S), scale (N, 3), class_id (N,) with -1 for unknown, portion (N,) in reported units with nan."""
        config = self.config
        image = augment(rows["pixels"], rows["seed"], config.side_px, config.augmentation) if train else middle(rows["pixels"], config.side_px)
        batch = {"image": image, "scale": torch.from_numpy(scale_features(rows["extent_w_mm"], rows["extent_h_mm"], self.size_mean))}
        if "class_name" in rows:
            batch["class_id"] = class_ids(rows["class_name"], self.labels)
        if config.target in rows:
            batch["portion"] = torch.from_numpy(rows[config.target].astype(np.float32))
        return batch

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network on images and scale features."""
        return cast(dict[str, Tensor], network(batch["image"], batch["scale"]))

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Items with a known class, items with a known portion, one for the sharing distance."""
        known = {"class": (batch["class_id"] >= 0).sum(), "portion": batch["portion"].isfinite().sum(), "sharing": torch.ones((), dtype=torch.int64)}
        return {name: known[name] for name in self.loss_weights}

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy, L1 in scaled target units, and the sharing distance (equations 1 to 3)."""
        terms: dict[str, Tensor] = {}
        if "logits_BC" in outputs:
            terms["class"] = cross_entropy(outputs["logits_BC"].float(), batch["class_id"], ignore_index=-1, reduction="sum")
        if "portion_B" in outputs:
            known_B = batch["portion"].isfinite()
            target_B = self.scale_target(torch.where(known_B, batch["portion"], 0.0))
            terms["portion"] = ((self._bounded(outputs["portion_B"].float()) - target_B).abs() * known_B).sum()
        if self.config.sharing == "soft":
            terms["sharing"] = outputs["sharing"] if "sharing" in outputs else torch.zeros((), device=batch["image"].device)
        return terms

    @property
    def loss_weights(self) -> dict[str, float]:
        """Factors of the terms that this row of the table has."""
        config = self.config
        weights = {} if config.heads == "portion" else {"class": 1.0}
        weights |= {} if config.heads == "classification" else {"portion": config.portion_weight}
        return weights | ({"sharing": config.sharing_weight} if config.sharing == "soft" else {})

    def scale_target(self, portion_B: Tensor) -> Tensor:
        """Reported units to network units; `unscale_target` is its exact inverse."""
        value_B = torch.log1p(portion_B) if self.config.target_scale == "log1p" else portion_B
        return (value_B - self.target_mean) / self.target_std

    def unscale_target(self, value_B: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Network units to reported units, computed in `dtype`."""
        return self._reported(self._bounded(value_B.to(dtype)))

    def _reported(self, value_B: Tensor) -> Tensor:
        value_B = value_B * self.target_std + self.target_mean
        portion_B = torch.expm1(value_B) if self.config.target_scale == "log1p" else value_B
        return portion_B.clamp_min(0) if self.config.nonnegative else portion_B

    def _bounded(self, value_B: Tensor) -> Tensor:
        """With `nonnegative`, softplus about the network's value for a portion of zero."""
        if not self.config.nonnegative:
            return value_B
        zero = self.target_mean / self.target_std
        return softplus(value_B + zero) - zero

    def metrics(self) -> "MetricCollection":
        """Accuracy, MAE, EP at item level, bias, and where both heads are there MAE-correct and MCCR."""
        from foodray.tasks.mtl.metrics import make_metrics

        return make_metrics(self.config, len(self.labels))

    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Update each metric with the samples whose truth is known."""
        known_B = torch.ones_like(batch["class_id"], dtype=torch.bool)
        if "logits_BC" in outputs:
            known_B &= batch["class_id"] >= 0
            for name in ("accuracy", "accuracy_macro", "accuracy_top5") if known_B.any() else ():
                metrics[name].update(outputs["logits_BC"][known_B].float(), batch["class_id"][known_B])
        if "portion_B" not in outputs:
            return
        has_portion_B = batch["portion"].isfinite()
        portion_B = self.unscale_target(outputs["portion_B"])
        truth_B = batch["portion"].double()
        if has_portion_B.any():
            for name in (f"mae_{self.config.unit}", "ep_item", f"bias_{self.config.unit}"):
                metrics[name].update(portion_B[has_portion_B], truth_B[has_portion_B])
        if self.config.heads == "both":
            both_B = known_B & has_portion_B
            right_B = outputs["logits_BC"].argmax(1) == batch["class_id"]
            metrics["joint"].update(portion_B[both_B], truth_B[both_B], right_B[both_B])

    def objective(self, metrics: Mapping[str, float]) -> float:
        """Error rate plus MAE in units of the training target's spread: both heads count, whatever the unit."""
        error = 1 - metrics["accuracy"] if self.config.heads != "portion" else 0.0
        if self.config.heads == "classification":
            return error
        return error + metrics[f"mae_{self.config.unit}"] / self.target_spread

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """class_id, class_name, class_prob, topk_class_name, topk_prob, and the portion under the target's name with its interval
        (energy_lo_kcal, energy_hi_kcal); probabilities and intervals as calibrated."""
        columns: dict[str, np.ndarray] = {}
        if "logits_BC" in outputs:
            columns |= class_columns(outputs["logits_BC"], self.labels, self.temperature)
        if "portion_B" in outputs:
            columns[self.config.target] = self.unscale_target(outputs["portion_B"]).cpu().numpy()
            columns |= self._interval(outputs["portion_B"])
        return columns

    def answers(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probability of each class, and the portion under the target's name, as far as the heads exist."""
        found = {"prob_BC": (outputs["logits_BC"].float() / self.temperature).softmax(1)} if "logits_BC" in outputs else {}
        return found | ({self.config.target: self.unscale_target(outputs["portion_B"], torch.float32)} if "portion_B" in outputs else {})

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.calibration.temperature if self.calibration else 1.0

    def interval_columns(self) -> tuple[str, str]:
        """Names of the interval's ends, for instance energy_lo_kcal and energy_hi_kcal."""
        stem, unit = self.config.target.rsplit("_", 1)
        return f"{stem}_lo_{unit}", f"{stem}_hi_{unit}"

    def _interval(self, portion_B: Tensor) -> dict[str, np.ndarray]:
        half = self.calibration.portion_halfwidth if self.calibration else None
        if half is None:
            return {}
        value_B = self._bounded(portion_B.double())
        ends = (self._reported(value_B - half), self._reported(value_B + half))
        return {name: end_B.clamp_min(0).cpu().numpy() for name, end_B in zip(self.interval_columns(), ends, strict=True)}

    def calibrate(self, outputs: Mapping[str, Tensor], rows: Rows) -> "MtlTask":
        """Temperature on the classes; conformal half widths of item portions (network units) and of day totals (log1p)."""
        level, people = self.config.interval_level, rows["participant_id"]
        fitted: dict[str, Any] = {"level": level, "num_items": len(people), "num_participants": len(set(people))}
        if "logits_BC" in outputs:
            fitted |= calibrated_classes(outputs["logits_BC"], class_ids(rows["class_name"], self.labels))
        if "portion_B" in outputs:
            truth_B = torch.from_numpy(rows[self.config.target].astype(np.float64))
            known = truth_B.isfinite().numpy()
            score_B = (self._bounded(outputs["portion_B"].double()) - self.scale_target(truth_B)).abs().numpy()
            fitted["portion_halfwidth"] = group_quantile(score_B[known], people[known], level)
            fitted |= self._day_calibration(self.unscale_target(outputs["portion_B"]).numpy(), rows)
        return replace(self, calibration=Calibration(**fitted))

    def _day_calibration(self, predicted: np.ndarray, rows: Rows) -> dict[str, Any]:
        if "day_key" not in rows:
            return {}
        days, score_D = day_scores(predicted, rows[self.config.target], rows["intake_weight"], rows["day_key"])
        person_of = dict(zip(rows["day_key"].astype(str), rows["participant_id"], strict=True))
        people = np.array([person_of[day] for day in days], dtype=object)
        return {"day_halfwidth": group_quantile(score_D, people, self.config.interval_level), "num_days": len(days)}

    def reliability(self, test: Rows, predicted: Rows) -> dict[str, Any]:
        """Calibration error and measured coverage on the test rows, over items and over participants, and of day totals."""
        found: dict[str, Any] = {}
        if self.calibration is None:
            return found
        if "class_prob" in predicted:
            known = class_ids(test["class_name"], self.labels).numpy() >= 0
            right = (predicted["class_name"] == test["class_name"])[known]
            found["ece"] = top_class_ece(predicted["class_prob"][known], right)
        low, high = self.interval_columns()
        if low in predicted:
            truth = test[self.config.target]
            known = np.isfinite(truth)
            inside = ((truth >= predicted[low]) & (truth <= predicted[high]))[known]
            found |= coverage(inside, test["participant_id"][known])
            found[f"mean_width_{self.config.unit}"] = float((predicted[high] - predicted[low])[known].mean())
        if self.calibration.day_halfwidth is not None and "day_key" in test:
            days, score_D = day_scores(predicted[self.config.target], test[self.config.target], test["intake_weight"], test["day_key"])
            found |= {"day_coverage": float((score_D <= self.calibration.day_halfwidth).mean()) if len(days) else None, "num_days": len(days)}
        return found

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """Mean, median and class median of the training portions, and the most frequent class, on the test rows."""
        found: dict[str, dict[str, float]] = {}
        if self.config.heads != "portion":
            found["most frequent class"] = {"accuracy": float(most_frequent(train["class_name"], test["class_name"])[1].mean())}
        if self.config.heads != "classification":
            found |= portion_baselines(train, test, predicted, self.config.target)
        return found

    def stages(self) -> tuple[Stage, ...]:
        """One stage: everything trains together."""
        return (Stage(name="joint", epochs=self.config.epochs, optimizer=self.config.optimizer, backbone=("classifier.*", "portion.*")),)

    def distillable(self) -> Distillable:
        """The classifier's tower; raises `ConfigError` without classes."""
        if self.config.heads == "portion":
            raise ConfigError("heads = 'portion' names no classes that a teacher could share; set heads = 'both' or 'classification'")
        return Distillable(backbone="classifier", head="class_head", logits="logits_BC", truth="class_id", term="class")
