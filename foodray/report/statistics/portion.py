"""How far predicted portions are from the truth: every error of the portion table, each with its interval.

In: truth and prediction of the same rows, in one unit, of one level (item, occasion, day; errors shrink as items are summed, so levels are never
mixed). Out: `PortionErrors`, or `portion_differences` for two predictions of the same rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import Statistic, intervals, mean_statistic, paired_intervals, row_intervals

PAPER_CONSTANT = 4.19
"""The constant with which equation 9 gives the printed MCCR of He et al. 2020, Table 1, where the paper states C = 1."""


@dataclass(frozen=True, kw_only=True)
class PortionErrors:
    """Errors of a portion in its unit, shares 0 to 1."""

    mae: Interval
    """Mean absolute error."""
    median_absolute: Interval
    """Median absolute error."""
    rmse: Interval
    """Root of the mean squared error."""
    bias: Interval
    """Mean of prediction less truth."""
    ep: Interval
    """Error percentage, 0 to 1: sum of absolute errors over sum of truths (He et al. 2020)."""
    mape: Interval | None
    """Mean of |error| / truth over rows whose truth is not zero; None where there are none."""
    smape: Interval | None
    """Mean of 2 |error| / (|truth| + |prediction|) over the same rows."""
    mae_correct: Interval | None
    """Mean absolute error of rows whose class is right; None where classes are not given."""
    mccr: Interval | None
    """C times the sum of absolute errors of the right rows over their squared number (He et al. 2020, equation 9); it shrinks as rows are added,
    so never compare it between test sets."""
    mae_per_accuracy: Interval | None
    """`mae_correct` over accuracy, MCCR's companion that does not depend on the number of rows."""
    mccr_constant: float
    """C of MCCR."""
    num_rows: int
    """N: rows compared."""
    num_correct: int | None
    """|I|: rows whose class is right."""
    num_zero_truth: int
    """Rows of truth zero, which MAPE and sMAPE leave out."""


def portion_errors(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    participants: NDArray[Any],
    *,
    how: Resampling,
    correct: NDArray[Any] | None = None,
    mccr_constant: float = 1.0,
) -> PortionErrors:
    """Errors of predicted portions (N,) against truth (N,); `correct` (N,) says whose class is right.

    Raises `ValueError` without rows, where a portion is not finite, or where truth is negative.
    """
    truth, predicted = _checked(truth, predicted)
    clusters = Clusters(participants)
    columns = _columns(truth, predicted, correct, clusters)
    num_correct, num_zero = None if correct is None else int(columns["correct"].sum()), int((truth == 0).sum())
    statistics = _statistics(columns, mccr_constant)
    found: dict[str, Interval | None] = {**intervals(columns, statistics, how)}
    return PortionErrors(
        **{name: found.get(name) for name in _NAMES},  # type: ignore[arg-type]  # the first four are always there
        median_absolute=_median(np.abs(predicted - truth), clusters, how),
        mccr_constant=mccr_constant,
        num_rows=len(truth),
        num_correct=num_correct,
        num_zero_truth=num_zero,
    )


def portion_differences(
    truth: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    participants: NDArray[Any],
    *,
    how: Resampling,
    correct: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> dict[str, Interval]:
    """First less second of each error of `PortionErrors` that is made of sums, between two predictions (N,) of the same rows, draws shared."""
    clusters = Clusters(participants)
    sides = [_columns(*_checked(truth, predicted), right, clusters) for predicted, right in zip((first, second), correct or (None, None), strict=True)]
    return paired_intervals(sides[0], sides[1], _statistics(sides[0], 1.0), how)


_NAMES = ("mae", "rmse", "bias", "ep", "mape", "smape", "mae_correct", "mccr", "mae_per_accuracy")


def _checked(truth: NDArray[Any], predicted: NDArray[Any]) -> tuple[Floats, Floats]:
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if not len(truth) or truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predictions {predicted.shape}; they must be as long as each other and not empty")
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise ValueError("a portion is not finite; leave such rows out and count them")
    if (truth < 0).any():
        raise ValueError(f"a true portion is negative ({truth.min():g})")
    return truth, predicted


def _columns(truth: Floats, predicted: Floats, correct: NDArray[Any] | None, clusters: Clusters) -> dict[str, Floats]:
    error = predicted - truth
    absolute, known = np.abs(error), truth != 0
    both = np.abs(truth) + np.abs(predicted)
    columns = {"absolute": absolute, "square": error**2, "error": error, "truth": truth, "known": known}
    columns["relative"] = np.divide(absolute, truth, out=np.zeros_like(truth), where=known)
    columns["symmetric"] = np.divide(2 * absolute, both, out=np.zeros_like(truth), where=known)
    if correct is not None:
        columns |= {"correct": np.asarray(correct, bool), "absolute_correct": absolute * np.asarray(correct, bool)}
    return clusters.sums(**columns)


def _statistics(columns: Mapping[str, Floats], constant: float) -> dict[str, Statistic]:
    found = {
        "mae": mean_statistic("absolute", scale="log"),
        "rmse": Statistic(of=lambda num, square: np.sqrt(square / num), columns=("num", "square"), scale="log"),
        "bias": mean_statistic("error"),
        "ep": _ratio("truth", "absolute", items="num"),
    }
    if columns["known"].any():
        found |= {"mape": _ratio("known", "relative"), "smape": _ratio("known", "symmetric")}
    if "correct" in columns:
        found["mae_correct"] = _ratio("correct", "absolute_correct")
        found["mccr"] = Statistic(of=lambda right, total: constant * total / right**2, columns=("correct", "absolute_correct"), scale="log", items="correct")
        found["mae_per_accuracy"] = Statistic(
            of=lambda num, right, total: total * num / right**2, columns=("num", "correct", "absolute_correct"), scale="log", items="correct"
        )
    return found


def _ratio(below: str, above: str, *, items: str | None = None) -> Statistic:
    return Statistic(of=lambda below, above: above / below, columns=(below, above), scale="log", items=items or below)


def _median(absolute: Floats, clusters: Clusters, how: Resampling) -> Interval:
    order = np.argsort(absolute, kind="stable")
    ordered = absolute[order]

    def median(weights: Floats) -> dict[str, float]:
        reached = np.cumsum(weights[order])
        places = [np.searchsorted(reached, reached[-1] / 2, side=side) for side in ("left", "right")]
        return {"median": float(ordered[np.minimum(places, len(ordered) - 1)].mean())}

    return row_intervals(median, clusters, how)["median"].within(0, np.inf)
