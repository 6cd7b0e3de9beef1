"""People, dietitians and language models as raters of the same things: errors and agreement of each role, with intervals over raters and over items.

In: one row an estimate, with the truth, the rater, the rater's role and the item. Out: by role MAE, bias, EP, MAPE, ICC and limits of agreement.

Twenty foods seen by 2,000 people are 20 foods, not 40,000 independent errors. The interval therefore draws raters and items anew, each with
replacement and independently, and an estimate counts as often as both of its (the pigeonhole bootstrap: Owen 2007, Ann Appl Stat 1:386; it errs on the
wide side). An interval over raters alone says what other people would make of these same items. Where nobody rated what another did (each
participant their own meals) raters are all there is to draw. Ends are percentiles, moved outward as t is against normal for the smaller
number drawn (the expanded percentile interval of Hesterberg 2015, Am Stat 69:371): five dietitians are few.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Interval, expanded_tail

Floats = NDArray[np.float64]

STATISTICS = {
    "mae": "mean absolute error, in the target's unit",
    "bias": "mean of estimate less truth, in the target's unit",
    "ep": "mean absolute error over mean truth (EP), as a share",
    "mape": "mean of absolute error over truth, as a share; zero truths left out",
    "icc": "ICC(A,1) of estimate and truth, absolute agreement (McGraw & Wong 1996)",
    "limit_low": "bias less 1.96 standard deviations of single errors, in the target's unit",
    "limit_high": "bias and 1.96 standard deviations of single errors, in the target's unit",
}
"""What is told of a role, with its meaning."""
METHOD = (
    "percentile bootstrap over raters and items, each drawn independently (pigeonhole bootstrap, Owen 2007), percentiles expanded for small "
    "numbers (Hesterberg 2015)"
)
METHOD_RATERS = "percentile bootstrap over raters, the items as they are, percentiles expanded for small numbers (Hesterberg 2015)"
FEW = "{} {}: too few for an interval to be relied on"
NESTED = "no item was rated by more than one of them: raters alone are drawn"
FEW_BELOW = 10
_CELLS = 4_000_000
"""Weights made at a time, estimates x draws."""


@dataclass(frozen=True, kw_only=True)
class RatedStatistic:
    """One of `STATISTICS` for one role."""

    over_both: Interval
    """Interval over other raters and other items; groups are the raters."""
    over_raters: Interval
    """Interval over other raters and the same items."""


@dataclass(frozen=True, kw_only=True)
class RoleAgreement:
    """How the raters of one role agree with truth."""

    role: str
    """Their role."""
    num_estimates: int
    """Estimates that went in."""
    num_raters: int
    """Raters they are of."""
    num_items: int
    """Items they are of."""
    num_zero_truths: int
    """Estimates left out of MAPE."""
    found: Mapping[str, RatedStatistic]
    """By `STATISTICS`."""
    notes: tuple[str, ...]
    """What a reader must know."""


def rater_agreement(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    raters: NDArray[Any],
    items: NDArray[Any],
    roles: NDArray[Any],
    *,
    level: float = 0.95,
    num_resamples: int = 1_999,
    seed: int = 0,
) -> list[RoleAgreement]:
    """Agreement of each role, sorted by its name, from estimates (N,) of `truth` (N,), by `raters` (N,) of `roles` (N,).

    `items` (N,) is what is drawn beside raters: the item, or the participant whose it is where items of a participant resemble each
    other. Rows whose estimate or truth is not finite are left out. A model is a role with one rater, whose interval then runs over items
    alone. Raises `ValueError` where nothing is left.
    """
    predicted, truth = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    whole = np.isfinite(predicted) & np.isfinite(truth)
    if not whole.any():
        raise ValueError("no estimate has a truth; there is nothing to agree with")
    names = np.asarray(roles).astype(str)
    found = []
    for number, role in enumerate(sorted(set(names[whole]))):
        rows = whole & (names == role)
        pairs = _Pairs.of(predicted[rows], truth[rows], np.asarray(raters)[rows], np.asarray(items)[rows])
        found.append(_agreement(role, pairs, level, num_resamples, np.random.default_rng([seed, number])))
    return found


def crowd_estimate(predicted: NDArray[Any], items: NDArray[Any]) -> tuple[NDArray[Any], Floats]:
    """The median estimate of each item, sorted by item: what a crowd says; from estimates (N,) of `items` (N,). Estimates that are not finite are left out."""
    values = np.asarray(predicted, dtype=np.float64)
    finite = np.isfinite(values)
    names, of_item = np.unique(np.asarray(items).astype(str)[finite], return_inverse=True)
    return names, np.array([np.median(values[finite][of_item == index]) for index in range(len(names))])


@dataclass(frozen=True)
class _Pairs:
    """The estimates of one role: (N,) each, raters and items as numbers from 0."""

    predicted: Floats
    truth: Floats
    rater: NDArray[np.int64]
    item: NDArray[np.int64]
    num_raters: int
    num_items: int
    is_crossed: bool

    @classmethod
    def of(cls, predicted: Floats, truth: Floats, raters: NDArray[Any], items: NDArray[Any]) -> "_Pairs":
        rater_names, rater = np.unique(raters.astype(str), return_inverse=True)
        item_names, item = np.unique(items.astype(str), return_inverse=True)
        is_crossed = len(np.unique(np.stack([rater, item]), axis=1).T) > len(item_names)
        return cls(predicted, truth, rater, item, len(rater_names), len(item_names), is_crossed)


def _agreement(role: str, pairs: _Pairs, level: float, num_resamples: int, rng: np.random.Generator) -> RoleAgreement:
    one = pairs.num_raters == 1
    both = _draws(pairs, num_resamples, rng, raters=not one, items=pairs.is_crossed or one)
    alone = both if not (pairs.is_crossed or one) else None if one else _draws(pairs, num_resamples, rng, raters=True, items=False)
    fewest = pairs.num_items if one else min(pairs.num_raters, pairs.num_items) if pairs.is_crossed else pairs.num_raters
    estimates = _statistics(pairs, np.ones((len(pairs.truth), 1)))
    found = {}
    for name in STATISTICS:
        ends = _ends(both[name], level, fewest), _ends(None if alone is None else alone[name], level, pairs.num_raters)
        estimate = float(estimates[name][0])
        over = [Interval(estimate=estimate, low=low, high=high, num_items=len(pairs.truth), num_groups=pairs.num_raters, level=level) for low, high in ends]
        found[name] = RatedStatistic(over_both=over[0], over_raters=over[1])
    notes = [FEW.format(count, what) for count, what in ((pairs.num_raters, "raters"), (pairs.num_items, "items")) if 1 < count < FEW_BELOW]
    if not pairs.is_crossed and not one:
        notes.append(NESTED)
    return RoleAgreement(
        role=role,
        num_estimates=len(pairs.truth),
        num_raters=pairs.num_raters,
        num_items=pairs.num_items,
        num_zero_truths=int((pairs.truth == 0).sum()),
        found=found,
        notes=tuple(notes),
    )


def _draws(pairs: _Pairs, num_resamples: int, rng: np.random.Generator, *, raters: bool, items: bool) -> dict[str, Floats]:
    """Each statistic in every draw (B,)."""
    parts: list[dict[str, Floats]] = []
    step = max(1, min(num_resamples, _CELLS // len(pairs.truth)))
    for begin in range(0, num_resamples, step):
        num = min(step, num_resamples - begin)
        weight = np.ones((len(pairs.truth), num))
        if raters:
            weight *= _counts(pairs.num_raters, num, rng)[pairs.rater]
        if items:
            weight *= _counts(pairs.num_items, num, rng)[pairs.item]
        parts.append(_statistics(pairs, weight))
    return {name: np.concatenate([part[name] for part in parts]) for name in STATISTICS}


def _counts(num: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of `num` things was taken in each draw (num, draws)."""
    return rng.multinomial(num, np.full(num, 1 / num), size=draws).T.astype(np.float64)


def _statistics(pairs: _Pairs, weight: Floats) -> dict[str, Floats]:
    """The statistics under weights (N, B) that count rows; nan where a draw has nothing to divide by."""
    x, y = pairs.predicted, pairs.truth
    error, has_truth = x - y, y != 0
    relative = np.divide(np.abs(error), np.abs(y), out=np.zeros_like(error), where=has_truth)
    with np.errstate(divide="ignore", invalid="ignore"):
        num = weight.sum(axis=0)

        def mean(values: Floats) -> Floats:
            return np.asarray(values @ weight / num)

        mae, bias, mean_x, mean_y = mean(np.abs(error)), mean(error), mean(x), mean(y)
        over = num / (num - 1)
        var_x, var_y = (mean((x - x.mean()) ** 2) - (mean_x - x.mean()) ** 2) * over, (mean((y - y.mean()) ** 2) - (mean_y - y.mean()) ** 2) * over
        covariance = (mean((x - x.mean()) * (y - y.mean())) - (mean_x - x.mean()) * (mean_y - y.mean())) * over
        # With two ratings a row the mean squares of McGraw & Wong are sums of variances; this is their ICC(A,1).
        within = (var_x + var_y - 2 * covariance) / 2
        icc = 2 * covariance / (var_x + var_y + bias**2 - 2 * within / num)
        sd = np.sqrt(np.maximum(var_x + var_y - 2 * covariance, 0.0))
        mape = relative @ weight / (has_truth.astype(np.float64) @ weight)
        return {"mae": mae, "bias": bias, "ep": mae / mean_y, "mape": mape, "icc": icc, "limit_low": bias - 1.96 * sd, "limit_high": bias + 1.96 * sd}


def _ends(draws: Floats | None, level: float, fewest: int) -> tuple[float, float]:
    """Ends of the expanded percentile interval; nan where less than two things were drawn, or where draws have no value."""
    if draws is None or fewest < 2 or not np.isfinite(draws).any():
        return float("nan"), float("nan")
    tail = expanded_tail(fewest, level)
    low, high = np.nanquantile(np.where(np.isfinite(draws), draws, np.nan), [tail, 1 - tail])
    return float(low), float(high)
