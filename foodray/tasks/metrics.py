"""Metrics that the field's library does not have in the form we report, as torchmetrics metrics.

Their states are sums and counts in float64 that add up over ranks, so a value does not depend on the number of workers.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

PAPER_CONSTANT = 4.19
"""The constant with which equation 9 reproduces the printed MCCR of Table 1; the paper states C = 1 (erratum 1)."""


class CorrectPortionError(Metric):
    """MAE over correctly classified samples, and MCCR (He et al. 2020, equation 9).

    MCCR = C * sum_{i in I} |w_i - t_i| / |I|^2 with I the correctly classified. It shrinks as the test set grows, so C,
    |I| and N are always reported with it and values of different test sets are never compared; `mae_per_accuracy` =
    MAE_correct / (|I| / N) is its companion that does not depend on N. All are nan when I is empty.
    """

    full_state_update = False
    absolute: Tensor
    correct: Tensor
    total: Tensor

    def __init__(self, *, constant: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.constant = constant
        for name in ("absolute", "correct", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, portion_B: Tensor, truth_B: Tensor, is_correct_B: Tensor) -> None:
        """Add predicted and true portions (B,) in reported units, and whether each class was right (B,) bool."""
        self.absolute += ((portion_B - truth_B).abs().double() * is_correct_B).sum()
        self.correct += is_correct_B.sum()
        self.total += truth_B.numel()

    def compute(self) -> dict[str, Tensor]:
        """mae_correct, mccr, mccr_constant, num_correct, num_both and mae_per_accuracy."""
        nan = torch.full_like(self.absolute, torch.nan)
        mae = torch.where(self.correct > 0, self.absolute / self.correct, nan)
        return {
            "mae_correct": mae,
            "mccr": self.constant * mae / self.correct,
            "mccr_constant": torch.full_like(mae, self.constant),
            "num_correct": self.correct,
            "num_both": self.total,
            "mae_per_accuracy": mae * self.total / self.correct,
        }


class SegmentationScores(Metric):
    """Pixel accuracy, mean accuracy and mean IoU from the confusion of all pixels of a data set, not from means over photos.

    The state is the confusion matrix (C, C) of counts, rows truth. Pixels of truth -1 are left out. A class that neither truth nor prediction
    shows is left out of means (nan); one that is only predicted has IoU 0. `miou_food` leaves out background (id 0). `iou_food_photo` is
    the IoU of food against background, averaged over photos that show food in either.
    """

    full_state_update = False
    confusion: Tensor
    photo_iou: Tensor
    num_photos: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros((num_classes, num_classes), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("photo_iou", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_photos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted_BHW: Tensor, truth_BHW: Tensor) -> None:
        """Add predicted and true ids (B, H, W), int64."""
        known_BHW = truth_BHW >= 0
        pairs = truth_BHW[known_BHW] * self.num_classes + predicted_BHW[known_BHW]
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
        food_BHW, found_BHW = (truth_BHW > 0) & known_BHW, (predicted_BHW > 0) & known_BHW
        both_B, either_B = ((food_BHW & found_BHW).sum((1, 2)), (food_BHW | found_BHW).sum((1, 2)))
        self.photo_iou += (both_B / either_B.clamp(min=1)).double().sum()
        self.num_photos += (either_B > 0).sum()

    def compute(self) -> dict[str, Tensor]:
        """pixel_accuracy, mean_accuracy, miou, miou_food, iou_food_photo; 0 to 1, nan where nothing was seen."""
        return {**mean_scores(self.confusion), "iou_food_photo": self.photo_iou / self.num_photos}


def mean_scores(confusion_CC: Tensor) -> dict[str, Tensor]:
    """pixel_accuracy, mean_accuracy, miou and miou_food of counts with rows truth; nan where nothing was seen."""
    scores_C = class_scores(confusion_CC)
    return {
        "pixel_accuracy": confusion_CC.diagonal().sum() / confusion_CC.sum().double(),
        "mean_accuracy": scores_C["accuracy"].nanmean(),
        "miou": scores_C["iou"].nanmean(),
        "miou_food": scores_C["iou"][1:].nanmean(),
    }


def class_scores(confusion_CC: Tensor) -> dict[str, Tensor]:
    """IoU, accuracy (recall) and precision of each class (C,) from counts with rows truth; nan where a class is in neither, or the denominator is 0."""
    confusion_CC = confusion_CC.double()
    hit_C, truth_C, found_C = confusion_CC.diagonal(), confusion_CC.sum(1), confusion_CC.sum(0)
    return {"iou": hit_C / (truth_C + found_C - hit_C), "accuracy": hit_C / truth_C, "precision": hit_C / found_C}


class MeanError(Metric):
    """Mean of prediction minus truth: the bias, in reported units."""

    full_state_update = False
    error: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, portion_B: Tensor, truth_B: Tensor) -> None:
        """Add predicted and true portions (B,)."""
        self.error += (portion_B - truth_B).double().sum()
        self.total += truth_B.numel()

    def compute(self) -> Tensor:
        """The bias."""
        return self.error / self.total


class Share(Metric):
    """How often something was right, 0 to 1; nan where nothing was asked."""

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, is_right_B: Tensor) -> None:
        """Add answers (B,), bool."""
        self.right += is_right_B.sum()
        self.total += len(is_right_B)

    def compute(self) -> Tensor:
        """The share."""
        return self.right.double() / self.total
