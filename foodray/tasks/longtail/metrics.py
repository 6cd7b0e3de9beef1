"""The metrics of the long-tail family; apart from its task, since torchmetrics takes seconds to import and only training measures."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassCalibrationError

from foodray.tasks.calibration import ECE_BINS
from foodray.tasks.longtail.groups import GROUPS
from foodray.tasks.metrics import Share


class GroupAccuracy(Metric):
    """Accuracy over samples, over classes, and over the samples of frequent, common and rare classes.

    The states are counts by class, int64 (C,). `accuracy` (Main in the report) is over all samples, `accuracy_macro` the mean over the classes that
    were seen in evaluation, `accuracy_frequent` … over the samples of a group's classes; a group without classes has none. A class
    without a training sample is in no group; its samples count in the others, as wrong.
    """

    full_state_update = False
    right: Tensor
    top5: Tensor
    total: Tensor

    def __init__(self, group_C: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_C = group_C
        for name in ("right", "top5", "total"):
            self.add_state(name, torch.zeros(len(group_C), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ranked_BK: Tensor, class_B: Tensor) -> None:
        """Add the likeliest classes (B, K), the first the answer, and the true ones (B,), int64."""
        hit_BK = ranked_BK == class_B[:, None]
        for state, is_right_B in ((self.right, hit_BK[:, 0]), (self.top5, hit_BK[:, :5].any(1)), (self.total, torch.ones_like(class_B, dtype=torch.bool))):
            state += torch.bincount(class_B[is_right_B], minlength=len(state))

    def compute(self) -> dict[str, Tensor]:
        """0 to 1; nan where nothing was seen."""
        right_C, total_C = self.right.double(), self.total.double()
        found = {"accuracy": right_C.sum() / total_C.sum(), "accuracy_macro": (right_C / total_C).nanmean(), "accuracy_top5": self.top5.sum() / total_C.sum()}
        groups_C = self.group_C.to(right_C.device)
        for index, name in enumerate(GROUPS):
            if (groups_C == index).any():
                found[f"accuracy_{name}"] = right_C[groups_C == index].sum() / total_C[groups_C == index].sum()
        return found


def make_metrics(group_C: Tensor, *, tells_groups: bool) -> MetricCollection:
    """GroupAccuracy's numbers, the calibration error of the likeliest class, and how often the group was told right where something tells it."""
    ece = MulticlassCalibrationError(len(group_C), n_bins=ECE_BINS, norm="l1", validate_args=False)
    metrics: dict[str, Metric | MetricCollection] = {"classes": GroupAccuracy(group_C), "ece": ece}
    if tells_groups:
        metrics["group_accuracy"] = Share()
    collection = MetricCollection(metrics, compute_groups=False)
    collection.set_dtype(torch.float64)
    return collection


def by_class(metrics: MetricCollection, labels: tuple[str, ...], counts: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Accuracy, samples in evaluation and samples in training of each class; every rank takes part."""
    classes = metrics["classes"]
    assert isinstance(classes, GroupAccuracy)
    with classes.sync_context():
        right, total = classes.right.tolist(), classes.total.tolist()
    rows = zip(labels, right, total, counts, strict=True)
    return {
        label: {"accuracy": hit / seen if seen else float("nan"), "num_samples": float(seen), "num_train": float(count)} for label, hit, seen, count in rows
    }
