"""Lists, Food-101 and UECFood account for every file and line. Lists are checked on the real data where FOODRAY_DATA names their folder."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foodray.cli import main
from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.food101 import import_food101
from foodray.corpus.importers.lists import import_lists
from foodray.corpus.importers.uecfood import import_uecfood
from foodray.corpus.manifest import Study, load_study
from foodray.errors import ConfigError, CorpusError, ExistsError, SplitError
from foodray.storage.store import Store

WIDTH, HEIGHT = 8, 6
Importer = Callable[..., ImportSummary]
Box = tuple[float, ...]


def photo(path: Path, color: str = "orange", *, turn: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (WIDTH, HEIGHT), color).save(path, "JPEG", exif=exif)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), newline="")


def imported(importer: Importer, source: Path, **settings: Any) -> tuple[ImportSummary, Study]:
    target = str(source.with_name("out"))
    summary = importer(str(source), Store(target), **settings)
    return summary, load_study(target)


def rows(study: Study) -> dict[str, tuple[str | None, list[tuple[str | None, Box | None]]]]:
    """Split and items of each photo; an item is its class and its box."""
    found: dict[str, tuple[str | None, list[tuple[str | None, Box | None]]]] = {}
    for image in study.images.to_pylist():
        items = [item for item in study.truth_items.to_pylist() if item["image_id"] == image["image_id"]]
        boxes = [None if item["bbox_w"] is None else tuple(item[f"bbox_{part}"] for part in "xywh") for item in items]
        found[image["image_uri"]] = (image["split"], [(item["class_name"], box) for item, box in zip(items, boxes, strict=True)])
    return found


def odd(summary: ImportSummary) -> dict[str, int]:
    """The counts above 0 that are not of photos and items."""
    usual = ("photos", "participants", "classes", "items", "photos_train", "photos_val", "photos_test", "photos_without_items", "unlabelled_items")
    return {kind: count for kind, count in summary.counts.items() if count and kind not in usual}


# Lists


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Four photos in two lists."""
    root = tmp_path / "in"
    for name in ("rice/1.jpg", "rice/2.jpg", "egg/1.jpg", "egg/2.jpg"):
        photo(root / name)
    text(root / "train.tsv", "path\tclass_name", "rice/1.jpg\trice", "egg/1.jpg\tegg")
    text(root / "test.tsv", "path\tclass_name", "rice/2.jpg\trice", "egg/2.jpg\tegg")
    return root


def test_a_list_gives_its_photos_their_class_and_their_split(listed: Path) -> None:
    summary, study = imported(import_lists, listed)
    assert rows(study) == {
        "rice/1.jpg": ("train", [("rice", None)]),
        "egg/1.jpg": ("train", [("egg", None)]),
        "rice/2.jpg": ("test", [("rice", None)]),
        "egg/2.jpg": ("test", [("egg", None)]),
    }
    assert set(study.images["consent_scope"].to_pylist()) == {"score_train"}
    assert (summary.counts["participants"], summary.counts["photos_train"], summary.counts["photos_test"]) == (4, 2, 2)
    assert not summary.notes


def test_lists_may_be_csv_with_a_validation_side_other_columns_and_paths_in_another_form(listed: Path) -> None:
    (listed / "train.tsv").unlink()
    text(listed / "train.csv", "\ufeffclass_name,note,path\r", 'rice,"a, b",./rice/1.jpg\r', "\r")
    text(listed / "val.csv", "path,class_name", "egg//1.jpg, egg")
    summary, study = imported(import_lists, listed)
    assert rows(study)["rice/1.jpg"] == ("train", [("rice", None)])
    assert rows(study)["egg/1.jpg"] == ("val", [("egg", None)])
    assert odd(summary) == {"columns_left_out": 1, "classes_not_trained": 1}


@pytest.mark.parametrize("name", ["苹果派", 'the "best" egg', "egg\tfried", "f", "c", "r", "egg, fried"])
def test_a_quoted_class_may_hold_any_sign(name: str, listed: Path) -> None:
    with (listed / "train.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("path", "class_name"), ("egg/1.jpg", name)])
    assert rows(imported(import_lists, listed)[1])["egg/1.jpg"] == ("train", [(name, None)])


def test_every_oddity_of_a_list_is_counted_by_name(listed: Path) -> None:
    text(listed / "train.tsv", "path\tclass_name", "rice/1.jpg\trice", "./rice/1.jpg\trice", " \t", "rice/9.jpg\trice")
    text(listed / "classes.tsv", "class_id\tclass_name", "0\trice")
    photo(listed / ".thumbs/1.jpg")
    summary, study = imported(import_lists, listed)
    assert list(rows(study)) == ["rice/1.jpg", "rice/2.jpg", "egg/2.jpg"]
    assert odd(summary) == {
        "photos_missing": 1,
        "photos_not_listed": 1,
        "lines_repeated": 1,
        "classes_not_trained": 1,
        "other_files": 1,
        "hidden_files": 1,
    }
    notes = "\n".join(summary.notes)
    assert all(name in notes for name in ("rice/9.jpg (train.tsv line 5)", "egg/1.jpg", "train.tsv line 3 (rice/1.jpg)", "training: egg", "classes.tsv"))
    found = [path for path in listed.rglob("*") if path.is_file()]
    counts = summary.counts
    assert len(found) == 2 + counts["photos"] + counts["photos_not_listed"] + counts["other_files"] + counts["hidden_files"]


BROKEN = {
    "no path": (["photo\tclass_name"], "its columns are photo, class_name; a list needs path and class_name"),
    "two paths": (["path\tpath\tclass_name"], "once each"),
    "commas in a tsv": (["path,class_name"], "its columns are path,class_name;"),
    "nothing": ([], "is empty"),
    "too many cells": (["path\tclass_name", "rice/1.jpg\trice\tegg"], "1 line cannot be used: line 2 has 3 cells, the header has 2"),
    "too few cells": (["path\tclass_name", "rice/1.jpg", "egg/1.jpg"], "2 lines cannot be used: line 2 has 1 cells"),
    "no class": (["path\tclass_name", "rice/1.jpg\t "], r"line 2 has no class_name \(rice/1.jpg\)"),
    "no photo": (["path\tclass_name", "\trice"], "line 2 has no path inside the folder: key '' is not a plain relative path"),
    "a path upwards": (["path\tclass_name", "../in/rice/1.jpg\trice"], "line 2 has no path inside the folder"),
    "a path of Windows": (["path\tclass_name", "rice\\1.jpg\trice"], "line 2 has no path inside the folder"),
    "an absolute path": (["path\tclass_name", "/etc/passwd\trice"], "line 2 has no path inside the folder"),
    "a location elsewhere": (["path\tclass_name", "s3://other/1.jpg\trice"], "line 2 has no path inside the folder"),
    "a quote inside": (["path\tclass_name", 'rice/1.jpg\t"white" rice'], "train.tsv line 2: .* its own quotes doubled"),
    "an open quote": (["path\tclass_name", 'rice/1.jpg\t"rice', "egg/1.jpg\tegg"], "train.tsv line 3: .* its own quotes doubled"),
    "a quote closed elsewhere": (["path\tclass_name", 'rice/1.jpg\t"rice', 'egg/1.jpg"\tegg'], "line 3 has 3 cells"),
    "a line in a quote": (["path\tclass_name", 'rice/1.jpg\t"rice', 'egg/1.jpg"'], "has a line break"),
    "two classes": (["path\tclass_name", "rice/1.jpg\trice", "rice/1.jpg\tegg"], r"'rice' in train.tsv line 2, 'egg' in train.tsv line 3"),
    "none is there": (["path\tclass_name", "in/rice/1.jpg\trice"], "has no photos that its lists name; 1 are listed"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_list_that_cannot_be_meant_is_refused_with_the_line(kind: str, listed: Path) -> None:
    lines, said = BROKEN[kind]
    text(listed / "train.tsv", *lines)
    text(listed / "test.tsv", "path\tclass_name")
    with pytest.raises(CorpusError, match=said):
        imported(import_lists, listed)
    assert not (listed.parent / "out").exists()


def test_a_list_that_is_missing_or_there_twice_is_refused(listed: Path) -> None:
    text(listed / "train.csv", "path,class_name")
    with pytest.raises(CorpusError, match=r"train\.tsv and train\.csv: the list is there twice"):
        imported(import_lists, listed)
    for name in ("train.tsv", "train.csv"):
        (listed / name).unlink()
    with pytest.raises(CorpusError, match=r"has no train\.tsv or train\.csv"):
        imported(import_lists, listed)


@pytest.mark.parametrize("name", ["rice", "egg"])
def test_a_photo_in_two_lists_is_refused_whatever_its_class(name: str, listed: Path) -> None:
    text(listed / "val.tsv", "path\tclass_name", f"./rice/1.jpg\t{name}")
    with pytest.raises(SplitError, match=r"1 photos are in two lists: rice/1\.jpg \(train\.tsv line 2, val\.tsv line 2\)"):
        imported(import_lists, listed)


def test_groups_of_listed_photos_share_a_participant_and_a_split(listed: Path) -> None:
    _, study = imported(import_lists, listed, group_pattern=r"(\w+/\d)\.jpg")
    assert sorted(study.images["participant_id"].to_pylist()) == ["egg/1", "egg/2", "rice/1", "rice/2"]
    with pytest.raises(SplitError, match=r"2 groups lie in more than one split: rice \(test, train\)"):
        imported(import_lists, listed, group_pattern=r"(\w+)/")
    with pytest.raises(ExistsError):
        imported(import_lists, listed)


def test_the_real_lists_are_imported_completely(data: Path, tmp_path: Path) -> None:
    source = data / "longtail"
    if not source.is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder longtail/")
    target = str(tmp_path / "out")
    counts = import_lists(str(source), Store(target)).counts
    assert (counts["photos"], counts["photos_train"], counts["photos_test"], counts["classes"]) == (9382, 7362, 2020, 101)
    assert (counts["photos_missing"], counts["photos_not_listed"], counts["lines_repeated"], counts["classes_not_trained"]) == (0, 0, 0, 0)
    study = load_study(target)
    written = Counter((split, line.split("\t")[1]) for split in ("train", "test") for line in (source / f"{split}.tsv").read_text().splitlines()[1:])
    assert study.truth_items["image_id"].to_pylist() == study.images["image_id"].to_pylist()
    assert Counter(zip(study.images["split"].to_pylist(), study.truth_items["class_name"].to_pylist(), strict=True)) == written


# Food-101


@pytest.fixture
def food101(tmp_path: Path) -> Path:
    """Three photos as Food-101 is published."""
    root = tmp_path / "in"
    for name in ("apple_pie/1", "apple_pie/2", "waffles/3"):
        photo(root / f"images/{name}.jpg")
    text(root / "meta/classes.txt", "apple_pie", "waffles")
    text(root / "meta/train.txt", "apple_pie/1", "waffles/3")
    text(root / "meta/test.txt", "apple_pie/2")
    return root


def test_food101_takes_over_the_published_split(food101: Path) -> None:
    summary, study = imported(import_food101, food101)
    assert rows(study) == {
        "images/apple_pie/1.jpg": ("train", [("apple_pie", None)]),
        "images/waffles/3.jpg": ("train", [("waffles", None)]),
        "images/apple_pie/2.jpg": ("test", [("apple_pie", None)]),
    }
    assert summary.notes == ["2 train and 1 test photos, where 75,750 train and 25,250 test are published: a part of the data set, or an incomplete copy"]
    assert study.info["labels"] == ["apple_pie", "waffles"]


def test_every_oddity_of_food101_is_counted(food101: Path) -> None:
    text(food101 / "meta/classes.txt", "apple_pie", "waffles", "sushi", "tacos")
    text(food101 / "meta/train.txt", "apple_pie/1", "apple_pie/1", "sushi/8")
    text(food101 / "meta/test.txt", "apple_pie/2", "", "waffles/3")
    photo(food101 / "images/tacos/9.jpg")
    for name in ("meta/labels.txt", "meta/train.json", "README.txt"):
        text(food101 / name, "{}")
    summary, study = imported(import_food101, food101)
    assert len(rows(study)) == 3
    assert odd(summary) == {
        "photos_missing": 1,
        "photos_not_listed": 1,
        "lines_repeated": 1,
        "classes_not_trained": 1,
        "classes_without_photos": 2,
        "other_files": 3,
    }
    assert any("sushi, tacos" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("file", "lines", "error", "said"),
    [
        ("train.txt", ["apple_pie"], CorpusError, "'apple_pie' has to be CLASS/ID"),
        ("train.txt", ["images/apple_pie/1"], CorpusError, "has to be CLASS/ID"),
        ("train.txt", ["apple_pies/1"], CorpusError, "line 1 has the class 'apple_pies', which classes.txt does not name"),
        ("train.txt", ["apple_pie/2"], SplitError, "1 photos are in two lists"),
        ("classes.txt", ["apple_pie", "waffles", "apple_pie"], CorpusError, "names apple_pie more than once"),
        ("classes.txt", ["apple_pie", "", "waffles"], CorpusError, "line 2: is empty"),
        ("test.txt", None, CorpusError, r"has no meta/test\.txt; Food-101 is the folder with images and meta"),
    ],
)
def test_food101_that_cannot_be_meant_is_refused(file: str, lines: list[str] | None, error: type[Exception], said: str, food101: Path) -> None:
    if lines is None:
        (food101 / "meta" / file).unlink()
    else:
        text(food101 / "meta" / file, *lines)
    with pytest.raises(error, match=said):
        imported(import_food101, food101)


# UECFood


def uecfood(root: Path, names: dict[int, str], boxes: dict[int, list[str]]) -> None:
    text(root / "category.txt", "id\tname", *(f"{number}\t{name}" for number, name in names.items()))
    for number, lines in boxes.items():
        text(root / str(number) / "bb_info.txt", "img x1 y1 x2 y2", *lines)


def test_each_box_of_uecfood_is_an_item_and_copies_of_a_photo_are_one(tmp_path: Path) -> None:
    root = tmp_path / "in"
    uecfood(root, {1: "rice", 2: "miso soup", 10: "egg"}, {1: ["1 0 0 8 6", "7 0 0 4 6", "7 5 0 8 6"], 2: ["7 4 1 8 6"], 10: ["7 1 1 2 2", "8 0 0 1 1"]})
    photo(root / "1/1.jpg")
    for folder in (10, 2, 1):
        photo(root / f"{folder}/7.jpg", "white")
    photo(root / "10/8.jpg")
    summary, study = imported(import_uecfood, root)
    assert rows(study) == {
        "1/1.jpg": (None, [("rice", (0, 0, 8, 6))]),
        "1/7.jpg": (None, [("rice", (0, 0, 4, 6)), ("rice", (5, 0, 3, 6)), ("miso soup", (4, 1, 4, 5)), ("egg", (1, 1, 1, 1))]),
        "10/8.jpg": (None, [("egg", (0, 0, 1, 1))]),
    }
    assert set(study.images["consent_scope"].to_pylist()) == {"score_train"}
    assert (summary.counts["participants"], odd(summary)) == (3, {"copies_joined": 2})
    assert "2/7.jpg, 10/7.jpg" in summary.notes[0]


def test_photos_that_share_a_number_alone_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / "in"
    uecfood(root, {1: "rice", 2: "egg", 3: "tofu"}, {1: ["7 0 0 4 6"], 2: ["7 4 1 8 6"], 3: ["7 0 0 1 1"]})
    for folder, color in ((1, "white"), (2, "brown"), (3, "white")):
        photo(root / f"{folder}/7.jpg", color)
    summary, study = imported(import_uecfood, root)
    assert rows(study) == {"1/7.jpg": (None, [("rice", (0, 0, 4, 6)), ("tofu", (0, 0, 1, 1))]), "2/7.jpg": (None, [("egg", (4, 1, 4, 5))])}
    assert odd(summary) == {"numbers_shared": 2, "copies_joined": 1}


def test_with_whole_a_photo_of_one_item_loses_its_box_and_others_keep_theirs(tmp_path: Path) -> None:
    root = tmp_path / "in"
    uecfood(root, {1: "rice", 2: "egg"}, {1: ["1 0 0 4 6", "7 0 0 4 6"], 2: ["7 4 1 8 6"]})
    photo(root / "1/1.jpg")
    for folder in (1, 2):
        photo(root / f"{folder}/7.jpg", "white")
    _, study = imported(import_uecfood, root, whole=True)
    assert rows(study) == {"1/1.jpg": (None, [("rice", None)]), "1/7.jpg": (None, [("rice", (0, 0, 4, 6)), ("egg", (4, 1, 4, 5))])}


def test_every_oddity_of_uecfood_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    lines = ["1 -1 0 8 6", "1 -1 0 8 6", "1 2 2 9 6", "2 8 0 12 6", "2 4 4 2 2", "99 0 0 1 1", "3 0 0 one 1", "3 0 0 1", "3 0 0 inf 1", "", "5 0 0 1 1"]
    uecfood(root, {1: "rice", 2: "rice", 3: "egg", 4: "tofu"}, {1: lines, 5: ["6 0 0 8 6"]})
    for name in ("1/1.jpg", "1/2.jpg", "1/3.jpg", "1/3.png", "2/4.jpg", "5/6.jpg", "top.jpg", "3/deep/8.jpg"):
        photo(root / name)
    photo(root / "1/10.jpg", turn=6)
    (root / "1/5.jpg").write_bytes(b"no photo")
    text(root / "README.txt", "of the authors")
    text(root / "multiple_food.txt", "img food")
    summary, study = imported(import_uecfood, root)
    assert rows(study) == {
        "1/1.jpg": (None, [("rice", (0, 0, 8, 6)), ("rice", (2, 2, 6, 4))]),
        "1/10.jpg": (None, [("rice", None)]),
        "1/2.jpg": (None, [("rice", None), ("rice", None)]),
        "1/3.jpg": (None, [("rice", None)]),
        "1/5.jpg": (None, []),
        "2/4.jpg": (None, [("rice", None)]),
        "5/6.jpg": (None, [(None, (0, 0, 8, 6))]),
    }
    counts = odd(summary)
    assert counts == {
        "numbers_repeated": 1,
        "photos_at_wrong_level": 2,
        "photos_without_box": 3,
        "boxes_without_photo": 1,
        "lines_broken": 3,
        "lines_repeated": 1,
        "boxes_cut_at_the_edge": 2,
        "boxes_refused": 2,
        "unknown_categories": 1,
        "categories_repeated": 1,
        "categories_without_photos": 2,
        "headers_unreadable": 1,
        "photos_turned_by_exif": 1,
        "other_files": 2,
    }
    found = [path for path in root.rglob("*") if path.is_file()]
    kinds = ("copies_joined", "numbers_repeated", "photos_at_wrong_level", "other_files", "hidden_files", "names_refused")
    assert len(found) == 3 + summary.counts["photos"] + sum(summary.counts[kind] for kind in kinds)  # 3: the names and two files of boxes


@pytest.mark.parametrize(
    ("category", "said"),
    [
        (None, r"has no category\.txt"),
        (["id\tname", "1 rice"], "line 2: '1 rice' has to be an id, a tab and a name"),
        (["id\tname", "1\trice", "1\tegg"], "line 3: .* each id once"),
        (["id\tname", "2\tegg"], "none of 1 photos has an item with a class"),
    ],
)
def test_uecfood_without_names_of_its_folders_is_refused(category: list[str] | None, said: str, tmp_path: Path) -> None:
    photo(tmp_path / "in/1/1.jpg")
    text(tmp_path / "in/1/bb_info.txt", "img x1 y1 x2 y2", "1 0 0 8 6")
    if category is not None:
        text(tmp_path / "in/category.txt", *category)
    with pytest.raises(CorpusError, match=said):
        imported(import_uecfood, tmp_path / "in")


def test_uecfood_without_photos_is_refused(tmp_path: Path) -> None:
    uecfood(tmp_path / "in", {1: "rice"}, {1: ["1 0 0 8 6"]})
    with pytest.raises(CorpusError, match="has no photos in folders of a number"):
        imported(import_uecfood, tmp_path / "in")


# The command


@pytest.mark.parametrize("layout", ["lists", "food101", "uecfood"])
def test_every_layout_of_classes_is_a_command_that_takes_groups(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    photo(root / "1/7.jpg")
    uecfood(root, {1: "rice"}, {1: ["7 0 0 4 6"]})
    photo(root / "images/rice/7.jpg")
    text(root / "meta/classes.txt", "rice")
    for split, lines in {"train": ["rice/7"], "test": []}.items():
        text(root / f"meta/{split}.txt", *lines)
        text(root / f"{split}.tsv", "path\tclass_name", *("1/7.jpg\trice" for _ in lines))
    main(["import", layout, str(root), str(tmp_path / "out"), "--group-pattern", r"(\d)\.jpg", *(["--whole"] if layout == "uecfood" else [])])
    assert ": 1 photos, 1 participants, 1 classes, 1 items" in capsys.readouterr().out
    study = load_study(str(tmp_path / "out"))
    assert study.images["participant_id"].to_pylist() == ["7"]
    assert study.truth_items["class_name"].to_pylist() == ["rice"]
    assert study.truth_items["bbox_w"].to_pylist() == [None]
    assert json.loads((tmp_path / "out/study.json").read_text())["importer"] == layout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["lists", "--whole"], "--whole is for the layout uecfood, not for lists"),
        (["ecustfd", "--group-pattern", "a"], "--group-pattern is not for the layout ecustfd"),
        (["uecfood", "--dishes", "a.txt"], "--dishes is for the layout tags, not for uecfood"),
    ],
)
def test_an_option_of_another_layout_is_refused(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["import", flags[0], str(tmp_path), str(tmp_path / "out"), *flags[1:]])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("importer", [import_lists, import_food101, import_uecfood])
def test_a_pattern_that_is_none_is_refused_by_every_importer_of_classes(importer: Importer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular expression"):
        importer(str(tmp_path), Store(str(tmp_path / "out")), group_pattern="(")
