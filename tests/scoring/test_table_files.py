"""Study tables as files: safe, described, and with digests that depend on what they say alone."""

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from archives import MADE, item, manifest, photo, refused, results, scored

from foodray.errors import ExistsError, ScoringError
from foodray.scoring.dictionary import dictionary, unit
from foodray.scoring.diff_schema import DIFF
from foodray.scoring.files import NEVER_DIGESTED, read_tables, table_digest, write_tables
from foodray.scoring.schema import ITEM_FIELDS, SCORED
from foodray.scoring.tables import study_tables
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

TAG_PROBS = [{"tag": "@cmd", "prob": 0.75}, {"tag": "hot", "prob": 0.5}, {"tag": "=1+2", "prob": 0.25}]


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    """The tables of three photos: scored, without food, in quarantine; one food has a name that a spreadsheet would run."""
    first = scored("a", item(120.0, name="=1+2"), item(30.0, name="@cmd", x=20), phash=b"\1" * 32, tags=["@cmd", "hot"], tag_probs=TAG_PROBS)
    return study_tables(results(first, scored("b"), refused("c")), manifest(photo("a"), photo("b"), photo("c", study_day=2)))


def rows_of(data: bytes) -> list[dict[str, str]]:
    """The rows of a CSV file as text."""
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def test_tables_come_back_from_parquet_as_they_were(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    write_tables(Store(str(tmp_path)).sub("tables"), tables)
    for name, table in tables.items():
        assert read_parquet(Store(str(tmp_path)), f"tables/{name}.parquet").equals(table)
    assert read_tables(Store(str(tmp_path))).keys() == {"image_results", "items", "occasions", "days"}


def test_a_csv_cell_is_never_a_formula_nested_values_are_json_and_missing_ones_empty(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_tables(store, tables)
    items = rows_of(store.read("items.csv"))
    assert [row["class_name"] for row in items] == ["'=1+2", "'@cmd"]
    assert items[0]["mass_g"] == ""
    for name in tables:
        for row in rows_of(store.read(f"{name}.csv")):
            assert not [cell for cell in row.values() if cell.startswith(("=", "@", "+"))]
    first, second, third = rows_of(store.read("image_results.csv"))
    assert [part["class_name"] for part in json.loads(first["items"])] == ["=1+2", "@cmd"]
    assert (second["items"], third["items"]) == ("[]", "")
    assert (json.loads(first["tags"]), json.loads(first["tag_probs"])) == (["@cmd", "hot"], TAG_PROBS)
    assert (second["tags"], third["tag_probs"]) == ("", "")
    assert first["phash"] == "01" * 32


def test_the_dictionary_covers_every_column_of_every_table(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_tables(store, tables)
    written = rows_of(store.read("dictionary.csv"))
    expected = [(name, column) for name, table in tables.items() for column in table.column_names]
    top = [(row["table"], row["column"]) for row in written if "[]" not in row["column"]]
    assert top == expected
    assert [row["column"] for row in written if "[]" in row["column"]] == [f"items[].{field.name}" for field in ITEM_FIELDS]
    assert json.loads(store.read("dictionary.json"))["columns"] == dictionary(SCORED)
    assert all(row["meaning"] and row["type"] and row["since_version"] for row in written)


def test_every_number_that_has_a_unit_names_it() -> None:
    plain = (
        "study_day",
        "attempts",
        "num_",
        "exif_orientation",
        "class_id",
        "item_index",
        "interval_level",
        "class_prob",
        "tag_prob",
        "detection_score",
        "overlap",
        "ratio",
        "share",
    )
    for table, columns in {**SCORED, **DIFF}.items():
        for column in columns:
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                assert unit(column.name) or any(word in column.name for word in plain), (table, column.name)
    assert [unit(name) for name in ("energy_kcal", "marker_px_per_mm", "mass_g", "flags", "tags", "decode_ms", "area_cm2")] == [
        "kcal",
        "px/mm",
        "g",
        None,
        None,
        "ms",
        "cm2",
    ]


def test_identifiers_are_marked_as_such() -> None:
    marked = {entry["column"] for entry in dictionary(SCORED) if entry["identifier"]}
    assert marked == {"participant_id", "image_id", "item_id", "occasion_id", "pair_id", "given_item_id", "items[].given_item_id"}


def test_the_package_describes_its_files(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    digests = write_tables(store, tables, name="run-1")
    package = json.loads(store.read("datapackage.json"))
    assert package["digests"] == digests
    for resource in package["resources"]:
        data = store.read(resource["path"])
        assert (resource["bytes"], resource["hash"]) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
        header = next(csv.reader(io.StringIO(data.decode())))
        assert header == [field["name"] for field in resource["schema"]["fields"]]
        assert set(resource["schema"].get("primaryKey", [])) <= set(header)
    assert package["resources"][0]["schema"]["primaryKey"] == ["image_id"]


def test_values_keep_to_the_allowed_ones(tables: dict[str, pa.Table]) -> None:
    for name, table in tables.items():
        for column in SCORED[name]:
            values = table[column.name].drop_null().to_pylist()
            if column.allowed:
                assert {word for value in values for word in (value if isinstance(value, list) else [value])} <= set(column.allowed), (name, column.name)
            if column.required:
                assert len(values) == table.num_rows, (name, column.name)


def test_nothing_is_replaced_unless_asked(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("days.csv", b"mine")
    with pytest.raises(ExistsError, match=r"days\.csv"):
        write_tables(store, tables)
    assert store.list() == ["days.csv"]
    write_tables(store, tables, replace=True)
    assert len(rows_of(store.read("days.csv"))) == 2


def test_a_table_that_its_description_does_not_fit_is_refused(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="other columns"):
        write_tables(Store(str(tmp_path)), {"items": tables["items"].drop_columns(["mass_g"])})
    assert not list(tmp_path.iterdir())


def test_a_run_without_finished_tables_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no finished study tables"):
        read_tables(Store(str(tmp_path)))


def test_the_digest_is_of_what_a_table_says_in_any_order_and_layout(tables: dict[str, pa.Table]) -> None:
    for table in tables.values():
        turned = table.take(pa.array(np.arange(table.num_rows)[::-1].copy(), pa.int64())).select(table.column_names[::-1])
        assert table_digest(turned) == table_digest(table)
        pieces = pa.concat_tables([table.slice(place, 1) for place in range(table.num_rows)]) if table.num_rows else table
        assert table_digest(pieces) == table_digest(table)


def test_the_digest_sees_a_change_in_the_last_bit_a_null_and_a_double_row(tables: dict[str, pa.Table]) -> None:
    items = tables["items"]
    kcal = items["energy_kcal"].to_pylist()
    place = items.column_names.index("energy_kcal")
    changed = [items.set_column(place, "energy_kcal", pa.array(values)) for values in ([np.nextafter(kcal[0], 999), kcal[1]], [None, kcal[1]])]
    seen = {table_digest(table) for table in [items, *changed, pa.concat_tables([items, items]), items.slice(1)]}
    assert len(seen) == 5


def test_the_digest_forgets_when_and_how_a_row_was_made() -> None:
    assert {"run_id", "reason_detail", "attempts", "manifest_sha256", "decode_ms", "infer_ms", "scored_at"} == NEVER_DIGESTED
    images = manifest(photo("a"), photo("b"))
    again = {"run_id": "run-2", "manifest_sha256": "grown", "attempts": 4, "decode_ms": 3.5, "scored_at": 1_700_000_000_000}
    first = study_tables(results(scored("a", 1.0), refused("b")), images)
    second = study_tables(results(*({**row, **again, "reason_detail": None} for row in (scored("a", 1.0), refused("b")))), images)
    other = study_tables(results(*({**row, "model_sha256": "other"} for row in (scored("a", 1.0), refused("b")))), images)
    for name in ("image_results", "items", "occasions", "days", "quarantine"):
        assert table_digest(first[name]) == table_digest(second[name]) != table_digest(other[name]), name


def test_lineage_is_on_every_row_of_the_csv(tables: dict[str, pa.Table], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_tables(store, tables)
    for name in tables:
        for row in rows_of(store.read(f"{name}.csv")):
            assert {made: row[made] for made in MADE} == MADE
