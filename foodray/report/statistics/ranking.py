"""Whether a method puts people where the truth puts them (quartiles), and whether their means are equivalent within a bound set beforehand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student
from statsmodels.stats.weightstats import ttost_paired

from foodray.report.statistics.clusters import Clusters, Floats, Interval, Resampling
from foodray.report.statistics.reliability import weighted_ranks
from foodray.report.statistics.resampling import row_intervals

NUM_QUARTILES = 4


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """Cross-classification by quartile of truth and of prediction; rows that are equal share a quartile, so quartiles of ties are of unlike size."""

    table: NDArray[np.int64]
    """Rows (4, 4), by quartile of truth, then of prediction."""
    same: Interval
    """Share in the same quartile."""
    adjacent: Interval
    """Share in a neighbouring quartile."""
    opposite: Interval
    """Share in the lowest of one and the highest of the other."""
    kappa_linear: Interval
    """Cohen's kappa with linear weights."""
    kappa_quadratic: Interval
    """Cohen's kappa with quadratic weights."""


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Two one-sided t tests on participants' means (Schuirmann 1987)."""

    difference: float
    """Mean over participants of prediction less truth, each participant's mean counting once."""
    low: float
    """Lower end of the difference's interval of `level`."""
    high: float
    """Upper end of the difference's interval of `level`."""
    level: float
    """1 less twice alpha: the interval lies within the bounds exactly where the test finds equivalence."""
    bound: float
    """Largest difference, either way, that counts as equivalent, in the unit of the values."""
    bound_percent: float
    """The same in % of the mean truth, as it was asked for."""
    p: float
    """The larger p value of both tests."""
    alpha: float
    """Error allowed to each test."""
    num_participants: int
    """Means that went in."""

    @property
    def is_equivalent(self) -> bool:
        """Whether both tests reject."""
        return self.p < self.alpha


def quartiles(truth: NDArray[Any], predicted: NDArray[Any], participants: NDArray[Any], *, how: Resampling) -> Quartiles:
    """Cross-classify rows (N,), best one a participant; quartiles are cut anew in each draw. Raises `ValueError` for fewer than four rows."""
    if len(truth) < NUM_QUARTILES:
        raise ValueError(f"quartiles need four rows; there are {len(truth)}")
    places = [rankdata(np.asarray(side, np.float64), method="dense").astype(np.intp) - 1 for side in (truth, predicted)]

    def numbers(weights: Floats) -> dict[str, float]:
        table = _table(places, weights)
        apart = np.abs(np.subtract.outer(range(NUM_QUARTILES), range(NUM_QUARTILES)))
        shares = {name: float(table[apart == steps].sum() / table.sum()) for name, steps in (("same", 0), ("adjacent", 1), ("opposite", 3))}
        return shares | {"kappa_linear": _kappa(table, 1), "kappa_quadratic": _kappa(table, 2)}

    found = {name: interval.within(-1 if name.startswith("kappa") else 0, 1) for name, interval in row_intervals(numbers, Clusters(participants), how).items()}
    return Quartiles(table=_table(places, np.ones(len(truth))).astype(np.int64), **found)


def equivalence(truth: NDArray[Any], predicted: NDArray[Any], participants: NDArray[Any], *, bound_percent: float, alpha: float = 0.05) -> Equivalence:
    """Test whether the mean of predicted (N,) is within `bound_percent` of the mean of truth (N,), on means of participants.

    Raises `ValueError` for fewer than two participants, or where the mean truth is not above 0 and a bound in % of it has no meaning.
    """
    columns = Clusters(participants).sums(truth=truth, predicted=predicted)
    first, second = columns["predicted"] / columns["num"], columns["truth"] / columns["num"]
    num = len(first)
    if num < 2:
        raise ValueError(f"an equivalence test needs two participants; there are {num}")
    if not second.mean() > 0:
        raise ValueError(f"the mean truth is {second.mean():g}; a bound in % of it needs it above 0")
    bound, differences = bound_percent / 100 * float(second.mean()), first - second
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(num))
    p = float(ttost_paired(first, second, -bound, bound)[0]) if error > 0 else float(abs(mean) >= bound)
    wide = float(student.ppf(1 - alpha, num - 1)) * error
    return Equivalence(
        difference=mean,
        low=mean - wide,
        high=mean + wide,
        level=1 - 2 * alpha,
        bound=bound,
        bound_percent=bound_percent,
        p=p,
        alpha=alpha,
        num_participants=num,
    )


def _table(places: list[NDArray[np.intp]], weights: Floats) -> Floats:
    total = weights.sum()
    cells = [np.clip((NUM_QUARTILES * (weighted_ranks(place, weights) - 0.5) / total).astype(np.intp), 0, NUM_QUARTILES - 1) for place in places]
    table = np.bincount(cells[0] * NUM_QUARTILES + cells[1], weights=weights, minlength=NUM_QUARTILES**2)
    return np.asarray(table.reshape(NUM_QUARTILES, NUM_QUARTILES), np.float64)


def _kappa(table: Floats, power: int) -> float:
    """Cohen's weighted kappa of a table, 1 less the observed over the expected disagreement; by hand since scikit-learn's, which the tests compare,
    takes a millisecond a draw. nan where everybody is in one quartile and there is nothing to agree on."""
    apart = np.abs(np.subtract.outer(range(NUM_QUARTILES), range(NUM_QUARTILES))) ** power
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    one_sided = min((table.sum(axis=0) > 0).sum(), (table.sum(axis=1) > 0).sum()) < 2
    return float("nan") if one_sided else float(1 - (apart * table).sum() / (apart * expected).sum())
