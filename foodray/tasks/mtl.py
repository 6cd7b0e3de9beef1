"""The multi-task family (He et al. 2020): food class and portion of an item from one crop, all eight rows of its Table 1.

Needs columns `class_id`-able names and one portion column; gives class probabilities and a portion in reported units.
Where the paper is silent the ruling is a field of `MtlConfig`, with its reason in the field's sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import WeightedMeanAbsolutePercentageError

from foodray.config import choose, from_plain
from foodray.corpus.samples import SampleSpec
from foodray.errors import ConfigError, CorpusError
from foodray.nn.backbone import LEVELS, check_backbone
from foodray.nn.multitask import Heads, MultiTaskNet, MultiTaskShape, Normalization, Sharing
from foodray.tasks.base import Optimizer, Rows, Stage, Task
from foodray.tasks.metrics import CorrectPortionError, MeanError
from foodray.tasks.transform import Augmentation, augment, middle

SCALE_POWER = 2.0  # where the power of the size starts: between a thing of fixed height (2) and one of fixed shape (3)
UNITS = {"energy_kcal": "kcal", "mass_g": "g", "volume_ml": "ml"}

ROWS: dict[str, dict[str, Any]] = {
    "classification": {"heads": "classification", "sharing": "none", "cdfa": False, "normalization": "none", "scale_input": "none"},
    "portion": {"heads": "portion", "sharing": "none", "cdfa": False, "normalization": "none"},
    "hps": {"sharing": "hard", "cdfa": False, "normalization": "none"},
    "sps": {"sharing": "soft", "cdfa": False, "normalization": "none"},
    "sps_cdfa": {"sharing": "soft", "cdfa": True, "normalization": "none"},
    "sps_cdfa_bn": {"sharing": "soft", "cdfa": True, "normalization": "bn"},
    "sps_cdfa_ln": {"sharing": "soft", "cdfa": True, "normalization": "ln"},
    "sps_cdfa_ln_bn": {"sharing": "soft", "cdfa": True, "normalization": "ln_bn"},
}
"""The eight rows of Table 1, each as the settings that make it."""


@dataclass(frozen=True, kw_only=True)
class MtlConfig:
    """The multi-task family's settings; the defaults are the `default` preset of the best row."""

    heads: Heads = "both"
    """What is predicted; one head alone is a single-task row of Table 1."""
    sharing: Sharing = "soft"
    """none: two towers apart; hard: one tower for both heads (HPS); soft: two towers drawn together (SPS)."""
    shared_layers: str = "layer2"
    """How deep the lower layers of the soft sharing reach (stem, layer1, layer2, layer3, all). The paper does not say."""
    sharing_weight: float = 1e-2
    """Factor on the sharing distance. The paper adds it as it comes (1)."""
    sharing_reduction: Literal["sum", "mean"] = "sum"
    """Sum over parameters as in equation 2, or their mean."""
    cdfa: bool = True
    """Cross-domain feature adaptation: the portion head also sees the classifier's features."""
    normalization: Normalization = "ln_bn"
    """How the joined features are normalised. ln_bn: LayerNorm on each domain, then BatchNorm over the whole."""
    detach_classifier: bool = False
    """Stop the portion's gradient at the classifier's features. The paper's accuracies move with CDFA, so it does not."""
    target: Literal["energy_kcal", "mass_g", "volume_ml"] = "energy_kcal"
    """The portion that is estimated."""
    target_scale: Literal["log1p", "standardize", "raw"] = "standardize"
    """How the target is scaled for the loss; inverted exactly before anything is reported. The paper regresses raw kcal."""
    nonnegative: bool = False
    """Softplus on the portion, so that it cannot be negative. The paper's output is linear."""
    portion_weight: float = 1.0
    """Factor on the portion's L1 loss."""
    scale_input: Literal["none", "marker"] = "none"
    """marker: the portion is a learned power of the box's size in mm times what the features say, where a reference object
    gave the photo's scale; needs target_scale = 'log1p', in which that product is a sum."""
    backbone: str = "resnet18"
    """timm name of both towers."""
    weights: str = "pretrained"
    """Initial weights of both towers: pretrained (timm's, ImageNet), random, a .safetensors path, or an s3:// location."""
    side_px: int = 224
    """Side of the network's input."""
    margin: float = 0.1
    """Share of the box's longer side that is kept around it."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes in training."""
    epochs: int = 100
    """Length of training."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-3, backbone_lr_scale=0.3))
    """How parameters move: 3e-4 in the backbones and 1e-3 in the heads."""
    mccr_constant: float = 1.0
    """C of the MCCR; 4.19 reproduces the paper's printed column."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        choose("shared_layers", self.shared_layers, LEVELS)
        if self.normalization != "none" and not self.cdfa:
            raise ConfigError(f"normalization = {self.normalization!r} needs cdfa: it normalises the joined features; set cdfa, or normalization = 'none'")
        if self.cdfa and (self.heads != "both" or self.sharing == "hard"):
            raise ConfigError(f"cdfa joins the features of two towers, but heads = {self.heads!r} and sharing = {self.sharing!r} give one; set cdfa = False")
        if self.sharing != "none" and self.heads != "both":
            raise ConfigError(f"sharing = {self.sharing!r} needs both heads, but heads = {self.heads!r}; set sharing = 'none'")
        if self.heads == "classification" and self.scale_input != "none":
            raise ConfigError("scale_input feeds the portion head, which heads = 'classification' has not; set scale_input = 'none'")
        if self.scale_input == "marker" and self.target_scale != "log1p":
            raise ConfigError(f"scale_input = 'marker' multiplies the portion, but target_scale = {self.target_scale!r} adds; set target_scale = 'log1p'")
        if self.epochs < 1 or self.sharing_weight < 0 or not self.portion_weight > 0:
            raise ConfigError(f"epochs = {self.epochs} must be >= 1, sharing_weight = {self.sharing_weight} >= 0, portion_weight = {self.portion_weight} > 0")

    @property
    def unit(self) -> str:
        """The unit of the target."""
        return UNITS[self.target]


def preset(name: str, row: str = "sps_cdfa_ln_bn") -> MtlConfig:
    """The settings of a preset for a row of Table 1.

    paper: as published (Adam at 0.1, raw kcal, sharing added as it comes, no augmentation but the balanced one).
    sgd: the paper with SGD at 0.1, its probable intent (erratum 6). default: AdamW, cosine, standardised target.
    """
    choose("preset", name, ("default", "paper", "sgd"))
    choose("row", row, ROWS)
    if name == "default":
        return MtlConfig(**ROWS[row])
    optimizer = Optimizer(name="adam" if name == "paper" else "sgd", lr=0.1, weight_decay=1e-4, schedule="multistep")
    plain = Augmentation(flip=False, turn=False, shift=False, colour=0.0)
    return MtlConfig(**ROWS[row], sharing_weight=1.0, target_scale="raw", augmentation=plain, optimizer=optimizer)


@dataclass(frozen=True, kw_only=True)
class MtlTask(Task):
    """The multi-task family with its labels and target scale."""

    name: ClassVar[str] = "mtl"
    level: ClassVar[Literal["item", "photo"]] = "item"
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
        return cls(config=from_plain(MtlConfig, config), **{**state, "labels": tuple(state["labels"])})

    def state(self) -> dict[str, Any]:
        """Labels and target scale."""
        learned = ("target_mean", "target_std", "target_spread", "size_mean")
        return {"labels": list(self.labels), **{name: getattr(self, name) for name in learned}}

    @property
    def columns(self) -> tuple[str, ...]:
        """Class name, the target, and the box's size where a marker gave the scale."""
        return ("class_name", self.config.target, "extent_w_mm", "extent_h_mm")

    @property
    def spec(self) -> SampleSpec:
        """Square crops of items."""
        slack = 0.125 if self.config.augmentation.shift else 0.0
        return SampleSpec(level=self.level, side_px=self.config.side_px, margin=self.config.margin, slack=slack)

    def network(self, *, weights: str | None = None) -> nn.Module:
        """The two towers and their heads."""
        shared = {name: getattr(self.config, name) for name in ("backbone", "heads", "sharing", "shared_layers", "sharing_reduction", "cdfa", "normalization")}
        return MultiTaskNet(
            MultiTaskShape(
                num_classes=len(self.labels),
                weights=weights or self.config.weights,
                detach_classifier=self.config.detach_classifier,
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
            ids = {name: index for index, name in enumerate(self.labels)}
            batch["class_id"] = torch.tensor([ids.get(name, -1) for name in rows["class_name"]], dtype=torch.int64)
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

    def unscale_target(self, value_B: Tensor) -> Tensor:
        """Network units to reported units."""
        value_B = self._bounded(value_B.double()) * self.target_std + self.target_mean
        portion_B = torch.expm1(value_B) if self.config.target_scale == "log1p" else value_B
        return portion_B.clamp_min(0) if self.config.nonnegative else portion_B

    def _bounded(self, value_B: Tensor) -> Tensor:
        """With `nonnegative`, softplus about the network's value for a portion of zero."""
        if not self.config.nonnegative:
            return value_B
        zero = self.target_mean / self.target_std
        return softplus(value_B + zero) - zero

    def metrics(self) -> MetricCollection:
        """Accuracy, MAE, EP at item level, bias, and where both heads are there MAE-correct and MCCR."""
        config, unit, classes = self.config, self.config.unit, len(self.labels)
        metrics: dict[str, Any] = {}
        if config.heads != "portion":
            metrics["accuracy"] = MulticlassAccuracy(classes, average="micro")
            metrics["accuracy_macro"] = MulticlassAccuracy(classes, average="macro")
            metrics["accuracy_top5"] = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        if config.heads != "classification":
            metrics |= {f"mae_{unit}": MeanAbsoluteError(), "ep_item": WeightedMeanAbsolutePercentageError(), f"bias_{unit}": MeanError()}
        if config.heads == "both":
            metrics["joint"] = CorrectPortionError(constant=config.mccr_constant)
        collection = MetricCollection(metrics, compute_groups=False)
        collection.set_dtype(torch.float64)
        return collection

    def measure(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
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
        """class_id, class_name, class_prob, topk_class_name, topk_prob, and the portion under the target's name."""
        columns: dict[str, np.ndarray] = {}
        if "logits_BC" in outputs:
            top = outputs["logits_BC"].float().softmax(1).topk(min(5, len(self.labels)), dim=1)
            ids_BK, probs_BK = top.indices.cpu().numpy(), top.values.cpu().numpy()
            names_BK = np.array(self.labels, dtype=object)[ids_BK]
            columns |= {"class_id": ids_BK[:, 0].astype(np.int32), "class_name": names_BK[:, 0], "class_prob": probs_BK[:, 0]}
            columns |= {"topk_class_name": names_BK, "topk_prob": probs_BK}
        if "portion_B" in outputs:
            columns[self.config.target] = self.unscale_target(outputs["portion_B"]).cpu().numpy()
        return columns

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """Mean, median and class median of the training portions, and the most frequent class, on the test rows."""
        found: dict[str, dict[str, float]] = {}
        if self.config.heads != "portion":
            known = [rows["class_name"][rows["class_name"] != None] for rows in (train, test)]  # noqa: E711
            names, counts = np.unique(known[0].astype(str), return_counts=True)
            found["most frequent class"] = {"accuracy": float((known[1] == names[counts.argmax()]).mean())}
        if self.config.heads != "classification":
            found |= portion_baselines(train, test, predicted, self.config.target)
        return found

    def stages(self) -> tuple[Stage, ...]:
        """One stage: everything trains together."""
        return (Stage(name="joint", epochs=self.config.epochs, optimizer=self.config.optimizer, backbone=("classifier.*", "portion.*")),)


def scale_features(extent_w_mm: np.ndarray, extent_h_mm: np.ndarray, size_mean: float) -> np.ndarray:
    """Size of the box as the network sees it, float32 (N, 3): log of its side in dm less `size_mean`, log of its elongation,
    known or not.

    Unchanged by quarter turns and mirrors, as the portion is. Zero, a box of mean size, where no marker gave the scale.
    """
    known = np.isfinite(extent_w_mm) & np.isfinite(extent_h_mm) & (extent_w_mm > 0) & (extent_h_mm > 0)
    width, height = np.where(known, extent_w_mm, 100.0), np.where(known, extent_h_mm, 100.0)
    side = np.where(known, np.log(np.sqrt(width * height) / 100.0) - size_mean, 0.0)
    return np.stack([side, np.abs(np.log(width / height)), known], axis=1).astype(np.float32)


def portion_baselines(train: Rows, test: Rows, predicted: Rows, target: str) -> dict[str, dict[str, float]]:
    """MAE and EP of predictors that know only the training portions; the class is the true one, or the predicted one."""
    unit = UNITS[target]
    known = np.isfinite(train[target])
    values, names = train[target][known], train["class_name"][known]
    medians = {name: float(np.median(values[names == name])) for name in set(names) - {None}}
    overall = float(np.median(values))

    def by_class(class_names: np.ndarray) -> np.ndarray:
        return np.array([medians.get(name, overall) for name in class_names])

    guesses = {
        "mean": np.full(len(test[target]), values.mean()),
        "median": np.full(len(test[target]), overall),
        "class median, true class given": by_class(test["class_name"]),
    }
    if "class_name" in predicted:
        guesses["class median of the predicted class"] = by_class(predicted["class_name"])
    scored = np.isfinite(test[target])
    truth = test[target][scored]
    return {
        name: {f"mae_{unit}": float(np.abs(guess[scored] - truth).mean()), "ep_item": float(np.abs(guess[scored] - truth).sum() / truth.sum())}
        for name, guess in guesses.items()
    }
