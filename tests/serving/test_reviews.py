"""Claims about kept analyses: what was predicted never changes, corrections are added with who and when, and nobody's are lost."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from review_helpers import LABELS, SIZE, VERSIONS, answer, coarse_mask, item, key, no_food, on, save

from foodray.corpus.masks import rasterise, resize_labels
from foodray.corpus.photo import PhotoLimits, read_header
from foodray.errors import PhotoError
from foodray.serving.pictures import clean_jpeg
from foodray.serving.problems import RequestError
from foodray.serving.review_tables import photo_rle
from foodray.serving.reviews import Reviews
from foodray.storage.store import Store

KEY = key()


@pytest.fixture(params=["local", "s3"])
def reviews(request: pytest.FixtureRequest, tmp_path: Path) -> Reviews:
    if request.param == "local":
        return Reviews(Store(str(tmp_path / "reviews")))
    return Reviews(Store(f"{request.getfixturevalue('s3')}/reviews-{tmp_path.name}"))


@pytest.fixture
def local(tmp_path: Path) -> Reviews:
    return Reviews(Store(str(tmp_path / "reviews")))


def keep(reviews: Reviews, reply: Any = None, photo: bytes | None = None, who: Any = KEY) -> str:
    return reviews.keep(reply or answer(), VERSIONS, photo, who, "r-1")


def correct(reviews: Reviews, analysis_id: str, *corrections: dict[str, Any], **how: Any) -> Any:
    return reviews.correct(analysis_id, save(*corrections, **how), key=KEY, labels=LABELS)


def code_of(call: Any) -> str:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value.code


def bytes_below(reviews: Reviews, prefix: str) -> dict[str, bytes]:
    return {name: reviews.store.read(name) for name in reviews.store.list(prefix)}


def test_a_kept_analysis_comes_back_as_it_was_and_says_that_nobody_has_looked_at_it(reviews: Reviews) -> None:
    found = reviews.get(keep(reviews), KEY)
    assert found.photo == answer()
    assert found.versions == VERSIONS
    assert [one.review_status for one in found.items or ()] == ["none", "none"]
    assert [one.portion for one in found.items or ()] == [one.portion for one in answer().items or ()]
    assert (found.needs_review, found.has_photo, found.totals) == (True, False, answer().totals)


def test_corrections_are_added_with_who_and_when_and_what_held_before_and_the_prediction_stays(reviews: Reviews) -> None:
    analysis_id = keep(reviews)
    before = bytes_below(reviews, "analyses")
    correct(reviews, analysis_id, on(0, "class_name", "bread", seconds=4.5, reason="seen on the menu"), on(0, "energy_kcal", 180))
    first = bytes_below(reviews, "corrections")
    found = correct(reviews, analysis_id, on(0, "energy_kcal", 190.5), on(1, "confirmed", True), based_on=2, reviewer="B. Rossi")
    assert bytes_below(reviews, "analyses") == before
    assert first.items() < bytes_below(reviews, "corrections").items()
    assert found == reviews.get(analysis_id, KEY)
    told = [(row.item_id, row.field, row.old, row.new, row.reviewer, row.seconds, row.reason) for row in found.corrections]
    assert told == [
        ("plate#0", "class_name", "rice", "bread", "A. Meier", 4.5, "seen on the menu"),
        ("plate#0", "energy_kcal", 200.0, 180, "A. Meier", 0.0, ""),
        ("plate#0", "energy_kcal", 180.0, 190.5, "B. Rossi", 0.0, ""),
        ("plate#1", "confirmed", False, True, "B. Rossi", 0.0, ""),
    ]
    assert all(row.key_id == KEY.key_id and row.ts.endswith("Z") for row in found.corrections)
    corrected, confirmed = found.items
    assert (corrected.review_status, corrected.class_name, corrected.reviewer) == ("corrected", "bread", "B. Rossi")
    assert confirmed.review_status == "confirmed"
    assert found.totals.energy_kcal == 190.5 + 50
    assert not found.needs_review


def test_an_interval_holds_only_while_nothing_of_its_item_is_corrected(local: Reviews) -> None:
    analysis_id = keep(local)
    found = correct(local, analysis_id, on(0, "class_name", "bread"), on(1, "confirmed", True))
    assert [one.portion.energy_kcal.lo for one in found.items] == [None, 20.0]
    assert [one.portion.energy_kcal.value for one in found.items] == [200.0, 50.0]
    assert str(correct(local, analysis_id, on(1, "energy_kcal", -0.0), based_on=2).items[1].portion.energy_kcal.value) == "0.0"
    back = correct(local, analysis_id, on(0, "class_name", "rice"), based_on=3)
    assert (back.items[0].review_status, back.items[0].portion.energy_kcal.lo) == ("none", 170.0)


def test_an_item_is_rejected_and_taken_back_added_and_corrected(local: Reviews) -> None:
    analysis_id = keep(local)
    new = {"class_name": "apple", "bbox_xywh_px": [0, 0, 40, 50.5], "energy_kcal": 52}
    found = correct(local, analysis_id, on(0, "deleted", True), on(None, "added", new), on(None, "added", {"class_name": "rice"}))
    assert [(one.item_id, one.review_status) for one in found.items] == [
        ("plate#0", "rejected"),
        ("plate#1", "none"),
        ("plate#r0", "added"),
        ("plate#r1", "added"),
    ]
    assert found.items[2].bbox_xywh_px == (0, 0, 40, 50.5)
    assert (found.totals.num_items, found.totals.energy_kcal, found.totals.num_items_without_energy) == (3, 102.0, 1)
    found = correct(local, analysis_id, on(0, "deleted", False), {"item_id": "plate#r0", "field": "mass_g", "new": 90}, based_on=3)
    assert found.items[0].review_status == "none"
    assert found.items[2].portion.mass_g.value == 90


def test_no_food_rejects_every_item_until_it_is_taken_back(local: Reviews) -> None:
    analysis_id = keep(local)
    found = correct(local, analysis_id, on(None, "no_food", True))
    assert {one.review_status for one in found.items} == {"rejected"}
    assert (found.totals.num_items, found.totals.energy_kcal, found.needs_review) == (0, 0, False)
    assert code_of(lambda: correct(local, analysis_id, on(0, "confirmed", True), based_on=1)) == "invalid_option"
    assert {one.review_status for one in correct(local, analysis_id, on(None, "no_food", False), based_on=1).items} == {"none"}


def test_a_photo_in_which_nothing_was_found_waits_until_someone_agrees(local: Reviews) -> None:
    analysis_id = keep(local, no_food())
    assert local.get(analysis_id, KEY).needs_review
    assert not correct(local, analysis_id, on(None, "no_food", True)).needs_review


def test_corrections_of_one_who_did_not_see_the_latest_are_a_conflict_and_change_nothing(reviews: Reviews) -> None:
    analysis_id = keep(reviews)
    correct(reviews, analysis_id, on(0, "class_name", "bread"))
    for based_on in (0, 2):
        assert code_of(lambda based_on=based_on: correct(reviews, analysis_id, on(0, "class_name", "apple"), based_on=based_on)) == "conflict"
    assert [row.new for row in reviews.get(analysis_id, KEY).corrections] == ["bread"]


def test_of_many_who_save_at_once_exactly_one_is_kept(reviews: Reviews) -> None:
    analysis_id = keep(reviews)

    def one(number: int) -> str:
        try:
            correct(reviews, analysis_id, on(0, "energy_kcal", number), reviewer=f"R{number}")
        except RequestError as error:
            return error.code
        return "kept"

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(one, range(8)))
    assert sorted(ends) == ["conflict"] * 7 + ["kept"]
    (row,) = reviews.get(analysis_id, KEY).corrections
    assert row.new == ends.index("kept")


@pytest.mark.parametrize(
    "wrong",
    [
        on(0, "class_name", "pizza"),
        on(0, "class_name", ""),
        on(0, "class_name", "a\nb", free_label=True),
        on(0, "class_name", "x" * 101, free_label=True),
        on(0, "class_name", 7, free_label=True),
        on(0, "energy_kcal", -1),
        on(0, "energy_kcal", float("nan")),
        on(0, "energy_kcal", float("inf")),
        on(0, "energy_kcal", 10**400),
        on(0, "mass_g", True),
        on(0, "mass_g", "12"),
        on(0, "bbox_xywh_px", [0, 0, 401, 10]),
        on(0, "bbox_xywh_px", [0, 0, 0, 10]),
        on(0, "bbox_xywh_px", [-1, 0, 10, 10]),
        on(0, "bbox_xywh_px", [0, 0, 10]),
        on(0, "bbox_xywh_px", [0, 0, 10, float("nan")]),
        on(0, "deleted", 1),
        on(0, "confirmed", "yes"),
        on(7, "confirmed", True),
        on(None, "class_name", "rice"),
        on(0, "no_food", True),
        on(0, "added", {"class_name": "rice"}),
        on(None, "added", {"class_name": "pizza"}),
        on(None, "added", {"class_name": "rice", "colour": "red"}),
        on(None, "added", {"class_name": "rice", "energy_kcal": -3}),
        on(None, "added", ["rice"]),
        on(None, "added", None),
    ],
    ids=str,
)
def test_what_cannot_be_so_is_refused_and_nothing_of_its_save_is_kept(local: Reviews, wrong: dict[str, Any]) -> None:
    analysis_id = keep(local)
    assert code_of(lambda: correct(local, analysis_id, on(0, "confirmed", True), wrong)) == "invalid_option"
    assert not local.get(analysis_id, KEY).corrections


def test_a_label_outside_the_set_is_taken_only_when_it_is_meant(local: Reviews) -> None:
    name = "<img src=x onerror=alert(1)>"
    found = correct(local, keep(local), on(0, "class_name", name, free_label=True), on(1, "class_name", name))
    assert [one.class_name for one in found.items] == [name, name]  # a name that is on the photo already needs no second permission


def test_spaces_around_a_class_are_no_part_of_it_now_or_when_it_is_read_again(local: Reviews) -> None:
    analysis_id = keep(local)
    found = correct(local, analysis_id, on(0, "class_name", "  bread "), on(None, "added", {"class_name": " apple"}))
    assert [one.class_name for one in found.items] == ["bread", "apple", "apple"]
    assert local.get(analysis_id, KEY) == found


def test_a_damaged_analysis_keeps_nobody_from_the_others_but_an_export_fails_for_it(local: Reviews) -> None:
    damaged, good, torn = keep(local), keep(local), keep(local)
    local.store.write(f"analyses/{damaged}/analysis.json", b"{}", replace=True)
    correct(local, torn, on(0, "confirmed", True))
    local.store.write(f"corrections/{torn}/000000.json", b'{"corr', replace=True)
    assert [summary.analysis_id for summary in local.listing(KEY)] == [good]
    for call in (lambda: local.get(damaged, KEY), lambda: local.get(torn, KEY), lambda: local.items_csv(KEY), lambda: local.coco(KEY)):
        assert code_of(call) == "storage_error"


def test_a_photo_that_was_not_analysed_cannot_be_corrected(local: Reviews) -> None:
    broken = answer().model_copy(update={"status": "quarantined", "items": None, "totals": None})
    analysis_id = keep(local, broken)
    assert local.get(analysis_id, KEY).items is None
    assert code_of(lambda: correct(local, analysis_id, on(None, "no_food", True))) == "invalid_option"


def test_a_key_of_a_study_sees_the_analyses_of_its_study_only_and_a_key_without_one_sees_all(reviews: Reviews) -> None:
    ours, theirs = key("ours", "00000002"), key("theirs", "00000003")
    mine, other = keep(reviews, who=ours), keep(reviews, who=theirs, photo=b"\xff\xd8")
    calls = (
        lambda: reviews.get(other, ours),
        lambda: reviews.photo(other, ours),
        lambda: reviews.delete(other, ours),
        lambda: reviews.correct(other, save(on(0, "confirmed", True)), key=ours, labels=LABELS),
    )
    assert {code_of(call) for call in calls} == {"not_found"}
    assert [summary.analysis_id for summary in reviews.listing(ours)] == [mine]
    assert [summary.analysis_id for summary in reviews.listing(ours, order="uncertainty")] == [mine]
    assert {summary.analysis_id for summary in reviews.listing(KEY)} == {mine, other}
    assert [one["file_name"] for one in reviews.coco(ours)["images"]] == [f"{mine}.jpg"]
    assert reviews.items_csv(ours).count(mine.encode()) == 2
    assert other.encode() not in reviews.items_csv(ours)


@pytest.mark.parametrize("strange", ["", "..", "../analyses", "A" * 32, "0" * 31, "0" * 32, "0" * 32 + "/x", "0" * 32 + "\n"])
def test_an_id_that_is_none_is_not_found(local: Reviews, strange: str) -> None:
    keep(local)
    assert code_of(lambda: local.get(strange, KEY)) == "not_found"
    assert code_of(lambda: local.delete(strange, KEY)) == "not_found"


def test_lists_come_newest_first_in_parts_or_least_certain_first(reviews: Reviews) -> None:
    widths = {"a": 10.0, "b": 300.0, "c": 80.0}
    ids = {name: keep(reviews, answer(item(0, "rice", 100.0, width=width, image_id=name), image_id=name)) for name, width in widths.items()}
    names = {analysis_id: name for name, analysis_id in ids.items()}
    newest = sorted(ids.values(), reverse=True)
    first = reviews.listing(KEY, limit=2)
    assert [summary.analysis_id for summary in first] == newest[:2]
    assert [summary.analysis_id for summary in reviews.listing(KEY, after=first[-1].analysis_id, limit=2)] == newest[2:]
    ranked = reviews.listing(KEY, order="uncertainty")
    assert [names[summary.analysis_id] for summary in ranked] == ["b", "c", "a"]
    assert [summary.analysis_id for summary in reviews.listing(KEY, order="uncertainty", after=ids["b"], limit=1)] == [ids["c"]]
    reviews.correct(ids["b"], save({"item_id": "b#0", "field": "confirmed", "new": True}), key=KEY, labels=LABELS)
    ranked = reviews.listing(KEY, order="uncertainty")
    assert [names[summary.analysis_id] for summary in ranked] == ["c", "a", "b"]
    assert (ranked[2].num_corrections, ranked[2].needs_review, ranked[0].needs_review) == (1, False, True)


def test_a_deleted_analysis_leaves_no_content_behind(reviews: Reviews) -> None:
    gone, left = keep(reviews, photo=b"\xff\xd8 pixels"), keep(reviews)
    correct(reviews, gone, on(0, "class_name", "bread", reason="a secret"))
    assert len(reviews.listing(KEY)) == 2
    reviews.delete(gone, KEY)
    assert code_of(lambda: reviews.get(gone, KEY)) == "not_found"
    assert [summary.analysis_id for summary in reviews.listing(KEY)] == [left]
    assert [name for name in reviews.store.list() if gone in name] == [f"withdrawn/{gone}.json"]
    assert json.loads(reviews.store.read(f"withdrawn/{gone}.json")).keys() == {"analysis_id", "deleted_at", "key_id"}
    assert not reviews.corrections_csv(KEY).count(b"secret")


def test_a_correction_that_was_on_its_way_during_a_deletion_is_not_left_behind(local: Reviews) -> None:
    analysis_id = keep(local)
    local.store.create(f"withdrawn/{analysis_id}.json", b"{}")  # as far as a deletion had come when the correction was written
    assert code_of(lambda: correct(local, analysis_id, on(0, "confirmed", True))) == "not_found"
    assert not local.store.list("corrections")


def test_the_csv_of_corrections_and_items_cannot_run_as_a_formula(local: Reviews) -> None:
    analysis_id = keep(local, answer(item(0, "=1+1", 100.0)))
    correct(local, analysis_id, on(0, "class_name", "@evil", free_label=True, reason="+cmd"), reviewer="=HYPERLINK(0)")
    (row,) = csv.DictReader(io.StringIO(local.corrections_csv(KEY).decode()))
    assert (row["old"], row["new"], row["reason"], row["reviewer"]) == ("'=1+1", "'@evil", "'+cmd", "'=HYPERLINK(0)")
    assert (row["analysis_id"], row["item_id"], row["image_id"], row["key_id"]) == (analysis_id, "plate#0", "plate", KEY.key_id)
    (row,) = csv.DictReader(io.StringIO(local.items_csv(KEY).decode()))
    assert (row["class_name"], row["predicted_class_name"], row["review_status"]) == ("'@evil", "'=1+1", "corrected")


def test_reviewed_items_stand_beside_what_was_predicted_and_rejected_ones_have_no_effective_value(local: Reviews) -> None:
    analysis_id = keep(local)
    correct(local, analysis_id, on(0, "energy_kcal", 150), on(1, "deleted", True), on(None, "added", {"class_name": "bread", "mass_g": 30}))
    rows = list(csv.DictReader(io.StringIO(local.items_csv(KEY).decode())))
    told = [(row["review_status"], row["class_name"], row["energy_kcal"], row["energy_lo_kcal"], row["mass_g"], row["predicted_energy_kcal"]) for row in rows]
    assert told == [("corrected", "rice", "150", "", "", "200"), ("rejected", "", "", "", "", "50"), ("added", "bread", "", "", "30", "")]


def test_the_coco_export_holds_what_is_there_with_masks_of_the_photos_size(local: Reviews, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    first, second = keep(local), keep(local, answer(item(0, "bread", 80.0, mask=True)))
    correct(local, first, on(1, "deleted", True), on(None, "added", {"class_name": "apple", "bbox_xywh_px": [0, 0, 40, 50]}))
    correct(local, second, on(0, "bbox_xywh_px", [0, 0, 10, 20]))
    dataset = local.coco(KEY)
    assert dataset == local.coco(KEY)
    (tmp_path / "coco.json").write_text(json.dumps(dataset))
    read = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in read.loadImgs([1, 2])] == [f"{first}.jpg", f"{second}.jpg"]
    masked, drawn, moved = read.loadAnns([1, 2, 3])
    width, height = SIZE
    expected = resize_labels(coarse_mask().astype(np.int16), height, width) > 0
    assert np.array_equal(read.annToMask(masked).astype(bool), expected)
    assert masked["area"] == expected.sum()
    assert (drawn["bbox"], drawn["area"], drawn["attributes"]["mask"], "score" in drawn) == ([0, 0, 40, 50], 2000, False, False)
    assert (moved["bbox"], moved["attributes"]["mask"]) == ([0, 0, 10, 20], False)
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == ["apple", "bread", "rice"]
    assert [read.cats[one["category_id"]]["name"] for one in (masked, drawn, moved)] == ["rice", "apple", "bread"]


@pytest.mark.parametrize("size", [(24, 32), (7, 5), (300, 401), (1000, 64)])
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_a_stretched_mask_is_the_mask_resized(size: tuple[int, int], density: float) -> None:
    from foodray.analyzer.messages import MaskRle
    from foodray.corpus.masks import rle_text

    mask = np.random.default_rng(5).random((24, 32)) < density
    stretched = photo_rle(MaskRle(**json.loads(rle_text(mask))), *size)
    expected = resize_labels(mask.astype(np.int16), *size) > 0
    assert np.array_equal(rasterise(json.dumps(stretched), *size), expected)


def test_a_kept_photo_is_its_upright_pixels_and_nothing_else_of_the_file() -> None:
    pixels = np.zeros((1500, 2000, 3), np.uint8)
    pixels[:, :1000] = (200, 30, 30)
    image, sink, exif = Image.fromarray(pixels), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 1.0)}
    exif[0x010F] = "MakerOfCameras"
    image.save(sink, "JPEG", exif=exif, comment=b"participant Anna")
    cleaned = clean_jpeg(sink.getvalue() + b"PK\x03\x04 behind it", PhotoLimits())
    header = read_header(cleaned)
    assert (header.width_px, header.height_px, header.exif_orientation) == (1200, 1600, 1)
    with Image.open(io.BytesIO(cleaned)) as read:
        assert not read.getexif()
        assert read.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert np.abs(np.asarray(read)[100, 600].astype(int) - (200, 30, 30)).max() < 12  # what was left is above now
    assert not any(word in cleaned for word in (b"Exif", b"MakerOf", b"Anna", b"PK\x03\x04"))
    small = io.BytesIO()
    Image.new("L", (3, 2), 90).save(small, "PNG")
    assert (read_header(clean_jpeg(small.getvalue(), PhotoLimits())).width_px) == 3
    with pytest.raises(PhotoError):
        clean_jpeg(b"no photo", PhotoLimits())


def test_a_photo_is_handed_out_only_where_it_was_kept(reviews: Reviews) -> None:
    assert reviews.photo(keep(reviews, photo=b"\xff\xd8 pixels"), KEY) == b"\xff\xd8 pixels"
    without = keep(reviews)
    assert code_of(lambda: reviews.photo(without, KEY)) == "not_found"
