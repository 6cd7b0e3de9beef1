"""Coefficients of reliability against Shrout & Fleiss's table, scipy and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torchmetrics.functional import concordance_corrcoef

from foodray.report.statistics.clusters import Resampling
from foodray.report.statistics.reliability import correlations, icc

HOW = Resampling(num_draws=299)

# Four judges of six subjects (Shrout & Fleiss 1979, table 2).
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])


def a_study(seed: int = 0, num_participants: int = 40, num_days: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and prediction of participants' days: usual values correlate by 0.9, days by nothing."""
    rng = np.random.default_rng(seed)
    usual = rng.multivariate_normal([2_000, 2_100], [[300**2, 0.9 * 300**2], [0.9 * 300**2, 300**2]], num_participants)
    groups = np.repeat(np.arange(num_participants), num_days)
    truth, predicted = (usual[groups, side] + rng.normal(0, 500, len(groups)) for side in (0, 1))
    return truth, predicted, groups.astype(object)


def test_the_coefficient_is_that_of_shrout_and_fleiss() -> None:
    """ICC(2,1) = .29; mean squares 11.24, 32.49 and 1.02 of their table 3; the ends .019 and .761 are those that R's psych prints for ICC2."""
    found = icc(JUDGES, np.arange(6).astype(object), how=HOW)
    assert found.icc.estimate == pytest.approx(0.29, abs=0.005)
    assert (found.between_ms, found.raters_ms, found.error_ms) == (
        pytest.approx(11.24, abs=0.005),
        pytest.approx(32.49, abs=0.005),
        pytest.approx(1.02, abs=0.005),
    )
    assert (found.low_f, found.high_f) == (pytest.approx(0.019, abs=5e-4), pytest.approx(0.761, abs=5e-4))
    assert found.num_raters == 4


def test_raters_who_agree_fully_have_a_coefficient_of_one() -> None:
    found = icc(np.repeat(np.arange(10.0)[:, None], 2, axis=1), np.arange(10).astype(object), how=HOW)
    assert (found.icc.estimate, found.low_f, found.high_f) == (pytest.approx(1), 1, 1)
    with pytest.raises(ValueError, match="two rows and two raters"):
        icc(np.ones((5, 1)), np.arange(5).astype(object), how=HOW)


def test_where_rows_of_a_person_are_alike_the_resampled_interval_is_wider_than_the_classical() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(30), 40)
    truth = rng.gamma(3, 60, 1_200)
    predicted = truth + np.repeat(rng.normal(0, 60, 30), 40) + rng.normal(0, 20, 1_200)
    found = icc(np.stack([truth, predicted], axis=1), groups.astype(object), how=HOW)
    assert found.icc.high - found.icc.low > 1.5 * (found.high_f - found.low_f)


def test_correlations_are_those_of_scipy_and_torchmetrics() -> None:
    truth, predicted, participants = a_study()
    truth, predicted = truth.round(-2), predicted.round(-2)  # ties
    found = correlations(truth, predicted, participants, how=HOW)
    assert found.pearson.estimate == pytest.approx(pearsonr(truth, predicted).statistic)
    assert found.spearman.estimate == pytest.approx(spearmanr(truth, predicted).statistic)
    with_bessel = concordance_corrcoef(torch.tensor(predicted), torch.tensor(truth)).item()  # torchmetrics divides by n - 1, Lin by n
    assert found.ccc.estimate == pytest.approx(with_bessel, rel=2e-3)
    for interval in (found.ccc, found.pearson, found.spearman):
        assert interval.low < interval.estimate < interval.high


def test_a_shift_lowers_concordance_and_no_correlation() -> None:
    """Lin's coefficient of x and x + c is 2 s^2 / (2 s^2 + c^2)."""
    x = np.random.default_rng(1).normal(size=200)
    found = correlations(x, x + 1, (np.arange(200) % 20).astype(object), how=HOW)
    assert found.ccc.estimate == pytest.approx(2 * x.var() / (2 * x.var() + 1))
    assert found.pearson.estimate == pytest.approx(1)


def test_day_to_day_variation_does_not_weaken_the_correlation_of_people() -> None:
    """Usual values correlate by 0.9; rows, of which days are most, by 0.24."""
    found = [correlations(*a_study(seed, 200), how=HOW) for seed in range(5)]
    people = [each.between_people.estimate for each in found if each.between_people]
    assert np.mean(people) == pytest.approx(0.9, abs=0.03)
    assert np.mean([each.pearson.estimate for each in found]) == pytest.approx(0.24, abs=0.04)
    truth, predicted, _ = a_study()
    assert correlations(truth, predicted, np.arange(len(truth)).astype(object), how=HOW).between_people is None
