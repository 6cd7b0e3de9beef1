"""The importers of layouts with masks account for every file and line. YOLO is checked on the real data where FOODRAY_DATA names their folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from foodray.cli import main
from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.coco import file_split, import_coco
from foodray.corpus.importers.foodseg103 import import_foodseg103
from foodray.corpus.importers.mask_pairs import import_mask_pairs
from foodray.corpus.importers.yolo import import_yolo
from foodray.corpus.manifest import Study, load_study
from foodray.corpus.masks import label_map, rasterise, rle_text
from foodray.errors import ConfigError, CorpusError, ExistsError, SplitError
from foodray.storage.store import Store

HEIGHT, WIDTH = 6, 8
Importer = Callable[..., ImportSummary]


def photo(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), *, turn: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", size, "orange").save(path, "JPEG", exif=exif)


def mask(path: Path, *regions: tuple[int, slice, slice], size: tuple[int, int] = (WIDTH, HEIGHT), dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids_HW = np.zeros(size[::-1], dtype)
    for number, rows, columns in regions:
        ids_HW[rows, columns] = number
    Image.fromarray(ids_HW).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def imported(importer: Importer, source: Path, target: Path, **settings: Any) -> tuple[ImportSummary, Study]:
    summary = importer(str(source), Store(str(target)), **settings)
    return summary, load_study(str(target))


def items_of(study: Study, uri: str) -> pd.DataFrame:
    image_id = dict(zip(study.images["image_uri"].to_pylist(), study.images["image_id"].to_pylist(), strict=True))[uri]
    table = study.truth_items
    items = pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in table.column_names})
    return items[items["image_id"] == image_id].reset_index(drop=True)


def oddities(summary: ImportSummary) -> dict[str, int]:
    """The counts above 0 that are not of photos and items."""
    usual = ("photos", "participants", "classes", "items", "masks", "unlabelled_items", "photos_without_items", "photos_train", "photos_val", "photos_test")
    return {kind: count for kind, count in summary.counts.items() if count and kind not in usual}


def box(item: pd.Series) -> list[float]:
    return item[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]].tolist()


# FoodSeg103


@pytest.fixture
def foodseg(tmp_path: Path) -> Path:
    """Two photos as published."""
    root = tmp_path / "in"
    text(root / "category_id.txt", "0\tbackground", "1\tcandy ", "2\tegg tart", "103\tother ingredients  ")
    photo(root / "Images/img_dir/train/a.jpg")
    mask(root / "Images/ann_dir/train/a.png", (1, slice(1, 4), slice(2, 7)), (103, slice(5, 6), slice(0, 1)))
    photo(root / "Images/img_dir/test/b.jpg")
    mask(root / "Images/ann_dir/test/b.png", (2, slice(0, 2), slice(0, 2)))
    return root


def test_each_class_in_a_mask_is_an_item(foodseg: Path, tmp_path: Path) -> None:
    summary, study = imported(import_foodseg103, foodseg, tmp_path / "out")
    items = items_of(study, "Images/img_dir/train/a.jpg")
    assert items["class_name"].tolist() == ["candy", "other ingredients"]
    assert items["truth_item_id"].tolist() == [f"{items['image_id'][0]}#{index}" for index in (0, 1)]
    assert box(items.loc[0]) == [2, 1, 5, 3]
    assert rasterise(items["segmentation"][0], HEIGHT, WIDTH)[1:4, 2:7].all()
    assert isinstance(json.loads(items["segmentation"][0])["counts"], str)
    label_HW = label_map(items.to_dict("records"), ["candy", "other ingredients"], HEIGHT, WIDTH)
    assert [(label_HW == label).sum() for label in (0, 1, 2)] == [32, 15, 1]
    assert dict(zip(study.images["image_uri"].to_pylist(), study.images["split"].to_pylist(), strict=True)) == {
        "Images/img_dir/test/b.jpg": "test",
        "Images/img_dir/train/a.jpg": "train",
    }
    assert study.photos.root == str(foodseg)
    assert study.info["labels"] == ["candy", "egg tart", "other ingredients"]
    assert study.images["consent_scope"].to_pylist() == ["score_train"] * 2
    assert (summary.counts["photos"], summary.counts["items"], summary.counts["masks"], summary.counts["participants"]) == (2, 3, 3, 2)
    assert not oddities(summary)


def test_a_part_of_foodseg103_is_noted_with_the_published_counts(foodseg: Path, tmp_path: Path) -> None:
    notes = " ".join(imported(import_foodseg103, foodseg, tmp_path / "out")[0].notes)
    assert "1 train and 1 test photos, where 4,983 train and 2,135 test are published" in notes
    assert "4 categories with the background, where 104 are published" in notes


def test_every_oddity_of_a_mask_folder_is_counted_and_its_photo_kept(foodseg: Path, tmp_path: Path) -> None:
    photos, masks = foodseg / "Images/img_dir/train", foodseg / "Images/ann_dir/train"
    for name in ("bare", "small", "black", "broken", "color", "turned", "upright", "unknown", "ignored", "twice"):
        photo(photos / f"{name}.jpg", turn=6 if name in ("turned", "upright") else 1)
    photo(photos / "twice.jpeg")
    text(photos / "garbled.jpg", "this is no photo")
    text(photos / "list.csv", "a,b")
    text(foodseg / "readme.txt", "password")
    text(foodseg / ".DS_Store", "")
    region = (2, slice(0, 3), slice(0, 4))
    mask(masks / "small.png", region, size=(4, 3))
    mask(masks / "black.png")
    text(masks / "broken.png", "no png")
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(masks / "color.png")
    mask(masks / "turned.png", region)
    mask(masks / "upright.png", region, size=(HEIGHT, WIDTH))
    mask(masks / "unknown.png", region, (77, slice(5, 6), slice(0, 2)), (78, slice(4, 5), slice(0, 2)))
    mask(masks / "ignored.png", region, (255, slice(4, 6), slice(6, 8)))
    mask(masks / "twice.png", region)
    mask(masks / "garbled.png", region)
    mask(masks / "alone.png", region)
    summary, study = imported(import_foodseg103, foodseg, tmp_path / "out")
    assert oddities(summary) == {
        "photos_without_mask": 1,
        "masks_without_photo": 1,
        "names_repeated": 2,
        "masks_refused": 2,
        "masks_of_other_size": 2,
        "masks_empty": 1,
        "photos_with_unlabelled": 1,
        "photos_with_unknown_ids": 1,
        "headers_unreadable": 1,
        "photos_turned_by_exif": 2,
        "other_files": 2,
        "hidden_files": 1,
    }
    assert study.images.num_rows == summary.counts["photos"] == 14
    num_files = sum(path.is_file() for path in foodseg.rglob("*"))
    num_masks = sum(path.is_file() for path in (foodseg / "Images/ann_dir").rglob("*"))
    assert num_files == study.images.num_rows + num_masks + summary.counts["other_files"] + summary.counts["hidden_files"] + 1
    notes = " ".join(summary.notes)
    names = ("bare.jpg", "alone.png", "twice.jpeg", "broken.png (not_png)", "color.png (colored)", "small.png (4 x 3, the photo is 8 x 6)", "list.csv")
    assert all(name in notes for name in (*names, "unknown.png (id 77, 78)", "black.png", "garbled.jpg (unidentified)"))
    unknown = items_of(study, "Images/img_dir/train/unknown.jpg")
    assert unknown["class_name"].tolist() == ["egg tart", None]
    assert box(unknown.loc[1]) == [0, 4, 2, 2]
    assert items_of(study, "Images/img_dir/train/ignored.jpg")["class_name"].tolist() == ["egg tart", None]
    assert len(items_of(study, "Images/img_dir/train/upright.jpg")) == 1
    assert summary.counts["photos_without_items"] == 9


def test_foodseg103_without_its_parts_is_refused(foodseg: Path, tmp_path: Path) -> None:
    (foodseg / "category_id.txt").rename(foodseg / "kept.txt")
    with pytest.raises(CorpusError, match=r"has no category_id\.txt"):
        imported(import_foodseg103, foodseg, tmp_path / "out")
    for lines, hint in ((["0\tbackground", "1 candy"], "line 2: '1 candy'"), (["1\ta", "1\tb"], "line 2"), (["0\tcandy"], "0 is background")):
        text(foodseg / "category_id.txt", *lines)
        with pytest.raises(CorpusError, match=hint):
            imported(import_foodseg103, foodseg, tmp_path / "out")
    text(tmp_path / "none/category_id.txt", "0\tbackground", "1\tcandy")
    with pytest.raises(CorpusError, match="has no photos in Images/img_dir"):
        imported(import_foodseg103, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Pairs of photo and mask


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("labels.txt", ["0\tbackground", "1\trice", "2\tegg"]),
        ("category_id.txt", ["1\trice", "2\tegg "]),
        ("classes.txt", ["rice", "egg", ""]),
        ("labels.txt", ["background", "rice", "egg"]),
    ],
)
def test_names_of_mask_ids_come_from_either_form(file: str, lines: list[str], tmp_path: Path) -> None:
    photo(tmp_path / "in/images/val/a.jpg")
    mask(tmp_path / "in/masks/val/a.png", (1, slice(0, 1), slice(0, 8)), (2, slice(2, 3), slice(0, 2)))
    text(tmp_path / "in" / file, *lines)
    summary, study = imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")
    assert study.truth_items["class_name"].to_pylist() == ["rice", "egg"]
    assert study.images["split"].to_pylist() == ["val"]
    assert not oddities(summary)


def test_mask_folders_may_have_other_names(tmp_path: Path) -> None:
    photo(tmp_path / "in/JPEGImages/a.jpg")
    mask(tmp_path / "in/SegmentationClass/a.png", (300, slice(0, 1), slice(0, 8)), (65535, slice(2, 3), slice(0, 2)), dtype=np.uint16)
    text(tmp_path / "in/labels.txt", "300\trice")
    summary, study = imported(import_mask_pairs, tmp_path / "in", tmp_path / "out", photos="JPEGImages", masks="SegmentationClass")
    assert study.truth_items["class_name"].to_pylist() == ["rice", None]
    assert oddities(summary) == {"photos_with_unlabelled": 1}


def test_masks_without_names_or_without_use_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in/images/a.jpg")
    mask(tmp_path / "in/masks/a.png", (255, slice(0, 1), slice(0, 8)))
    with pytest.raises(CorpusError, match="write one with a line of id<tab>name"):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")
    text(tmp_path / "in/labels.txt", "food")
    with pytest.raises(CorpusError, match="give it a name by its id: 255<tab>food"):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")
    text(tmp_path / "in/labels.txt", "255\tfood")
    assert imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")[1].truth_items["class_name"].to_pylist() == ["food"]


def test_jpeg_masks_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in/images/a.jpg")
    photo(tmp_path / "in/masks/a.jpg")
    text(tmp_path / "in/labels.txt", "food")
    with pytest.raises(CorpusError, match=r"1 masks that cannot be read.*a\.jpg \(not_png\)"):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")


def test_groups_of_photos_with_masks_share_a_participant_and_a_split(tmp_path: Path) -> None:
    for name in ("train/7_a", "train/7_b", "test/8_a"):
        photo(tmp_path / f"in/images/{name}.jpg")
        mask(tmp_path / f"in/masks/{name}.png", (1, slice(0, 1), slice(0, 8)))
    text(tmp_path / "in/labels.txt", "food")
    summary, _ = imported(import_mask_pairs, tmp_path / "in", tmp_path / "out", group_pattern=r"/(\d+)_")
    assert summary.counts["participants"] == 2
    with pytest.raises(SplitError, match=r"a \(test, train\)"):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "other", group_pattern=r"_(a|b)")
    with pytest.raises(ConfigError, match="not a regular expression"):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "other", group_pattern="(")
    with pytest.raises(ExistsError):
        imported(import_mask_pairs, tmp_path / "in", tmp_path / "out")


# COCO

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def entry(number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}


def annotation(number: int, image: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 5, "segmentation": segmentation, "iscrowd": 0, **more}


def coco_json(path: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> None:
    named = [{"id": 5, "name": "rice "}, {"id": 9, "name": "egg"}] if categories is None else categories
    text(path, json.dumps({"images": images, "annotations": annotations, "categories": named}))


def test_coco_polygons_and_run_length_codes_become_items(tmp_path: Path) -> None:
    whole = np.ones((HEIGHT, WIDTH), bool)
    photo(tmp_path / "in/train2017/a.jpg")
    photo(tmp_path / "in/val2017/a.jpg")
    coco_json(
        tmp_path / "in/annotations/instances_train2017.json",
        [entry(1, "a.jpg")],
        [
            annotation(1, 1, [SQUARE], bbox=[0, 0, 1, 1]),
            annotation(2, 1, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * WIDTH - HEIGHT]}, category_id=9),
            annotation(3, 1, json.loads(rle_text(whole)), iscrowd=1),
            annotation(4, 1, [], bbox=[-2, 1, 5, 99]),
        ],
    )
    photo(tmp_path / "in/val/b.jpg")
    photo(tmp_path / "in/train/b.jpg")
    named = [entry(1, "val2017/a.jpg"), entry(2, "b.jpg")]
    coco_json(tmp_path / "in/annotations/instances_val2017.json", named, [annotation(1, 1, [SQUARE]), annotation(2, 2, [SQUARE])])
    text(tmp_path / "in/annotations/captions_train2017.json", "{}")
    summary, study = imported(import_coco, tmp_path / "in", tmp_path / "out")
    items = items_of(study, "train2017/a.jpg")
    assert items["class_name"].tolist() == ["rice", "egg", None, "rice"]
    assert json.loads(items["segmentation"][0]) == [SQUARE]
    assert isinstance(json.loads(items["segmentation"][1])["counts"], str)
    assert [box(item) for _, item in items.iterrows()] == [[2, 1, 4, 3], [0, 0, 1, HEIGHT], [0, 0, WIDTH, HEIGHT], [0, 1, 3, 5]]
    assert items["segmentation"][3] is None
    splits = dict(zip(study.images["image_uri"].to_pylist(), study.images["split"].to_pylist(), strict=True))
    assert splits == {"train2017/a.jpg": "train", "val2017/a.jpg": "val", "val/b.jpg": "val"}
    assert oddities(summary) == {"other_json": 1, "crowds": 1, "photos_not_listed": 1}
    assert study.info["labels"] == ["rice", "egg"]


def test_every_oddity_of_coco_is_counted(tmp_path: Path) -> None:
    for name in ("a", "bare", "other_size", "turned", "x/twin", "y/twin", "unlisted"):
        photo(tmp_path / f"in/images/{name}.jpg", turn=6 if name == "turned" else 1)
    text(tmp_path / "in/images/garbled.jpg", "no photo")
    text(tmp_path / "in/README", "")
    images = [
        entry(1, "a.jpg"),
        entry(2, "bare.jpg"),
        entry(3, "other_size.jpg", width=9),
        entry(4, "images/turned.jpg", width=HEIGHT, height=WIDTH),
        entry(5, "twin.jpg"),
        entry(6, "missing.jpg"),
        entry(7, "a.jpg"),
        entry(8, "garbled.jpg"),
        entry(1, "unlisted.jpg"),
        {"id": 10},
        "eleven",
    ]
    annotations = [
        annotation(1, 1, [SQUARE, [1, 2, 3, 4]]),
        annotation(2, 1, [SQUARE], category_id=77),
        annotation(3, 1, [[50, 50, 60, 50, 60, 60]], bbox=[1, 1, 2, 2]),
        annotation(4, 1, {"size": [1, 1], "counts": "0"}, bbox=[50, 50, 2, 2]),
        annotation(5, 1, "words", bbox=["a", 1, 2, 3]),
        annotation(6, 1, None),
        annotation(7, 4, [SQUARE]),
        *(annotation(10 + image, image, [SQUARE]) for image in (3, 5, 6, 7, 8)),
        annotation(20, 99, [SQUARE]),
        {"id": 21},
    ]
    categories = [{"id": 5, "name": "rice"}, {"id": 6, "name": "rice"}, {"id": 7}]
    coco_json(tmp_path / "in/annotations/all.json", images, annotations, categories)
    summary, study = imported(import_coco, tmp_path / "in", tmp_path / "out")
    assert oddities(summary) == {
        "entries_broken": 5,
        "photos_missing": 1,
        "photos_ambiguous": 1,
        "photos_repeated": 1,
        "photos_not_listed": 3,
        "photos_without_annotation": 1,
        "photos_of_other_size": 1,
        "annotations_without_photo": 1,
        "annotations_left_out": 5,
        "annotations_refused": 3,
        "masks_refused": 1,
        "polygons_refused": 1,
        "unknown_categories": 1,
        "categories_repeated": 1,
        "headers_unreadable": 1,
        "photos_turned_by_exif": 1,
        "other_files": 1,
    }
    counts = summary.counts
    assert counts["items"] == 4
    left_out = ("annotations_refused", "annotations_left_out", "annotations_without_photo")
    assert len(annotations) - 1 == counts["items"] + sum(counts[kind] for kind in left_out)
    assert items_of(study, "images/a.jpg")["class_name"].tolist() == ["rice", None, "rice"]
    assert sum(path.suffix == ".jpg" for path in (tmp_path / "in").rglob("*")) == counts["photos"] + counts["photos_not_listed"]
    assert "all.json a.jpg annotation 3 (outside)" in " ".join(summary.notes)


def test_an_annotation_file_can_be_named_itself(tmp_path: Path) -> None:
    photo(tmp_path / "in/images/a.jpg")
    for place in ("annotations/test.json", "labels.json"):
        coco_json(tmp_path / "in" / place, [entry(1, "a.jpg")], [annotation(1, 1, [SQUARE])])
        summary, study = imported(import_coco, tmp_path / "in" / place, tmp_path / place.replace("/", "-"))
        assert study.images["image_uri"].to_pylist() == ["images/a.jpg"]
        assert study.images["split"].to_pylist() == ["test" if "test" in place else None]
        assert summary.counts["items"] == 1


@pytest.mark.parametrize(
    ("file", "split"),
    [("instances_train2017.json", "train"), ("instances_valid.json", "val"), ("test.json", "test"), ("latest.json", None), ("instances_default.json", None)],
)
def test_the_split_is_that_of_the_annotation_files_name(file: str, split: str | None) -> None:
    assert file_split(f"train/{file}") == split


def test_a_folder_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in/images/a.jpg")
    with pytest.raises(CorpusError, match=r"there is no annotations/\*\.json"):
        imported(import_coco, tmp_path / "in", tmp_path / "out")
    for content, hint in (("{", "is not JSON"), ("[]", "has not the lists images, annotations and categories")):
        text(tmp_path / "in/annotations/a.json", content)
        with pytest.raises(CorpusError, match=hint):
            imported(import_coco, tmp_path / "in", tmp_path / "out")
    with pytest.raises(CorpusError, match="is not there"):
        imported(import_coco, tmp_path / "in/annotations/b.json", tmp_path / "out")


# YOLO


def test_yolo_polygons_and_boxes_become_items_in_px(tmp_path: Path) -> None:
    photo(tmp_path / "in/images/train/a.jpg")
    text(tmp_path / "in/labels/train/a.txt", "1 0.25 0.16666667 0.75 0.16666667 0.75 0.66666667 0.25 0.66666667", "0 0.5 0.5 1.0 0.5")
    text(tmp_path / "in/data.yaml", "names:", "  0: rice", "  1: egg tart")
    summary, study = imported(import_yolo, tmp_path / "in", tmp_path / "out")
    items = items_of(study, "images/train/a.jpg")
    assert items["class_name"].tolist() == ["egg tart", "rice"]
    assert json.loads(items["segmentation"][0]) == [SQUARE]
    assert items["segmentation"][1] is None
    assert [box(item) for _, item in items.iterrows()] == [[2, 1, 4, 3], [0, 1.5, 8, 3]]
    assert study.images["split"].to_pylist() == ["train"]
    assert not oddities(summary)


def test_split_folders_may_lie_around_images_and_labels(tmp_path: Path) -> None:
    photo(tmp_path / "in/valid/images/a.jpg")
    text(tmp_path / "in/valid/labels/a.txt", "0 0.5 0.5 1.0 0.5")
    text(tmp_path / "in/data.yaml", "names: [rice]")
    assert imported(import_yolo, tmp_path / "in", tmp_path / "out")[1].images["split"].to_pylist() == ["val"]


def test_every_oddity_of_yolo_is_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "bare.jpg", "empty.jpg", "binary.jpg", "twice.jpg", "twice.jpeg", "turned.jpg"):
        photo(tmp_path / "in/images" / name, turn=6 if name == "turned.jpg" else 1)
    text(tmp_path / "in/images/garbled.jpg", "no photo")
    square = "0.25 0.16666667 0.75 0.16666667 0.75 0.66666667 0.25 0.66666667"
    text(
        tmp_path / "in/labels/a.txt",
        f"0 {square}",
        "",
        f"0 {square}",
        f"7 {square}",
        "0 0.1 0.2 0.3",
        "0 0.1 0.2 0.3 0.4 0.5",
        "0 0.1 0.2 0.3 0.4 0.5 x",
        f"rice {square}",
        f"0.5 {square}",
        "0 384 384 200 200",
        "0 0.1 0.1 nan 0.1 0.1 0.9",
        "0 0.1 0.2",
        "0 -0.5 0 0.5 0 0.5 0.5 -0.5 0.5",
        "0 0.9 0.9 0.4 0.4",
        "0 2 2 3 2 3 3",
        "0 0.5 0.5 0 0",
    )
    for name in ("twice", "garbled", "turned", "alone"):
        text(tmp_path / f"in/labels/{name}.txt", f"0 {square}")
    text(tmp_path / "in/labels/empty.txt", "", " ")
    (tmp_path / "in/labels/binary.txt").write_bytes(b"\xff\xfe\0")
    text(tmp_path / "in/classes.txt", "rice", "egg")
    text(tmp_path / "in/notes.md", "")
    summary, study = imported(import_yolo, tmp_path / "in", tmp_path / "out")
    assert oddities(summary) == {
        "photos_without_labels": 1,
        "labels_without_photo": 1,
        "label_files_empty": 1,
        "label_files_unreadable": 1,
        "names_repeated": 2,
        "lines_broken": 7,
        "lines_repeated": 1,
        "unknown_classes": 1,
        "too_few_points": 1,
        "shapes_outside": 2,
        "shapes_refused": 2,
        "headers_unreadable": 1,
        "photos_turned_by_exif": 1,
        "other_files": 1,
    }
    items = items_of(study, "images/a.jpg")
    assert items["class_name"].tolist() == ["rice", None, "rice", "rice"]
    assert [box(item) for _, item in items.iterrows()][2:] == [[0, 0, 4, 3], pytest.approx([5.6, 4.2, 2.4, 1.8])]
    assert np.array(json.loads(items["segmentation"][2])).min() == 0
    assert json.loads(items_of(study, "images/turned.jpg")["segmentation"][0]) == [[1.5, 1.333, 4.5, 1.333, 4.5, 5.333, 1.5, 5.333]]
    assert summary.counts["photos"] == 8
    assert "labels/a.txt line 4 (class 7)" in " ".join(summary.notes)


def test_a_folder_that_is_not_yolo_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in/a.jpg")
    with pytest.raises(CorpusError, match=r"has no classes\.txt or data\.yaml"):
        imported(import_yolo, tmp_path / "in", tmp_path / "out")
    text(tmp_path / "in/data.yaml", "nc: 3")
    with pytest.raises(CorpusError, match="has no names"):
        imported(import_yolo, tmp_path / "in", tmp_path / "out")
    text(tmp_path / "in/classes.txt", "rice", "", "egg")
    with pytest.raises(CorpusError, match="line 2: is empty"):
        imported(import_yolo, tmp_path / "in", tmp_path / "out")
    text(tmp_path / "in/classes.txt", "rice")
    with pytest.raises(CorpusError, match="has no photos below a folder images"):
        imported(import_yolo, tmp_path / "in", tmp_path / "out")


def test_the_real_yolo_folder_is_imported_completely(data: Path, tmp_path: Path) -> None:
    source = data / "segmentation"
    if not source.is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder segmentation/")
    summary, study = imported(import_yolo, source, tmp_path / "out")
    assert summary.counts["photos"] == study.images.num_rows == 1000
    assert oddities(summary) == {"other_files": 1}
    num_lines = sum(len(path.read_text().split("\n")) - path.read_text().endswith("\n") for path in (source / "labels").glob("*.txt"))
    assert summary.counts["items"] == summary.counts["masks"] == num_lines
    assert set(study.truth_items["class_name"].to_pylist()) == set((source / "classes.txt").read_text().split("\n")) - {""}
    labels = sorted(set(study.truth_items["class_name"].to_pylist()))
    label_HW = label_map(items_of(study, "images/00000.jpg").to_dict("records"), labels, 384, 384)
    assert label_HW.any()


# The command


@pytest.mark.parametrize("layout", ["foodseg103", "coco", "yolo", "masks"])
def test_every_layout_is_a_command(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    photo(root / "images/a.jpg")
    photo(root / "Images/img_dir/train/a.jpg")
    for place in ("masks", "Images/ann_dir/train"):
        mask(root / place / "a.png", (1, slice(0, 1), slice(0, 8)))
    text(root / "labels/a.txt", "0 0.5 0.5 1.0 0.5")
    text(root / "category_id.txt", "0\tbackground", "1\trice")
    text(root / "classes.txt", "rice")
    coco_json(root / "annotations/all.json", [entry(1, "images/a.jpg")], [annotation(1, 1, [SQUARE])])
    main(["import", layout, str(root), str(tmp_path / "out")])
    assert ": 1 photos, 1 participants, 1 classes, 1 items" in capsys.readouterr().out
    assert load_study(str(tmp_path / "out")).truth_items["class_name"].to_pylist() == ["rice"]
