"""The prediction-powered mean: its formulas against independent ones, and its intervals' coverage with a biased model and few truths."""

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from foodray.report.statistics.powered import Powered, powered_mean, powered_means_by

Floats = NDArray[np.float64]
Draw = Literal["rows", "participants", "chances"]


class Drawn:
    """A study of people whose meals are drawn from a population, a model that is biased and heteroscedastic, and 10 % of coded rows."""

    def __init__(self, population: Floats, num_people: int, draw: Draw, rng: np.random.Generator) -> None:
        rows = rng.integers(10, 40, size=num_people)
        self.people = np.repeat(np.arange(num_people), rows)
        num = len(self.people)
        energy = rng.choice(population, num) * np.exp(rng.normal(0, 0.25, num_people))[self.people]
        persons_bias = 1 + rng.normal(0, 0.15, num_people)[self.people]
        self.score = np.maximum(0, 0.75 * energy * persons_bias + 40 + rng.normal(0, 1, num) * (20 + 0.25 * energy))
        self.mean = float(population.mean() * np.exp(0.25**2 / 2))
        self.chance: Floats | None = None
        if draw == "rows":
            coded = np.isin(np.arange(num), rng.choice(num, round(0.1 * num), replace=False))
        elif draw == "participants":
            coded = np.isin(self.people, rng.choice(num_people, round(0.1 * num_people), replace=False))
        else:
            weight = np.maximum(self.score, 20)
            self.chance = np.minimum(0.1 * num * weight / weight.sum(), 1)
            coded = rng.random(num) < self.chance
        self.truth = np.where(coded, energy, np.nan)

    def estimate(self) -> Powered:
        selection: Literal["random", "probability"] = "random" if self.chance is None else "probability"
        return powered_mean(self.truth, self.score, self.people, chance=self.chance, selection=selection)


def coverage(population: Floats, num_people: int, draw: Draw, *, num: int) -> tuple[Floats, Floats]:
    """Share of the intervals (powered, truths, scores) that hold the mean, and the mean error of each estimate, over studies."""
    rng = np.random.default_rng([num_people, len(draw)])
    held, errors = np.zeros((num, 3)), np.zeros((num, 3))
    for index in range(num):
        study = Drawn(population, num_people, draw, rng)
        found = study.estimate()
        for column, interval in enumerate((found.powered, found.truths, found.scores)):
            held[index, column] = interval.low <= study.mean <= interval.high
            errors[index, column] = interval.estimate - study.mean
    return held.mean(axis=0), errors.mean(axis=0)


def lognormal() -> Floats:
    return np.random.default_rng(5).lognormal(5.0, 0.9, 5_000)


def one_study(**changed: Any) -> dict[str, Any]:
    study = Drawn(lognormal(), 60, "rows", np.random.default_rng(1))
    return {"truth": study.truth, "score": study.score, "clusters": study.people, **changed}


def same(one: Powered, other: Powered) -> None:
    for left, right in ((one.powered, other.powered), (one.truths, other.truths)):
        np.testing.assert_allclose([left.estimate, left.low, left.high], [right.estimate, right.low, right.high], rtol=1e-8)


@pytest.mark.parametrize("draw", ["rows", "participants", "chances"])
@pytest.mark.parametrize("num_people", [40, 150])
def test_the_interval_covers_and_that_of_the_biased_scores_does_not(num_people: int, draw: Draw) -> None:
    held, errors = coverage(lognormal(), num_people, draw, num=150)
    assert 0.90 <= held[0] <= 0.99  # 0.95 with a standard error of 0.018
    assert held[2] < 0.85
    assert abs(errors[0]) < abs(errors[2]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["rows", "participants", "chances"])
@pytest.mark.parametrize("num_people", [40, 150])
def test_coverage_on_real_dishes_is_93_to_97_percent(num_people: int, draw: Draw, data: Path) -> None:
    held, errors = coverage(real_dishes(data), num_people, draw, num=2_000)
    assert 0.93 <= held[0] <= 0.97
    assert abs(errors[0]) < 2
    assert errors[2] < -10


def real_dishes(data: Path) -> Floats:
    """Energies of Nutrition5k's dishes in kcal; rows are ragged, the third cell is not always there."""
    files = [data / "nutrition5k" / f"dish_metadata_cafe{number}.csv" for number in (1, 2)]
    if not all(file.is_file() for file in files):
        pytest.skip(f"FOODRAY_DATA = {data} has no folder nutrition5k/")
    cells = [row[1] for file in files for row in csv.reader(file.read_text().splitlines()) if len(row) > 1]
    energies = np.array([float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()])
    return energies[(energies > 1) & (energies < 2_000)]


def test_the_mean_of_truths_has_the_cluster_robust_error_of_statsmodels_with_people_of_equal_rows() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), 5)
    truth = rng.normal(300, 50, 40) + rng.normal(0, 40, 8)[people]
    fit = sm.OLS(truth, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": people}, use_t=True)
    found = powered_mean(truth, rng.normal(size=40), people).truths
    low, high = fit.conf_int(0.05)[0]
    np.testing.assert_allclose([found.estimate, found.low, found.high], [fit.params[0], low, high], rtol=1e-9)


def test_degrees_of_freedom_are_those_of_the_full_matrix_with_people_of_unequal_rows() -> None:
    """Pustejovsky & Tipton's approach written out: covariance of the corrected influences of independent cluster sums with variances of rows squared."""
    rng = np.random.default_rng(3)
    rows = np.array([1, 2, 3, 5, 8, 13])
    people, truth = np.repeat(np.arange(6), rows), rng.normal(300, 50, rows.sum())
    p = rows / rows.sum()
    half = np.diag((1 - p) ** -0.5)
    center = np.eye(6) - p[:, None]
    covariance = half @ center @ np.diag(p**2) @ center.T @ half
    df = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    sums = np.array([(truth[people == person] - truth.mean()).sum() for person in range(6)]) / rows.sum()
    error = np.sqrt((sums**2 / (1 - p)).sum())
    found = powered_mean(truth, truth, people).truths
    np.testing.assert_allclose(found.high - found.estimate, stats.t.ppf(0.975, df) * error, rtol=1e-9)


def test_without_people_it_is_ppi_plus_plus() -> None:
    """Against the formulas of arXiv 2311.01453 for a mean: lambda and variance, with its unlabelled rows being the uncoded ones."""
    rng = np.random.default_rng(2)
    num, coded = 20_000, 4_000
    energy = rng.normal(300, 80, num)
    score = 0.6 * energy + rng.normal(0, 40, num)
    truth = np.where(np.arange(num) < coded, energy, np.nan)
    found = powered_mean(truth, score, np.arange(num))
    y, f, rest = energy[:coded], score[:coded], score[coded:]
    tuned = np.cov(y, f)[0, 1] / ((1 + coded / len(rest)) * score.var())
    error = np.sqrt((y - tuned * f).var() / coded + tuned**2 * rest.var() / len(rest))
    assert min(tuned * num / len(rest), 1) == pytest.approx(found.tuning, rel=0.02)
    unclipped = powered_mean(truth, 2 * score, np.arange(num))
    assert unclipped.powered.estimate == pytest.approx((y - tuned * f).mean() + tuned * rest.mean(), abs=0.1 * error)
    assert (unclipped.powered.high - unclipped.powered.low) / 2 == pytest.approx(1.96 * error, rel=0.01)


def test_a_model_that_is_wrong_by_a_constant_gives_the_same_answer() -> None:
    study = one_study()
    same(powered_mean(**study), powered_mean(**one_study(score=study["score"] - 500)))


def test_equal_chances_give_the_answer_of_a_random_draw() -> None:
    study = one_study()
    same(powered_mean(**study), powered_mean(**study, chance=np.full(len(study["truth"]), 0.1), selection="probability"))


def test_the_order_of_rows_and_the_names_of_people_do_not_matter() -> None:
    study = one_study()
    order = np.random.default_rng(0).permutation(len(study["truth"]))
    named = np.array([f"P{person:03d}" for person in study["clusters"]])
    same(powered_mean(**study), powered_mean(study["truth"][order], study["score"][order], named[order]))


def test_where_all_rows_are_coded_the_truths_decide_alone() -> None:
    study = one_study(truth=np.random.default_rng(0).normal(300, 50, len(one_study()["truth"])))
    found = powered_mean(**study)
    assert found.powered.estimate == pytest.approx(found.truths.estimate)
    assert found.gain == pytest.approx(1.0)


def test_scores_of_chance_gain_nothing_and_good_scores_gain_much() -> None:
    study = one_study()
    noise = powered_mean(**one_study(score=np.random.default_rng(8).normal(300, 200, len(study["score"]))))
    assert noise.tuning < 0.3
    assert 0.8 < noise.gain < 1.3
    assert powered_mean(**study).gain > 1.3


def test_people_outweigh_rows() -> None:
    """Copies of rows of the same people are no new evidence."""
    study = one_study()
    copied = powered_mean(*(np.repeat(study[name], 10) for name in ("truth", "score", "clusters")))
    same(powered_mean(**study), copied)


def test_rows_chosen_by_hand_are_noticed() -> None:
    study = one_study()
    energy = np.nan_to_num(study["truth"], nan=300.0)
    chosen = np.where(study["score"] > np.quantile(study["score"], 0.9), energy, np.nan)
    assert any("were they chosen by hand?" in note for note in powered_mean(**one_study(truth=chosen)).notes)
    assert not any("by hand?" in note for note in powered_mean(**study).notes)


def test_the_condition_is_always_said_and_few_people_too() -> None:
    study = one_study()
    only = np.where(np.isin(study["clusters"], [0, 1, 2]), 300.0 + study["clusters"], np.nan)
    notes = powered_mean(**one_study(truth=only)).notes
    assert "valid only where the coded rows" in notes[0]
    assert any("only 3 participants have coded rows" in note for note in notes)


def test_one_coded_person_has_an_estimate_and_no_interval() -> None:
    study = one_study()
    found = powered_mean(**one_study(truth=np.where(study["clusters"] == 0, 300.0, np.nan)))
    assert np.isfinite(found.powered.estimate)
    assert np.isnan([found.powered.low, found.truths.high, found.gain]).all()
    assert np.isfinite(found.scores.low)


def test_groups_are_estimated_from_their_own_rows() -> None:
    study = one_study()
    arm = np.where(study["clusters"] % 2 == 0, "a", "b").astype(object)
    arm[study["clusters"] == 4] = None
    arm[study["clusters"] == 5] = pd.NA
    found = powered_means_by(arm, **study)
    rows = (study["clusters"] % 2 == 0) & (study["clusters"] != 4)
    same(found["a"], powered_mean(study["truth"][rows], study["score"][rows], study["clusters"][rows]))
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"truth": np.full(3, np.nan)}, "no row is coded"),
        ({"score": np.array([1.0, np.nan, 2.0])}, "1 scores are not finite"),
        ({"selection": "probability"}, 'selection is "probability" and chance is missing'),
        ({"chance": np.ones(3)}, 'selection is "random" and chance is given'),
        ({"chance": np.array([0.0, 1, 1]), "selection": "probability"}, "1 coded rows have a chance that is not above 0 to 1"),
    ],
)
def test_what_cannot_be_estimated_is_refused(changed: dict[str, Any], said: str) -> None:
    whole = {"truth": np.array([1.0, 2.0, np.nan]), "score": np.array([1.0, 2.0, 3.0]), "clusters": np.array(["a", "b", "c"])}
    with pytest.raises(ValueError, match=said):
        powered_mean(**{**whole, **changed})
