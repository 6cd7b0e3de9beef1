"""The engine of intervals: who is drawn, what it costs in draws, and how often its intervals hold the truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from scipy.stats import t as student

from foodray.report.statistics.clusters import Clusters, Resampling, draw_counts
from foodray.report.statistics.resampling import Statistic, intervals, mean_interval, mean_statistic, means_by, paired_intervals, row_intervals
from tests.bench.coverage import everything, from_sums, measure

HOW = Resampling()


def test_intervals_of_32_people_hold_the_truth_as_often_as_they_say() -> None:
    """Skewed errors, 5 to 60 items a person: about 95 of 100, in 200 studies."""
    held = {name: found[0] for name, found in measure(from_sums, 32, 200, num_draws=399).items()}
    assert set(held) == {"bias", "mae", "ep", "accuracy", "accuracy_0.97"}
    assert all(0.90 <= share <= 0.985 for share in held.values()), held


@pytest.mark.slow
@pytest.mark.parametrize(("num_participants", "least"), [(8, 0.89), (32, 0.89), (100, 0.91)])
def test_every_headline_number_holds_the_truth_as_often_as_it_says(num_participants: int, least: float) -> None:
    held = {name: found[0] for name, found in measure(everything, num_participants, 300).items()}
    assert all(least <= share <= 0.99 for share in held.values()), held


def test_people_of_one_item_each_have_the_interval_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, 10, 300)
    found = mean_interval(values, np.arange(300).astype(object), HOW)
    expected = bootstrap((values,), np.mean, rng=np.random.default_rng(1), method="BCa").confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.1 * width), pytest.approx(expected.high, abs=0.1 * width))


def test_no_end_is_nearer_than_student_s_t_of_the_means_of_people() -> None:
    """Where all bring as many items the linearised standard error is that of participants' means."""
    rng = np.random.default_rng(3)
    level = rng.gamma(1, 10, 12)
    values, people = np.repeat(level, 5) + rng.normal(size=60), np.repeat(np.arange(12), 5).astype(object)
    means = values.reshape(12, 5).mean(axis=1)
    low, high = student.interval(0.95, 11, means.mean(), means.std(ddof=1) / np.sqrt(12))
    found = mean_interval(values, people, HOW)
    assert found.low <= low + 1e-6
    assert found.high >= high - 1e-6
    few = mean_interval(values[:25], people[:25], HOW)
    low, high = student.interval(0.95, 4, means[:5].mean(), means[:5].std(ddof=1) / np.sqrt(5))
    assert (few.low, few.high) == (pytest.approx(low), pytest.approx(high))
    assert "only 5 participants" in few.note


def test_the_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    values, people, order = rng.normal(size=200), rng.integers(15, size=200).astype(str).astype(object), rng.permutation(200)
    first, second = mean_interval(values, people, HOW), mean_interval(values[order], people[order], HOW)
    assert (first.low, first.high) == (pytest.approx(second.low), pytest.approx(second.high))


def test_every_draw_is_of_as_many_participants_as_there_are() -> None:
    parts = list(draw_counts(3_000, Resampling(num_draws=1_500)))
    assert len(parts) > 1
    assert sum(len(part) for part in parts) == 1_500
    assert all((part.sum(axis=1) == 3_000).all() for part in parts)
    assert np.concatenate(parts).mean() == 1
    assert np.concatenate(parts).var() == pytest.approx(1, abs=0.01)


def test_a_share_of_one_has_a_lower_end_all_the_same() -> None:
    """Twenty people, each right in all of 30 items: the exact limit of 20 trials, 0.025 ** (1 / 20)."""
    people = np.repeat(np.arange(20), 30).astype(object)
    found = mean_interval(np.ones(600), people, HOW, scale="logit")
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 20)), 1)
    nobody = mean_interval(np.zeros(600), people, HOW, scale="logit")
    assert (nobody.low, nobody.high) == (0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert "same share" in found.note


def test_what_does_not_vary_between_people_has_ends_equal_to_it() -> None:
    found = mean_interval(np.full(40, 7.0), np.repeat(np.arange(8), 5).astype(object), HOW, scale="log")
    assert (found.estimate, found.low, found.high) == (7, 7, 7)
    zero = mean_interval(np.zeros(40), np.repeat(np.arange(8), 5).astype(object), HOW, scale="log")
    assert (zero.low, zero.high) == (0, 0)


def test_one_participant_has_no_interval_and_nobody_has_no_name() -> None:
    found = mean_interval(np.array([1.0, 2.0]), np.array(["a", "a"], dtype=object), HOW)
    assert np.isnan(found.low)
    assert "fewer than two" in found.note
    assert np.isnan(row_intervals(lambda weights: {"sum": float(weights.sum())}, Clusters(np.array(["a"], dtype=object)), HOW)["sum"].low)
    with pytest.raises(ValueError, match="1 rows have no participant"):
        mean_interval(np.ones(2), np.array(["a", None], dtype=object), HOW)


def test_people_without_a_row_of_the_statistic_are_not_counted() -> None:
    clusters = Clusters(np.array(["a", "a", "b", "c"], dtype=object))
    columns = clusters.sums(some=np.array([1, 0, 1, 0]), value=np.array([2.0, 0.0, 4.0, 0.0]))
    found = intervals(columns, {"mean": Statistic(of=lambda num, total: total / num, columns=("some", "value"), items="some")}, HOW)["mean"]
    assert (found.estimate, found.num_items, found.num_groups) == (3, 2, 2)


def test_a_difference_of_the_same_prediction_is_nothing_for_certain() -> None:
    rng = np.random.default_rng(5)
    columns = Clusters(rng.integers(30, size=300).astype(object)).sums(value=rng.normal(5, 1, 300))
    found = paired_intervals(columns, columns, {"mean": mean_statistic("value")}, HOW)["mean"]
    assert (found.estimate, found.low, found.high) == (0, 0, 0)
    lower = {**columns, "value": columns["value"] - 0.5 * columns["num"]}
    assert paired_intervals(columns, lower, {"mean": mean_statistic("value")}, HOW)["mean"].low == pytest.approx(0.5)


def test_rows_with_weights_and_sums_tell_the_same() -> None:
    rng = np.random.default_rng(6)
    values, people = rng.gamma(2, 10, 900), rng.integers(40, size=900).astype(object)
    values += 10 * people.astype(float) / 40
    clusters = Clusters(people)
    for centred in (False, True):
        rows = row_intervals(lambda weights: {"mean": float(weights @ values / weights.sum())}, clusters, HOW, centred=centred)["mean"]
        sums = mean_interval(values, people, HOW)
        assert rows.estimate == pytest.approx(sums.estimate)
        assert rows.high - rows.low == pytest.approx(sums.high - sums.low, rel=0.15)


def test_groups_have_means_of_their_own_rows_and_rows_without_one_are_left_out() -> None:
    groups = np.array(["b", "a", "b", None], dtype=object)
    found = means_by(groups, np.array([1.0, 2.0, 3.0, 9.0]), np.array(["p", "p", "q", "q"], dtype=object), HOW)
    assert list(found) == ["a", "b"]
    assert (found["b"].estimate, found["b"].num_groups) == (2, 2)
    assert np.isnan(found["a"].low)


def test_of_many_groups_each_has_student_s_interval_and_says_so() -> None:
    rng = np.random.default_rng(7)
    groups, people = rng.integers(40, size=2_000), rng.integers(30, size=2_000).astype(object)
    found = means_by(groups, rng.normal(size=2_000), people, HOW)
    assert len(found) == 40
    assert all(each.low < each.estimate < each.high and each.method.startswith("Student") for each in found.values())
    few = means_by(groups % 3, rng.normal(size=2_000), people, HOW)
    assert all(each.method.startswith("Participants drawn") for each in few.values())
