"""Limits of agreement and parts of variance: the published examples of Bland and Altman, statsmodels, and Zou's intervals in a simulation."""

from functools import cache

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import norm

from foodray.report.statistics.agreement import bland_altman, mover_limits, variance_components
from foodray.report.statistics.clusters import Resampling

HOW = Resampling(num_draws=299)

# Peak flow in l/min by the large and the mini Wright meter, first reading each (Bland & Altman, Lancet 1986, table 1).
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

# Cardiac ejection fraction by radionuclide ventriculography and impedance cardiography, 12 people, 60 pairs (Bland & Altman 2007, table 1).
NUM_PAIRS = [5, 4, 6, 5, 6, 4, 4, 6, 3, 5, 6, 6]
RV = """7.83 7.42 7.89 7.12 7.88 6.16 7.26 6.71 6.54 4.75 5.24 4.86 4.78 6.05 5.42 4.21 3.61 3.72 3.87 3.92 3.13 2.98 2.85 3.17 3.09 3.12 5.92
6.42 5.92 6.27 7.13 6.62 6.58 6.93 4.54 4.81 5.11 5.29 5.39 5.57 4.48 4.92 3.97 4.22 4.65 4.74 4.44 4.50 6.78 6.07 6.52 6.42 6.41 5.76 5.06
4.72 4.90 4.80 4.90 5.10"""
IC = """6.57 5.62 6.90 6.57 6.35 4.06 4.29 4.26 4.09 4.71 5.50 5.08 5.02 6.01 5.67 4.14 4.20 4.61 4.68 5.04 3.03 2.86 2.77 2.46 2.32 2.43 5.90
5.81 5.70 5.76 5.09 4.63 4.61 5.09 4.72 4.61 4.36 4.20 4.36 4.20 3.17 3.12 2.96 4.35 4.62 3.16 3.53 3.53 7.20 6.09 7.00 7.10 7.40 6.80 4.50
4.20 3.80 3.80 4.20 4.50"""


@cache
def ejection() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IC as truth, RV as prediction, and whose they are."""
    rv, ic = (np.array(side.split(), np.float64) for side in (RV, IC))
    return ic, rv, np.repeat(np.arange(12), NUM_PAIRS).astype(object)


def test_limits_are_those_of_the_1986_paper_where_everybody_has_one_pair() -> None:
    """-2.1 l/min, standard deviation 38.8; the paper's limits, -79.7 and 75.5, are two rounded standard deviations away."""
    found = bland_altman(np.array(MINI), np.array(LARGE), np.arange(17).astype(object), how=HOW)
    assert found.bias.estimate == pytest.approx(-2.1, abs=0.05)
    assert found.components.total**0.5 == pytest.approx(38.8, abs=0.05)
    assert found.bias.estimate - 2 * found.components.total**0.5 == pytest.approx(-79.7, abs=0.1)
    assert found.upper.estimate == pytest.approx(found.bias.estimate + norm.ppf(0.975) * found.components.total**0.5)
    assert np.isnan(found.components.within)


def test_limits_of_repeated_measures_are_those_of_the_2007_paper() -> None:
    """Mean squares 0.1707 and 4.2091, divisor 4.9818, variance 0.9813, bias 0.6022, limits -1.3395 and 2.5438."""
    truth, predicted, participants = ejection()
    found = bland_altman(truth, predicted, participants, how=HOW)
    assert found.components.within_ms == pytest.approx(0.170714026, abs=5e-8)
    assert found.components.between_ms == pytest.approx(4.2090856, rel=2e-7)
    assert found.components.divisor == pytest.approx(4.9818182, abs=1e-7)
    assert found.components.total == pytest.approx(0.98133606, abs=1e-7)
    assert found.bias.estimate == pytest.approx(0.6021667, abs=1e-7)
    assert (found.lower.estimate, found.upper.estimate) == (pytest.approx(-1.3394565, abs=1e-4), pytest.approx(2.5437899, abs=1e-4))


def test_resampled_and_closed_form_intervals_of_the_limits_are_alike() -> None:
    truth, predicted, participants = ejection()
    found = bland_altman(truth, predicted, participants, how=Resampling(num_draws=1_999))
    for interval, (_, low, high) in ((found.lower, found.mover.lower), (found.upper, found.mover.upper)):
        assert interval.low < interval.estimate < interval.high
        assert 0.6 < (interval.high - interval.low) / (high - low) < 1.7
    assert found.mover.upper[0] == pytest.approx(found.upper.estimate, abs=0.2)  # Zou weighs all participants alike, whose mean is 0.709


def test_zou_s_intervals_hold_the_limit_as_often_as_they_say() -> None:
    """15 people with 2 to 5 pairs, normal differences: 95 of 100."""
    rng, held, upper = np.random.default_rng(5), 0, 0.3 + norm.ppf(0.975) * np.hypot(0.8, 0.5)
    for _ in range(400):
        sizes = rng.integers(2, 6, 15)
        values = np.repeat(rng.normal(0.3, 0.8, 15), sizes) + rng.normal(0, 0.5, sizes.sum())
        found = mover_limits(values, np.repeat(np.arange(15), sizes).astype(object))
        held += found.upper[1] <= upper <= found.upper[2]
    assert 0.92 <= held / 400 <= 0.98


def test_components_are_those_of_a_mixed_model_where_all_have_as_many_values() -> None:
    """Restricted maximum likelihood is the analysis of variance in balanced data (statsmodels MixedLM)."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 6)
    values = np.repeat(rng.normal(0, 2, 30), 6) + rng.normal(0, 1, 180)
    found = variance_components(values, groups.astype(object), how=HOW)
    model = sm.MixedLM(values, np.ones(180), groups).fit(reml=True)
    assert found.within == pytest.approx(model.scale, rel=1e-4)
    assert found.between == pytest.approx(float(np.asarray(model.cov_re).item()), rel=1e-4)
    assert found.share_between.estimate == pytest.approx(found.between / (found.between + found.within))
    assert found.share_between.low < 0.8 < found.share_between.high


def test_a_bias_that_grows_with_the_portion_is_a_slope_with_the_error_of_statsmodels() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(25), 12)
    truth = rng.gamma(3, 60, 300) + 20
    predicted = truth * 1.4 * np.exp(0.1 * rng.normal(size=300))
    found = bland_altman(truth, predicted, groups.astype(object), how=HOW)
    mean, difference = (truth + predicted) / 2, predicted - truth
    assert found.slope.estimate == pytest.approx(np.polyfit(mean, difference, 1)[0])
    assert found.intercept == pytest.approx(np.polyfit(mean, difference, 1)[1])
    assert found.slope.excludes_zero()
    assert found.slope_p < 1e-6
    assert 0.6 < (found.slope.high - found.slope.low) / (2 * 2.06 * found.slope_se) < 1.6


def test_ratios_come_back_from_logarithms_and_leave_out_what_has_none() -> None:
    """A prediction of 1.25 times the truth, give or take 10 %."""
    rng = np.random.default_rng(3)
    truth = np.concatenate([rng.gamma(3, 60, 300) + 20, [0.0, 50.0]])
    predicted = np.concatenate([truth[:300] * 1.25 * np.exp(0.1 * rng.normal(size=300)), [10.0, -5.0]])
    found = bland_altman(truth, predicted, (np.arange(302) % 25).astype(object), how=HOW, ratio=True)
    assert found.num_left_out == 2
    assert found.bias.estimate == pytest.approx(1.25, rel=0.02)
    assert found.lower.estimate == pytest.approx(1.25 * np.exp(-0.196), rel=0.03)
    assert found.mover.upper[0] == pytest.approx(1.25 * np.exp(0.196), rel=0.03)
    assert not found.slope.excludes_zero()


def test_one_participant_has_no_limits() -> None:
    with pytest.raises(ValueError, match="two participants; there are 1"):
        bland_altman(np.ones(3), np.ones(3), np.array(["a"] * 3, dtype=object), how=HOW)


def test_a_slope_that_nothing_tells_is_not_a_number_and_digits_far_from_zero_are_kept() -> None:
    alike = bland_altman(np.full(6, 50.0), np.full(6, 60.0), (np.arange(6) % 3).astype(object), how=HOW)
    assert (alike.bias.estimate, alike.lower.estimate, alike.upper.estimate) == (10, 10, 10)
    assert np.isnan([alike.slope.estimate, alike.slope_se, alike.slope_p]).all()
    two = bland_altman(np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.arange(2).astype(object), how=HOW)
    assert np.isnan(two.slope_p)
    rng, near = np.random.default_rng(9), np.arange(40.0)
    noise, people = rng.normal(size=40), (np.arange(40) % 8).astype(object)
    far = bland_altman(near + 1e7, near + 1e7 + noise, people, how=HOW)
    assert far.slope.low == pytest.approx(bland_altman(near, near + noise, people, how=HOW).slope.low, rel=1e-4)
