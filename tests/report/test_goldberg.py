"""Intake against published values: Schofield's equations, Goldberg's limits as revised by Black; days that are not complete count for nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from foodray.report.statistics.intake import NO_BODY, NO_DAY, NO_SEX, bmr_kcal, daily_energy, day_flags, goldberg_classes, goldberg_limits, item_flags
from foodray.report.study.config import CleaningConfig, GoldbergConfig

KJ = {  # kJ a day per kg and without it, as Schofield 1985 gives them, in bands from 0, 3, 10, 18, 30 and 60 years
    "M": ((249, -127), (95, 2110), (74, 2754), (63, 2896), (48, 3653), (49, 2459)),
    "F": ((244, -130), (85, 2033), (56, 2898), (62, 2036), (34, 3538), (38, 2755)),
}
AGES = (1.0, 5.0, 14.0, 25.0, 45.0, 70.0)


def objects(*values: object) -> NDArray[np.object_]:
    return np.array(values, dtype=object)


@pytest.mark.parametrize("sex", ["M", "F"])
@pytest.mark.parametrize("weight_kg", [15.0, 60.0, 110.0])
def test_the_basal_rate_agrees_with_schofields_equations_in_kilojoules(sex: str, weight_kg: float) -> None:
    found = bmr_kcal(objects(*[sex] * 6), np.array(AGES), np.full(6, weight_kg))
    published = np.array([slope * weight_kg + constant for slope, constant in KJ[sex]]) / 4.184
    np.testing.assert_allclose(found, published, atol=0.5)


def test_a_band_begins_with_its_first_year() -> None:
    found = bmr_kcal(objects("M", "M", "F"), np.array([29.9, 30.0, 60.0]), np.full(3, 70.0))
    np.testing.assert_allclose(found, [15.057 * 70 + 692.2, 11.472 * 70 + 873.1, 9.082 * 70 + 658.5])


def test_what_is_not_known_has_no_basal_rate() -> None:
    found = bmr_kcal(objects("M", "other", None, "F"), np.array([40, 40, 40, np.nan]), np.array([np.nan, 70, 70, 70]))
    assert np.isnan(found).all()


def test_one_day_has_the_published_limits_of_087_and_275() -> None:
    """The limits in use for a single 24-h recall with PAL 1.55 and the variations 23, 8.5 and 15 % (Black 2000)."""
    low, high = goldberg_limits(GoldbergConfig(), np.array([1]))
    assert (round(float(low[0]), 2), round(float(high[0]), 2)) == (0.87, 2.75)


def test_more_days_more_people_and_less_width_narrow_the_limits() -> None:
    low, high = goldberg_limits(GoldbergConfig(), np.array([0, 1, 4, 7]))
    assert np.isnan(low[0])
    assert np.all(np.diff(low[1:]) > 0)
    assert np.all(np.diff(high[1:]) < 0)
    np.testing.assert_allclose(low * high, np.where(np.isnan(low), np.nan, 1.55**2))
    group_low, _ = goldberg_limits(GoldbergConfig(), np.array([7]), num_people=100)
    assert np.log(group_low[0] / 1.55) == pytest.approx(np.log(low[3] / 1.55) / 10)
    own, _ = goldberg_limits(GoldbergConfig(), np.array([7, 7]), pal=np.array([2.0, np.nan]))
    np.testing.assert_allclose(own, [low[3] * 2.0 / 1.55, low[3]])


def test_summaries_take_complete_days_of_known_energy() -> None:
    people = np.array(["b", "b", "b", "a", "b", "c"])
    energy = np.array([2_000.0, 3_000.0, 100.0, 1_500.0, np.nan, 900.0])
    found = daily_energy(people, energy, np.array([True, True, False, True, True, False]))
    assert found.participant_id.tolist() == ["a", "b", "c"]
    assert found.num_days.tolist() == [1, 4, 1]
    assert found.num_complete.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.mean_kcal, [1_500, 2_500, np.nan])
    np.testing.assert_allclose(found.sd_kcal, [np.nan, np.std([2_000, 3_000], ddof=1), np.nan])
    np.testing.assert_allclose(found.min_kcal, [1_500, 2_000, np.nan])
    np.testing.assert_allclose(found.max_kcal, [1_500, 3_000, np.nan])


def test_classes_are_given_on_complete_days_and_refused_with_the_reason() -> None:
    people = np.array(["a", "b", "c", "d", "e", "f"])
    bmr = 11.472 * 80 + 873.1
    days = daily_energy(people, bmr * np.array([0.8, 1.5, 2.8, 1.5, 1.5, 1.5]), np.array([True, True, True, False, True, True]))
    found = goldberg_classes(
        days, GoldbergConfig(), sex=objects("M", "M", "M", "M", "other", "M"), age_years=np.full(6, 40), weight_kg=np.array([80, 80, 80, 80, 80, np.nan])
    )
    assert found.goldberg_class.tolist() == ["under", "plausible", "over", "not_assessable", "not_assessable", "not_assessable"]
    assert found.reason.tolist() == ["", "", "", NO_DAY, NO_SEX, NO_BODY]
    np.testing.assert_allclose(found.ratio[:3], [0.8, 1.5, 2.8])


def test_an_own_activity_level_moves_the_class() -> None:
    days = daily_energy(np.array(["a"]), np.array([1.6 * (11.472 * 80 + 873.1)]), np.array([True]))
    person = {"sex": objects("M"), "age_years": np.array([40.0]), "weight_kg": np.array([80.0])}
    assert goldberg_classes(days, GoldbergConfig(), **person).goldberg_class.tolist() == ["plausible"]
    assert goldberg_classes(days, GoldbergConfig(), **person, pal=np.array([3.0])).goldberg_class.tolist() == ["under"]


def test_days_are_flagged_by_the_limits_of_the_config() -> None:
    found = day_flags(CleaningConfig(), np.array([399.0, 400.0, 4_001.0, np.nan]), np.array([10, 9, 12, 20]), np.array([True, True, False, True]))
    assert found == [("energy_below_400_kcal",), ("fewer_than_10_items",), ("incomplete", "energy_above_4000_kcal"), ("energy_unknown",)]


def test_items_are_flagged_by_the_limits_of_the_config() -> None:
    found = item_flags(CleaningConfig(max_item_kcal=500), np.array([500.0, 501.0, -1.0, np.nan]), objects("rice", None, "rice", float("nan")))
    assert found == [(), ("class_unknown", "energy_above_500_kcal"), ("energy_negative",), ("class_unknown", "energy_unknown")]
