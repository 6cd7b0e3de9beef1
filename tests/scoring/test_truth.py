"""A run beside the truth: what is linked with what, and sums that mean the same on both sides."""

from typing import Any

import pyarrow as pa
import pytest
from archives import Row, item, manifest, photo, refused, results, scored

from foodray.corpus.schema import TRUTH_ITEMS, arrow_schema
from foodray.scoring.tables import study_tables
from foodray.scoring.truth import LEFT_OUT, fitting_amounts, link_items, one_rater, truth_tables


def truth(*rows: Row) -> pa.Table:
    """A truth_items table."""
    return pa.Table.from_pylist(list(rows), schema=arrow_schema(TRUTH_ITEMS))


def true(truth_item_id: str, image_id: str, kcal: float | None, *, x: float = 0.0, side: float | None = 10.0, **more: Any) -> Row:
    """A truth item with a square box, or none."""
    box = {} if side is None else {"bbox_x": x, "bbox_y": 0.0, "bbox_w": side, "bbox_h": side}
    return {"truth_item_id": truth_item_id, "image_id": image_id, "class_name": "rice", "energy_kcal": kcal, **box, **more}


def run(photos: pa.Table, *rows: Row) -> dict[str, pa.Table]:
    return study_tables(results(*rows), photos)


def links(tables: dict[str, pa.Table], truths: pa.Table) -> dict[tuple[Any, Any], tuple[Any, Any]]:
    found = link_items(tables, truths, None)
    found = found.astype(object).where(found.notna(), None)
    return {(row.item_id, row.truth_item_id): (row.link, row.left_out) for row in found.itertuples()}


def test_items_are_linked_by_the_id_of_their_box_then_by_overlap_and_the_rest_says_why_not() -> None:
    photos = manifest(photo("a"), photo("b"), photo("c"), photo("d"))
    tables = run(
        photos,
        scored("a", item(100.0, given_item_id="t1", x=500.0), item(50.0, x=31.0, box_source="segmentation", side=9.0), item(5.0, x=90.0, side=8.0)),
        scored("b", item(1.0)),
        refused("c"),
        scored("d"),
    )
    rows = [
        true("t1", "a", 90.0),
        true("t2", "a", 60.0, x=30.0),
        true("t3", "a", 7.0, x=300.0),
        true("t4", "c", 1.0),
        true("t5", "d", 2.0),
        true("t6", "z", 3.0),
    ]
    assert links(tables, truth(*rows)) == {
        ("a#0", "t1"): ("given_id", None),
        ("a#1", "t2"): ("overlap", None),
        ("a#2", None): (None, "not_in_truth"),
        (None, "t3"): (None, "not_found"),
        ("b#0", None): (None, "photo_without_truth"),
        (None, "t4"): (None, "photo_not_scored"),
        (None, "t5"): (None, "not_found"),
        (None, "t6"): (None, "photo_not_in_run"),
    }
    assert {why for _, why in links(tables, truth(*rows)).values() if why} <= LEFT_OUT.keys()


def test_a_photo_as_a_whole_is_its_only_truth_item_but_one_of_two_is_not_guessed() -> None:
    tables = run(
        manifest(photo("a"), photo("b")), scored("a", item(1.0, box_source="whole_photo", side=99.0)), scored("b", item(1.0, box_source="whole_photo"))
    )
    found = links(tables, truth(true("t1", "a", 2.0, side=None), true("t2", "b", 2.0), true("t3", "b", 3.0, x=50.0)))
    assert found["a#0", "t1"] == ("single", None)
    assert found["b#0", None] == (None, "not_in_truth")
    assert found[None, "t2"] == (None, "not_found")


def test_a_box_far_from_the_only_truth_is_not_linked_because_both_are_alone() -> None:
    tables = run(manifest(photo("a")), scored("a", item(1.0, x=500.0, box_source="segmentation")))
    assert links(tables, truth(true("t1", "a", 2.0))) == {("a#0", None): (None, "not_in_truth"), (None, "t1"): (None, "not_found")}


def test_truth_is_summed_as_the_run_is_views_averaged_and_leftovers_subtracted() -> None:
    photos = manifest(photo("a", pair_id="p", view="top"), photo("b", pair_id="p", view="side"), photo("c", pair_id="p", capture_role="after"))
    tables = run(photos, scored("a", 10.0), scored("b", 10.0), scored("c", 1.0))
    found = truth_tables(tables, truth(true("t1", "a", 100.0), true("t2", "b", 200.0), true("t3", "c", 30.0, amount_basis="leftover")), None)
    (meal,) = found["occasions"].to_pylist()
    assert (meal["served_kcal"], meal["leftover_kcal"], meal["consumed_kcal"], meal["complete"]) == (150.0, 30.0, 120.0, True)
    assert found["days"]["consumed_kcal"].to_pylist() == [120.0]


@pytest.mark.parametrize("lacking", ["no row", "no amount"])
def test_a_meal_with_a_photo_of_unknown_truth_is_not_complete(lacking: str) -> None:
    tables = run(manifest(photo("a"), photo("b"), photo("r", capture_role="reference")), scored("a", 10.0), scored("b", 10.0), scored("r", 1.0))
    rows = [true("t1", "a", 100.0)] + ([true("t2", "b", None)] if lacking == "no amount" else [])
    assert truth_tables(tables, truth(*rows), None)["occasions"]["complete"].to_pylist() == [False]


def test_what_the_run_could_not_read_is_missing_from_the_truth_too() -> None:
    tables = run(manifest(photo("a"), photo("b")), scored("a", 10.0), refused("b"))
    found = truth_tables(tables, truth(true("t1", "a", 100.0), true("t2", "b", 50.0)), None)
    assert found["occasions"]["complete"].to_pylist() == [False]
    assert found["occasions"]["consumed_kcal"].to_pylist() == [100.0]


def test_energy_of_a_weighed_item_follows_from_the_foods_table() -> None:
    foods = pa.table({"class_name": ["rice"], "energy_kcal_per_100g": [130.0]})
    tables = run(manifest(photo("a")), scored("a", item(100.0, given_item_id="t1")))
    weighed = truth(true("t1", "a", None, mass_g=200.0))
    assert link_items(tables, weighed, foods)["truth_energy_kcal"].to_list() == [260.0]
    assert truth_tables(tables, weighed, foods)["occasions"]["consumed_kcal"].to_pylist() == [260.0]


def test_of_several_raters_of_a_photo_who_weighed_counts_and_the_others_are_counted() -> None:
    rows = [true("t1", "a", 1.0, rater_id="B", truth_method="dietitian_visual"), true("t2", "a", 2.0, rater_id="C", truth_method="weighed")]
    rows += [true("t3", "a", 3.0, rater_id="C", truth_method="weighed"), true("t4", "b", 4.0, rater_id="B", truth_method="recall")]
    kept, num_aside = one_rater(truth(*rows))
    assert kept["truth_item_id"].to_pylist() == ["t2", "t3", "t4"]
    assert num_aside == 1


def test_a_run_without_truth_links_nothing() -> None:
    tables = run(manifest(photo("a")), scored("a", 10.0))
    assert links(tables, truth()) == {("a#0", None): (None, "photo_without_truth")}


def test_amounts_that_do_not_mean_what_their_photo_shows_are_emptied_and_a_meal_is_not_told_twice() -> None:
    tables = run(manifest(photo("a"), photo("b", capture_role="after")), scored("a", item(100.0)), scored("b", item(20.0)))
    rows = [
        true("served", "a", 90.0, amount_basis="served"),
        true("eaten", "a", 70.0, x=50.0, amount_basis="consumed"),
        true("unsaid", "b", 10.0),
        true("wrong", "b", 90.0, x=50.0, amount_basis="served"),
        *({"truth_item_id": f"o-{name}", "occasion_id": "o", "energy_kcal": 5.0, "amount_basis": name} for name in ("served", "leftover", "consumed")),
        *({"truth_item_id": f"p-{name}", "occasion_id": "p", "energy_kcal": 5.0, "amount_basis": name} for name in ("served", "leftover")),
    ]
    found, num_emptied, num_twice = fitting_amounts(truth(*rows), tables["image_results"])
    assert (num_emptied, num_twice) == (2, 2)
    amounts = dict(zip(found["truth_item_id"].to_pylist(), found["energy_kcal"].to_pylist(), strict=True))
    assert amounts == {"served": 90.0, "eaten": None, "unsaid": 10.0, "wrong": None, "o-consumed": 5.0, "p-served": 5.0, "p-leftover": 5.0}
    assert set(found["class_name"].to_pylist()[:4]) == {"rice"}
