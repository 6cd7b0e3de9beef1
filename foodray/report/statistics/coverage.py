"""Whether a model's own intervals hold the truth as often as they say, and how wide they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import mean_interval, means_by


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Empirical coverage of given intervals."""

    nominal: float
    """How often they say they hold the truth."""
    covered: Interval
    """How often they do; its own interval resamples participants."""
    mean_width: Interval
    """Mean of high less low."""
    below: Interval
    """Share of truths below the lower end."""
    above: Interval
    """Share of truths above the upper end."""
    num_without: int
    """Rows left out because they have no interval."""
    covered_by: Mapping[str, Mapping[Any, Interval]] = field(default_factory=dict)
    """Coverage in each group of each grouping that was asked for (class, energy band)."""
    width_by: Mapping[str, Mapping[Any, Interval]] = field(default_factory=dict)
    """Mean width in the same groups."""
    participants: NDArray[Any]
    """Participants (P,), sorted."""
    participant_share: Floats
    """Coverage within each participant (P,)."""
    participant_rows: NDArray[np.int64]
    """Rows of each participant (P,)."""


def coverage(
    truth: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    participants: NDArray[Any],
    *,
    nominal: float,
    how: Resampling,
    by: Mapping[str, NDArray[Any]] | None = None,
) -> Coverage:
    """Coverage of intervals from low to high (N,), ends included, of truth (N,); `by` names groupings (N,).

    Rows without an interval (nan) are left out and counted. Raises `ValueError` where none is left or where an interval ends before it begins.
    """
    truth, low, high = (np.asarray(side, np.float64) for side in (truth, low, high))
    some = np.isfinite(low) & np.isfinite(high) & np.isfinite(truth)
    if not some.any():
        raise ValueError("no row has an interval and a truth")
    truth, low, high, who = truth[some], low[some], high[some], np.asarray(participants, dtype=object)[some]
    if (low > high).any():
        raise ValueError(f"{int((low > high).sum())} intervals end before they begin")
    inside = ((low <= truth) & (truth <= high)).astype(np.float64)
    groupings = {name: np.asarray(groups, dtype=object)[some] for name, groups in (by or {}).items()}
    clusters = Clusters(who)
    sums = clusters.sums(inside=inside)
    return Coverage(
        nominal=nominal,
        covered=mean_interval(inside, who, how, scale="logit"),
        mean_width=mean_interval(high - low, who, how),
        below=mean_interval(truth < low, who, how, scale="logit"),
        above=mean_interval(truth > high, who, how, scale="logit"),
        num_without=int((~some).sum()),
        covered_by={name: means_by(groups, inside, who, how, scale="logit") for name, groups in groupings.items()},
        width_by={name: means_by(groups, high - low, who, how) for name, groups in groupings.items()},
        participants=clusters.names,
        participant_share=sums["inside"] / sums["num"],
        participant_rows=sums["num"].astype(np.int64),
    )
