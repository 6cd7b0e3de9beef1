"""Claims about calibration: temperatures that are recovered, intervals that cover new participants, and none where none is honest."""

import numpy as np
import torch

from foodray.tasks.calibration import coverage, day_scores, day_totals, ece, fit_temperature, group_quantile, nll, top_class_ece


def test_the_temperature_that_made_the_labels_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = 2.0 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(true_logits.softmax(1), 1, generator=generator).squeeze(1)
    overconfident = true_logits * 3.0
    found = fit_temperature(overconfident, labels)
    assert abs(found - 3.0) < 0.1
    assert nll(overconfident, labels, found) < nll(overconfident, labels, 1.0)
    assert ece(overconfident, labels, found) < 0.02 < ece(overconfident, labels, 1.0)
    assert fit_temperature(overconfident[:0], labels[:0]) == 1.0


def test_the_top_class_error_equals_the_one_of_the_whole_distribution() -> None:
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(2))
    top = logits.double().softmax(1).max(1)
    right = (top.indices == labels).numpy()
    assert abs(top_class_ece(top.values.numpy(), right) - ece(logits, labels, 1.0)) < 1e-6  # type: ignore[operator]
    assert top_class_ece(np.empty(0), np.empty(0, bool)) is None


def test_with_one_item_a_person_the_quantile_is_the_split_conformal_one() -> None:
    scores = np.arange(1.0, 20.0)  # n = 19: the ceil(0.9 x 20) = 18th smallest
    assert group_quantile(scores, np.arange(19), 0.9) == 18.0
    assert group_quantile(scores[::-1].copy(), np.arange(19), 0.9) == 18.0


def test_a_person_with_many_items_weighs_as_much_as_any_other() -> None:
    scores = np.concatenate([np.full(1000, 9.0), np.ones(9)])
    people = np.array(["many"] * 1000 + [f"p{index}" for index in range(9)])
    assert group_quantile(scores, people, 0.8) == 1.0
    assert group_quantile(scores, people, 0.9) == 9.0


def test_too_few_people_for_the_level_have_no_interval() -> None:
    assert group_quantile(np.ones(800), np.repeat(np.arange(8), 100), 0.9) is None
    assert group_quantile(np.ones(900), np.repeat(np.arange(9), 100), 0.9) == 1.0
    assert group_quantile(np.empty(0), np.empty(0), 0.5) is None


def test_intervals_cover_the_items_of_new_people_at_their_level() -> None:
    """People differ in how well they are read; 2,000 draws of 12 calibration people and a new one, level 0.8."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2_000):
        sizes = rng.integers(1, 20, 13)
        scores = [np.abs(rng.normal(0, spread, size)) for spread, size in zip(rng.gamma(2.0, 1.0, 13), sizes, strict=True)]
        half = group_quantile(np.concatenate(scores[:12]), np.repeat(np.arange(12), sizes[:12]), 0.8)
        assert half is not None
        covered.append(np.mean(scores[12] <= half))
    assert 0.79 < np.mean(covered) < 0.90  # at least the level, at most 1 / (K + 1) above it


def test_day_totals_subtract_what_was_left_and_are_never_negative() -> None:
    value, weight = np.array([100.0, 50.0, 30.0, 10.0, 99.0]), np.array([1.0, 1.0, -1.0, -1.0, 1.0])
    day = np.array(["a", "a", "a", "b", None], dtype=object)
    days, totals = day_totals(value, weight, day)
    assert days.tolist() == ["a", "b"]
    assert totals.tolist() == [120.0, 0.0]


def test_a_day_with_an_unknown_item_is_not_scored() -> None:
    truth = np.array([100.0, np.nan, 50.0])
    days, scores = day_scores(np.array([100.0, 10.0, 101.0]), truth, np.ones(3), np.array(["a", "a", "b"], dtype=object))
    assert days.tolist() == ["b"]
    assert scores.tolist() == [np.log1p(101) - np.log1p(50)]


def test_coverage_tells_items_and_people_apart() -> None:
    found = coverage(np.array([True] * 8 + [False, False]), np.array(["a"] * 8 + ["b"] * 2))
    assert found == {"coverage": 0.8, "coverage_participants": 0.5, "coverage_least": 0.0, "num_items": 10}
    assert coverage(np.empty(0, bool), np.empty(0))["coverage"] is None
