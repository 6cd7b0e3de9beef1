"""The ranking of photos for review: the formula as written, ties by id, and chances under which means from the drawn photos stay valid."""

import numpy as np
import pytest

from foodray.report.statistics.powered import powered_mean
from foodray.report.statistics.review import draw_chances, review_ranking


def test_worth_is_the_formula_of_the_page() -> None:
    found = review_ranking(
        np.array(["p", "p", "q"]),
        np.array([400.0, 100.0, 300.0]),
        low_kcal=np.array([300.0, np.nan, 200.0]),
        high_kcal=np.array([560.0, np.nan, 400.0]),
        class_prob=np.array([0.9, 0.5, 1.0]),
        flags=[(), ("near_edge", "low_confidence"), ()],
    )
    assert found.image_id.tolist() == ["p", "q"]
    np.testing.assert_allclose(found.worth_kcal, [(130 + 40) + 50 * 2, 100])
    np.testing.assert_allclose(found.portion_kcal, [130, 100])
    np.testing.assert_allclose(found.class_kcal, [40 + 100, 0])
    np.testing.assert_allclose(found.energy_kcal, [500, 300])
    assert found.num_items.tolist() == [2, 1]
    assert found.reason.tolist() == ["class, low_confidence, near_edge", "portion"]


def test_without_intervals_the_spread_of_the_classes_energies_counts() -> None:
    values, prob = np.array([[100.0, 300.0, np.nan], [200.0, 200.0, 200.0]]), np.array([[0.5, 0.5, 0.0], [0.6, 0.3, 0.1]])
    found = review_ranking(np.array(["a", "b"]), np.array([200.0, 200.0]), topk_energy_kcal=values, topk_prob=prob)
    np.testing.assert_allclose(found.worth_kcal, [100, 0], atol=1e-9)


def test_an_interval_goes_before_the_spread_of_classes() -> None:
    more = {"topk_energy_kcal": np.array([[0.0, 1_000.0]]), "topk_prob": np.array([[0.5, 0.5]])}
    found = review_ranking(np.array(["a"]), np.array([200.0]), low_kcal=np.array([190.0]), high_kcal=np.array([210.0]), **more)
    np.testing.assert_allclose(found.worth_kcal, [10])


def test_an_unknown_energy_is_worth_that_of_the_others() -> None:
    found = review_ranking(np.array(["a", "b", "c"]), np.array([100.0, np.nan, 300.0]), class_prob=np.ones(3))
    assert found.image_id.tolist() == ["b", "a", "c"]
    np.testing.assert_allclose(found.worth_kcal, [200, 0, 0])
    assert found.reason[0] == "energy_unknown"


def test_ties_stand_by_id_whatever_the_order_of_rows() -> None:
    ids = np.array(["c", "a", "b", "d"])
    found = review_ranking(ids, np.array([100.0, 100, 100, 200]), class_prob=np.full(4, 0.5))
    assert found.image_id.tolist() == ["d", "a", "b", "c"]


def test_chances_sum_to_the_number_asked_for_and_none_is_zero() -> None:
    worth = np.array([1_000.0, 10, 10, 10, 0, np.nan])
    chance = draw_chances(worth, 3)
    assert chance.sum() == pytest.approx(3)
    assert chance[0] == 1
    assert (chance > 0).all()
    assert chance.max() <= 1
    np.testing.assert_allclose(draw_chances(worth, 6), 1)
    np.testing.assert_allclose(draw_chances(np.zeros(4), 2), 0.5)
    for num, floor in ((0, 0.1), (7, 0.1), (3, 0.0)):
        with pytest.raises(ValueError, match="photos of 6"):
            draw_chances(worth, num, floor=floor)


def test_photos_drawn_with_the_chances_keep_the_powered_mean_right_and_the_top_of_the_list_does_not() -> None:
    rng = np.random.default_rng(0)
    drawn, chosen = [], []
    for _ in range(200):
        energy = rng.lognormal(5, 0.8, 600)
        score = 0.8 * energy + rng.normal(0, 1, 600) * 0.2 * energy
        chance = draw_chances(score, 60)
        truth = np.where(rng.random(600) < chance, energy, np.nan)
        drawn.append(powered_mean(truth, score, np.arange(600), chance=chance, selection="probability").powered.estimate - energy.mean())
        top = np.where(score >= np.sort(score)[-60], energy, np.nan)
        chosen.append(powered_mean(top, score, np.arange(600)).powered.estimate - energy.mean())
    assert abs(np.mean(drawn)) < 3
    assert np.mean(chosen) > 20
