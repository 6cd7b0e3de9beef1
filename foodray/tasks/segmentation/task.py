"""The segmentation family's task: network, loss, metrics and predictions under the contract of `foodray.tasks.base`.

Ids of pixels: 0 background, 1 + the index of a class name, -1 unlabelled, which no loss and no metric sees.
Shapes: B batch, C classes with the background, H, W pixels, N points.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from foodray.config import from_plain
from foodray.corpus.samples import SampleSpec
from foodray.errors import CorpusError
from foodray.nn.segmentation import Segmenter, body_patterns, sample_labels
from foodray.tasks.base import Rows, Stage, Task
from foodray.tasks.segmentation.config import SegmentationConfig
from foodray.tasks.transform import augment_with_masks, middle, middle_of_masks

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

BACKGROUND = "background"
PRESENT_SHARE = 0.005
"""Share of the square from which on a class counts as present in `predictions`."""


@dataclass(frozen=True, kw_only=True)
class SegmentationTask(Task):
    """The segmentation family with its classes and their weights."""

    name: ClassVar[str] = "segmentation"
    level: ClassVar[Literal["item", "photo"]] = "photo"
    masks: ClassVar[bool] = True
    config: SegmentationConfig
    """Settings."""
    labels: tuple[str, ...]
    """Names by id of a pixel: background, then the classes of the corpus."""
    class_weights: tuple[float, ...]
    """Weight of each id in the loss; 0 for one that no training photo shows."""
    encoder_class_weights: tuple[float, ...]
    """The same in ENet's first phase."""
    phase: Literal["whole", "encoder"] = "whole"
    """encoder: as the task is in ENet's first phase."""

    @classmethod
    def fit(cls, config: SegmentationConfig, samples: Rows, labels: tuple[str, ...]) -> "SegmentationTask":
        """Classes and their weights, from the counts of px of the training photos; raises `CorpusError` when there is nothing to tell apart."""
        px_NC = samples["mask_px"]
        shown = [label for label, px in zip(labels, px_NC.sum(0)[1:], strict=True) if px]
        if not shown or (len(shown) == 1 and not px_NC[:, 0].any()):
            raise CorpusError(
                f"the training masks show {', '.join(shown) or 'no food'} and nothing else, so there is nothing to tell apart; "
                "a segmentation needs photos with background, or two classes"
            )
        weights, encoder = (weights_of(px_NC, config.class_weights, k) for k in (config.weight_k, config.encoder_weight_k))
        return cls(config=config, labels=(BACKGROUND, *labels), class_weights=weights, encoder_class_weights=encoder)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "SegmentationTask":
        """The task that a bundle describes."""
        learned: dict[str, Any] = {name: tuple(values) for name, values in state.items()}
        return cls(config=from_plain(SegmentationConfig, config), **learned)

    def state(self) -> dict[str, Any]:
        """Labels and class weights."""
        return {"labels": list(self.labels), "class_weights": list(self.class_weights), "encoder_class_weights": list(self.encoder_class_weights)}

    @property
    def columns(self) -> tuple[str, ...]:
        """None but the class that samplers balance: the truth is the mask."""
        return ("class_name",)

    @property
    def spec(self) -> SampleSpec:
        """The whole photo, padded to a square."""
        slack = 0.125 if self.config.augmentation.shift else 0.0
        return SampleSpec(level=self.level, side_px=self.config.side_px, margin=0.0, slack=slack, color=self.config.color)

    def network(self, *, weights: str | None = None) -> nn.Module:
        """The network with its head for these classes."""
        return Segmenter(self.config.shape(len(self.labels), weights=weights))

    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """image uint8 (N, 3, S, S) and mask int16 (N, S, S), -1 for unlabelled and for what lies outside the photo."""
        if train:
            image, mask = augment_with_masks(rows["pixels"], rows["mask"], rows["seed"], self.config.side_px, self.config.augmentation)
            return {"image": image, "mask": mask}
        image = middle(rows["pixels"], self.config.side_px)
        return {"image": image, "mask": middle_of_masks(rows["mask"], self.config.side_px)} if "mask" in rows else {"image": image}

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network, in ENet's first phase its encoder alone."""
        if self.phase == "encoder":
            return cast(dict[str, Tensor], network(batch["image"], encoder_only=True))
        return cast(dict[str, Tensor], network(batch["image"]))

    @property
    def loss_weights(self) -> dict[str, float]:
        """What is added up: the pixels, and what a network trains beside them."""
        if self.phase == "encoder":
            return {"encoder": 1.0}
        if self.config.architecture == "pointrend":
            return {"coarse": 1.0, "points": 1.0}
        has_aux = self.config.aux_weight > 0 and self.config.architecture.startswith(("deeplabv3", "fcn"))
        return {"pixels": 1.0, **({"aux": self.config.aux_weight} if has_aux else {})}

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a term over pixels the weights of its labelled pixels together; of the points the photos that have a labelled pixel."""
        found = {}
        for name in self.loss_weights:
            if name == "points":
                found[name] = (batch["mask"] >= 0).flatten(1).any(1).sum()
            else:
                mask_BHW = _at_eighth(batch["mask"]) if name == "encoder" else batch["mask"].long()
                found[name] = self._weights(mask_BHW.device)[mask_BHW[mask_BHW >= 0]].sum()
        return found

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted cross entropy, summed over pixels; of PointRend's points its mean over the labelled points of a photo, summed over photos."""
        mask_BHW = batch["mask"].long()
        if self.phase == "encoder":
            return {"encoder": self._sum(outputs["encoder_logits_BCHW"], _at_eighth(mask_BHW))}
        if self.config.architecture == "pointrend":
            coarse = self._sum(_sized(outputs["coarse_logits_BCHW"], mask_BHW), mask_BHW)
            return {"coarse": coarse, "points": self._points(outputs, mask_BHW)}
        terms = {"pixels": self._sum(outputs["logits_BCHW"], mask_BHW)}
        return terms | ({"aux": self._sum(outputs["aux_logits_BCHW"], mask_BHW)} if "aux" in self.loss_weights else {})

    def _points(self, outputs: Mapping[str, Tensor], mask_BHW: Tensor) -> Tensor:
        label_BN = sample_labels(mask_BHW, outputs["points_BN2"])
        loss_BN = cross_entropy(outputs["point_logits_BCN"].float(), label_BN, weight=self._weights(mask_BHW.device), ignore_index=-1, reduction="none")
        weight_BN = self._weights(mask_BHW.device)[label_BN.clamp(min=0)] * (label_BN >= 0)
        return (loss_BN.sum(1) / weight_BN.sum(1).clamp(min=1e-6)).sum()

    def _sum(self, logits_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
        return cross_entropy(logits_BCHW.float(), mask_BHW, weight=self._weights(mask_BHW.device), ignore_index=-1, reduction="sum")

    def _weights(self, device: torch.device) -> Tensor:
        return torch.tensor(self.encoder_class_weights if self.phase == "encoder" else self.class_weights, dtype=torch.float32, device=device)

    def metrics(self) -> "MetricCollection":
        """Pixel accuracy, mean accuracy, mean IoU with and without background, food against background."""
        from torchmetrics import MetricCollection

        from foodray.tasks.metrics import SegmentationScores

        return MetricCollection({"scores": SegmentationScores(len(self.labels))})

    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add a batch, each pixel taken for its most probable class."""
        metrics["scores"].update(self._map(outputs, batch["mask"]), batch["mask"].long())

    def _map(self, outputs: Mapping[str, Tensor], mask_BHW: Tensor) -> Tensor:
        """The most probable id of each pixel, at the size of the mask, in ENet's first phase by the encoder's own classifier."""
        logits_BCHW = outputs["encoder_logits_BCHW"] if self.phase == "encoder" else outputs["logits_BCHW"]
        return _sized(logits_BCHW.float(), mask_BHW).argmax(1)

    def objective(self, metrics: Mapping[str, float]) -> float:
        """One less mean IoU."""
        return 1 - metrics["miou"]

    def by_class(self, metrics: "MetricCollection") -> dict[str, dict[str, float]]:
        """IoU, accuracy, precision and number of true px of each class that was seen or predicted."""
        from foodray.tasks.metrics import SegmentationScores, class_scores

        scores = metrics["scores"]
        assert isinstance(scores, SegmentationScores)
        with scores.sync_context():
            confusion_CC = scores.confusion.clone()
        columns = {name: values.tolist() for name, values in class_scores(confusion_CC).items()} | {"num_px": confusion_CC.sum(1).tolist()}
        seen = (confusion_CC.sum(0) + confusion_CC.sum(1)).tolist()
        return {label: {name: values[index] for name, values in columns.items()} for index, label in enumerate(self.labels) if seen[index]}

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """class_names: the foods that cover at least `PRESENT_SHARE` of the square (its padding included), the largest first."""
        found = []
        for label_HW in outputs["logits_BCHW"].argmax(1).cpu():
            px_C = torch.bincount(label_HW.flatten(), minlength=len(self.labels))
            px_C[0] = 0
            order = px_C.argsort(descending=True, stable=True).tolist()
            found.append([self.labels[index] for index in order if px_C[index] >= PRESENT_SHARE * label_HW.numel()])
        names = np.empty(len(found), dtype=object)
        names[:] = found
        return {"class_names": names}

    def probabilities(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Probability of each id at each pixel, float32 (B, C, S, S)."""
        return outputs["logits_BCHW"].float().softmax(1)

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """What it scores to call every pixel background, or the food with most training px; from the px of the masks at their own size."""
        train_C, test_C = (rows["mask_px"].sum(0) for rows in (train, test))
        food = int(train_C[1:].argmax()) + 1
        return {name: _constant(index, test_C) for name, index in (("all background", 0), (f"all {self.labels[food]}", food))}

    def pictures(self, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """photo uint8 (N, S, S, 3), truth and prediction int16 (N, S, S), and the labels."""
        maps = {"truth": batch["mask"], "prediction": self._map(outputs, batch["mask"])}
        photo = batch["image"].permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return {"photo": photo, **{name: values.cpu().numpy().astype(np.int16) for name, values in maps.items()}, "labels": np.array(self.labels)}

    def stages(self) -> tuple[Stage, ...]:
        """ENet: its encoder, then everything. The others: the heads on a frozen body, then everything, the body slower."""
        config, body = self.config, body_patterns(self.config.architecture)
        if config.two_phase:
            encoder = Stage(
                name="encoder",
                epochs=config.first_epochs,
                optimizer=config.first_optimizer,
                trainable=(*body, "net.encoder_classifier.*"),
                keeps=False,
            )
            whole = Stage(name="decoder", epochs=config.epochs, optimizer=config.optimizer, frozen=("net.encoder_classifier.*",), backbone=body)
            return (encoder, whole) if config.first_epochs else (whole,)
        freeze = Stage(name="freeze", epochs=config.first_epochs, optimizer=config.first_optimizer, frozen=body)
        finetune = Stage(name="finetune", epochs=config.epochs, optimizer=config.optimizer, backbone=body)
        return (freeze, finetune) if config.first_epochs else (finetune,)

    def at(self, stage: Stage) -> "SegmentationTask":
        """In ENet's first phase the task sees the encoder alone."""
        return replace(self, phase="encoder") if stage.name == "encoder" else self


def weights_of(px_NC: np.ndarray, rule: str, k: float) -> tuple[float, ...]:
    """The weight of each id from its px in each photo, int64 (N, C).

    inverse_log: 1 / ln(k + p), p its share of all labelled px (Paszke et al. 2016). median_frequency: median(freq) / freq, freq its share of
    the px of the photos that show it (Eigen and Fergus 2015). An id that no photo shows has weight 0.
    """
    px_C = px_NC.sum(0)
    shown_C = px_C > 0
    if rule == "none":
        return tuple(shown_C.astype(float).tolist())
    if rule == "inverse_log":
        weights_C = 1 / np.log(k + px_C / px_C.sum())
    else:
        photo_px_C = ((px_NC > 0) * px_NC.sum(1, keepdims=True)).sum(0)
        freq_C = np.divide(px_C, photo_px_C, out=np.full(len(px_C), np.inf), where=shown_C)
        weights_C = np.median(freq_C[shown_C]) / freq_C
    return tuple(np.where(shown_C, weights_C, 0.0).tolist())


def _constant(index: int, px_C: np.ndarray) -> dict[str, float]:
    """The scores of a prediction that is the same everywhere."""
    from foodray.tasks.metrics import mean_scores

    confusion_CC = torch.zeros((len(px_C), len(px_C)), dtype=torch.int64)
    confusion_CC[:, index] = torch.from_numpy(px_C)
    return {name: float(value) for name, value in mean_scores(confusion_CC).items()}


def _at_eighth(mask_BHW: Tensor) -> Tensor:
    """Labels at 1/8, nearest."""
    size = [-(-side // 8) for side in mask_BHW.shape[1:]]
    return interpolate(mask_BHW[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()


def _sized(logits_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
    if logits_BCHW.shape[2:] == mask_BHW.shape[1:]:
        return logits_BCHW
    return interpolate(logits_BCHW, size=mask_BHW.shape[1:], mode="bilinear", align_corners=False)
