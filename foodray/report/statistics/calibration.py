"""Whether probabilities mean what they say, and what would be gained by leaving the least certain rows to people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import mean_interval, row_intervals

_SMALLEST = 1e-15
_COMPLETE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Rows by the probability of their first class, for a reliability diagram; bins without rows are left out."""

    low: Floats
    """Smallest probability of each bin (B,): its edge, or in bins of equal mass its smallest row."""
    high: Floats
    """Largest probability of each bin (B,)."""
    count: NDArray[np.int64]
    """Rows (B,)."""
    probability: Floats
    """Mean probability (B,)."""
    accuracy: Floats
    """Share right (B,)."""
    ece: Interval
    """Expected calibration error: the mean over rows of |accuracy - probability| of their bin; chance alone makes it larger than 0."""
    num_bins: int
    """Bins asked for."""
    by: str
    """"width" or "mass"."""


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The error among the rows that are accepted without review, most certain first."""

    coverage: Floats
    """Share of rows accepted, increasing; rows of equal probability are accepted together."""
    risk: Floats
    """Share of those whose class is wrong."""
    area: Interval
    """Area under the curve, the mean risk over rows; smaller is better, and the overall error is what no ranking reaches."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Probabilities against what happened."""

    equal_width: Reliability
    """Bins of equal width."""
    equal_mass: Reliability
    """Bins of equally many rows."""
    brier: Interval
    """Mean squared difference of the first class's probability and its being right."""
    nll: Interval
    """Mean negative logarithm of the probability given to what happened, right or wrong."""
    brier_all: Interval | None
    """Sum over all classes of the squared difference, over rows whose list is complete; None without such rows."""
    nll_all: Interval | None
    """Mean negative logarithm of the true class's probability, over the same rows whose truth is in the list."""
    num_complete: int
    """Rows whose probabilities add up to 1."""
    risk_coverage: RiskCoverage
    """What is gained by review."""


def calibration(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    probability: NDArray[Any],
    participants: NDArray[Any],
    *,
    how: Resampling,
    top: Sequence[Mapping[str, float]] | None = None,
    num_bins: int = 15,
) -> Calibration:
    """Check the probabilities (N,), 0 to 1, of the named classes (N,); `top` has each row's classes with their probabilities.

    Raises `ValueError` without rows or for a number that is no probability.
    """
    probability = np.asarray(probability, np.float64)
    if not len(probability) or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must be 0 to 1, and there must be some; leave rows without one out and count them")
    right = (np.asarray(truth, dtype=object) == np.asarray(predicted, dtype=object)).astype(np.float64)
    clusters = Clusters(participants)
    said = np.clip(np.where(right == 1, probability, 1 - probability), _SMALLEST, 1)
    complete = _complete(np.asarray(truth, dtype=object), np.asarray(participants, dtype=object), top, how)
    return Calibration(
        equal_width=_reliability(probability, right, clusters, num_bins, "width", how),
        equal_mass=_reliability(probability, right, clusters, num_bins, "mass", how),
        brier=mean_interval((probability - right) ** 2, participants, how),
        nll=mean_interval(-np.log(said), participants, how),
        brier_all=complete[0],
        nll_all=complete[1],
        num_complete=complete[2],
        risk_coverage=_risk_coverage(probability, right, clusters, how),
    )


def _reliability(probability: Floats, right: Floats, clusters: Clusters, num_bins: int, by: str, how: Resampling) -> Reliability:
    if by == "width":
        edges = np.linspace(0, 1, num_bins + 1)
        bins = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, num_bins - 1)  # a bin holds its upper edge, as in Guo et al. 2017
    else:
        inner = np.quantile(probability, np.linspace(0, 1, num_bins + 1)[1:-1], method="inverted_cdf")
        bins = np.searchsorted(inner, probability, side="left")  # equal probabilities stay together

    def error(weights: Floats) -> dict[str, float]:
        gaps = np.bincount(bins, weights=weights * (right - probability), minlength=num_bins)
        return {"ece": float(np.abs(gaps).sum() / weights.sum())}

    count = np.bincount(bins, minlength=num_bins)
    some = np.flatnonzero(count)
    low, high = (np.array([end(probability[bins == at]) for at in some]) for end in (np.min, np.max))
    return Reliability(
        low=edges[some] if by == "width" else low,
        high=edges[some + 1] if by == "width" else high,
        count=count[some].astype(np.int64),
        probability=np.bincount(bins, weights=probability, minlength=num_bins)[some] / count[some],
        accuracy=np.bincount(bins, weights=right, minlength=num_bins)[some] / count[some],
        ece=row_intervals(error, clusters, how, centred=True)["ece"].within(0, 1),
        num_bins=num_bins,
        by=by,
    )


def _risk_coverage(probability: Floats, right: Floats, clusters: Clusters, how: Resampling) -> RiskCoverage:
    order = np.argsort(-probability, kind="stable")
    ordered, wrong = probability[order], 1 - right[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last row of each run of equal probabilities

    def curve(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights[order]
        return np.cumsum(drawn)[last], np.cumsum(drawn * wrong)[last]

    def area(weights: Floats) -> dict[str, float]:
        accepted, mistaken = curve(weights)
        steps = np.diff(accepted, prepend=0)
        return {"area": float((steps * mistaken / np.maximum(accepted, 1)).sum() / accepted[-1])}

    accepted, mistaken = curve(np.ones(len(ordered)))
    found = row_intervals(area, clusters, how)["area"].within(0, 1)
    return RiskCoverage(coverage=accepted / accepted[-1], risk=mistaken / accepted, area=found)


def _complete(
    truth: NDArray[Any], participants: NDArray[Any], top: Sequence[Mapping[str, float]] | None, how: Resampling
) -> tuple[Interval | None, Interval | None, int]:
    """Brier and negative log-likelihood over all classes, where a row's probabilities add up to 1 (within a thousandth)."""
    rows = [at for at, row in enumerate(top or ()) if abs(sum(row.values()) - 1) <= _COMPLETE]
    if top is None or not rows:
        return None, None, 0
    given = np.array([top[at].get(truth[at], np.nan) for at in rows])
    own = np.nan_to_num(given)
    squares = np.array([sum(value**2 for value in top[at].values()) for at in rows]) - own**2 + (1 - own) ** 2
    who, listed = participants[rows], np.isfinite(given)
    nll = mean_interval(-np.log(np.clip(given[listed], _SMALLEST, 1)), who[listed], how) if listed.any() else None
    return mean_interval(squares, who, how), nll, len(rows)
