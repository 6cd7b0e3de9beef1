"""The one engine behind every interval of the report: participants are drawn anew, never items, for items of one person resemble each other.

A statistic that is a function of sums over rows (a mean, a ratio, a variance, an intraclass correlation) is drawn from the participants' sums:
draws times participants of counts, times participants by columns of sums. Rows are not touched again, so 100,000 rows cost no more than their
participants. What is no function of sums (a median, ranks) gets the rows with the draw's weights (`row_intervals`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import beta, t

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling, draw_counts, expanded_tail, few_note, no_interval

LEAST_STUDENTIZED = 6
"""Below so many a draw is made of too few people for a standard error of its own."""
_ROW_VALUES = 20_000_000
_LEAST_ROW_DRAWS = 199
_MOST_DRAWN_GROUPS = 30
_STEP = 1e-4
_WIDEST = 2.0
"""An end of the bootstrap-t lies at most so many times as far out as Student's t: in simulations of 12 and 32 participants it holds the truth as often
as without a bound (within 0.1 points)."""

METHOD = (
    "Participants drawn with replacement; bootstrap-t on the {scale} scale with the linearised standard error, at no end narrower than Student's t "
    "with participants - 1 degrees of freedom nor wider than twice that (Davison & Hinkley 1997, 5.2; Cameron, Gelbach & Miller 2008); {draws} draws"
)
METHOD_FEW = "Student's t on the {scale} scale with the linearised standard error over participants, participants - 1 degrees of freedom"
METHOD_EXACT = "Clopper & Pearson's exact limits with participants as the number of trials, since every participant has the same share"
METHOD_ROWS = (
    "Participants drawn with replacement; percentiles widened for few participants (Hesterberg 2015), at no end narrower than Student's t with the "
    "draws' standard error; {draws} draws"
)
METHOD_CENTRED = "Participants drawn with replacement; Student's t with the draws' standard error, because draws of this statistic are biased; {draws} draws"


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A statistic that is a function of sums over rows."""

    of: Callable[..., Any]
    """From the sums of `columns`, in that order and each of shape (draws,), to the statistic (draws,); smooth near the data."""
    columns: tuple[str, ...]
    """Names of the columns whose sums it takes."""
    scale: Literal["linear", "log", "logit", "fisher"] = "linear"
    """Scale on which the interval is made: log for what is positive, logit for shares, fisher (arctanh) for correlations."""
    items: str = "num"
    """Column whose sum is the number of rows that went in."""


_SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "linear": (np.asarray, np.asarray),
    "log": (np.log, np.exp),
    "logit": (logit, expit),
    "fisher": (np.arctanh, np.tanh),
}


def intervals(columns: Mapping[str, Floats], statistics: Mapping[str, Statistic], how: Resampling) -> dict[str, Interval]:
    """Each statistic with its interval; all are computed on the same draws. `columns` are sums of each participant (P,).

    Ends are nan where fewer than two participants have rows. A statistic that is the same in every participant has ends equal to it, a share
    of 0 or 1 those of Clopper and Pearson with as many trials as participants. In a simulation of skewed, strongly clustered errors with 5 to
    60 items a participant intervals hold the truth about as often as they say (`python -m tests.bench.coverage`; BCa: 3 points less often).
    """
    names = sorted({name for statistic in statistics.values() for name in statistic.columns})
    sums_PK = np.stack([columns[name] for name in names], axis=1) if names else np.empty((0, 0))
    totals = dict(zip(names, sums_PK.sum(axis=0), strict=True))
    places = {name: place for place, name in enumerate(names)}
    drawn = _Drawn.of(sums_PK, statistics, places, how) if len(sums_PK) > 1 else None
    return {
        key: _interval(statistic, columns[statistic.items], totals, [places[name] for name in statistic.columns], drawn, how)
        for key, statistic in statistics.items()
    }


def paired_intervals(first: Mapping[str, Floats], second: Mapping[str, Floats], statistics: Mapping[str, Statistic], how: Resampling) -> dict[str, Interval]:
    """The difference, first less second, of each statistic between two predictions of the same rows; both are computed on the same draws."""
    columns = {f"{side}.{name}": values for side, part in (("first", first), ("second", second)) for name, values in part.items()}
    return intervals(columns, {key: _difference(statistic) for key, statistic in statistics.items()}, how)


def mean_statistic(column: str, *, scale: Literal["linear", "log", "logit"] = "linear") -> Statistic:
    """The mean over rows: the column's sum over the number of rows."""
    return Statistic(of=lambda num, total: total / num, columns=("num", column), scale=scale)


def mean_interval(values: NDArray[Any], participants: NDArray[Any], how: Resampling, *, scale: Literal["linear", "log", "logit"] = "linear") -> Interval:
    """The mean over rows of values (N,); "logit" for shares, whose values are 0 or 1. Raises `ValueError` without a value."""
    if not len(values):
        raise ValueError("no value to take a mean of")
    columns = Clusters(participants).sums(value=values)
    return intervals(columns, {"mean": mean_statistic("value", scale=scale)}, how)["mean"]


def means_by(
    groups: NDArray[Any],
    values: NDArray[Any],
    participants: NDArray[Any],
    how: Resampling,
    *,
    scale: Literal["linear", "log", "logit"] = "linear",
) -> dict[Any, Interval]:
    """The mean over the rows of each group (N,), such as food class or energy band, in sorted order; rows without a group are left out.

    Of more than 30 groups the intervals are Student's t without draws, as `method` says.
    """
    codes, names = pd.factorize(np.asarray(groups, dtype=object), sort=True)
    how = replace(how, num_draws=0) if len(names) > _MOST_DRAWN_GROUPS else how
    return {name: mean_interval(values[codes == code], participants[codes == code], how, scale=scale) for code, name in enumerate(names)}


def row_intervals(of: Callable[[Floats], Mapping[str, float]], clusters: Clusters, how: Resampling, *, centred: bool = False) -> dict[str, Interval]:
    """Statistics that are no function of sums: `of` takes a weight for each row (N,), how often its participant was drawn, and names numbers.

    Draws are fewer where rows are many (199 at least); `method` says how many. `centred` is for statistics whose draws are biased, as is a
    calibration error: the interval is then the estimate and Student's t times the draws' standard error.
    """
    num_rows, num_groups = len(clusters.codes), len(clusters.names)
    estimate = of(np.ones(num_rows))
    if num_groups < 2:
        return {key: no_interval(value, num_rows, num_groups, how) for key, value in estimate.items()}
    few = replace(how, num_draws=min(how.num_draws or _LEAST_ROW_DRAWS, max(_LEAST_ROW_DRAWS, _ROW_VALUES // max(num_rows, 1))))
    draws = [of(counts_P[clusters.codes]) for counts_DP in draw_counts(num_groups, few) for counts_P in counts_DP]
    method = (METHOD_CENTRED if centred else METHOD_ROWS).format(draws=few.num_draws)
    found = {}
    for key, value in estimate.items():
        values = np.array([draw[key] for draw in draws])
        low, high = _row_ends(value, values[np.isfinite(values)], num_groups, how.level, centred)
        found[key] = Interval(
            estimate=value, low=low, high=high, level=how.level, num_items=num_rows, num_groups=num_groups, method=method, note=few_note(num_groups)
        )
    return found


def _difference(statistic: Statistic) -> Statistic:
    half = len(statistic.columns)
    columns = tuple(f"{side}.{name}" for side in ("first", "second") for name in statistic.columns)
    return Statistic(of=lambda *sums: statistic.of(*sums[:half]) - statistic.of(*sums[half:]), columns=columns, items=f"first.{statistic.items}")


@dataclass(frozen=True)
class _Drawn:
    """Sums (D, K) and summed products (D,) of participants: row 0 of the data, the others of the draws."""

    sums: Floats
    products: dict[tuple[int, int], Floats]
    centre: Floats
    sd: Floats
    num_groups: int

    @classmethod
    def of(cls, sums_PK: Floats, statistics: Mapping[str, Statistic], places: Mapping[str, int], how: Resampling) -> "_Drawn":
        pairs = sorted(
            {pair for statistic in statistics.values() for pair in combinations_with_replacement(sorted(places[name] for name in statistic.columns), 2)}
        )
        centre_K = sums_PK.mean(axis=0)
        offset_PK = sums_PK - centre_K  # sums of squares of centred columns keep their digits
        wide = np.concatenate([sums_PK, *(offset_PK[:, [i]] * offset_PK[:, [j]] for i, j in pairs)], axis=1)
        drawn = np.concatenate([wide.sum(axis=0, keepdims=True), *(counts_DP @ wide for counts_DP in draw_counts(len(sums_PK), how))])
        num = sums_PK.shape[1]
        products = {pair: drawn[:, num + place] for place, pair in enumerate(pairs)}
        return cls(drawn[:, :num], products, centre_K, sums_PK.std(axis=0), len(sums_PK))

    def variance(self, gradient_DK: Floats, places: list[int]) -> Floats:
        """Variance (D,) of a function of the sums, by its gradient in the sums of `places`."""
        offset_DK = self.sums - self.num_groups * self.centre
        found = np.zeros(len(self.sums))
        for (i, a), (j, b) in combinations_with_replacement(enumerate(places), 2):
            pair = (min(a, b), max(a, b))
            covariance = self.products[pair] - offset_DK[:, a] * offset_DK[:, b] / self.num_groups
            found += (1 if i == j else 2) * gradient_DK[:, i] * gradient_DK[:, j] * covariance
        return np.maximum(found, 0)


def _studentized(statistic: Statistic, scale: str, places: list[int], drawn: _Drawn, num_groups: int) -> tuple[Floats, Floats]:
    """The statistic on its scale and its standard error, (D,) each; the gradient is of central differences, a ten-thousandth of a standard error wide."""
    into = _SCALES[scale][0]
    sums_DK = drawn.sums[:, places]
    gradient_DK = np.zeros_like(sums_DK)
    for i, place in enumerate(places):
        step = _STEP * drawn.sd[place] * np.sqrt(drawn.num_groups)
        if step > 0:
            above, below = sums_DK.copy(), sums_DK.copy()
            above[:, i] += step
            below[:, i] -= step
            gradient_DK[:, i] = (into(statistic.of(*above.T)) - into(statistic.of(*below.T))) / (2 * step)
    variance = drawn.variance(gradient_DK, places) * num_groups / (num_groups - 1)
    return np.asarray(into(statistic.of(*sums_DK.T)), np.float64), np.sqrt(variance)


def _interval(statistic: Statistic, items_P: Floats, totals: Mapping[str, float], places: list[int], drawn: _Drawn | None, how: Resampling) -> Interval:
    num_items, num_groups = round(float(items_P.sum())), int((items_P > 0).sum())
    with np.errstate(all="ignore"):
        estimate = float(statistic.of(*(np.asarray(totals[name]) for name in statistic.columns))) if num_items else float("nan")
        if drawn is None or num_groups < 2 or not np.isfinite(estimate):
            return no_interval(estimate, num_items, num_groups, how)
        if statistic.scale == "logit" and estimate in (0.0, 1.0):
            low, high = _exact(estimate, num_groups, how.level)
            method, note = METHOD_EXACT, "every participant has the same share"
        else:
            scale = statistic.scale if np.isfinite(_SCALES[statistic.scale][0](estimate)) else "linear"
            values_D, errors_D = _studentized(statistic, scale, places, drawn, num_groups)
            low, high = (float(end) for end in _SCALES[scale][1](np.array(_ends(values_D, errors_D, num_groups, how.level))))
            method = (METHOD if num_groups >= LEAST_STUDENTIZED and how.num_draws else METHOD_FEW).format(scale=scale, draws=how.num_draws)
            note = ""
            if errors_D[0] <= 1e-9 * (abs(values_D[0]) + 1e-30):
                low, high, note = estimate, estimate, "every participant has the same value"
    note = "; ".join(filter(None, (note, few_note(num_groups))))
    return Interval(estimate=estimate, low=low, high=high, level=how.level, num_items=num_items, num_groups=num_groups, method=method, note=note)


def _ends(values_D: Floats, errors_D: Floats, num_groups: int, level: float) -> tuple[float, float]:
    value, error = values_D[0], errors_D[0]
    tail = (1 - level) / 2
    wide = t.ppf(1 - tail, num_groups - 1) * error
    low, high = value - wide, value + wide
    ratios = (values_D[1:] - value) / errors_D[1:]
    ratios = ratios[np.isfinite(ratios)]
    if num_groups >= LEAST_STUDENTIZED and len(ratios) > 1:
        # A draw without the one participant that matters has next to no standard error; without a bound such draws alone would make an end.
        upper, lower = min(np.quantile(ratios, 1 - tail), _WIDEST * wide / error), max(np.quantile(ratios, tail), -_WIDEST * wide / error)
        low, high = min(low, value - upper * error), max(high, value - lower * error)
    return float(low), float(high)


def _row_ends(value: float, draws: Floats, num_groups: int, level: float, centred: bool) -> tuple[float, float]:
    if not np.isfinite(value) or len(draws) < 2:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    student = t.ppf(1 - tail, num_groups - 1)
    wide = student * float(draws.std(ddof=1)) * np.sqrt(num_groups / (num_groups - 1))
    if centred:
        return float(value - wide), float(value + wide)
    outer = expanded_tail(num_groups, level)
    low, high = np.quantile(draws, [outer, 1 - outer])
    return float(min(low, value - wide)), float(max(high, value + wide))


def _exact(share: float, num_groups: int, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    return (float(beta.ppf(tail, num_groups, 1)), 1.0) if share == 1 else (0.0, float(beta.ppf(1 - tail, 1, num_groups)))
