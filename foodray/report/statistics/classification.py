"""How often the class is right, which classes are mistaken for which, and each class's own numbers.

In: names of the true and the named class of the same rows; where there is a list of the likeliest classes, that list. Calibration of the
probabilities is in `calibration.py`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import mean_interval, means_by, row_intervals

OTHER = "other"
"""Row and column of a confusion table for all classes that are not among the most frequent."""


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Numbers of one class."""

    name: str
    """The class."""
    support: int
    """Rows whose truth it is."""
    num_predicted: int
    """Rows that were given it."""
    precision: float
    """Share of the rows given it that are of it; nan where none were."""
    recall: float
    """Share of its rows that were given it; nan without support."""
    f1: float
    """Harmonic mean of both, 0 where no row is right."""
    recall_interval: Interval | None
    """The recall's interval; None without support."""
    is_known: bool
    """Whether the model can name it; True where the model's classes are not given."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of truth against prediction, for the most frequent classes of the truth."""

    names: tuple[str, ...]
    """Classes, the most frequent first, `other` last where there are more."""
    counts: NDArray[np.int64]
    """(classes, classes), rows are the truth."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """How well classes are named."""

    top1: Interval
    """Share of rows whose class is right."""
    top5: Interval | None
    """Share of rows whose class is among the five likeliest; None without lists of at least five."""
    macro_f1: Interval
    """Mean F1 over all classes of truth or prediction, each counting once (scikit-learn's macro average)."""
    classes: tuple[ClassScores, ...]
    """Every class of truth or prediction, by support."""
    num_rows: int
    """Rows compared."""
    known_share: Interval | None
    """Share of rows whose true class the model knows; what it does not know it cannot name. None where the model's classes are not given."""
    top1_known: Interval | None
    """`top1` among those rows."""
    unknown_classes: tuple[tuple[str, int], ...]
    """True classes that the model does not know, with their rows, the most frequent first."""


def classification(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    participants: NDArray[Any],
    *,
    how: Resampling,
    top: Sequence[Sequence[str]] | None = None,
    known: Collection[str] | None = None,
) -> Classification:
    """Compare named classes (N,) with true ones (N,); `top` lists each row's classes, likeliest first, `known` is all that the model can name.

    Raises `ValueError` without rows, and for rows without a class.
    """
    truth, predicted, participants = (np.asarray(side, dtype=object) for side in (truth, predicted, participants))
    if not len(truth) or len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} true and {len(predicted)} predicted classes; they must be as many as each other and not none")
    if num_missing := int((pd.isna(truth) | pd.isna(predicted)).sum()):
        raise ValueError(f"{num_missing} rows have no class; leave them out and count them")
    right = truth == predicted
    is_known = np.ones(len(truth), bool) if known is None else np.isin(truth.astype(str), list(known))
    missing = Counter(truth[~is_known])
    return Classification(
        top1=mean_interval(right, participants, how, scale="logit"),
        top5=_top5(truth, participants, top, how),
        macro_f1=_macro_f1(truth, predicted, Clusters(participants), how),
        classes=_classes(truth, predicted, participants, known, how),
        num_rows=len(truth),
        known_share=None if known is None else mean_interval(is_known, participants, how, scale="logit"),
        top1_known=mean_interval(right[is_known], participants[is_known], how, scale="logit") if known is not None and is_known.any() else None,
        unknown_classes=tuple(sorted(missing.items(), key=lambda entry: (-entry[1], entry[0]))),
    )


def _top5(truth: NDArray[Any], participants: NDArray[Any], top: Sequence[Sequence[str]] | None, how: Resampling) -> Interval | None:
    if top is None or max((len(names) for names in top), default=0) < 5:
        return None
    within = np.array([name in names[:5] for name, names in zip(truth, top, strict=True)])
    return mean_interval(within, participants, how, scale="logit")


def _macro_f1(truth: NDArray[Any], predicted: NDArray[Any], clusters: Clusters, how: Resampling) -> Interval:
    codes, names = pd.factorize(np.concatenate([truth, predicted]))
    first, second = codes[: len(truth)], codes[len(truth) :]
    right = first == second

    def macro_f1(weights: Floats) -> dict[str, float]:
        hits, held, given = (
            np.bincount(codes, weights=counted, minlength=len(names)) for codes, counted in ((first, weights * right), (first, weights), (second, weights))
        )
        some = held + given > 0
        return {"macro_f1": float((2 * hits[some] / (held + given)[some]).mean())}

    return row_intervals(macro_f1, clusters, how, centred=True)["macro_f1"].within(0, 1)


def _classes(
    truth: NDArray[Any], predicted: NDArray[Any], participants: NDArray[Any], known: Collection[str] | None, how: Resampling
) -> tuple[ClassScores, ...]:
    names = sorted(set(truth) | set(predicted))
    precision, recall, f1, support = precision_recall_fscore_support(truth.astype(str), predicted.astype(str), labels=names, zero_division=np.nan)
    given, recalls = Counter(predicted), means_by(truth, truth == predicted, participants, how, scale="logit")
    found = [
        ClassScores(
            name=name,
            support=int(support[at]),
            num_predicted=given[name],
            precision=float(precision[at]),
            recall=float(recall[at]),
            f1=float(np.nan_to_num(f1[at])),
            recall_interval=recalls.get(name),
            is_known=known is None or name in known,
        )
        for at, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda scores: (-scores.support, scores.name)))


def confusion(truth: NDArray[Any], predicted: NDArray[Any], *, most: int = 25) -> Confusion:
    """Counts of true (N,) against named class (N,) for the `most` frequent true classes, the rest as `OTHER`, which rows may be already."""
    counted = Counter(name for name in truth if name != OTHER)
    frequent = [name for name, _ in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))][:most]
    shown = set(frequent)
    sides = [np.array([name if name in shown else OTHER for name in side], dtype=object).astype(str) for side in (truth, predicted)]
    names = [*frequent, *([OTHER] if OTHER not in shown and any((side == OTHER).any() for side in sides) else [])]
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, tuple(pd.Index(names).get_indexer(pd.Index(side)) for side in sides), 1)
    return Confusion(names=tuple(names), counts=counts)
