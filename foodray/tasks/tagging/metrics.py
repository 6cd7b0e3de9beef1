"""The metrics of the tagging family; apart from its task, since torchmetrics takes seconds to import and only training measures."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelExactMatch, MultilabelF1Score, MultilabelHammingDistance


class SampleF1(Metric):
    """Mean over photos of 2 |Y and Z| / (|Y| + |Z|), the tutorial's score; a photo that neither has nor is given a tag counts 1."""

    full_state_update = False
    total: Tensor
    num_photos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_photos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, given_BT: Tensor, truth_BT: Tensor) -> None:
        """Add given and true tags (B, T), 0 or 1."""
        both_B, sizes_B = (given_BT * truth_BT).sum(1), given_BT.sum(1) + truth_BT.sum(1)
        self.total += torch.where(sizes_B > 0, 2 * both_B / sizes_B.clamp(min=1), 1.0).double().sum()
        self.num_photos += len(given_BT)

    def compute(self) -> Tensor:
        """The mean, 0 to 1."""
        return self.total / self.num_photos


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Mean of the average precisions of the tags that some photo carries; nan where none does."""

    def __init__(self, num_tags: int) -> None:
        super().__init__(num_tags, average="none", validate_args=False)

    def by_tag(self) -> Tensor:
        """Average precision of each tag, (T,); nan for one that no photo carries."""
        with warnings.catch_warnings():  # of tags without photos
            warnings.simplefilter("ignore")
            found_T: Tensor = super().compute()
        target_NT = torch.cat(self.target) if isinstance(self.target, list) else self.target
        return torch.where(target_NT.sum(0) > 0, found_T, torch.nan)

    def compute(self) -> Tensor:  # type: ignore[override]
        """The mean."""
        return self.by_tag().nanmean() if len(self.target) else torch.tensor(torch.nan)


def make_metrics(num_tags: int) -> MetricCollection:
    """sample_f1, f1_micro, f1_macro (a tag that nobody has or is given counts 0), map, subset_accuracy, hamming (share of wrong decisions)."""
    options: dict[str, Any] = {"num_labels": num_tags, "validate_args": False}
    metrics: dict[str, Metric | MetricCollection] = {
        "sample_f1": SampleF1(),
        "f1_micro": MultilabelF1Score(average="micro", **options),
        "f1_macro": MultilabelF1Score(average="macro", **options),
        "map": MeanAveragePrecision(num_tags),
        "subset_accuracy": MultilabelExactMatch(**options),
        "hamming": MultilabelHammingDistance(average="micro", **options),
    }
    collection = MetricCollection(metrics, compute_groups=False)
    collection.set_dtype(torch.float64)
    return collection


def update(metrics: MetricCollection, prob_BT: Tensor, given_BT: Tensor, truth_BT: Tensor) -> None:
    """Add a batch: probabilities, given and true tags (B, T)."""
    given_BT, truth_BT = given_BT.long(), truth_BT.long()
    for name in ("sample_f1", "f1_micro", "f1_macro", "map", "subset_accuracy", "hamming"):
        metrics[name].update(prob_BT if name == "map" else given_BT, truth_BT)


def by_tag(metrics: MetricCollection, tags: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """F1, precision, recall, average precision and number of photos of each tag; every rank takes part."""
    counts, ranked = metrics["f1_macro"], metrics["map"]
    assert isinstance(counts, MultilabelF1Score)
    assert isinstance(ranked, MeanAveragePrecision)
    with counts.sync_context():
        hit_T, false_T, missed_T = counts.tp.double(), counts.fp.double(), counts.fn.double()  # type: ignore[union-attr]
    with ranked.sync_context():
        ap_T = ranked.by_tag()
    columns = {"f1": 2 * hit_T / (2 * hit_T + false_T + missed_T), "precision": hit_T / (hit_T + false_T), "recall": hit_T / (hit_T + missed_T), "ap": ap_T}
    columns |= {"num_photos": hit_T + missed_T}
    values = {name: column_T.tolist() for name, column_T in columns.items()}
    return {tag: {name: column[place] for name, column in values.items()} for place, tag in enumerate(tags)}
