"""Participants and what is said of a number: which rows are whose, how participants are drawn, and the interval that comes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

Floats = NDArray[np.float64]
FEW_PARTICIPANTS = 10
"""Below so many an interval carries a note: it holds its level only if participants are much alike in kind."""
_CELLS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A statistic with its interval."""

    estimate: float
    """The statistic of all rows."""
    low: float
    """Lower end; nan where there are fewer than two groups."""
    high: float
    """Upper end; nan where there are fewer than two groups."""
    level: float
    """Nominal coverage."""
    num_items: int
    """Rows that went in."""
    num_groups: int
    """Groups (participants) that were resampled."""
    method: str = ""
    """How the ends were made."""
    note: str = ""
    """What a reader must know of the ends: few participants, no spread between them."""

    def excludes_zero(self) -> bool:
        """Whether zero is outside; not where there is no interval."""
        return self.low > 0 or self.high < 0

    def within(self, least: float, most: float) -> "Interval":
        """The interval cut to what the statistic can be, such as 0 to 1 of a share; it holds the truth as often as before."""
        return replace(self, low=float(np.clip(self.low, least, most)), high=float(np.clip(self.high, least, most)))

    def through(self, function: Callable[[Any], Any]) -> "Interval":
        """Estimate and ends through an increasing function, such as exp after an analysis of logarithms."""
        return replace(self, estimate=float(function(self.estimate)), low=float(function(self.low)), high=float(function(self.high)))


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How participants are drawn."""

    level: float = 0.95
    """Nominal coverage."""
    num_draws: int = 1_999
    """Draws of as many participants as there are; with 0 an interval is Student's t with the linearised standard error."""
    seed: int = 0
    """Of the draws."""


class Clusters:
    """Which rows belong to which participant."""

    def __init__(self, participants: NDArray[Any]) -> None:
        """Of the participant of each row (N,). Raises `ValueError` where a row has none."""
        codes, names = pd.factorize(np.asarray(participants, dtype=object), sort=True)
        if len(codes) and codes.min() < 0:
            raise ValueError(f"{int((codes < 0).sum())} rows have no participant; leave them out and count them")
        self.codes: NDArray[np.intp] = codes
        """Index of each row's participant (N,)."""
        self.names: NDArray[Any] = np.asarray(names, dtype=object)
        """Participants (P,), sorted."""

    def sums(self, **columns: NDArray[Any]) -> dict[str, Floats]:
        """Sums (P,) of each column (N,), and `num`, the rows of each participant."""
        num = len(self.names)
        found: dict[str, Floats] = {"num": np.bincount(self.codes, minlength=num).astype(np.float64)}
        for name, values in columns.items():
            found[name] = np.asarray(np.bincount(self.codes, weights=np.asarray(values, np.float64), minlength=num), np.float64)
        return found


def draw_counts(num_groups: int, how: Resampling) -> Iterator[Floats]:
    """How often each participant was drawn, (draws, P), in parts of bounded memory; the same for the same seed and number of participants."""
    rng = np.random.default_rng(how.seed)
    most = max(1, _CELLS // num_groups)
    for start in range(0, how.num_draws, most):
        draws = min(most, how.num_draws - start)
        drawn = rng.integers(num_groups, size=(draws, num_groups)) + np.arange(draws)[:, None] * num_groups
        yield np.bincount(drawn.ravel(), minlength=draws * num_groups).reshape(draws, num_groups).astype(np.float64)


def expanded_tail(num_groups: int, level: float) -> float:
    """Share of draws outside each end of a percentile interval, moved outward for few groups as t is against normal (Hesterberg 2015, Am Stat 69:371)."""
    return float(norm.cdf(-np.sqrt(num_groups / (num_groups - 1)) * t.ppf((1 + level) / 2, num_groups - 1)))


def no_interval(estimate: float, num_items: int, num_groups: int, how: Resampling) -> Interval:
    """A statistic without ends, and why there are none."""
    nan = float("nan")
    note = "no interval: fewer than two participants" if num_groups < 2 else "no interval: the statistic is not defined"
    return Interval(estimate=estimate, low=nan, high=nan, level=how.level, num_items=num_items, num_groups=num_groups, note=note)


def few_note(num_groups: int) -> str:
    """What to say of an interval of so many participants."""
    return f"only {num_groups} participants: the interval is rough" if num_groups < FEW_PARTICIPANTS else ""
