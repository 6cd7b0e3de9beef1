"""Confidence intervals whose unit is the group (participant, weighed portion), not the item: items of one person resemble each other."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

NUM_RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its interval."""

    estimate: float
    """Mean over items."""
    low: float
    """Lower end; nan where there are fewer than two groups."""
    high: float
    """Upper end; nan where there are fewer than two groups."""
    level: float
    """Nominal coverage."""
    num_items: int
    """Values that went in."""
    num_groups: int
    """Groups that were resampled."""

    def excludes_zero(self) -> bool:
        """Whether zero is outside; not where there is no interval."""
        return self.low > 0 or self.high < 0


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
    """The mean of values (N,) with a BCa bootstrap interval that draws whole groups (N,) anew, 9,999 times.

    The mean is a ratio, sum over number of items, so that groups of many items weigh more, as they do in the table's number. Raises
    `ValueError` without a value.
    """
    if not len(values):
        raise ValueError("no value to take a mean of")
    _, of_group = np.unique(groups.astype(str), return_inverse=True)
    sums, counts = np.bincount(of_group, weights=values).astype(np.float64), np.bincount(of_group)
    estimate = float(values.mean())
    low = high = float("nan")
    if len(sums) > 1:
        low, high = _ends(sums, counts, level, seed) if np.ptp(sums / counts) > 0 else (estimate, estimate)
    return Interval(estimate=estimate, low=low, high=high, level=level, num_items=len(values), num_groups=len(sums))


def _ends(sums: NDArray[np.float64], counts: NDArray[np.int64], level: float, seed: int) -> tuple[float, float]:
    def mean(sums: NDArray[np.float64], counts: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))

    for method in ("BCa", "percentile"):  # BCa is undefined where single groups decide everything
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = bootstrap(
                (sums, counts),
                mean,
                paired=True,
                vectorized=True,
                n_resamples=NUM_RESAMPLES,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(seed),
            )
        low, high = float(done.confidence_interval.low), float(done.confidence_interval.high)
        if np.isfinite(low) and np.isfinite(high):
            break
    return low, high
