"""Quartiles and equivalence against pandas, scikit-learn and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import cohen_kappa_score

from foodray.report.statistics.clusters import Resampling
from foodray.report.statistics.ranking import equivalence, quartiles

HOW = Resampling(num_draws=199)


def people(num: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row a participant."""
    rng = np.random.default_rng(0)
    truth = rng.normal(2_000, 300, num)
    return truth, truth + rng.normal(50, 250, num), np.arange(num).astype(object)


def test_quartiles_and_kappa_are_those_of_pandas_and_scikit_learn() -> None:
    truth, predicted, participants = people()
    found = quartiles(truth, predicted, participants, how=HOW)
    first, second = (pd.qcut(side, 4, labels=False) for side in (truth, predicted))
    assert (found.table == pd.crosstab(first, second).to_numpy()).all()
    assert found.same.estimate == pytest.approx((first == second).mean())
    assert found.adjacent.estimate == pytest.approx((abs(first - second) == 1).mean())
    assert found.opposite.estimate == pytest.approx((abs(first - second) == 3).mean())
    assert found.kappa_linear.estimate == pytest.approx(cohen_kappa_score(first, second, weights="linear"))
    assert found.kappa_quadratic.estimate == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"))
    assert found.kappa_linear.low < found.kappa_linear.estimate < found.kappa_linear.high


def test_equal_values_share_a_quartile() -> None:
    """Half of all truths are 0: no row of them is in another quartile than its like."""
    truth = np.array([0.0] * 10 + list(range(1, 11)))
    found = quartiles(truth, truth, np.arange(20).astype(object), how=HOW)
    assert found.same.estimate == 1
    assert sorted(found.table.sum(axis=1)) == [0, 5, 5, 10]
    nothing = quartiles(np.zeros(20), truth, np.arange(20).astype(object), how=HOW)
    assert np.isnan(nothing.kappa_linear.estimate)


@pytest.mark.parametrize("bound_percent", [2.0, 10.0])
def test_equivalence_is_two_one_sided_tests_of_scipy_on_the_means_of_participants(bound_percent: float) -> None:
    truth, predicted, _ = people(60)
    participants = (np.arange(60) % 20).astype(object)
    found = equivalence(truth, predicted, participants, bound_percent=bound_percent)
    means = pd.DataFrame({"who": participants, "truth": truth, "predicted": predicted}).groupby("who").mean()
    bound = bound_percent / 100 * means["truth"].mean()
    above = ttest_rel(means["predicted"], means["truth"] - bound, alternative="greater").pvalue
    below = ttest_rel(means["predicted"], means["truth"] + bound, alternative="less").pvalue
    assert found.p == pytest.approx(max(above, below))
    assert (found.bound, found.num_participants, found.level) == (pytest.approx(bound), 20, pytest.approx(0.9))
    both = ttest_rel(means["predicted"], means["truth"]).confidence_interval(0.9)
    assert (found.low, found.high) == (pytest.approx(both.low), pytest.approx(both.high))
    assert found.is_equivalent == (-bound < found.low and found.high < bound) == (bound_percent == 10)


def test_a_difference_that_is_the_same_in_everybody_is_judged_without_a_test() -> None:
    truth, participants = np.full(10, 100.0), np.arange(10).astype(object)
    assert equivalence(truth, truth + 5, participants, bound_percent=10).is_equivalent
    assert not equivalence(truth, truth + 15, participants, bound_percent=10).is_equivalent


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(ValueError, match="two participants"):
        equivalence(np.ones(3), np.ones(3), np.array(["a"] * 3, dtype=object), bound_percent=10)
    with pytest.raises(ValueError, match="above 0"):
        equivalence(np.zeros(3), np.ones(3), np.arange(3).astype(object), bound_percent=10)
    with pytest.raises(ValueError, match="four rows"):
        quartiles(np.ones(3), np.ones(3), np.arange(3).astype(object), how=HOW)


def test_shares_stay_between_none_and_all_however_few_the_rows() -> None:
    rng = np.random.default_rng(3)
    truth = rng.lognormal(4, 1, 8)
    found = quartiles(truth, rng.permutation(truth), np.array([f"p{n}" for n in range(8)], dtype=object), how=Resampling(num_draws=199))
    for share in (found.same, found.adjacent, found.opposite):
        assert 0 <= share.low <= share.estimate <= share.high <= 1
    assert -1 <= found.kappa_linear.low <= found.kappa_linear.high <= 1
