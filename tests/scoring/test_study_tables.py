"""From one result a photo to the tables that are analysed."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from archives import MADE, Row, column, item, manifest, photo, refused, results, scored

from foodray.errors import ConfigError, ScoringError
from foodray.scoring.accounting import account_lines, accounting
from foodray.scoring.schema import SCORED
from foodray.scoring.tables import DayCalibration, study_tables

FOODS = pa.table(
    {
        "class_name": ["rice", "soup", "water"],
        "energy_kcal_per_100g": [130.0, 50.0, 0.0],
        "density_g_per_ml": [None, 1.1, 1.0],
        "protein_g_per_100g": [2.7, None, 0.0],
        "food_code_system": ["FNDDS", None, None],
        "food_code_version": ["2017-2018", None, None],
        "food_code": ["056205008", None, None],
    }
)


def occasion(photos: list[Row], outcomes: list[Row]) -> dict[str, Any]:
    """The one occasion of some photos."""
    (row,) = study_tables(results(*outcomes), manifest(*photos))["occasions"].to_pylist()
    return dict(row)


def test_consumed_is_served_less_leftover() -> None:
    row = occasion([photo("b"), photo("a", capture_role="after")], [scored("b", 300.0, 100.0), scored("a", 50.0)])
    assert (row["served_kcal"], row["leftover_kcal"], row["consumed_kcal"]) == (400, 50, 350)
    assert (row["consumed_assumption"], row["complete"], row["flags"]) == ("measured", True, [])
    assert (row["num_images_before"], row["num_images_after"], row["num_items"]) == (1, 1, 3)
    assert row["consumed_kj"] == pytest.approx(350 * 4.184)


def test_without_an_after_photo_everything_was_eaten_and_the_row_says_so() -> None:
    row = occasion([photo("b")], [scored("b", 300.0)])
    assert (row["consumed_kcal"], row["leftover_kcal"], row["consumed_assumption"], row["complete"]) == (300, None, "all_eaten", True)


def test_views_are_averaged_and_servings_add() -> None:
    photos = [photo("top", pair_id="x", view="top"), photo("side", pair_id="x", view="side"), photo("drink")]
    row = occasion(photos, [scored("top", 300.0), scored("side", 200.0), scored("drink", 90.0)])
    assert row["served_kcal"] == pytest.approx(340)
    assert row["flags"] == []


def test_views_that_no_pair_joins_are_flagged() -> None:
    row = occasion([photo("t", view="top"), photo("s", view="side")], [scored("t", 300.0), scored("s", 200.0)])
    assert (row["served_kcal"], row["flags"]) == (500, ["views_without_pair"])


def test_an_after_photo_in_quarantine_leaves_an_upper_bound_that_is_not_complete() -> None:
    row = occasion([photo("b"), photo("a", capture_role="after")], [scored("b", 300.0), refused("a")])
    assert (row["consumed_kcal"], row["consumed_assumption"], row["complete"], row["flags"]) == (300, "after_missing", False, ["photo_quarantined"])


def test_one_of_two_after_photos_in_quarantine_is_after_missing_too() -> None:
    photos = [photo("b"), photo("a1", capture_role="after"), photo("a2", capture_role="after")]
    row = occasion(photos, [scored("b", 300.0), scored("a1", 30.0), refused("a2")])
    assert (row["consumed_kcal"], row["consumed_assumption"], row["complete"]) == (270, "after_missing", False)


def test_after_photos_of_some_servings_only_are_after_missing() -> None:
    photos = [photo("b1", pair_id="1"), photo("b2", pair_id="2"), photo("a1", pair_id="1", capture_role="after")]
    row = occasion(photos, [scored("b1", 300.0), scored("b2", 100.0), scored("a1", 30.0)])
    assert (row["consumed_kcal"], row["consumed_assumption"], row["complete"]) == (370, "after_missing", True)


def test_a_before_photo_in_quarantine_leaves_nothing_to_subtract_from() -> None:
    row = occasion([photo("b"), photo("a", capture_role="after")], [refused("b"), scored("a", 50.0)])
    assert (row["served_kcal"], row["consumed_kcal"], row["consumed_assumption"], row["complete"]) == (None, None, None, False)
    assert row["flags"] == ["photo_quarantined", "no_before", "leftover_without_served"]


def test_a_photo_without_a_result_makes_its_occasion_incomplete() -> None:
    row = occasion([photo("b"), photo("late")], [scored("b", 300.0)])
    assert (row["consumed_kcal"], row["complete"], row["flags"]) == (300, False, ["photo_missing"])


def test_a_leftover_larger_than_what_was_served_is_kept_and_flagged() -> None:
    row = occasion([photo("b"), photo("a", capture_role="after")], [scored("b", 100.0), scored("a", 130.0)])
    assert (row["consumed_kcal"], row["complete"], row["flags"]) == (-30, True, ["leftover_exceeds_served"])


def test_no_food_is_a_total_of_zero() -> None:
    row = occasion([photo("b"), photo("a", capture_role="after")], [scored("b", 100.0), scored("a")])
    assert (row["leftover_kcal"], row["consumed_kcal"], row["flags"]) == (0, 100, [])
    row = occasion([photo("b")], [scored("b")])
    assert (row["served_kcal"], row["flags"], row["complete"]) == (0, ["no_food_found"], True)


def test_unknown_energy_is_never_a_silent_zero() -> None:
    row = occasion([photo("b")], [scored("b", item(100.0), item(None, name="moon"))])
    assert (row["served_kcal"], row["complete"], row["flags"]) == (100, False, ["energy_unknown"])
    row = occasion([photo("b")], [scored("b", item(None, name="moon"))])
    assert (row["served_kcal"], row["consumed_kcal"], row["complete"]) == (None, None, False)


def test_reference_and_label_photos_make_no_occasion_but_keep_their_items() -> None:
    tables = study_tables(results(scored("r", 10.0), refused("l")), manifest(photo("r", capture_role="reference"), photo("l", capture_role="label")))
    assert tables["occasions"].num_rows == tables["days"].num_rows == 0
    assert column(tables["items"], "amount_basis") == ["unknown"]
    assert tables["quarantine"].num_rows == 1


def test_energy_follows_from_mass_or_volume_and_the_foods_table() -> None:
    rows = [
        item(name="rice", mass_g=200.0, mass_lo_g=100.0, mass_hi_g=300.0, interval_level=0.9),
        item(name="soup", volume_ml=300.0, x=20),
        item(77.0, name="rice", mass_g=10.0, x=40),
        item(name="moon", mass_g=10.0, x=60),
        item(name="rice", volume_ml=10.0, x=80),
    ]
    items = study_tables(results(scored("b", *rows)), manifest(photo("b")), FOODS)["items"]
    assert column(items, "energy_kcal") == pytest.approx([260, 165, 77, None, None])
    assert (items["energy_lo_kcal"][0].as_py(), items["energy_hi_kcal"][0].as_py()) == (130, 390)
    assert column(items, "energy_basis") == ["mass_and_foods", "volume_and_foods", "predicted", None, None]
    assert column(items, "mass_g") == pytest.approx([200, 330, 10, 10, None])
    assert column(items, "protein_g") == pytest.approx([5.4, None, 0.27, None, None])
    assert column(items, "fat_g") == [None] * 5
    assert column(items, "energy_kj")[0] == pytest.approx(260 * 4.184)
    assert column(items, "food_code") == ["056205008", None, "056205008", None, "056205008"]


def test_nutrients_of_a_meal_need_every_item() -> None:
    (one,) = study_tables(results(scored("b", item(name="rice", mass_g=100.0), item(name="water", mass_g=50.0))), manifest(photo("b")), FOODS)[
        "occasions"
    ].to_pylist()
    assert (one["consumed_mass_g"], one["consumed_protein_g"], one["consumed_fat_g"]) == (150, pytest.approx(2.7), None)
    (one,) = study_tables(results(scored("b", item(name="rice", mass_g=100.0), item(name="soup", mass_g=50.0))), manifest(photo("b")), FOODS)[
        "days"
    ].to_pylist()
    assert (one["consumed_mass_g"], one["consumed_protein_g"]) == (150, None)


def test_a_nutrient_that_one_photo_lacks_is_unknown_for_the_meal_and_one_that_a_meal_lacks_for_the_day() -> None:
    photos = [photo("b"), photo("c"), photo("d", occasion_type="dinner")]
    rows = [scored("b", item(name="rice", mass_g=100.0)), scored("c", item(name="soup", mass_g=50.0)), scored("d", item(name="rice", mass_g=100.0))]
    tables = study_tables(results(*rows), manifest(*photos), FOODS)
    assert column(tables["occasions"], "consumed_protein_g") == [pytest.approx(2.7), None]
    assert column(tables["days"], "consumed_protein_g") == [None]
    assert column(tables["days"], "consumed_mass_g") == [250]


def test_items_are_numbered_in_falling_order_of_area() -> None:
    tables = study_tables(results(scored("b", item(1.0, side=5), item(2.0, side=9), item(3.0, side=7, area_px=200.0))), manifest(photo("b")))
    assert column(tables["items"], "item_id") == ["b#0", "b#1", "b#2"]
    assert column(tables["items"], "energy_kcal") == [3, 2, 1]
    assert [part["energy_kcal"] for part in column(tables["image_results"], "items")[0]] == [3, 2, 1]


def test_a_day_is_the_sum_of_its_occasions_with_an_interval_of_its_own() -> None:
    photos = [photo("l"), photo("d", occasion_type="dinner")]
    outcomes = [scored("l", item(300.0, energy_lo_kcal=0.0, energy_hi_kcal=900.0)), scored("d", 500.0)]
    calibration = DayCalibration(half_width_log1p=0.2, level=0.9)
    (day,) = study_tables(results(*outcomes), manifest(*photos), calibration=calibration)["days"].to_pylist()
    assert (day["consumed_kcal"], day["num_occasions"], day["complete"], day["flags"]) == (800, 2, True, [])
    assert day["consumed_lo_kcal"] == pytest.approx(801 * np.exp(-0.2) - 1)
    assert day["consumed_hi_kcal"] == pytest.approx(801 * np.exp(0.2) - 1)
    assert day["interval_level"] == 0.9
    (day,) = study_tables(results(*outcomes), manifest(*photos))["days"].to_pylist()
    assert (day["consumed_lo_kcal"], day["consumed_hi_kcal"], day["flags"]) == (None, None, ["no_day_calibration"])


def test_an_incomplete_day_gets_no_interval() -> None:
    calibration = DayCalibration(half_width_log1p=0.2, level=0.9)
    photos = [photo("l"), photo("d", occasion_type="dinner")]
    (day,) = study_tables(results(scored("l", 300.0), refused("d")), manifest(*photos), calibration=calibration)["days"].to_pylist()
    assert (day["consumed_kcal"], day["consumed_lo_kcal"], day["complete"], day["flags"]) == (300, None, False, ["photo_quarantined", "no_before"])
    assert (day["num_occasions"], day["num_occasions_complete"]) == (2, 1)


@pytest.mark.parametrize(
    "wrong", [{"half_width_log1p": -1.0, "level": 0.9}, {"half_width_log1p": float("nan"), "level": 0.9}, {"half_width_log1p": 1.0, "level": 1.0}]
)
def test_an_impossible_calibration_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="half_width_log1p"):
        DayCalibration(**wrong)


def test_a_negative_day_gets_no_interval() -> None:
    calibration = DayCalibration(half_width_log1p=0.2, level=0.9)
    outcomes = results(scored("b", 0.5), scored("a", 1.0))
    (day,) = study_tables(outcomes, manifest(photo("b"), photo("a", capture_role="after")), calibration=calibration)["days"].to_pylist()
    assert (day["consumed_kcal"], day["consumed_lo_kcal"], day["consumed_hi_kcal"], day["interval_level"]) == (-0.5, None, None, None)
    assert (day["complete"], day["flags"]) == (True, ["leftover_exceeds_served"])


def test_occasions_without_a_day_are_in_no_day() -> None:
    tables = study_tables(results(scored("b", 100.0), scored("c", 10.0)), manifest(photo("b", study_day=None), photo("c")))
    assert column(tables["occasions"], "occasion_id") == ["P1|1|lunch", "b"]
    assert column(tables["days"], "consumed_kcal") == [10]


def test_a_withdrawn_participant_is_in_no_table_but_as_a_status() -> None:
    photos = [photo("a"), photo("b", participant_id="P2"), photo("c", participant_id="P2", occasion_type="dinner")]
    gone = {**MADE, "image_id": "b", "status": "withdrawn"}
    late = scored("c", 100.0, image_sha256="x", num_bytes=5)  # withdrawn after it was scored
    tables = study_tables(results(scored("a", 100.0), gone, late), manifest(*photos), withdrawn=["b", "c"])
    for name in ("items", "occasions", "days"):
        assert set(column(tables[name], "participant_id")) == {"P1"}
    for row in tables["image_results"].to_pylist()[1:]:
        kept = {name for name, value in row.items() if value is not None}
        assert kept == {*MADE, "image_id", "participant_id", "status"}
        assert row["status"] == "withdrawn"
    assert accounting(tables["image_results"], 3)["withdrawn"] == 2


def test_what_is_left_of_a_meal_and_of_a_day_after_a_withdrawal_is_incomplete() -> None:
    photos = [photo("a"), photo("b"), photo("c", study_day=2), photo("d", study_day=2, occasion_type="dinner")]
    outcomes = [scored("a", 1.0), {**MADE, "image_id": "b", "status": "withdrawn"}, scored("c", 1.0), {**MADE, "image_id": "d", "status": "withdrawn"}]
    tables = study_tables(results(*outcomes), manifest(*photos))
    assert column(tables["occasions"], "complete") == [False, True]
    assert column(tables["days"], "complete") == [False, False]
    assert all("photo_withdrawn" in flags for flags in column(tables["days"], "flags"))


def archive(num_people: int = 4, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """A manifest and its results, with pairs, views, and some photos refused or without food."""
    rng = np.random.default_rng(seed)
    photos, outcomes = [], []
    for person in range(num_people):
        for day in (1, 2):
            for meal in ("breakfast", "lunch", "dinner"):
                for role in ("before", "before", "after")[: int(rng.integers(1, 4))]:
                    name = f"i{len(photos):03d}"
                    pair = None if meal == "lunch" else f"{person}-{day}-{meal}"
                    photos.append(photo(name, participant_id=f"P{person}", study_day=day, occasion_type=meal, capture_role=role, pair_id=pair))
                    energy = rng.uniform(1, 500, size=rng.integers(0, 5)).tolist()
                    outcomes.append(refused(name) if rng.random() < 0.1 else scored(name, *energy))
    return photos, outcomes


def test_the_tables_do_not_depend_on_the_order_of_results_or_manifest() -> None:
    photos, outcomes = archive()
    first = study_tables(results(*outcomes), manifest(*photos))
    rng = np.random.default_rng(1)
    second = study_tables(results(*rng.permutation(np.array(outcomes, dtype=object))), manifest(*rng.permutation(np.array(photos, dtype=object))))
    for name, table in first.items():
        assert table.equals(second[name]), name


def test_sums_agree_from_items_to_days() -> None:
    photos, outcomes = archive()
    tables = study_tables(results(*outcomes), manifest(*photos))
    items, occasions, days = (tables[name].to_pandas() for name in ("items", "occasions", "days"))
    assert items["energy_kcal"].sum() == pytest.approx(sum(part["energy_kcal"] for row in outcomes for part in row.get("items", [])))
    assert items["energy_kcal"].sum() == pytest.approx(tables["image_results"].to_pandas()["energy_kcal"].sum())
    assert occasions["num_items"].sum() == len(items)
    assert days["num_occasions"].sum() == len(occasions) == 24
    assert days["consumed_kcal"].sum() == pytest.approx(occasions["consumed_kcal"].sum())
    assert (occasions["num_images_before"] + occasions["num_images_after"] + occasions["num_images_not_scored"]).sum() == len(photos)
    assert set(tables["quarantine"]["image_id"].to_pylist()) == {row["image_id"] for row in outcomes if row["status"] == "quarantined"}


def test_every_table_has_its_schema_and_every_row_its_lineage_even_where_nothing_was_scored() -> None:
    photos, outcomes = archive()
    for some in (outcomes, outcomes[:1], []):
        tables = study_tables(results(*some), manifest(*photos))
        assert tables.keys() == SCORED.keys()
        for name, table in tables.items():
            assert table.column_names == [column.name for column in SCORED[name]]
            if some:
                assert all(table[made].null_count == 0 for made in MADE), name


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([scored("b", 1.0), scored("b", 2.0)], "image_id twice"),
        ([scored("zz", 1.0)], "not in the manifest, first 'zz'"),
        ([scored("b", 1.0), scored("c", 1.0, run_id="run-2")], "2 different values of run_id"),
        ([scored("b", 1.0), scored("c", 1.0, manifest_sha256="other")], "manifest_sha256.*tell study_tables"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(rows: list[Row], why: str) -> None:
    with pytest.raises(ScoringError, match=why):
        study_tables(results(*rows), manifest(photo("b"), photo("c")))


@pytest.mark.parametrize("wrong", [{"energy_kcl": 1.0}, {"status": 1}, {"items": [item(1.0, energy_kcl=1.0)]}, {"items": [item(1.0, mass_g="much")]}])
def test_a_name_or_value_that_does_not_fit_is_never_dropped_silently(wrong: Row) -> None:
    with pytest.raises(ScoringError, match=r"unknown columns energy_kcl|do not fit"):
        results({**scored("b", 1.0), **wrong})


def test_stored_results_with_a_strange_column_are_refused_and_lacking_ones_are_null() -> None:
    strange = pa.table({"image_id": ["b"], "status": ["ok"], "items": pa.array([[{"energy_kcal": 2.0, "salt_g": 1.0}]])})
    with pytest.raises(ScoringError, match="items of image_results: unknown columns salt_g"):
        study_tables(strange, manifest(photo("b")))
    plain = pa.table({"image_id": ["b"], "status": ["ok"], "items": pa.array([[{"energy_kcal": 2.0}]])})
    assert column(study_tables(plain, manifest(photo("b")))["days"], "consumed_kcal") == [2]


def test_a_grown_manifest_leaves_its_own_hash_on_what_is_summed() -> None:
    rows = [scored("b", 1.0), scored("c", 1.0, manifest_sha256="other")]
    tables = study_tables(results(*rows), manifest(photo("b"), photo("c")), manifest_sha256="other")
    assert column(tables["image_results"], "manifest_sha256") == ["ef", "other"]
    assert column(tables["days"], "manifest_sha256") == ["other"]


def test_every_row_of_the_manifest_is_accounted_for() -> None:
    skipped = {**MADE, "image_id": "s", "status": "skipped", "reason_code": "no_consent"}
    rows = [scored("a", 1.0), scored("b"), refused("c"), refused("d", "empty"), skipped, {**MADE, "image_id": "w", "status": "withdrawn"}]
    account = accounting(results(*rows), 6)
    assert account["reasons"] == {"truncated": 1, "empty": 1, "no_consent": 1}
    assert {name: account[name] for name in ("ok", "ok_no_food", "quarantined", "withdrawn", "skipped")} == {
        "ok": 1,
        "ok_no_food": 1,
        "quarantined": 2,
        "withdrawn": 1,
        "skipped": 1,
    }
    assert account_lines(account)[-1].split()[:2] == ["manifest", "6"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([scored("a", 1.0)], "the manifest has 2 rows but 1 ended"),
        ([scored("a", 1.0), scored("a", 1.0)], "1 rows repeat an image_id, first 'a'"),
        ([scored("a", 1.0), {**scored("b"), "status": "ok"}], "ok without items, first 'b'"),
        ([scored("a", 1.0), {**scored("b"), "items": None}], "ok_no_food without an empty list"),
        ([scored("a", 1.0), {**refused("b"), "items": []}], "items without being scored"),
        ([scored("a", 1.0), refused("b", "bad luck")], "without a known reason_code, first 'b'"),
        ([scored("a", 1.0), scored("b", 1.0, reason_code="empty")], "a reason_code without being"),
        ([scored("a", 1.0), {**scored("b", 1.0), "status": "lost"}], "a status other than"),
    ],
)
def test_books_that_do_not_balance_stop_the_run(rows: list[Row], why: str) -> None:
    with pytest.raises(ScoringError, match=why):
        accounting(results(*rows), 2)
