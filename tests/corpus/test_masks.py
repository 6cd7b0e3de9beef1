"""Masks are what COCO means, survive their files unchanged, and are refused with a reason."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from foodray.corpus.manifest import load_study
from foodray.corpus.masks import (
    MASK_REASONS,
    UNLABELLED,
    clip_polygon,
    count_px,
    crop_labels,
    decode_mask,
    encode_mask,
    label_map,
    rasterise,
    read_label_png,
    resize_labels,
    rle_text,
    tight_box,
)
from foodray.corpus.photo import crop_square, decode
from foodray.errors import MaskError, StudyError

SQUARE = "[[2,1,6,1,6,4,2,4]]"


def png(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, "PNG", **options)
    return file.getvalue()


def palette_png(ids: np.ndarray, **options: object) -> bytes:
    image = Image.fromarray(ids.astype(np.uint8), "L").convert("P")
    image.putdata(ids.ravel().tolist())
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 99, 99, 99])
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def reason(segmentation: str, height: int = 6, width: int = 8) -> str:
    with pytest.raises(MaskError) as caught:
        rasterise(segmentation, height, width)
    return caught.value.reason


def rle(height: int, width: int, counts: object) -> str:
    return json.dumps({"size": [height, width], "counts": counts})


# The text of a mask


def test_a_polygon_covers_the_px_inside_it() -> None:
    mask_HW = rasterise(SQUARE, 6, 8)
    assert mask_HW.dtype == bool
    assert mask_HW.shape == (6, 8)
    assert mask_HW[1:4, 2:6].all()
    assert mask_HW.sum() == 12


def test_polygons_of_one_item_are_joined() -> None:
    assert rasterise("[[0,0,2,0,2,2,0,2],[4,4,6,4,6,6,4,6]]", 6, 8).sum() == 8


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own, in decode
def test_polygons_are_those_of_pycocotools_wherever_they_lie() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        polygon = (rng.random(2 * int(rng.integers(3, 9))) * 200 - 30).tolist()
        expected_HW = coco.decode(coco.merge(coco.frPyObjects([polygon], 97, 131))).astype(bool)
        if expected_HW.any():
            np.testing.assert_array_equal(rasterise(json.dumps([polygon]), 97, 131), expected_HW)


def test_a_polygon_beyond_the_photo_is_cut_at_its_edge() -> None:
    assert rasterise("[[-5,-5,3,-5,3,2,-5,2]]", 6, 8).sum() == 6
    assert rasterise("[[-999999,-999999,999999,-999999,999999,999999,-999999,999999]]", 6, 8).all()


def test_clipping_keeps_the_area_inside_the_frame() -> None:
    diamond = np.array([[5.0, -5.0], [15, 5], [5, 15], [-5, 5]])
    cut = clip_polygon(diamond, (0, 0, 10, 10))
    x, y = cut.T
    assert abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 == 100
    assert clip_polygon(diamond, (-5, -5, 15, 15)) is diamond
    assert not len(clip_polygon(diamond, (20, 20, 30, 30)))


def test_run_length_codes_come_back_as_they_were() -> None:
    rng = np.random.default_rng(1)
    for height, width in [(1, 1), (7, 5), (64, 48), (90, 200)] * 5:
        mask_HW = rng.random((height, width)) < rng.random()
        mask_HW[height // 2, width // 3 :] = True
        text = rle_text(mask_HW)
        assert isinstance(json.loads(text)["counts"], str)
        np.testing.assert_array_equal(rasterise(text, height, width), mask_HW)
        assert list(tight_box(mask_HW)) == coco.toBbox(coco.encode(np.asfortranarray(mask_HW, np.uint8))).tolist()


def test_counts_may_be_a_list() -> None:
    assert np.flatnonzero(rasterise(rle(2, 3, [1, 2, 3]), 2, 3).T).tolist() == [1, 2]


WRONG = {
    "no JSON": ("{", "bad_json"),
    "deep JSON": ("[" * 100_000, "bad_json"),
    "no mask": ("3", "bad_form"),
    "no polygon": ("[]", "bad_form"),
    "a flat list": ("[1,2,3,4,5,6]", "bad_form"),
    "words": ('[["a","b","c","d","e","f"]]', "bad_form"),
    "an odd number of numbers": ("[[1,2,3,4,5,6,7]]", "bad_form"),
    "nested too deep": ("[[[1,2],[3,4],[5,6]]]", "bad_form"),
    "no counts": ('{"size":[6,8]}', "bad_form"),
    "counts of another kind": (rle(6, 8, 3), "bad_form"),
    "two points": ("[[1,2,3,4]]", "too_few_points"),
    "not a number": ("[[1,2,3,4,5,NaN]]", "bad_number"),
    "an infinite number": ("[[1,2,3,4,5,1e999]]", "bad_number"),
    "a huge number": ("[[1,2,3,4,5,1000000]]", "bad_number"),
    "a polygon beside the photo": ("[[8.5,0,12,0,12,6,8.5,6]]", "outside"),
    "a polygon without area": ("[[1,1,3,1,2,1]]", "empty"),
    "another size": (rle_text(np.ones((8, 6), bool)), "mask_size"),
    "no size": (rle(0, 8, "0"), "mask_size"),
    "no px": (rle_text(np.zeros((6, 8), bool)), "empty"),
    "too few px": (rle(6, 8, [40, 7]), "bad_counts"),
    "a negative run": (rle(6, 8, [-1, 49]), "bad_counts"),
    "runs that overflow": (rle(6, 8, [2**39] * 4), "bad_counts"),
    "characters that are none": (rle(6, 8, "ab~"), "bad_counts"),
    "a half surrogate": ('{"size":[6,8],"counts":"\\ud800"}', "bad_counts"),
    "an end within a number": (rle(6, 8, "P"), "bad_counts"),
    "an endless number": (rle(6, 8, "o" * 50 + "0"), "bad_counts"),
    "no runs": (rle(6, 8, ""), "bad_counts"),
    "compressed runs below nothing": (rle(6, 8, "O"), "bad_counts"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_mask_is_refused_with_its_reason(kind: str) -> None:
    text, expected = WRONG[kind]
    assert reason(text) == expected
    assert expected in MASK_REASONS


def test_whatever_the_counts_are_they_are_a_mask_or_refused() -> None:
    rng = np.random.default_rng(4)
    whole = json.loads(rle_text(rng.random((6, 8)) < 0.5))["counts"]
    refused = []
    for _ in range(2000):
        damaged = [*whole[: rng.integers(1, len(whole) + 1)]]
        damaged[rng.integers(len(damaged))] = chr(48 + int(rng.integers(64)))
        try:
            assert rasterise(rle(6, 8, "".join(damaged)), 6, 8).shape == (6, 8)
        except MaskError as error:
            refused.append(error.reason)
    assert set(refused) <= {"bad_counts", "empty"}
    assert 1000 < len(refused) < 2000


# Label maps


def item(segmentation: str | None, class_name: str | None) -> dict[str, str | None]:
    return {"segmentation": segmentation, "class_name": class_name}


def test_smaller_items_lie_on_larger_ones_and_later_ones_on_equal_ones() -> None:
    plate, egg, twin = "[[0,0,8,0,8,6,0,6]]", "[[2,2,4,2,4,4,2,4]]", "[[3,2,5,2,5,4,3,4]]"
    label_HW = label_map([item(egg, "egg"), item(plate, "rice"), item(twin, "bun"), item(None, "egg")], ["bun", "egg", "rice"], 6, 8)
    assert label_HW.dtype == np.int16
    assert label_HW[2].tolist() == [3, 3, 2, 1, 1, 3, 3, 3]


def test_items_without_class_are_unlabelled_and_not_counted() -> None:
    label_HW = label_map([item(SQUARE, None), item("[[0,0,1,0,1,1,0,1]]", "egg")], ["egg"], 6, 8)
    assert (label_HW == UNLABELLED).sum() == 12
    assert count_px(label_HW, 1).tolist() == [35, 1]
    assert count_px(label_HW, 3).tolist() == [35, 1, 0, 0]


def test_a_class_that_is_no_label_is_refused() -> None:
    with pytest.raises(MaskError, match="unknown_label: class 'egg'"):
        label_map([item(SQUARE, "egg")], ["rice"], 6, 8)
    with pytest.raises(MaskError, match="unknown_label"):
        count_px(np.full((2, 2), 3, np.int16), 2)


@pytest.mark.parametrize("square", [(40, 30, 25), (0, 0, 30), (70, 50, 24)])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_crop_of_the_labels_lies_on_the_crop_of_the_photo(square: tuple[int, int, int], shrink: int) -> None:
    x, y, side = square
    rgb_HW3, label_HW = np.zeros((80, 101, 3), np.uint8), np.zeros((80, 101), np.int16)
    rgb_HW3[y : y + side, x : x + side] = 255
    label_HW[y : y + side, x : x + side] = 1
    photo = decode(cv2.imencode(".jpg", rgb_HW3, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes(), cover=(101 // shrink, 80 // shrink))
    box, margin, side_px = (x + 3.3, y - 2.6, 31.0, 22.0), 0.4, 64
    window = 31.0 * 1.4
    crop_SS3 = crop_square(photo, box, side_px=side_px, margin=margin)
    crop_SS = crop_labels(label_HW, box[0] + (31 - window) / 2, box[1] + (22 - window) / 2, window, side_px)
    outside_SS = crop_SS == UNLABELLED
    # One px of tolerance on either side of every border; what is not within that of one has to agree.
    near = np.ones((3, 3))
    ids_SS = crop_SS.astype(np.float32)
    sure_SS = cv2.erode(ids_SS, near) == cv2.dilate(ids_SS, near)
    assert all((sure_SS & (crop_SS == label)).any() for label in np.unique(crop_SS))
    assert {0, 1} <= set(np.unique(crop_SS))
    assert (crop_SS3[sure_SS & outside_SS] == 128).all()
    np.testing.assert_array_equal(crop_SS3[sure_SS & ~outside_SS].mean(axis=1) > 127, crop_SS[sure_SS & ~outside_SS] == 1)


def test_a_window_that_is_a_px_grid_is_a_slice() -> None:
    label_HW = np.arange(30, dtype=np.int16).reshape(5, 6)
    np.testing.assert_array_equal(crop_labels(label_HW, 1, 2, 3, 3), label_HW[2:5, 1:4])
    np.testing.assert_array_equal(crop_labels(label_HW, -1, -1, 2, 2), [[UNLABELLED, UNLABELLED], [UNLABELLED, 0]])
    np.testing.assert_array_equal(resize_labels(label_HW, 10, 12), np.kron(label_HW, np.ones((2, 2), np.int16)))
    np.testing.assert_array_equal(resize_labels(label_HW, 5, 6), label_HW)


# Files


@pytest.mark.parametrize(("largest", "depth"), [(0, 8), (254, 8), (255, 16), (32767, 16)])
def test_label_maps_survive_their_file(largest: int, depth: int) -> None:
    label_HW = np.random.default_rng(2).integers(-1, largest + 1, (9, 13)).astype(np.int16)
    label_HW[0, :2] = largest, UNLABELLED
    data = encode_mask(label_HW)
    assert data[24] == depth
    found_HW = decode_mask(data)
    assert found_HW.dtype == np.int16
    np.testing.assert_array_equal(found_HW, label_HW)


IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
OTHER_KINDS = {
    "a palette": (palette_png(IDS), "bad_png"),
    "colours": (png(np.zeros((2, 2, 3), np.uint8)), "bad_png"),
    "one bit": (png(np.zeros((2, 2), bool)), "bad_png"),
    "ids too large": (png(np.full((2, 2), 40_000, np.uint16)), "bad_png"),
    "an early end": (encode_mask(np.random.default_rng(3).integers(0, 200, (50, 50)).astype(np.int16))[:-60], "bad_png"),
    "nothing": (b"", "bad_png"),
    "text": (b"labels", "not_png"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_png_of_another_kind_is_no_label_map(kind: str) -> None:
    data, expected = OTHER_KINDS[kind]
    with pytest.raises(MaskError) as caught:
        decode_mask(data)
    assert caught.value.reason == expected


def grey_of_few_bits(depth: int) -> bytes:
    """Four grey px 0..3 in a row, written by hand: Pillow writes no such files, annotation tools do."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    row = {2: bytes([0b00011011]), 4: bytes([0x01, 0x23])}[depth]
    header = (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


PUBLISHED = {
    "grey of 8 bits": (png(IDS.astype(np.uint8)), IDS),
    "grey of 16 bits": (png((IDS * 300).astype(np.uint16)), IDS * 300),
    "one bit": (png(IDS > 1), (IDS > 1).astype(int)),
    "grey of 2 bits": (grey_of_few_bits(2), [[0, 1, 2, 3]]),
    "grey of 4 bits": (grey_of_few_bits(4), [[0, 1, 2, 3]]),
    "a palette": (palette_png(IDS), IDS),
    "a palette of 2 bits": (palette_png(IDS, bits=2), IDS),
    "a palette with a transparent entry": (palette_png(IDS, transparency=0), IDS),
    "colours that are grey": (png(np.repeat(IDS[:, :, None], 3, axis=2).astype(np.uint8)), IDS),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_ids_are_read_from_every_kind_of_mask_file(kind: str) -> None:
    data, expected = PUBLISHED[kind]
    found_HW = read_label_png(data)
    assert found_HW.dtype.kind == "u"
    np.testing.assert_array_equal(found_HW, expected)


def test_colours_and_jpeg_are_no_ids() -> None:
    colored = np.zeros((4, 4, 3), np.uint8)
    colored[0, 0, 1] = 1
    for data, expected in (
        (png(colored), "colored"),
        (png(np.zeros((4, 4, 4), np.uint8)), "colored"),
        (cv2.imencode(".jpg", colored)[1].tobytes(), "not_png"),
        (png(IDS.astype(np.uint8))[:40], "bad_png"),
    ):
        with pytest.raises(MaskError) as caught:
            read_label_png(data)
        assert caught.value.reason == expected
        assert expected in MASK_REASONS


# Studies


def test_a_study_with_a_segmentation_that_is_no_mask_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_id,image_uri,participant_id\na,a.jpg,p\n")
    rows = [SQUARE, "", "[[1,2,3]]", rle_text(np.ones((2, 2), bool)), "{oops"]
    quoted = ['"' + text.replace('"', '""') + '"' for text in rows]
    lines = [f"i{number},a,egg,{text}" for number, text in enumerate(quoted)]
    (tmp_path / "truth_items.csv").write_text("\n".join(["truth_item_id,image_id,class_name,segmentation", *lines]) + "\n")
    with pytest.raises(StudyError) as caught:
        load_study(str(tmp_path))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["truth_items.csv line 4", "truth_items.csv line 6"]
    assert "segmentation is no mask (too_few_points)" in caught.value.problems[0]
