"""What before, after and several views mean: one weight a photo."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from foodray.corpus.intake import Intake, intake_weights


def weigh(*rows: dict[str, Any]) -> Intake:
    """The intake of photos of P1's lunch on day 1, unless told otherwise."""
    default = {"participant_id": "P1", "study_day": 1, "occasion_id": "lunch", "capture_role": "before", "pair_id": None, "status": "ok"}
    return intake_weights(pa.Table.from_pylist([{"image_id": f"i{number}", **default, **row} for number, row in enumerate(rows)]))


def test_after_is_taken_from_before() -> None:
    assert weigh({}, {"capture_role": "after"}).weight.tolist() == [1, -1]


def test_views_of_a_serving_are_averaged_on_each_side() -> None:
    pair = {"pair_id": "a"}
    found = weigh(pair, pair, pair, {**pair, "capture_role": "after"}, {**pair, "capture_role": "after"})
    np.testing.assert_allclose(found.weight, [1 / 3, 1 / 3, 1 / 3, -1 / 2, -1 / 2])
    assert len(set(found.serving)) == 1


def test_before_photos_without_a_pair_are_servings_that_add() -> None:
    assert weigh({}, {}, {"pair_id": "a"}).weight.tolist() == [1, 1, 1]


@pytest.mark.parametrize("role", ["during", "label", "reference", "other"])
def test_other_roles_weigh_nothing(role: str) -> None:
    assert weigh({}, {"capture_role": role}).weight.tolist() == [1, 0]


def test_a_view_that_was_not_scored_leaves_its_weight_to_the_others() -> None:
    assert weigh({"pair_id": "a"}, {"pair_id": "a", "status": "quarantined"}, {"pair_id": "a", "status": "ok_no_food"}).weight.tolist() == [0.5, 0, 0.5]


def test_an_after_photo_counts_only_where_its_serving_was_scored() -> None:
    after = {"capture_role": "after"}
    assert weigh({"status": "quarantined"}, after).weight.tolist() == [0, 0]
    # The leftover of a serving that could not be read is not taken from another serving.
    assert weigh({"pair_id": "a"}, {"pair_id": "b", "status": "quarantined"}, {"pair_id": "b", **after}).weight.tolist() == [1, 0, 0]
    # One after photo of the whole tray, without a pair, is taken from the occasion.
    assert weigh({"pair_id": "a"}, {"pair_id": "b"}, after).weight.tolist() == [1, 1, -1]


def test_an_occasion_is_of_one_participant_and_one_day_whatever_it_is_called() -> None:
    found = weigh({}, {"participant_id": "P2"}, {"study_day": 2}, {})
    assert [list(found.occasion).index(key) for key in found.occasion] == [0, 1, 2, 0]
    assert [list(found.day).index(key) for key in found.day] == [0, 1, 2, 0]


def test_ids_with_the_separator_in_them_are_not_confused() -> None:
    found = weigh({"participant_id": "P|1", "study_day": None, "occasion_id": "x"}, {"participant_id": "P", "study_day": 1, "occasion_id": "x"})
    assert len(set(found.occasion)) == 2
    found = weigh({"occasion_id": "a|pair|b", "pair_id": "c"}, {"occasion_id": "a", "pair_id": "b|pair|c"})
    assert len(set(found.serving)) == 2


def test_photos_without_an_occasion_belong_together_by_their_pair_else_alone() -> None:
    lost = {"occasion_id": None}
    found = weigh({**lost, "pair_id": "a"}, {**lost, "pair_id": "a", "capture_role": "after"}, lost, lost)
    assert found.occasion_id.tolist() == ["a", "a", "i2", "i3"]
    assert found.weight.tolist() == [1, -1, 1, 1]


def test_without_a_day_or_a_participant_a_photo_is_in_no_day() -> None:
    found = weigh({"study_day": None}, {"participant_id": None}, {})
    assert [day == "" for day in found.day] == [True, True, False]
    assert found.weight.tolist() == [1, 1, 1]


def test_numpy_columns_say_the_same_as_a_table_and_every_photo_counts_without_status() -> None:
    table = pa.table(
        {
            "image_id": ["a", "b", "c"],
            "participant_id": ["P1"] * 3,
            "study_day": pa.array([1, 1, None], pa.int16()),
            "occasion_id": ["x", "x", "y"],
            "capture_role": ["before", "after", None],
        }
    )
    columns = {name: table[name].to_numpy() for name in table.column_names}  # study_day becomes float with NaN
    first, second = intake_weights(table), intake_weights(columns)
    for name in ("occasion", "day", "serving", "weight"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()
    assert first.weight.tolist() == [1, -1, 1]


def test_the_sum_over_a_serving_is_its_mean_before_less_its_mean_after_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rows = [{"pair_id": f"s{rng.integers(6)}", "capture_role": str(rng.choice(["before", "after"])), "kcal": float(rng.uniform(1, 9))} for _ in range(60)]
    rows += [{"pair_id": f"s{number}", "kcal": 5.0} for number in range(6)]
    means = [
        np.mean([row["kcal"] for row in rows if row["pair_id"] == f"s{number}" and (row.get("capture_role") == "after") == after])
        for after in (False, True)
        for number in range(6)
    ]
    for order in (np.arange(66), rng.permutation(66)):
        kept = [rows[place] for place in order]
        weight = weigh(*({key: value for key, value in row.items() if key != "kcal"} for row in kept)).weight
        np.testing.assert_allclose(weight @ [row["kcal"] for row in kept], sum(means[:6]) - sum(means[6:]))


def test_no_photos_are_no_weights() -> None:
    assert len(weigh_nothing().weight) == 0


def weigh_nothing() -> Intake:
    """The intake of no photos at all."""
    return intake_weights({name: np.array([], dtype=object) for name in ("image_id", "participant_id", "study_day", "occasion_id", "capture_role")})
