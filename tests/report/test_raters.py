"""Raters of the same items: statistics against independent ones, and intervals that know how many raters and how many items there are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.formula.api import ols

from foodray.corpus.importers.human_estimates import import_human_estimates
from foodray.corpus.manifest import load_truth
from foodray.report.statistics.raters import STATISTICS, RoleAgreement, crowd_estimate, rater_agreement
from foodray.storage.store import Store

Floats = NDArray[np.float64]


@dataclass
class Crossed:
    """Every rater rates every item; errors are of rater, of item and of both."""

    rater_sd: float
    item_sd: float
    noise_sd: float = 5.0
    num_raters: int = 30
    num_items: int = 20

    def agreement(self, seed: int = 0, *, num_resamples: int = 499) -> tuple[RoleAgreement, Floats]:
        rng = np.random.default_rng(seed)
        rater, item = (axis.ravel() for axis in np.meshgrid(np.arange(self.num_raters), np.arange(self.num_items), indexing="ij"))
        truth = rng.uniform(100, 700, self.num_items)[item]
        error = (
            rng.normal(0, self.rater_sd, self.num_raters)[rater] + rng.normal(0, self.item_sd, self.num_items)[item] + rng.normal(0, self.noise_sd, len(item))
        )
        (found,) = rater_agreement(truth + error, truth, rater, item, np.full(len(item), "participant"), num_resamples=num_resamples, seed=seed)
        return found, error.reshape(self.num_raters, self.num_items)


def width(found: RoleAgreement, name: str = "bias", *, over_raters: bool = False) -> float:
    interval = found.found[name].over_raters if over_raters else found.found[name].over_both
    return interval.high - interval.low


def t_width(means: Floats) -> float:
    return float(2 * stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5)


def test_numbers_are_those_of_plain_formulas() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.0, 100, 200, 300, 400, 500])
    predicted = truth + rng.normal(10, 30, 6)
    (found,) = rater_agreement(predicted, truth, np.full(6, "m"), np.arange(6), np.full(6, "model"))
    error = predicted - truth
    expected = {
        "mae": np.abs(error).mean(),
        "bias": error.mean(),
        "ep": np.abs(error).mean() / truth.mean(),
        "mape": (np.abs(error) / np.where(truth > 0, truth, np.nan))[1:].mean(),
        "limit_low": error.mean() - 1.96 * error.std(ddof=1),
        "limit_high": error.mean() + 1.96 * error.std(ddof=1),
    }
    for name, value in expected.items():
        assert found.found[name].over_both.estimate == pytest.approx(value), name
    assert (found.num_zero_truths, found.num_estimates, found.num_raters, found.num_items) == (1, 6, 1, 6)


def test_the_icc_is_that_of_the_mean_squares_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(100, 700, 25)
    predicted = 0.8 * truth + 60 + rng.normal(0, 40, 25)
    long = pd.DataFrame({"value": np.concatenate([truth, predicted]), "row": np.tile(np.arange(25), 2), "by": np.repeat(["truth", "model"], 25)})
    squares = sm.stats.anova_lm(ols("value ~ C(row) + C(by)", long).fit())["mean_sq"]
    rows, columns, error = squares["C(row)"], squares["C(by)"], squares["Residual"]
    expected = (rows - error) / (rows + error + 2 / 25 * (columns - error))  # McGraw & Wong 1996, ICC(A,1), two ratings
    (found,) = rater_agreement(predicted, truth, np.full(25, "m"), np.arange(25), np.full(25, "model"))
    assert found.found["icc"].over_both.estimate == pytest.approx(expected)


def test_over_raters_the_interval_is_that_of_their_means() -> None:
    found, errors = Crossed(rater_sd=60, item_sd=0).agreement(num_resamples=3_999)
    assert width(found, over_raters=True) == pytest.approx(t_width(errors.mean(axis=1)), rel=0.1)
    assert found.notes == ()


def test_over_items_the_interval_does_not_shrink_with_raters() -> None:
    few, errors = Crossed(rater_sd=0, item_sd=60, num_raters=20).agreement(num_resamples=1_999)
    many, _ = Crossed(rater_sd=0, item_sd=60, num_raters=400).agreement(num_resamples=499)
    assert width(few) == pytest.approx(t_width(errors.mean(axis=0)), rel=0.15)
    assert width(many) > 0.6 * width(few)
    assert width(many, over_raters=True) < 0.1 * width(many)


def test_the_interval_over_both_covers_the_bias() -> None:
    held = [Crossed(rater_sd=40, item_sd=40, num_raters=15, num_items=12).agreement(seed, num_resamples=199)[0].found["bias"].over_both for seed in range(150)]
    assert 0.91 <= np.mean([interval.low <= 0 <= interval.high for interval in held]) <= 1.0


def test_the_same_seed_gives_the_same_intervals() -> None:
    study = Crossed(rater_sd=40, item_sd=40)
    assert study.agreement(3)[0] == study.agreement(3)[0]


def test_few_raters_are_told_and_paid_for() -> None:
    few, errors = Crossed(rater_sd=60, item_sd=0, num_raters=4).agreement(num_resamples=1_999)
    assert any(note.startswith("4 raters: too few") for note in few.notes)
    normal = 2 * 1.96 * errors.mean(axis=1).std() / 4**0.5
    assert width(few, over_raters=True) > 1.2 * normal


def test_people_who_rate_their_own_meals_alone_are_drawn_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(25), 8)
    truth = rng.uniform(100, 700, 200)
    predicted = truth + rng.normal(0, 60, 25)[people] + rng.normal(0, 10, 200)
    (found,) = rater_agreement(predicted, truth, people, np.arange(200), np.full(200, "participant"), num_resamples=1_999)
    assert found.found["bias"].over_both == found.found["bias"].over_raters
    assert any("no item was rated by more than one" in note for note in found.notes)
    means = np.array([(predicted - truth)[people == person].mean() for person in range(25)])
    assert width(found) == pytest.approx(t_width(means), rel=0.15)


def test_a_single_rater_is_judged_over_items_alone() -> None:
    found, errors = Crossed(rater_sd=0, item_sd=60, num_raters=1, num_items=40).agreement(num_resamples=1_999)
    assert width(found) == pytest.approx(t_width(errors.mean(axis=0)), rel=0.15)
    assert np.isnan(width(found, over_raters=True))


def test_roles_are_apart_and_rows_without_truth_left_out() -> None:
    predicted, truth = np.array([110.0, 90, 300, 100]), np.array([100.0, 100, np.nan, 100])
    found = rater_agreement(predicted, truth, np.array(["a", "b", "c", "d"]), np.full(4, "t1"), np.array(["x", "x", "x", "w"]), num_resamples=199)
    assert [(one.role, one.num_estimates) for one in found] == [("w", 1), ("x", 2)]
    assert set(found[1].found) == set(STATISTICS)
    with pytest.raises(ValueError, match="no estimate has a truth"):
        rater_agreement(predicted, np.full(4, np.nan), np.arange(4), np.arange(4), np.full(4, "x"))


def test_a_crowd_is_the_median_of_each_item() -> None:
    names, medians = crowd_estimate(np.array([1.0, 9.0, 2.0, np.nan, 7.0]), np.array(["b", "b", "b", "a", "a"]))
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(medians, [7.0, 2.0])


@pytest.mark.slow
def test_the_published_quiz_has_the_mean_error_of_a_plain_mean_and_20_foods_decide_its_interval(tmp_path: Path, data: Path) -> None:
    if not (data / "human_estimates").is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder human_estimates/")
    import_human_estimates(str(data / "human_estimates"), Store(str(tmp_path / "quiz")))
    truth = load_truth(str(tmp_path / "quiz"))
    assert truth.participant_estimates is not None
    rows = truth.participant_estimates.to_pandas().merge(truth.truth_items.to_pandas()[["truth_item_id", "energy_kcal"]], on="truth_item_id")
    columns = [rows[name].to_numpy() for name in ("energy_kcal_x", "energy_kcal_y", "rater_id", "truth_item_id", "rater_role")]
    experts, people = rater_agreement(*columns, num_resamples=499)
    assert (experts.role, experts.num_raters, people.num_raters) == ("dietitian", 5, 2023)
    error = (rows["energy_kcal_x"] - rows["energy_kcal_y"]).abs()
    assert people.found["mae"].over_both.estimate == pytest.approx(error[rows["rater_role"] == "participant"].mean())
    assert width(people) > 5 * width(people, over_raters=True)
