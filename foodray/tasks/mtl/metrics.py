"""The metrics of the multi-task family; apart from its task, since torchmetrics takes seconds to import and only training measures."""

from typing import Any

import torch
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import WeightedMeanAbsolutePercentageError

from foodray.tasks.metrics import CorrectPortionError, MeanError
from foodray.tasks.mtl.config import MtlConfig


def make_metrics(config: MtlConfig, num_classes: int) -> MetricCollection:
    """Accuracy, MAE, EP at item level, bias, and where both heads are there MAE-correct and MCCR."""
    metrics: dict[str, Any] = {}
    if config.heads != "portion":
        metrics["accuracy"] = MulticlassAccuracy(num_classes, average="micro")
        metrics["accuracy_macro"] = MulticlassAccuracy(num_classes, average="macro")
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))
    if config.heads != "classification":
        metrics |= {f"mae_{config.unit}": MeanAbsoluteError(), "ep_item": WeightedMeanAbsolutePercentageError(), f"bias_{config.unit}": MeanError()}
    if config.heads == "both":
        metrics["joint"] = CorrectPortionError(constant=config.mccr_constant)
    collection = MetricCollection(metrics, compute_groups=False)
    collection.set_dtype(torch.float64)
    return collection
