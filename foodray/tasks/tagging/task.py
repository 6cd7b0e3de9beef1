"""The tagging family's task: which of a few tags a whole photo carries, under the contract of `foodray.tasks.base`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foodray.config import from_plain, to_plain
from foodray.corpus.samples import SampleSpec
from foodray.errors import CorpusError
from foodray.nn.tagging import TagNet, asymmetric_loss
from foodray.tasks.base import Distillable, Rows, Stage, Task
from foodray.tasks.calibration import top_class_ece
from foodray.tasks.tagging.config import TaggingConfig
from foodray.tasks.tagging.thresholds import TagCalibration, fit, sample_f1
from foodray.tasks.transform import augment, middle

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

log = logging.getLogger(__name__)
BACKBONE = ("backbone.*",)


@dataclass(frozen=True, kw_only=True)
class TaggingTask(Task):
    """The tagging family with its tags and thresholds."""

    name: ClassVar[str] = "tagging"
    level: ClassVar[Literal["item", "photo"]] = "photo"
    tags: ClassVar[bool] = True
    calibrates_on: ClassVar[tuple[str, ...]] = ("logits_BT",)
    search_space: ClassVar[Mapping[str, Any]] = {
        "task.backbone": ["resnet50", "densenet121", "mobilenetv1_100"],
        "task.loss": ["bce", "asymmetric"],
        "task.augmentation.zoom": {"uniform": [0.0, 1.0]},
        "task.optimizer.lr": {"loguniform": [1e-4, 1e-2]},
    }
    config: TaggingConfig
    """Settings."""
    labels: tuple[str, ...]
    """Names of the tags, in the order of the logits."""
    calibration: TagCalibration | None = None
    """Scaling and thresholds, fitted on the validation side after training."""

    @classmethod
    def fit(cls, config: TaggingConfig, samples: Rows, labels: tuple[str, ...]) -> "TaggingTask":
        """The tags of the corpus; raises `CorpusError` when there is none."""
        if not labels:
            raise CorpusError("no photo of the corpus carries a tag; fill the column tags of the images table and index again")
        unseen = set(labels) - {tag for tags in samples["tags"] for tag in tags or ()}
        if unseen:
            log.warning("%d tags are on no training photo and cannot be learned: %s", len(unseen), ", ".join(sorted(unseen)))
        return cls(config=config, labels=labels)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "TaggingTask":
        """The task that a bundle describes."""
        calibration = from_plain(TagCalibration, state["calibration"]) if state.get("calibration") else None
        return cls(config=from_plain(TaggingConfig, config), labels=tuple(state["labels"]), calibration=calibration)

    def state(self) -> dict[str, Any]:
        """Tags, scaling and thresholds."""
        return {"labels": list(self.labels), "calibration": to_plain(self.calibration) if self.calibration else None}

    @property
    def columns(self) -> tuple[str, ...]:
        """The tags, and the dish where it is known, for samplers and baselines."""
        return ("tags", "class_name")

    @property
    def spec(self) -> SampleSpec:
        """The whole photo in a square."""
        slack = 0.125 if self.config.augmentation.shift else 0.0
        return SampleSpec(level=self.level, side_px=self.config.side_px, margin=0.0, slack=slack, color=self.config.color)

    def network(self, *, weights: str | None = None) -> nn.Module:
        """Backbone, hidden layer and one logit a tag."""
        return TagNet(self.config.backbone, weights or self.config.weights, hidden=self.config.hidden, num_tags=len(self.labels))

    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """image uint8 (N, 3, S, S), tags (N, T), 0 or 1, where the rows have them."""
        config = self.config
        image = augment(rows["pixels"], rows["seed"], config.side_px, config.augmentation) if train else middle(rows["pixels"], config.side_px)
        return {"image": image} | ({"tags": torch.from_numpy(self._truth(rows).astype(np.float32))} if "tags" in rows else {})

    def _truth(self, rows: Rows) -> np.ndarray:
        """Which tags each photo carries, bool (N, T)."""
        return np.array([[tag in (tags if tags is not None else ()) for tag in self.labels] for tags in rows["tags"]], bool).reshape(-1, len(self.labels))

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Decisions: photos times tags."""
        return {"tags": torch.tensor(batch["tags"].numel(), device=batch["tags"].device)}

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Binary cross entropy, or the asymmetric loss."""
        config = self.config
        asymmetric = {"gamma_positive": config.gamma_positive, "gamma_negative": config.gamma_negative, "clip": config.clip}
        settings = asymmetric if config.loss == "asymmetric" else dict.fromkeys(asymmetric, 0.0)
        return {"tags": asymmetric_loss(outputs["logits_BT"].float(), batch["tags"], **settings).sum()}

    @property
    def loss_weights(self) -> dict[str, float]:
        """One term."""
        return {"tags": 1.0}

    def metrics(self) -> "MetricCollection":
        """F1 by photo, micro and macro, mean average precision, subset accuracy, Hamming distance."""
        from foodray.tasks.tagging.metrics import make_metrics

        return make_metrics(len(self.labels))

    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add a batch. Before thresholds are fitted, which is after training, they are a half."""
        from foodray.tasks.tagging.metrics import update

        prob_BT = self._probabilities(outputs["logits_BT"].double())
        update(metrics, prob_BT, self._given(prob_BT), batch["tags"])

    def _probabilities(self, logits_BT: Tensor) -> Tensor:
        fitted = self.calibration or TagCalibration(num_photos=0)
        return (fitted.slope * logits_BT + fitted.shift).sigmoid()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """From which probability each tag is given, (T,)."""
        rule = self.config.thresholds
        if self.calibration is None or rule == "half":
            return (0.5,) * len(self.labels)
        return self.calibration.per_tag if rule == "per_tag" else (self.calibration.one,) * len(self.labels)

    def _given(self, prob_BT: Tensor) -> Tensor:
        """Which tags are given, bool (B, T)."""
        given_BT = prob_BT >= torch.tensor(self.thresholds, dtype=prob_BT.dtype, device=prob_BT.device)
        if self.config.at_least_one:
            none_B = ~given_BT.any(1)
            given_BT[none_B, prob_BT[none_B].argmax(1)] = True
        return given_BT

    def objective(self, metrics: Mapping[str, float]) -> float:
        """One less mean average precision: it needs no threshold, which are tuned only after training."""
        return 1 - metrics["map"]

    def by_class(self, metrics: "MetricCollection") -> dict[str, dict[str, float]]:
        """F1, precision, recall, average precision and number of photos of each tag."""
        from foodray.tasks.tagging.metrics import by_tag

        return by_tag(metrics, self.labels)

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """tag_name and tag_prob (N, T), all tags by falling calibrated probability, and tags: for each photo the list of those that are given."""
        prob_BT = self._probabilities(outputs["logits_BT"].double()).cpu()
        ranked = prob_BT.sort(dim=1, descending=True, stable=True)
        names_BT = np.array(self.labels, dtype=object)[ranked.indices.numpy()]
        given_BT = self._given(prob_BT).gather(1, ranked.indices).numpy()
        tags = np.fromiter((names[given].tolist() for names, given in zip(names_BT, given_BT, strict=True)), dtype=object, count=len(names_BT))
        return {"tag_name": names_BT, "tag_prob": ranked.values.numpy(), "tags": tags}

    def answers(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probability of each tag; a tag is given from its threshold on."""
        return {"prob_BT": self._probabilities(outputs["logits_BT"].float())}

    def calibrate(self, outputs: Mapping[str, Tensor], rows: Rows) -> "TaggingTask":
        """The task with its scaling and thresholds fitted on the validation side."""
        return replace(self, calibration=fit(outputs["logits_BT"].numpy(), self._truth(rows), min_positives=self.config.min_positives))

    def reliability(self, test: Rows, predicted: Rows) -> dict[str, Any]:
        """Calibration error of all probabilities on the test side, and their mean squared error (Brier)."""
        if not len(predicted["tag_prob"]):
            return {}
        place = {tag: index for index, tag in enumerate(self.labels)}
        order_NT = np.array([[place[tag] for tag in names] for names in predicted["tag_name"]])
        truth_NT = np.take_along_axis(self._truth(test), order_NT, axis=1)
        prob_NT = np.stack(list(predicted["tag_prob"]))
        return {"ece_tags": top_class_ece(prob_NT.ravel(), truth_NT.ravel()), "brier": float(((prob_NT - truth_NT) ** 2).mean())}

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """Always the same tags, those that score best on the training photos; and the tags of the true dish's training photos, which says how far
        knowing the dish alone goes: on dishes that training never saw it is the first."""
        truth_NT = self._truth(train)
        share_T = truth_NT.mean(0)
        order_T = np.argsort(-share_T, kind="stable")
        fixed_KT = [np.isin(np.arange(len(share_T)), order_T[:count]) for count in range(1, len(share_T) + 1)]
        best_T = max(fixed_KT, key=lambda fixed_T: sample_f1(np.broadcast_to(fixed_T, truth_NT.shape), truth_NT).mean())
        found = {"the most frequent tags": self._scores(test, [(share_T, best_T)] * len(test["tags"]))}
        known = {dish: truth_NT[train["class_name"] == dish].mean(0) for dish in set(train["class_name"]) - {None}}
        answers = [(known[dish], known[dish] >= 0.5) if dish in known else (share_T, best_T) for dish in test["class_name"]]
        return found | ({"the tags of the true dish": self._scores(test, answers)} if known else {})

    def _scores(self, test: Rows, answers: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """The metrics of answers made without a network: probability and decision of each tag, one pair a photo."""
        from foodray.tasks.tagging.metrics import update

        metrics = self.metrics()
        prob_NT, given_NT = (torch.from_numpy(np.stack(column)) for column in zip(*answers, strict=True))
        update(metrics, prob_NT.double(), given_NT, torch.from_numpy(self._truth(test)))
        return {name: float(value) for name, value in metrics.compute().items()}

    def stages(self) -> tuple[Stage, ...]:
        """The head on a frozen backbone, then everything; with random weights everything at once, at one rate."""
        config = self.config
        if config.weights == "random":
            return (Stage(name="finetune", epochs=config.epochs, optimizer=config.optimizer),)
        finetune = Stage(name="finetune", epochs=config.epochs, optimizer=config.optimizer, backbone=BACKBONE)
        return (Stage(name="head", epochs=config.first_epochs, optimizer=config.first_optimizer, frozen=BACKBONE), finetune)[0 if config.first_epochs else 1 :]

    def distillable(self) -> Distillable:
        """The whole network; a hidden layer lies between features and tags."""
        return Distillable(backbone="backbone", head=None, logits="logits_BT", truth="tags", term="tags")
