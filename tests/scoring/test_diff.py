"""What a new model changed, from two runs of the same archive."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archives import MADE, Row, column, item, manifest, photo, refused, results, scored

from foodray.scoring.diff import RunDiff, diff_runs, write_diff
from foodray.scoring.diff_schema import DIFF
from foodray.scoring.files import read_tables, write_tables
from foodray.scoring.tables import study_tables
from foodray.storage.store import Store

PHOTOS = manifest(
    photo("a"),
    photo("b", occasion_type="dinner"),
    photo("c", participant_id="P2"),
    photo("d", participant_id="P3"),
    photo("e", participant_id="P2", study_day=2),
)


def run(*rows: Row, name: str = "run-1", photos: pa.Table = PHOTOS) -> dict[str, pa.Table]:
    """The tables of a run."""
    return study_tables(results(*({**row, "run_id": name, "model_id": f"model of {name}"} for row in rows)), photos)


@pytest.fixture
def runs() -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Run B calls one rice bread, misses an item, sees another, cannot read photo d, and finds more energy in P2's lunch."""
    a = [
        scored("a", item(100.0), item(50.0, name="egg", x=30)),
        scored("b", item(200.0)),
        scored("c", item(100.0)),
        scored("d", item(10.0)),
        scored("e", item(0.0)),
    ]
    b = [
        scored("a", item(120.0, name="bread", x=1), item(5.0, name="tea", x=60)),
        scored("b", item(200.0)),
        scored("c", item(400.0)),
        refused("d"),
        scored("e", item(10.0)),
    ]
    return run(*a), run(*b, name="run-2")


def rows(diff: RunDiff, name: str) -> list[dict[str, Any]]:
    """The rows of a table of the comparison."""
    found: list[dict[str, Any]] = diff.tables()[name].to_pylist()
    return found


def test_items_are_matched_by_their_boxes_and_those_without_a_match_appear_or_disappear(runs: tuple[dict[str, pa.Table], ...]) -> None:
    items = {(row["image_id"], row["item_id_a"], row["item_id_b"]): row for row in rows(diff_runs(*runs), "items")}
    assert items.keys() >= {("a", "a#0", "a#0"), ("a", "a#1", None), ("a", None, "a#1"), ("b", "b#0", "b#0"), ("d", "d#0", None)}
    assert len(items) == 7
    moved = items["a", "a#0", "a#0"]
    assert moved["overlap"] == pytest.approx(9 / 11)
    assert (moved["side"], moved["label_flip"], moved["change_kcal"], moved["change_ratio"]) == ("both", True, 20, pytest.approx(0.2))
    assert items["a", "a#1", None]["side"] == "only_a"
    assert items["a", None, "a#1"]["change_kcal"] is None


def test_each_item_is_matched_once_to_the_box_it_overlaps_most() -> None:
    a, b = run(scored("a", item(1.0, x=0), item(2.0, x=4))), run(scored("a", item(9.0, x=3)), name="run-2")
    found = rows(diff_runs(a, b), "items")
    assert [(row["energy_a_kcal"], row["energy_b_kcal"]) for row in found] == [(1, None), (2, 9)]


def test_changes_are_b_less_a_at_each_level_and_relative_only_to_something(runs: tuple[dict[str, pa.Table], ...]) -> None:
    diff = diff_runs(*runs)
    days = {(row["participant_id"], row["study_day"]): row for row in rows(diff, "days")}
    assert days["P1", 1]["change_kcal"] == 325 - 350
    assert (days["P2", 1]["change_kcal"], days["P2", 1]["change_ratio"]) == (300, 3)
    assert (days["P2", 2]["change_kcal"], days["P2", 2]["change_ratio"]) == (10, None)
    assert (days["P3", 1]["change_kcal"], days["P3", 1]["complete_a"], days["P3", 1]["complete_b"]) == (None, True, False)
    occasions = {row["occasion_id"]: row for row in rows(diff, "occasions")}
    assert (occasions["P1|1|lunch"]["change_kcal"], occasions["P1|1|dinner"]["change_abs_kcal"]) == (-25, 0)


def test_label_flips_are_counted_by_class(runs: tuple[dict[str, pa.Table], ...]) -> None:
    (flip,) = rows(diff_runs(*runs), "label_flips")
    assert (flip["class_name_a"], flip["class_name_b"], flip["num_items"], flip["ratio_of_class_a"]) == ("rice", "bread", 1, 0.25)


def test_the_participants_most_affected_come_first(runs: tuple[dict[str, pa.Table], ...]) -> None:
    found = rows(diff_runs(*runs), "participants")
    assert [(row["participant_id"], row["num_days"], row["mean_change_abs_kcal"]) for row in found] == [("P2", 2, 155), ("P1", 1, 25)]


def test_photos_that_ended_differently_are_listed_with_their_reason(runs: tuple[dict[str, pa.Table], ...]) -> None:
    (row,) = rows(diff_runs(*runs), "photos")
    assert (row["image_id"], row["participant_id"], row["status_a"], row["status_b"], row["reason_code_b"]) == ("d", "P3", "ok", "quarantined", "truncated")


def test_a_photo_of_one_run_only_is_a_change_too() -> None:
    (row,) = rows(diff_runs(run(scored("a", 1.0)), run(scored("a", 1.0), scored("b", 2.0), name="run-2")), "photos")
    assert (row["image_id"], row["status_a"], row["status_b"]) == ("b", None, "ok")


def test_the_summary_names_both_runs_and_what_changed(runs: tuple[dict[str, pa.Table], ...]) -> None:
    diff = diff_runs(*runs)
    assert (diff.run_ids, diff.model_ids) == (("run-1", "run-2"), ("model of run-1", "model of run-2"))
    text = "\n".join(diff.summary)
    for part in (
        "run A run-1 (model model of run-1)",
        "ok -> quarantined: 1",
        "4 matched, 1 appeared, 2 disappeared",
        "1 of 4 matched items",
        "rice -> bread: 1",
        "P2",
    ):
        assert part in text, text


def test_a_run_does_not_differ_from_itself(runs: tuple[dict[str, pa.Table], ...]) -> None:
    diff = diff_runs(runs[0], runs[0])
    assert diff.label_flips.num_rows == diff.photos.num_rows == 0
    assert {row["side"] for name in ("items", "occasions", "days") for row in rows(diff, name)} == {"both"}
    assert {row["change_kcal"] for name in ("items", "occasions", "days") for row in rows(diff, name)} == {0}


def test_whoever_withdrew_since_run_a_is_in_no_comparison(runs: tuple[dict[str, pa.Table], ...]) -> None:
    gone = {**MADE, "status": "withdrawn"}
    later = run(scored("a", 1.0), {**gone, "image_id": "b"}, {**gone, "image_id": "c"}, scored("d", 1.0), {**gone, "image_id": "e"}, name="run-2")
    for diff in (diff_runs(runs[0], later), diff_runs(later, runs[0])):
        for name in ("items", "occasions", "days", "participants"):
            assert "P2" not in column(diff.tables()[name], "participant_id"), name
        assert {row["image_id"] for row in rows(diff, "items")} == {"a", "d"}
        # P1's dinner is withdrawn, and so the day's total of run A holds it no longer.
        assert column(diff.occasions, "occasion_id") == ["P1|1|lunch", "P3|1|lunch"]
        assert column(diff.days, "participant_id") == ["P3"]
        assert "3 withdrawn photos" in "\n".join(diff.summary)


@pytest.mark.parametrize("empty", ["a", "b", "both"])
def test_a_run_without_any_item_can_be_compared(empty: str) -> None:
    full, none = run(scored("a", 1.0)), run(refused("a"), name="run-2")
    first, second = {"a": (none, full), "b": (full, none), "both": (none, none)}[empty]
    diff = diff_runs(first, second)
    assert diff.items.num_rows == (0 if empty == "both" else 1)
    for name, columns in DIFF.items():
        assert diff.tables()[name].column_names == [column.name for column in columns]


def test_a_comparison_is_made_from_run_folders_and_written_as_tables(runs: tuple[dict[str, pa.Table], ...], tmp_path: Path) -> None:
    stores = [Store(str(tmp_path / name)) for name in ("a", "b")]
    for store, tables in zip(stores, runs, strict=True):
        write_tables(store.sub("tables"), tables)
    diff = diff_runs(*map(read_tables, stores))
    place = Store(str(tmp_path / "diff"))
    digests = write_diff(place, diff)
    assert digests.keys() == DIFF.keys()
    assert {f"{name}.{kind}" for name in DIFF for kind in ("csv", "parquet")} <= set(place.list())
    assert json.loads(place.read("summary.json"))["run_ids"] == ["run-1", "run-2"]
