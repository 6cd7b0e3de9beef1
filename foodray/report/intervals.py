"""Confidence intervals whose unit is the group (participant, weighed portion), not the item: items of one person resemble each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Interval, Resampling
from foodray.report.statistics.resampling import mean_interval

__all__ = ["NUM_RESAMPLES", "Interval", "clustered_mean", "over_seeds", "verdict"]
NUM_RESAMPLES = 9_999


def verdict(low: float, high: float, claimed: float, *, seeds_agree: bool) -> str:
    """What the interval of a difference says of a claimed one: supported where it lies on the claim's side of zero and every seed has its sign,
    contradicted where both are so on the other side, and otherwise not decided."""
    if not (low > 0 or high < 0):
        return "not decided"
    if not seeds_agree:
        return "not decided: seeds disagree"
    return "supported" if (low > 0) == (claimed > 0) else "contradicted"


def over_seeds(found: Sequence[Mapping[str, float | None]], names: Mapping[str, str]) -> dict[str, Any]:
    """Mean and standard deviation (`NAME_sd`, None for one seed) of each number that is there, one entry a seed; `names` is column to key."""
    cells: dict[str, Any] = {}
    for name, key in names.items():
        values = [float(value) for entry in found if (value := entry.get(key)) is not None]
        if values:
            cells |= {name: float(np.mean(values)), f"{name}_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}
    return cells


def clustered_mean(values: NDArray[Any], groups: NDArray[Any], *, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of values (N,) with an interval that draws whole groups (N,) anew, 9,999 times (`foodray.report.statistics.resampling`).

    The mean is a ratio, sum over number of items, so that groups of many items weigh more, as they do in the table's number. Raises
    `ValueError` without a value.
    """
    return mean_interval(values, groups.astype(str), Resampling(level=level, num_draws=NUM_RESAMPLES, seed=seed))
