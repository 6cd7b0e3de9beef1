"""Whether two raters, or a model and the truth, give the same value: intraclass correlation, concordance, correlations of rows and of people.

Correlations alone say nothing of bias; they stand beside limits of agreement, never in their place (Lombard et al. 2015).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f, rankdata

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.resampling import Statistic, intervals, row_intervals


@dataclass(frozen=True, kw_only=True)
class Icc:
    """ICC(A,1): absolute agreement of single ratings, two-way, raters random (McGraw & Wong 1996; ICC(2,1) of Shrout & Fleiss 1979)."""

    icc: Interval
    """The coefficient; its interval resamples participants."""
    low_f: float
    """Lower end by McGraw & Wong's F distributions, which takes rows as independent: too narrow where participants bring several."""
    high_f: float
    """Upper end by the same."""
    between_ms: float
    """Mean square between rows."""
    raters_ms: float
    """Mean square between raters."""
    error_ms: float
    """Mean square of what is left."""
    num_raters: int
    """Ratings a row."""


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Correlations of prediction and truth."""

    ccc: Interval
    """Lin's concordance correlation coefficient (1989): 1 only where both are equal."""
    pearson: Interval
    """Pearson's correlation of rows."""
    spearman: Interval
    """Spearman's rank correlation of rows."""
    between_people: Interval | None
    """Pearson's correlation of people's usual values, freed of day-to-day variation (de-attenuated): between-person covariance over the root of both
    between-person variances, by analysis of variance. Errors may be correlated within a day, unlike in the factor of within- to between-person
    variance. None where nobody has two rows, nan where a variance between people is not above 0; it can exceed 1."""


def icc(ratings: NDArray[Any], participants: NDArray[Any], *, how: Resampling) -> Icc:
    """ICC(A,1) of ratings (N, raters), a row being rated by all. Raises `ValueError` for fewer than two rows or raters."""
    ratings = np.asarray(ratings, np.float64)
    if ratings.ndim != 2 or min(ratings.shape) < 2:
        raise ValueError(f"ratings have shape {ratings.shape}; an intraclass correlation needs two rows and two raters")
    num_rows, num_raters = ratings.shape
    ratings = ratings - ratings.mean()  # sums of squares keep their digits
    sums = {"squares": (ratings**2).sum(axis=1), "rows": ratings.sum(axis=1) ** 2, **{f"rater{k}": ratings[:, k] for k in range(num_raters)}}
    columns = Clusters(participants).sums(**sums)
    names = ("num", "squares", "rows", *(f"rater{k}" for k in range(num_raters)))
    between, raters, error = (float(part) for part in _mean_squares(*(columns[name].sum() for name in names)))
    found = intervals(columns, {"icc": Statistic(of=_icc, columns=names, scale="fisher")}, how)["icc"]
    low, high = _f_ends(between, raters, error, num_rows, num_raters, how.level)
    return Icc(icc=found, low_f=low, high_f=high, between_ms=between, raters_ms=raters, error_ms=error, num_raters=num_raters)


def correlations(truth: NDArray[Any], predicted: NDArray[Any], participants: NDArray[Any], *, how: Resampling) -> Correlations:
    """Correlations of predicted (N,) with truth (N,); nan where one of them does not vary. Raises `ValueError` for fewer than two rows."""
    x, y = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if len(x) < 2:
        raise ValueError(f"a correlation needs two rows; there are {len(x)}")
    clusters = Clusters(participants)
    centre = (x.mean() + y.mean()) / 2
    columns = _moments(x - centre, y - centre, clusters)
    statistics = {
        "ccc": Statistic(of=_ccc, columns=_MOMENTS, scale="fisher"),
        "pearson": Statistic(of=_pearson, columns=_MOMENTS, scale="fisher"),
    }
    if columns["num"].max() > 1 and len(clusters.names) > 2:
        statistics["between"] = Statistic(of=_between, columns=_COMPONENTS, scale="fisher")
    found = intervals(columns, statistics, how)
    spearman = row_intervals(_spearman(x, y), clusters, how)["spearman"].within(-1, 1)
    return Correlations(ccc=found["ccc"], pearson=found["pearson"], spearman=spearman, between_people=found.get("between"))


_MOMENTS = ("num", "x", "y", "xx", "yy", "xy")
_COMPONENTS = (*_MOMENTS, "ones", "num_squared", "mean_xx", "mean_yy", "mean_xy")


def _moments(x: Floats, y: Floats, clusters: Clusters) -> dict[str, Floats]:
    columns = clusters.sums(x=x, y=y, xx=x * x, yy=y * y, xy=x * y)
    num = columns["num"]
    means = {f"mean_{a}{b}": columns[a] * columns[b] / num for a, b in ("xx", "yy", "xy")}
    return columns | {"ones": np.ones_like(num), "num_squared": num**2, **means}


def _mean_squares(num: Any, squares: Any, rows: Any, *raters: Any) -> tuple[Any, Any, Any]:
    """Mean squares between rows, between raters and of the rest (McGraw & Wong 1996, table 2), from sums over rows."""
    count = len(raters)
    correction = sum(raters) ** 2 / (num * count)
    between, columns = rows / count - correction, sum(rater**2 for rater in raters) / num - correction
    rest = squares - correction - between - columns
    return between / (num - 1), columns / (count - 1), rest / ((num - 1) * (count - 1))


def _icc(num: Any, squares: Any, rows: Any, *raters: Any) -> Any:
    between, columns, error = _mean_squares(num, squares, rows, *raters)
    count = len(raters)
    return (between - error) / (between + (count - 1) * error + count * (columns - error) / num)


def _f_ends(between: float, raters: float, error: float, num: int, count: int, level: float) -> tuple[float, float]:
    """McGraw & Wong 1996, table 7, case 2 A,1; nan where ratings do not vary, ends of 1 where raters agree fully."""
    if between <= 0:
        return float("nan"), float("nan")
    if error <= 0 and raters <= 0:
        return 1.0, 1.0
    rho = (between - error) / (between + (count - 1) * error + count * (raters - error) / num)
    a, b = count * rho / (num * (1 - rho)), 1 + count * rho * (num - 1) / (num * (1 - rho))
    freedom = (a * raters + b * error) ** 2 / ((a * raters) ** 2 / (count - 1) + (b * error) ** 2 / ((num - 1) * (count - 1)))
    above, below = f.ppf((1 + level) / 2, num - 1, freedom), f.ppf((1 + level) / 2, freedom, num - 1)
    rest = count * raters + (count * num - count - num) * error
    low = num * (between - above * error) / (above * rest + num * between)
    high = num * (below * between - error) / (rest + num * below * between)
    return float(low), float(high)


def _ccc(num: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    mean_x, mean_y = x / num, y / num
    return 2 * (xy / num - mean_x * mean_y) / (xx / num - mean_x**2 + yy / num - mean_y**2 + (mean_x - mean_y) ** 2)


def _pearson(num: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    return (xy - x * y / num) / np.sqrt((xx - x * x / num) * (yy - y * y / num))


def _between(num: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any, ones: Any, num_squared: Any, mean_xx: Any, mean_yy: Any, mean_xy: Any) -> Any:
    divisor = (num - num_squared / num) / (ones - 1)

    def component(a: Any, b: Any, ab: Any, mean_ab: Any) -> Any:
        return ((mean_ab - a * b / num) / (ones - 1) - (ab - mean_ab) / (num - ones)) / divisor

    both = component(x, x, xx, mean_xx), component(y, y, yy, mean_yy)
    return component(x, y, xy, mean_xy) / np.sqrt(np.where(both[0] > 0, both[0], np.nan) * np.where(both[1] > 0, both[1], np.nan))


def _spearman(x: Floats, y: Floats) -> Any:
    """Of row weights: Pearson's correlation of mid-ranks among the drawn rows."""
    places = [rankdata(side, method="dense").astype(np.intp) - 1 for side in (x, y)]

    def spearman(weights: Floats) -> dict[str, float]:
        a, b = (weighted_ranks(place, weights) for place in places)
        total = weights.sum()
        a, b = (rank - np.einsum("n,n", weights, rank) / total for rank in (a, b))  # dot products of BLAS start threads for this length: 10 times slower
        drawn = weights * a
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.einsum("n,n", drawn, a) * np.einsum("n,n,n", weights, b, b)
            return {"spearman": float(np.einsum("n,n", drawn, b) / np.sqrt(spread))}

    return spearman


def weighted_ranks(places: NDArray[np.intp], weights: Floats) -> Floats:
    """Mid-ranks (N,), 1 for the first, among rows that count `weights` (N,) times; `places` (N,) are ranks of the values without gaps, from 0."""
    held = np.bincount(places, weights=weights)
    ranks: Floats = (np.cumsum(held) - held / 2 + 0.5)[places]
    return ranks
