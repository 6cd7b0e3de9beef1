"""What a study package may and may not hold: one test per kind of problem, on packages of a few rows."""

import csv
import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodray.corpus.manifest import Study, load_study, withdrawn_ids, write_study
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.errors import ExistsError, StudyError
from foodray.storage.store import Store

Rows = list[dict[str, object]]
PHOTOS: Rows = [
    {"image_uri": "a.jpg", "participant_id": "p1"},
    {"image_uri": "b.jpg", "participant_id": "p2"},
    {"image_uri": "c.jpg", "participant_id": "p3"},
]


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


def package(folder: Path, images: Rows | None = None, **tables: Rows) -> str:
    write_csv(folder / "images.csv", PHOTOS if images is None else images)
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows)
    return str(folder)


def photos(**columns: list[object]) -> Rows:
    """The three photos with further columns, or other values in the same ones."""
    return [{**row, **{name: values[index] for name, values in columns.items()}} for index, row in enumerate(PHOTOS)]


def truth(**columns: object) -> Rows:
    return [{"truth_item_id": "t1", "occasion_id": "o1", **columns}]


def problems(location: str, *, photos_root: str | None = None) -> list[str]:
    with pytest.raises(StudyError) as caught:
        load_study(location, photos_root=photos_root)
    return caught.value.problems


def only_problem(location: str) -> str:
    found = problems(location)
    assert len(found) == 1, found
    return found[0]


def loaded(tmp_path: Path, images: Rows | None = None, **tables: Rows) -> Study:
    return load_study(package(tmp_path, images, **tables))


# What comes back


def test_tables_have_the_exact_schema_with_extras_last(tmp_path: Path) -> None:
    study = loaded(tmp_path, photos(extra_room=["1", "", "x"], study_day=["1", "2", ""]), truth_items=truth(mass_g="12.5"))
    own = arrow_schema(IMAGES)
    assert study.images.schema.names == [*own.names, "extra_room"]
    assert study.images.select(own.names).schema.equals(own)
    assert study.images["extra_room"].to_pylist() == ["1", None, "x"]
    assert study.truth_items.schema.equals(arrow_schema(TRUTH_ITEMS))
    assert study.truth_items["mass_g"].to_pylist() == [12.5]


def test_defaults_are_filled_and_other_absent_columns_are_null(tmp_path: Path) -> None:
    images = loaded(tmp_path, photos(view=["top", "", "side"])).images
    assert images["capture_role"].to_pylist() == ["before"] * 3
    assert images["consent_scope"].to_pylist() == ["score"] * 3
    assert images["view"].to_pylist() == ["top", "unknown", "side"]
    assert images["site_id"].null_count == 3


def test_the_default_image_id_is_the_hash_of_the_location(tmp_path: Path) -> None:
    study = loaded(tmp_path, photos(image_id=["", "mine", ""]))
    # printf a.jpg | sha256sum
    assert study.images["image_id"].to_pylist()[:2] == ["509b0d4641a7c3ba", "mine"]


def test_the_default_occasion_needs_day_and_type(tmp_path: Path) -> None:
    study = loaded(tmp_path, photos(study_day=["1", "2", ""], occasion_type=["lunch", "", "dinner"], occasion_id=["", "", "o3"]))
    assert study.images["occasion_id"].to_pylist() == ["p1|1|lunch", None, "o3"]


def test_ids_keep_their_leading_zeros(tmp_path: Path) -> None:
    study = loaded(tmp_path, photos(participant_id=["007", "08", "1e5"]))
    assert study.images["participant_id"].to_pylist() == ["007", "08", "1e5"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "images.csv", PHOTOS, "utf-8-sig")
    assert load_study(str(tmp_path)).images.num_rows == 3


def test_a_study_without_truth_has_no_items(tmp_path: Path) -> None:
    study = loaded(tmp_path)
    assert study.truth_items.num_rows == 0
    assert study.truth_items.schema.equals(arrow_schema(TRUTH_ITEMS))
    assert study.foods is None
    assert study.withdrawn is None
    assert study.markers_yaml is None
    assert study.info == {}


def test_zero_is_a_value_and_empty_is_unknown(tmp_path: Path) -> None:
    study = loaded(tmp_path, truth_items=truth(energy_kcal="0", mass_g=""))
    assert study.truth_items["energy_kcal"].to_pylist() == [0.0]
    assert study.truth_items["mass_g"].to_pylist() == [None]


def test_nutrients_of_foods_pass_through_as_numbers(tmp_path: Path) -> None:
    study = loaded(
        tmp_path, foods=[{"class_name": "rice", "protein_g_per_100g": "2.7", "note": "x"}, {"class_name": "egg", "protein_g_per_100g": "", "note": ""}]
    )
    assert study.foods is not None
    assert study.foods["protein_g_per_100g"].to_pylist() == [2.7, None]
    assert study.foods["note"].to_pylist() == ["x", None]


def test_the_location_may_be_the_images_table_itself(tmp_path: Path) -> None:
    write_csv(tmp_path / "my photos.csv", PHOTOS)
    write_csv(tmp_path / "truth_items.csv", truth())
    study = load_study(str(tmp_path / "my photos.csv"))
    assert study.images.num_rows == 3
    assert study.truth_items.num_rows == 1


def test_parquet_and_csv_give_the_same_tables(tmp_path: Path) -> None:
    from_csv = loaded(tmp_path, photos(study_day=["1", "2", ""], marker_px_per_mm=["2.5", "", "3.1"]))
    typed = {
        "image_uri": ["a.jpg", "b.jpg", "c.jpg"],
        "participant_id": pa.array(["p1", "p2", "p3"]).dictionary_encode(),
        "study_day": pa.array([1, 2, None], pa.int64()),
        "marker_px_per_mm": pa.array([2.5, None, 3.1]),
    }
    (tmp_path / "typed").mkdir()
    pq.write_table(pa.table(typed), tmp_path / "typed" / "images.parquet")
    assert load_study(str(tmp_path / "typed")).images.equals(from_csv.images)


@pytest.mark.parametrize(
    ("named", "expected"), [("pictures", "pictures"), ("../elsewhere", "../elsewhere"), ("/data/photos", "/data/photos"), ("s3://bucket/x", "s3://bucket/x")]
)
def test_study_json_names_the_photos_root(tmp_path: Path, named: str, expected: str) -> None:
    package(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"photos_root": named}))
    root = load_study(str(tmp_path)).photos.root
    assert root == (expected if "://" in expected else str((tmp_path / expected).resolve()))


@pytest.mark.parametrize(("named", "inside"), [(".", ""), ("./photos/", "/photos")])
def test_in_object_storage_the_package_itself_may_be_the_photos_root(s3: str, named: str, inside: str) -> None:
    store = Store(f"{s3}/package-{len(inside)}")
    for key, data in {"images.csv": b"image_uri,participant_id\na.jpg,p1\n", "study.json": json.dumps({"photos_root": named}).encode()}.items():
        store.write(key, data)
    assert load_study(store.root).photos.root == store.root + inside


def test_an_argument_goes_before_the_photos_root_of_study_json(tmp_path: Path) -> None:
    package(tmp_path)
    (tmp_path / "study.json").write_text('{"photos_root": "pictures"}')
    assert load_study(str(tmp_path), photos_root="/other").photos.root == "/other"
    (tmp_path / "study.json").unlink()
    assert load_study(str(tmp_path)).photos.root == str(tmp_path)


def test_a_full_location_inside_the_photos_root_is_allowed(tmp_path: Path) -> None:
    images = photos(image_uri=["s3://bucket/photos/a.jpg", "b.jpg", "site 2/ü.jpg"])
    study = load_study(package(tmp_path, images), photos_root="s3://bucket/photos/")
    assert study.images["image_uri"].to_pylist()[0] == "s3://bucket/photos/a.jpg"


# Withdrawals


def test_a_withdrawal_reaches_every_photo_of_the_participant_and_all_goes_before_train(tmp_path: Path) -> None:
    images = photos(participant_id=["p1", "p1", "p2"], image_id=["i1", "i2", "i3"])
    asked: Rows = [{"participant_id": "p1", "image_id": "", "scope": "train"}, {"participant_id": "", "image_id": "i2", "scope": ""}]
    assert withdrawn_ids(loaded(tmp_path, images, withdrawn=asked)) == ["train", "all", None]


def test_a_withdrawal_that_matches_nobody_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        study = loaded(tmp_path, withdrawn=[{"participant_id": "p9"}])
    assert "withdrawn.csv line 2" in caplog.text
    assert "'p9'" in caplog.text
    assert withdrawn_ids(study) == [None] * 3


def test_a_withdrawal_that_names_a_photo_and_its_participant_is_of_that_photo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = photos(participant_id=["p1", "p1", "p2"], image_id=["i1", "i2", "i3"])
    with caplog.at_level(logging.WARNING):
        study = loaded(tmp_path, images, withdrawn=[{"participant_id": "p1", "image_id": "i2"}])
    assert withdrawn_ids(study) == [None, "all", None]
    assert "only that photo is withdrawn" in caplog.text


def test_nobody_is_withdrawn_without_the_table(tmp_path: Path) -> None:
    assert withdrawn_ids(loaded(tmp_path)) == [None] * 3


def test_a_withdrawal_of_nothing_is_a_problem(tmp_path: Path) -> None:
    assert "withdrawn.csv line 2: names neither" in only_problem(
        package(tmp_path, withdrawn=[{"participant_id": "", "image_id": "", "requested_at": "2024-05-01"}])
    )


# Problems of files and columns


def test_a_place_without_images_is_refused(tmp_path: Path) -> None:
    assert "no images.csv or images.parquet" in only_problem(str(tmp_path / "nowhere"))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_uri,participant_id\n")
    assert "has no rows" in only_problem(str(tmp_path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("")
    assert "images.csv: is empty" in only_problem(str(tmp_path))


def test_a_table_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    package(tmp_path)
    pq.write_table(pa.table({"image_uri": ["a.jpg"], "participant_id": ["p1"]}), tmp_path / "images.parquet")
    assert "images.csv and images.parquet: the table is there twice" in only_problem(str(tmp_path))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    assert "images.csv: the column 'participant_id'" in only_problem(package(tmp_path, [{"image_uri": "a.jpg"}]))


def test_an_unknown_column_is_named_with_the_nearest_and_the_prefix(tmp_path: Path) -> None:
    text = only_problem(package(tmp_path, photos(ocasion_type=["lunch", "lunch", "lunch"])))
    assert "unknown column 'ocasion_type'; nearest is 'occasion_type'" in text
    assert "'extra_ocasion_type'" in text


def test_an_unknown_column_of_the_truth_is_a_problem(tmp_path: Path) -> None:
    assert "truth_items.csv: unknown column 'mass_kg'; nearest is 'mass_g'" in only_problem(package(tmp_path, truth_items=truth(mass_kg="1")))


def test_a_slip_in_a_column_of_foods_is_a_problem(tmp_path: Path) -> None:
    assert "did you mean 'energy_kcal_per_100g'" in only_problem(package(tmp_path, foods=[{"class_name": "egg", "energy_kcal_per_100": "143"}]))


def test_a_column_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_uri,participant_id,site_id,site_id\na.jpg,p1,x,y\n")
    assert "the column 'site_id' is there 2 times" in only_problem(str(tmp_path))


def test_text_that_is_not_utf_8_is_a_problem_with_its_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "images.csv", photos(site_id=["x", "Köln", "y"]), "latin-1")
    assert "images.csv line 3: is not UTF-8" in only_problem(str(tmp_path))


def test_a_line_with_too_many_cells_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_uri,participant_id\na.jpg,p1\nb,c.jpg,p2\n")
    assert "images.csv line 3: has 3 cells, the header has 2" in only_problem(str(tmp_path))


def test_semicolons_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_uri;participant_id\na.jpg;p1\n")
    assert any("separated by ;" in text for text in problems(str(tmp_path)))


def test_blank_lines_and_nameless_empty_columns_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_uri,participant_id,\na.jpg,p1,\n,,\n\nb.jpg,p@2,\n")
    assert "images.csv line 5: participant_id 'p@2'" in only_problem(str(tmp_path))


def test_a_file_that_is_not_parquet_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_bytes(b"PAR1 no")
    assert "images.parquet: is not a readable Parquet file" in only_problem(str(tmp_path))


def test_study_json_that_is_not_json_is_a_problem(tmp_path: Path) -> None:
    package(tmp_path)
    (tmp_path / "study.json").write_text("{\n'x': 1}")
    assert "study.json line 2: is not JSON" in only_problem(str(tmp_path))


def test_a_parquet_column_of_the_wrong_type_is_a_problem(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_uri": ["a.jpg"], "participant_id": ["p1"], "study_day": [True], "site_id": [1.5]}), tmp_path / "images.parquet")
    found = problems(str(tmp_path))
    assert len(found) == 2
    assert any("'study_day' holds bool" in text for text in found)
    assert any("'site_id' holds double" in text for text in found)


# Problems of cells


def test_an_empty_required_cell_is_a_problem_with_its_line(tmp_path: Path) -> None:
    assert only_problem(package(tmp_path, photos(participant_id=["p1", "", "p3"]))).startswith("images.csv line 3: participant_id is empty")


def test_a_parquet_row_is_counted_from_zero(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_uri": ["a.jpg", None], "participant_id": ["p1", "p2"]}), tmp_path / "images.parquet")
    assert only_problem(str(tmp_path)).startswith("images.parquet row 1: image_uri is empty")


@pytest.mark.parametrize("value", ["first", "1.5", "99999"])
def test_a_day_that_is_no_whole_number_is_a_problem(tmp_path: Path, value: str) -> None:
    assert f"line 4: study_day '{value}' is not a whole number" in only_problem(package(tmp_path, photos(study_day=["1", "2.0", value])))


def test_a_day_before_the_first_is_a_problem(tmp_path: Path) -> None:
    assert "line 2: study_day is 0; it cannot be below 1" in only_problem(package(tmp_path, photos(study_day=["0", "1", "2"])))


def test_a_word_that_is_not_in_the_list_names_the_nearest(tmp_path: Path) -> None:
    text = only_problem(package(tmp_path, photos(occasion_type=["lunch", "Brekfast", "dinner"])))
    assert "line 3: occasion_type 'Brekfast' is not one of breakfast, lunch" in text
    assert text.endswith("nearest is 'breakfast'")


def test_a_negative_amount_is_a_problem(tmp_path: Path) -> None:
    assert "truth_items.csv line 2: mass_g is -3; it cannot be below 0" in only_problem(package(tmp_path, truth_items=truth(mass_g="-3")))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "12,5", "n/a", "0x1F", "1_0", "True"])
def test_an_amount_that_is_no_finite_number_is_a_problem(tmp_path: Path, value: str) -> None:
    assert f"energy_kcal '{value}' is not a finite number" in only_problem(package(tmp_path, truth_items=truth(energy_kcal=value)))


def test_a_nan_in_parquet_is_a_problem(tmp_path: Path) -> None:
    package(tmp_path)
    pq.write_table(pa.table({"truth_item_id": ["t1"], "occasion_id": ["o"], "mass_g": pa.array([np.nan])}), tmp_path / "truth_items.parquet")
    assert "truth_items.parquet row 0: mass_g 'nan' is not a finite number; leave the cell empty" in only_problem(str(tmp_path))


@pytest.mark.parametrize("value", ["anna@example.org", "Anna B", "p\t1"])
def test_a_participant_is_a_pseudonym(tmp_path: Path, value: str) -> None:
    assert "use a pseudonym" in only_problem(package(tmp_path, photos(participant_id=["p1", value, "p3"])))


@pytest.mark.parametrize("value", ["a b", "a/b", "ä", "x" * 65])
def test_an_image_id_has_safe_characters(tmp_path: Path, value: str) -> None:
    assert "line 2: image_id" in only_problem(package(tmp_path, photos(image_id=[value, "b", "c"])))


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("/etc/passwd", "is absolute"),
        ("../a.jpg", "holds '..'"),
        ("x/../../a.jpg", "holds '..'"),
        ("s3://bucket/photos/../secret.jpg", "holds '..'"),
        ("x/a\0.jpg", "NUL"),
        ("x\\a.jpg", "backslash"),
        ("http://169.254.169.254/latest", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("S3://bucket/photos/a.jpg", "scheme"),
        ("s3://other/a.jpg", "outside the photos' root"),
        ("s3://bucket/photos-private/a.jpg", "outside the photos' root"),
    ],
)
def test_a_location_may_not_leave_the_photos_root(tmp_path: Path, uri: str, why: str) -> None:
    found = problems(package(tmp_path, photos(image_uri=["a.jpg", uri, "c.jpg"])), photos_root="s3://bucket/photos")
    assert len(found) == 1
    assert found[0].startswith("images.csv line 3: image_uri")
    assert why in found[0]


def test_a_name_with_dots_is_no_way_out(tmp_path: Path) -> None:
    assert loaded(tmp_path, photos(image_uri=["a..b.jpg", "...jpg", "..c/d.jpg"])).images.num_rows == 3


# Problems between rows and tables


def test_a_repeated_image_id_names_both_lines(tmp_path: Path) -> None:
    assert "line 4: image_id 'i' is already on line 2" in only_problem(package(tmp_path, photos(image_id=["i", "j", "i"])))


def test_a_repeated_location_is_reported_once(tmp_path: Path) -> None:
    assert "line 3: image_uri 'a.jpg' is already on line 2" in only_problem(package(tmp_path, photos(image_uri=["a.jpg", "./a.jpg", "c.jpg"])))
    assert "line 3: image_uri 'a.jpg' is already on line 2" in only_problem(package(tmp_path, photos(image_uri=["a.jpg", "a.jpg", "c.jpg"])))


def test_a_repeated_truth_item_is_a_problem(tmp_path: Path) -> None:
    assert "line 3: truth_item_id 't1' is already on line 2" in only_problem(package(tmp_path, truth_items=truth() + truth()))


def test_a_repeated_food_is_a_problem(tmp_path: Path) -> None:
    assert "foods.csv line 3: class_name 'egg' is already on line 2" in only_problem(package(tmp_path, foods=[{"class_name": "egg"}, {"class_name": "egg"}]))


def test_truth_of_a_photo_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    images = photos(image_id=["i1", "i2", "i3"])
    assert "image_id 'i9' is not in images" in only_problem(package(tmp_path, images, truth_items=[{"truth_item_id": "t1", "image_id": "i9"}]))


def test_truth_of_an_occasion_needs_no_photo(tmp_path: Path) -> None:
    assert loaded(tmp_path, truth_items=truth()).truth_items.num_rows == 1


def test_truth_of_nothing_is_a_problem(tmp_path: Path) -> None:
    assert "belongs to nothing" in only_problem(package(tmp_path, truth_items=[{"truth_item_id": "t1", "image_id": "", "occasion_id": ""}]))


def test_a_class_that_is_not_in_foods_names_the_nearest(tmp_path: Path) -> None:
    found = only_problem(package(tmp_path, truth_items=truth(class_name="aple"), foods=[{"class_name": "apple"}, {"class_name": "rice"}]))
    assert "class_name 'aple' is not in foods; nearest is 'apple'" in found


def test_any_class_goes_without_foods(tmp_path: Path) -> None:
    assert loaded(tmp_path, truth_items=truth(class_name="aple")).truth_items.num_rows == 1


def test_a_box_is_whole_or_absent(tmp_path: Path) -> None:
    found = only_problem(package(tmp_path, truth_items=truth(bbox_x="1", bbox_y="2", bbox_w="", bbox_h="4")))
    assert "truth_items.csv line 2: the box has no bbox_w" in found


def test_a_box_has_a_size(tmp_path: Path) -> None:
    assert "the box is 0 x 4 px" in only_problem(package(tmp_path, truth_items=truth(bbox_x="1", bbox_y="2", bbox_w="0", bbox_h="4")))


def test_a_participant_in_two_splits_names_the_lines(tmp_path: Path) -> None:
    found = only_problem(package(tmp_path, photos(participant_id=["p1", "p2", "p1"], split=["train", "train", "test"])))
    assert "participant 'p1' is in more than one split: train (line 2) and test (line 4)" in found


def test_a_participant_may_have_photos_without_a_fixed_split(tmp_path: Path) -> None:
    assert loaded(tmp_path, photos(participant_id=["p1", "p1", "p1"], split=["train", "", "train"])).images.num_rows == 3


def test_every_problem_is_reported_in_one_pass(tmp_path: Path) -> None:
    images = photos(participant_id=["", "a@b", "p3"], view=["top", "front", "side"], image_uri=["a.jpg", "../b.jpg", "c.jpg"])
    items: Rows = [
        {"truth_item_id": "t1", "image_id": "gone", "class_name": "egg", "mass_g": "x", "bbox_x": "", "amount_basis": ""},
        {"truth_item_id": "t1", "image_id": "", "class_name": "rize", "mass_g": "-1", "bbox_x": "1", "amount_basis": "eaten"},
    ]
    found = problems(package(tmp_path, images, truth_items=items, foods=[{"class_name": "egg"}, {"class_name": "rice"}], withdrawn=[{"scope": "some"}]))
    expected = [
        "images.csv line 2: participant_id is empty",
        "images.csv line 3: view 'front'",
        "images.csv line 3: participant_id 'a@b'",
        "images.csv line 3: image_uri '../b.jpg'",
        "truth_items.csv line 2: mass_g 'x'",
        "truth_items.csv line 2: image_id 'gone'",
        "truth_items.csv line 3: mass_g is -1",
        "truth_items.csv line 3: amount_basis 'eaten'",
        "truth_items.csv line 3: truth_item_id 't1'",
        "truth_items.csv line 3: the box has no bbox_y, bbox_w, bbox_h",
        "truth_items.csv line 3: has neither",
        "truth_items.csv line 3: class_name 'rize'",
        "withdrawn.csv line 2: scope 'some'",
        "withdrawn.csv line 2: names neither",
    ]
    assert len(found) == len(expected), found
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True)), found


# Writing


def some_images() -> pa.Table:
    return pa.table({"participant_id": ["p1"], "image_uri": ["a.jpg"], "extra_room": ["3"]})


def some_truth() -> pa.Table:
    return pa.table({"truth_item_id": ["t1"], "occasion_id": ["o"], "class_name": ["egg"], "mass_g": [61.5]})


def test_a_written_study_reads_back(tmp_path: Path) -> None:
    foods = pa.table({"class_name": ["egg"], "source": ['a "source", with commas']})
    write_study(Store(str(tmp_path)), images=some_images(), truth_items=some_truth(), foods=foods, markers_yaml="[]\n", info={"photos_root": "/data"})
    study = load_study(str(tmp_path))
    assert study.images["extra_room"].to_pylist() == ["3"]
    assert study.truth_items["mass_g"].to_pylist() == [61.5]
    assert study.foods is not None
    assert study.foods["source"].to_pylist() == ['a "source", with commas']
    assert study.markers_yaml == "[]\n"
    assert study.info["photos_root"] == "/data"
    assert study.photos.root == "/data"


def test_a_study_is_never_written_over_another(tmp_path: Path) -> None:
    package(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ExistsError, match=r"images\.csv"):
        write_study(Store(str(tmp_path)), images=some_images(), truth_items=some_truth(), info={})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_tags_are_words_between_semicolons_each_once_and_an_empty_cell_is_unknown(tmp_path: Path) -> None:
    study = load_study(package(tmp_path, photos(tags=["carbs; meat ;carbs", "", ";"])))
    assert study.images["tags"].to_pylist() == [["carbs", "meat"], None, []]


def test_tags_come_back_from_parquet_as_they_were(tmp_path: Path) -> None:
    tables = {"images": pa.table({"image_uri": ["a.jpg", "b.jpg"], "participant_id": ["p1", "p2"], "tags": pa.array([["a;b"], None], pa.list_(pa.string()))})}
    write_study(Store(str(tmp_path)), truth_items=pa.Table.from_pylist([], schema=arrow_schema(TRUTH_ITEMS)), info={}, **tables)
    assert load_study(str(tmp_path)).images["tags"].to_pylist() == [["a;b"], None]
