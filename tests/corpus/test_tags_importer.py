"""Tagged photos as they are found: every file, line and tag is taken or counted, from the tutorial's folders and from tables."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.tags import KINDS, import_tags
from foodray.corpus.manifest import load_study
from foodray.errors import ConfigError, CorpusError
from foodray.storage.store import Store


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "orange").save(path, "JPEG")


def layout(folder: Path, tags: dict[str, str | bytes | None]) -> str:
    """The tutorial's folders: name of a photo to the text of its tags, None for no file."""
    (folder / "Annotations").mkdir(parents=True)
    for name, text in tags.items():
        photo(folder / "ImageSets" / name)
        if text is not None:
            (folder / "Annotations" / Path(name).with_suffix(".txt")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def imported(source: str, target: Path, **settings: Any) -> tuple[ImportSummary, dict[str, list[str] | None], dict[str, str | None]]:
    """The summary, the tags of each photo and its class, by file name."""
    summary = import_tags(source, Store(str(target)), **settings)
    study = load_study(str(target))
    names = {row["image_id"]: row["image_uri"].rpartition("/")[2] for row in study.images.to_pylist()}
    dishes = dict.fromkeys(names.values()) | {names[item["image_id"]]: item["class_name"] for item in study.truth_items.to_pylist()}
    return summary, {names[row["image_id"]]: row["tags"] for row in study.images.to_pylist()}, dishes


def odd(summary: ImportSummary) -> dict[str, int]:
    return {kind: summary.counts[kind] for kind in KINDS if summary.counts[kind]}


def test_a_tag_a_line_becomes_the_tags_of_the_photo(tmp_path: Path) -> None:
    source = layout(tmp_path / "data", {"a.jpg": "carbs\ndessert\n", "b.jpg": " meat \n\n"})
    summary, tags, _ = imported(source, tmp_path / "study")
    assert tags == {"a.jpg": ["carbs", "dessert"], "b.jpg": ["meat"]}
    assert odd(summary) == {}
    assert (summary.counts["photos"], summary.counts["tags"], summary.counts["photos_tagged"]) == (2, 3, 2)


def test_whatever_is_odd_is_counted_and_no_photo_is_lost(tmp_path: Path) -> None:
    source = layout(
        tmp_path / "data",
        {
            "plain.jpg": "carbs\nmeat\n",
            "more.jpg": "carbs\n",
            "no file.jpg": None,
            "empty.jpg": "\n \n",
            "broken.jpg": b"\xff\xfe\x00",
            "twice.jpg": "carbs\nCarbs\ncarbs\n",
            "22_1._salmon.jpg": None,
            "same.jpg": "carbs\n",
            "same.png": None,
        },
    )
    for name in ("22_1.txt", "nobody.txt"):
        (tmp_path / "data" / "Annotations" / name).write_text("meat\n")
    (tmp_path / "data" / "ImageSets" / "Thumbs.db").write_text("x")
    (tmp_path / "data" / "ImageSets" / ".hidden.jpg").write_text("x")
    summary, tags, _ = imported(source, tmp_path / "study")
    assert odd(summary) == {
        "photos_without_tags": 1,
        "tags_without_photo": 1,
        "tag_files_empty": 1,
        "tag_files_unreadable": 1,
        "names_cut": 1,
        "names_repeated": 2,
        "tags_repeated": 2,
        "tags_respelled": 1,
        "names_awkward": 1,
        "other_files": 1,
    }
    assert summary.counts["hidden_files"] == 1
    assert tags["22_1._salmon.jpg"] == ["meat"]
    assert tags["twice.jpg"] == ["carbs"]
    assert [name for name, found in tags.items() if found is None] == ["broken.jpg", "empty.jpg", "no file.jpg", "same.jpg", "same.png"]
    assert len(tags) == 9
    assert any("nobody.txt" in note for note in summary.notes)


def test_a_list_of_tags_says_which_there_are_and_how_they_are_written(tmp_path: Path) -> None:
    source = layout(tmp_path / "data", {"a.jpg": "carbs\nglass\n", "b.jpg": "glass\n"})
    (tmp_path / "data" / "labels.txt").write_text("Carbs\nMeat\n")
    summary, tags, _ = imported(source, tmp_path / "study")
    assert tags == {"a.jpg": ["Carbs"], "b.jpg": None}
    assert odd(summary) == {"tags_unknown": 2, "tags_respelled": 1}


@pytest.mark.parametrize("table", ["photo,tags\na.jpg,carbs;meat\nb.jpg,meat\nc.jpg,\n", "photo,carbs,meat\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n"])
def test_a_table_says_the_same_in_either_form(table: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        photo(tmp_path / "data" / name)
    (tmp_path / "data" / "tags.csv").write_text(
        f"\ufeff{table}e.jpg{table.splitlines()[1].removeprefix('a.jpg')}\na.jpg{table.splitlines()[2].removeprefix('b.jpg')}\n"
    )
    summary, tags, _ = imported(str(tmp_path / "data" / "tags.csv"), tmp_path / "study")
    assert tags == {"a.jpg": ["carbs", "meat"], "b.jpg": ["meat"], "c.jpg": None, "d.jpg": None}
    assert odd(summary) == {"tag_files_empty": 1, "photos_without_tags": 1, "tags_without_photo": 1, "photos_repeated": 1}


def test_a_cell_that_is_neither_0_nor_1_says_nothing(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "data" / name)
    (tmp_path / "data" / "tags.csv").write_text("photo,carbs,meat\na.jpg,1,yes\nb.jpg,1,0\n")
    summary, tags, _ = imported(str(tmp_path / "data" / "tags.csv"), tmp_path / "study")
    assert (tags["a.jpg"], odd(summary)) == (None, {"values_unclear": 1})


def test_the_longest_dish_in_a_name_is_the_class_unless_its_tags_contradict(tmp_path: Path) -> None:
    files = {f"{number}_the_best_cheesecakes.jpg": "dessert\n" for number in range(3)}
    files |= {
        "0_my_cake.jpg": "carbs\n",
        "1_goat-cheese_pizza.jpg": "meat\n",
        "4_cheesecake_pizza.jpg": "dessert\n",
        "5_cheesecake_tacos.jpg": "meat\n",
        "6_soup.jpg": "soups\n",
    }
    (tmp_path / "dishes.txt").write_text("cake\ncheesecake\npizza\nTaco\n")
    summary, _, dishes = imported(layout(tmp_path / "data", files), tmp_path / "study", dishes=str(tmp_path / "dishes.txt"))
    assert dishes["0_the_best_cheesecakes.jpg"] == "cheesecake"
    assert dishes["0_my_cake.jpg"] == "cake"
    assert dishes["1_goat-cheese_pizza.jpg"] == "pizza"
    assert dishes["4_cheesecake_pizza.jpg"] == "cheesecake"
    assert dishes["5_cheesecake_tacos.jpg"] is None
    assert dishes["6_soup.jpg"] is None
    assert (summary.counts["photos_without_dish"], summary.counts["dishes_doubted"]) == (1, 1)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("no tags", CorpusError, "2 photos, none with a tag; the layout is ImageSets"),
        ("no photos", CorpusError, "0 photos, none with a tag"),
        ("no dishes", ConfigError, r"dishes = .*nowhere.txt' cannot be read"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    texts = {"a.jpg": None, "b.jpg": ""} if change == "no tags" else {} if change == "no photos" else {"a.jpg": "carbs\n"}
    with pytest.raises(error, match=said):
        import_tags(layout(tmp_path / "data", texts), Store(str(tmp_path / "study")), dishes=str(tmp_path / "nowhere.txt") if change == "no dishes" else None)


@pytest.mark.skipif("FOODRAY_DATA" not in os.environ, reason="FOODRAY_DATA names no folder of real photographs")
def test_the_tutorials_own_photos_all_arrive_with_the_tags_of_their_files(tmp_path: Path) -> None:
    source = Path(os.environ["FOODRAY_DATA"]) / "tags" / "multilabel_data"
    if not source.is_dir():
        pytest.skip("no folder tags in FOODRAY_DATA")
    summary, tags, _ = imported(str(source), tmp_path / "study")
    written = Counter(line.strip() for file in (source / "Annotations").glob("*.txt") for line in file.read_text().splitlines() if line.strip())
    assert Counter(tag for found in tags.values() for tag in found or ()) == written
    assert summary.counts["photos"] == len(list((source / "ImageSets").iterdir())) == summary.counts["photos_tagged"]
    assert json.loads((tmp_path / "study" / "study.json").read_text())["counts"]["names_cut"] == 5
