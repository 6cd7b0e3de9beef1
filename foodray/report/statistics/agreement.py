"""Bland and Altman's limits of agreement where each participant brings several, unequally many pairs, and the parts of variance they are made of.

The method is that of Bland & Altman 2007 (J Biopharm Stat 17:571, "true value varies"; 1999, 5.3): the variance of a single difference is the
sum of what differs between participants and what differs within them, from a one-way analysis of variance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import Statistic, intervals

_ANOVA = ("ones", "num", "num_squared", "value", "value_squared", "mean_squared")


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """One-way analysis of variance with participants as groups of unequal size."""

    mean: float
    """Mean of all values."""
    between_ms: float
    """Mean square between participants."""
    within_ms: float
    """Mean square within participants; nan where nobody has two values."""
    divisor: float
    """What the difference of both is divided by: the number of values a participant, corrected for their being unequal."""
    between: float
    """Variance between participants, not below 0."""
    within: float
    """Variance within participants; nan where nobody has two values, and then part of `between`."""
    total: float
    """Variance of one value of a new participant."""
    share_between: Interval
    """The part of the total that is between participants (ICC(1)); where the components would be negative it is below 0."""


@dataclass(frozen=True, kw_only=True)
class Mover:
    """Zou's closed-form intervals of the limits of agreement (2013, Stat Methods Med Res 22:630), from participants' means weighted alike."""

    lower: tuple[float, float, float]
    """Lower limit, the low end and the high end of its interval."""
    upper: tuple[float, float, float]
    """Upper limit, the low end and the high end of its interval."""


@dataclass(frozen=True, kw_only=True)
class BlandAltman:
    """Differences, prediction less truth; in the ratio version everything but standard deviations is a ratio, prediction over truth."""

    bias: Interval
    """Mean difference; the geometric mean ratio."""
    lower: Interval
    """Lower limit of agreement."""
    upper: Interval
    """Upper limit of agreement."""
    agreement: float
    """Share of differences between the limits if they are normal."""
    components: VarianceComponents
    """Variances of the differences (of their logarithms in the ratio version)."""
    mover: Mover
    """The limits' intervals in closed form, a check of the resampled ones; they need normal differences."""
    slope: Interval
    """Proportional bias: by how much the difference grows as the mean of both grows by one (log on log in the ratio version). It is not 0 as well
    where both measure the same with unequal spread."""
    slope_se: float
    """Its standard error, robust for participants (statsmodels OLS, clustered); nan where means do not vary or there are only two rows."""
    slope_p: float
    """Its p value by Student's t with participants - 1 degrees of freedom."""
    intercept: float
    """The difference at a mean of zero, for the line in the figure."""
    is_ratio: bool
    """Whether this is the ratio version."""
    num_left_out: int
    """Rows with a value of zero or below, which have no logarithm."""


def bland_altman(
    truth: NDArray[Any], predicted: NDArray[Any], participants: NDArray[Any], *, how: Resampling, ratio: bool = False, agreement: float = 0.95
) -> BlandAltman:
    """Limits of agreement of prediction (N,) less truth (N,), or with `ratio` of prediction over truth.

    Intervals of bias, limits and slope resample participants. Raises `ValueError` where fewer than two participants are left.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    some = (truth > 0) & (predicted > 0) if ratio else np.ones(len(truth), bool)
    first, second = (np.log(side[some]) if ratio else side for side in (truth, predicted))
    clusters = Clusters(np.asarray(participants, dtype=object)[some])
    if len(clusters.names) < 2:
        raise ValueError(f"limits of agreement need two participants; there are {len(clusters.names)}")
    difference, mean = second - first, (first + second) / 2
    deviations = float(norm.ppf((1 + agreement) / 2))
    columns = _anova_columns(difference, clusters) | clusters.sums(
        mean=mean - mean.mean(), product=(mean - mean.mean()) * difference, mean_of_squares=(mean - mean.mean()) ** 2
    )
    statistics = {"bias": Statistic(of=lambda num, value: value / num, columns=("num", "value")), "slope": _SLOPE}
    statistics |= {name: _limit(sign * deviations) for name, sign in (("lower", -1), ("upper", 1))}
    found = intervals(columns, statistics, how)
    mover = mover_limits(difference, clusters.names[clusters.codes], level=how.level, agreement=agreement)
    slope_se, slope_p = _slope_test(difference, mean - mean.mean(), clusters)
    return BlandAltman(
        **{name: found[name].through(np.exp) if ratio else found[name] for name in ("bias", "lower", "upper")},
        agreement=agreement,
        components=variance_components(difference, clusters.names[clusters.codes], how=how),
        mover=_exponential(mover) if ratio else mover,
        slope=found["slope"],
        slope_se=slope_se,
        slope_p=slope_p,
        intercept=float(difference.mean() - found["slope"].estimate * mean.mean()),
        is_ratio=ratio,
        num_left_out=int((~some).sum()),
    )


def variance_components(values: NDArray[Any], participants: NDArray[Any], *, how: Resampling) -> VarianceComponents:
    """What of the variance of values (N,) is between and what within participants. Raises `ValueError` for fewer than two participants."""
    clusters = Clusters(participants)
    if len(clusters.names) < 2:
        raise ValueError(f"variance between participants needs two; there are {len(clusters.names)}")
    columns = _anova_columns(np.asarray(values, np.float64), clusters)
    mean, between_ms, within_ms, divisor = (float(part) for part in _anova(*(columns[name].sum() for name in _ANOVA)))
    repeated = columns["num"].max() > 1
    between = (between_ms - within_ms) / divisor
    share = Statistic(of=_share_between, columns=_ANOVA)
    return VarianceComponents(
        mean=mean,
        between_ms=between_ms,
        within_ms=within_ms if repeated else float("nan"),
        divisor=divisor,
        between=max(0.0, between),
        within=within_ms if repeated else float("nan"),
        total=between + within_ms,
        share_between=intervals(columns, {"share": share}, how)["share"],
    )


def mover_limits(differences: NDArray[Any], participants: NDArray[Any], *, level: float = 0.95, agreement: float = 0.95) -> Mover:
    """Zou's intervals of the limits of agreement of differences (N,): they recover the limits' variance from the intervals of the mean and of both
    variances (chi-square), as if differences were normal."""
    clusters = Clusters(participants)
    columns = _anova_columns(np.asarray(differences, np.float64), clusters)
    num_groups, num_rows = len(clusters.names), len(clusters.codes)
    means = columns["value"] / columns["num"]
    mean, of_means = float(means.mean()), float(means.var(ddof=1))
    inner = (1 - float((1 / columns["num"]).mean())) * float(_anova(*(columns[name].sum() for name in _ANOVA))[2])
    total, tail, deviations = of_means + inner, (1 - level) / 2, float(norm.ppf((1 + agreement) / 2))

    def end(share: float) -> float:
        parts = [of_means * ((num_groups - 1) / chi2.ppf(share, num_groups - 1) - 1)]
        parts += [inner * ((num_rows - num_groups) / chi2.ppf(share, num_rows - num_groups) - 1)] if num_rows > num_groups else []
        return float(np.hypot.reduce(parts))

    small, large = np.sqrt(max(0.0, total - end(1 - tail))), np.sqrt(total + end(tail))
    sd, from_mean = np.sqrt(total), norm.ppf(1 - tail) ** 2 * of_means / num_groups
    near, far = (float(np.sqrt(from_mean + (deviations * (sd - other)) ** 2)) for other in (small, large))
    lower, upper = float(mean - deviations * sd), float(mean + deviations * sd)
    return Mover(lower=(lower, lower - far, lower + near), upper=(upper, upper - near, upper + far))


def _anova_columns(values: Floats, clusters: Clusters) -> dict[str, Floats]:
    columns = clusters.sums(value=values, value_squared=values**2)
    num, total = columns["num"], columns["value"]
    return columns | {"ones": np.ones_like(num), "num_squared": num**2, "mean_squared": total**2 / num}


def _anova(ones: Any, num: Any, num_squared: Any, total: Any, squares: Any, mean_squares: Any) -> tuple[Any, Any, Any, Any]:
    """Mean, mean squares between and within, and divisor, from sums over participants; within is 0 where nobody has two values."""
    freedom = num - ones
    within_ms = np.where(freedom > 0, (squares - mean_squares) / np.where(freedom > 0, freedom, 1), 0.0)
    between_ms = (mean_squares - total**2 / num) / (ones - 1)
    return total / num, between_ms, within_ms, (num - num_squared / num) / (ones - 1)


def _share_between(*sums: Any) -> Any:
    _, between_ms, within_ms, divisor = _anova(*sums)
    between = (between_ms - within_ms) / divisor
    return between / (between + within_ms)


def _limit(deviations: float) -> Statistic:
    """A limit of agreement; the total variance is never negative, even where the component between participants is."""

    def limit(*sums: Any) -> Any:
        mean, between_ms, within_ms, divisor = _anova(*sums)
        return mean + deviations * np.sqrt(between_ms / divisor + (1 - 1 / divisor) * within_ms)

    return Statistic(of=limit, columns=_ANOVA)


def _slope_test(difference: Floats, mean: Floats, clusters: Clusters) -> tuple[float, float]:
    """Cluster-robust standard error and p value of the slope."""
    if len(mean) < 3 or not np.ptp(mean) > 0:
        return float("nan"), float("nan")
    line = sm.OLS(difference, sm.add_constant(mean)).fit(cov_type="cluster", cov_kwds={"groups": clusters.codes}, use_t=True)
    return float(line.bse[1]), float(line.pvalues[1])


def _slope(num: Any, value: Any, mean: Any, product: Any, squares: Any) -> Any:
    return (product - value * mean / num) / (squares - mean**2 / num)


_SLOPE = Statistic(of=_slope, columns=("num", "value", "mean", "product", "mean_of_squares"))


def _exponential(mover: Mover) -> Mover:
    def ratio(limit: tuple[float, float, float]) -> tuple[float, float, float]:
        return float(np.exp(limit[0])), float(np.exp(limit[1])), float(np.exp(limit[2]))

    return Mover(lower=ratio(mover.lower), upper=ratio(mover.upper))
