"""Masks: from the text of `truth_items.segmentation` to label maps, and label maps as PNG files.

In: a COCO polygon list `[[x1,y1,...],...]` in px of the oriented photo, a COCO run-length code `{"size":[h,w],"counts":"..."}`, or a PNG
of class ids. Out: boolean masks and int16 label maps (H, W) of the oriented photo, in which 0 is background, 1 + n is the n-th label and
`UNLABELLED` is "nobody said what is here": such px are neither trained on nor counted. What cannot be used is a `MaskError` with a reason.

Polygons become px as in pycocotools, the reference of COCO. Run-length codes are read here: pycocotools reads the compressed text without
looking where it ends, and a code from outside must not reach past it.

Legend of shapes: H, W height and width of the photo; S side of a square crop.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from foodray.corpus.photo import PhotoLimits, read_header
from foodray.errors import MaskError, PhotoError

UNLABELLED = -1
"""Px of a label map whose class nobody knows."""
MASK_REASONS = {
    "bad_json": "the text is not JSON",
    "bad_form": "it is neither a list of polygons nor a run-length code with size and counts",
    "bad_number": "a coordinate is not finite or not below a million",
    "bad_counts": "the counts of the run-length code are damaged, or do not add up to its size",
    "too_few_points": "a polygon has fewer than three points",
    "mask_size": "the mask has another size than the photo",
    "outside": "no part of the mask is inside the photo",
    "empty": "the mask covers no px",
    "unknown_label": "the class is not one of the labels",
    "not_png": "the file is not a PNG; JPEG blurs class ids at every edge",
    "colored": "the PNG holds colours, not class ids",
    "bad_png": "the PNG is damaged, or not of the kind that is expected",
}
"""Every reason for which a mask is refused, with its meaning."""

LARGEST = 1e6
"""Coordinates from here on are not px of any photo (`photo.crop_square` has the same bound)."""

Bits = NDArray[np.bool_]
Labels = NDArray[np.int16]
Points = NDArray[np.float64]
"""Corners of a polygon (N, 2): x, y in px."""


# ---- The text of a mask.


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A run-length code: px column by column, runs of outside and inside in turn, the first outside."""

    height: int
    width: int
    counts: str | list[int]
    """Lengths of the runs, compressed or not; only drawing the mask shows whether they add up to height x width."""


def parse_segmentation(text: str) -> list[Points] | RunLengths:
    """The polygons or the run-length code of a segmentation; whether they fit a photo, and the runs their size, is not looked at.

    Takes 10 to 20 us, so that a study's 100,000 are checked when it is loaded; decoding the runs would take 50.
    Raises `MaskError`: bad_json, bad_form, bad_number, bad_counts, too_few_points, mask_size (a size that no photo has).
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskError("bad_json", f"the segmentation is not JSON: {error}") from error
    if isinstance(found, list) and found:
        return [parse_polygon(numbers) for numbers in found]
    if isinstance(found, dict) and {"size", "counts"} <= found.keys():
        return _parse_rle(found["size"], found["counts"])
    raise MaskError("bad_form", 'the segmentation has to be [[x1,y1,x2,y2,x3,y3,...],...] or {"size":[h,w],"counts":"..."}')


def parse_polygon(numbers: object) -> Points:
    """The corners of a polygon given as x1, y1, x2, y2 …; raises `MaskError` (bad_form, bad_number, too_few_points)."""
    if not isinstance(numbers, list):
        raise MaskError("bad_form", f"a polygon has to be a list of numbers, not {str(numbers)[:40]!r}")
    try:
        flat = np.array(numbers)
    except (ValueError, OverflowError) as error:
        raise MaskError("bad_form", "a polygon has to be one flat list of numbers") from error
    if not len(flat) or (flat.ndim == 1 and len(flat) < 6):
        raise MaskError("too_few_points", f"a polygon has {len(flat) // 2} points, it needs three")
    if flat.ndim != 1 or flat.dtype.kind not in "iuf" or len(flat) % 2:
        raise MaskError("bad_form", f"a polygon of {len(flat)} entries is not a flat list of x and y in turn")
    if not (np.abs(flat) < LARGEST).all():
        raise MaskError("bad_number", f"a polygon has a coordinate that is not finite or not below {LARGEST:,.0f}")
    return flat.astype(np.float64).reshape(-1, 2)


def _parse_rle(size: object, counts: object) -> RunLengths:
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < LARGEST for side in size)):
        raise MaskError("mask_size", f"the size {str(size)[:40]} of a run-length code is not [height, width]")
    if isinstance(counts, str):
        if not _COUNTS.fullmatch(counts):
            raise MaskError("bad_counts", "the compressed counts hold a character that is none of their 64, end within a number, or have one of over 35 bits")
    elif not (isinstance(counts, list) and all(type(run) is int for run in counts)):
        raise MaskError("bad_form", "the counts of a run-length code have to be text, or a list of whole numbers")
    elif not all(0 <= run <= size[0] * size[1] for run in counts):
        raise MaskError("bad_counts", f"the counts do not add up to the {size[0]} x {size[1]} px of the run-length code")
    return RunLengths(size[0], size[1], counts)


_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])+")
"""Numbers of up to 7 characters; those from P on say that the number goes on."""


def segmentation_problems(texts: Iterable[str | None]) -> dict[int, str]:
    """For each row whose segmentation is no mask in itself, what is wrong with it; None is no mask and no problem."""
    wrong: dict[int, str] = {}
    for row, text in enumerate(texts):
        if text is not None:
            try:
                parse_segmentation(text)
            except MaskError as error:
                wrong[row] = f"segmentation is no mask ({error.reason}): {error.detail}"
    return wrong


def box_of(text: str) -> tuple[float, float, float, float]:
    """The tight box (x, y, width, height) of a segmentation, of polygons that of their corners; raises `MaskError`."""
    found = parse_segmentation(text)
    if isinstance(found, RunLengths):
        x, y, width, height = tight_box(_fill(found, found.height, found.width))
        return float(x), float(y), float(width), float(height)
    corners = np.concatenate(found)
    (left, upper), (right, lower) = corners.min(0).tolist(), corners.max(0).tolist()
    return left, upper, right - left, lower - upper


def rle_text(mask_HW: Bits) -> str:
    """A mask as the JSON text of a compressed run-length code."""
    code = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return json.dumps({"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}, separators=(",", ":"))


# ---- From text to px.


def rasterise(segmentation: str, height: int, width: int) -> Bits:
    """The px of a segmentation, bool (H, W); several polygons are joined and cut at the photo's edges.

    Raises `MaskError` as `parse_segmentation` does, and mask_size (a run-length code of another size), bad_counts, outside and empty.
    """
    found = parse_segmentation(segmentation)
    return _fill(found, height, width) if isinstance(found, RunLengths) else fill_polygons(found, height, width)


def _fill(code: RunLengths, height: int, width: int) -> Bits:
    if (code.height, code.width) != (height, width):
        raise MaskError("mask_size", f"the mask is {code.width} x {code.height} px, its photo {width} x {height}")
    runs = _read_counts(code.counts) if isinstance(code.counts, str) else np.array(code.counts, np.int64)
    if not len(runs) or runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise MaskError("bad_counts", f"the counts do not add up to the {height} x {width} px of the run-length code")
    mask_HW = _unroll(runs, height, width)
    if not mask_HW.any():
        raise MaskError("empty", "the run-length code covers no px")
    return mask_HW


def _read_counts(text: str) -> NDArray[np.int64]:
    """The runs of COCO's compressed text: 5 bits a character, low ones first, with sign; from the fourth on as difference to the last but one.

    `text` matches `_COUNTS`; what it says may still be no runs (negative, or too many).
    """
    code = np.frombuffer(text.encode("ascii"), np.uint8) - np.uint8(48)
    starts = np.flatnonzero(np.concatenate(([True], code[:-1] < 32)))
    lengths = np.diff(starts, append=len(code))
    place = np.arange(len(code)) - starts.repeat(lengths)
    runs = cast(NDArray[np.int64], np.add.reduceat((code & 31).astype(np.int64) << (5 * place), starts))
    runs -= (code[starts + lengths - 1] & 16).astype(np.int64) << (5 * lengths - 4)
    runs[1::2].cumsum(out=runs[1::2])
    runs[2::2].cumsum(out=runs[2::2])
    return runs


def _unroll(runs: NDArray[np.int64], height: int, width: int) -> Bits:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def fill_polygons(polygons: Sequence[Points], height: int, width: int) -> Bits:
    """The px inside any of the polygons, bool (H, W). Raises `MaskError`: outside, empty."""
    # Only what lies far off is cut away beforehand: it would cost pycocotools memory by the length of the lines to it.
    far = max(height, width)
    near = [clip_polygon(points, (-far, -far, width + far, height + far)) for points in polygons]
    drawn = [points.ravel().tolist() for points in near if len(points) > 2]
    if drawn:
        joined = coco.merge(coco.frPyObjects(drawn, height, width))
        mask_HW = _unroll(_read_counts(joined["counts"].decode("ascii")), height, width)
        if mask_HW.any():
            return mask_HW
    if any(len(clip_polygon(points, (0, 0, width, height))) for points in polygons):
        raise MaskError("empty", "the polygons cover no px")
    raise MaskError("outside", f"no part of the polygons is inside the photo of {width} x {height} px")


def clip_polygon(points: Points, frame: tuple[float, float, float, float]) -> Points:
    """A polygon cut at a frame (left, upper, right, lower), by Sutherland and Hodgman; no points where nothing is left. Untouched if inside."""
    for axis, bound, sign in ((0, frame[0], 1), (1, frame[1], 1), (0, frame[2], -1), (1, frame[3], -1)):
        inside = sign * (points[:, axis] - bound)
        if (inside >= 0).all():
            continue
        after = np.roll(inside, -1)
        crosses = (inside >= 0) != (after >= 0)
        share = np.divide(inside, inside - after, out=np.zeros_like(inside), where=crosses)
        meets = points + share[:, None] * (np.roll(points, -1, axis=0) - points)
        points = np.stack([points, meets], axis=1).reshape(-1, 2)[np.stack([inside >= 0, crosses], axis=1).ravel()]
    return points


def tight_box(mask_HW: Bits) -> tuple[int, int, int, int]:
    """x, y, width, height of the smallest box around the px of a mask that covers some."""
    columns, rows = np.flatnonzero(mask_HW.any(axis=0)), np.flatnonzero(mask_HW.any(axis=1))
    assert len(columns), "an empty mask has no box"
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def label_map(items: Iterable[Mapping[str, Any]], labels: Sequence[str], height: int, width: int) -> Labels:
    """The truth items of a photo (`segmentation`, `class_name`) as one label map, int16 (H, W).

    0 is background, 1 + its index in `labels` a class, `UNLABELLED` an item without class; items without segmentation are left out.
    Where items overlap, smaller ones lie on top: larger ones are painted first, equal ones in the order of the items.
    Raises `MaskError` as `rasterise` does, and unknown_label.
    """
    ids = {name: 1 + index for index, name in enumerate(labels)}
    assert len(labels) < np.iinfo(np.int16).max, "int16 cannot hold so many labels"
    layers: list[tuple[int, tuple[slice, slice], Bits, int]] = []
    for item in items:
        name = item["class_name"]
        if item["segmentation"] is None:
            continue
        if name is not None and name not in ids:
            raise MaskError("unknown_label", f"class {name!r} is not one of the {len(labels)} labels")
        mask_HW = rasterise(item["segmentation"], height, width)
        x, y, wide, high = tight_box(mask_HW)
        part = (slice(y, y + high), slice(x, x + wide))
        layers.append(
            (int(mask_HW.sum()), part, mask_HW[part].copy(), UNLABELLED if name is None else ids[name])
        )  # the whole masks of many items take much memory
    label_HW = np.zeros((height, width), np.int16)
    for _, part, inside, label in sorted(layers, key=lambda layer: -layer[0]):
        label_HW[part][inside] = label
    return label_HW


# ---- Label maps.


def count_px(label_HW: Labels, num_labels: int) -> NDArray[np.int64]:
    """Px of the background and of each label, int64 (1 + num_labels,); unlabelled px are not counted. Raises `MaskError` (unknown_label)."""
    counts = np.bincount(label_HW.ravel().astype(np.int32) + 1, minlength=2 + num_labels)
    if len(counts) > 2 + num_labels:
        raise MaskError("unknown_label", f"the label map holds id {len(counts) - 2}, but there are {num_labels} labels")
    return counts[1:].astype(np.int64)


def resize_labels(label_HW: Labels, height: int, width: int) -> Labels:
    """A label map brought to a size, each px from the one its centre lies in: lies on `resize` of the photo to the same size."""
    rows, _ = _nearest(0.0, label_HW.shape[0], height, label_HW.shape[0])
    columns, _ = _nearest(0.0, label_HW.shape[1], width, label_HW.shape[1])
    return np.ascontiguousarray(label_HW[np.ix_(rows, columns)])


def crop_labels(label_HW: Labels, left: float, upper: float, side: float, side_px: int) -> Labels:
    """A square window of a label map, int16 (S, S): lies on what `photo.crop_square` cuts from the photo with the same window.

    `left`, `upper` and `side` are in px of the oriented photo, fractions included. Each px is taken from the one its centre lies in;
    where the centre is off the photo it is `UNLABELLED`.
    """
    rows, off_rows = _nearest(upper, side, side_px, label_HW.shape[0])
    columns, off_columns = _nearest(left, side, side_px, label_HW.shape[1])
    crop_SS = np.ascontiguousarray(label_HW[np.ix_(rows, columns)])
    crop_SS[off_rows] = UNLABELLED
    crop_SS[:, off_columns] = UNLABELLED
    return crop_SS


def _nearest(start: float, length: float, num: int, size: int) -> tuple[NDArray[np.int64], Bits]:
    """For `num` new px on a stretch of an axis of `size` px: the old px that holds each centre, and which centres are off the axis (as in `resize`)."""
    centres = start + (np.arange(num) + 0.5) * (length / num)
    return np.clip(np.floor(centres), 0, size - 1).astype(np.int64), (centres < 0) | (centres > size)


# ---- PNG files.

_LIMITS = PhotoLimits(formats=("PNG",))


def encode_mask(label_HW: Labels) -> bytes:
    """A label map as a grey PNG: 8 bits when its ids are at most 254 (255 is unlabelled), else 16 (65535 is unlabelled)."""
    assert label_HW.dtype == np.int16, f"a label map is int16, not {label_HW.dtype}"
    assert label_HW.min() >= UNLABELLED, "a label map has no id below UNLABELLED"
    # UNLABELLED wraps to the largest number.
    grey_HW: NDArray[np.integer[Any]] = label_HW.astype(np.uint8) if label_HW.max() <= 254 else label_HW.astype(np.uint16)
    done, data = cv2.imencode(".png", grey_HW, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    assert done, "OpenCV could not write a PNG"
    return data.tobytes()


def decode_mask(data: bytes) -> Labels:
    """The label map of `encode_mask`, int16 (H, W). Raises `MaskError` for a PNG of another kind: not_png, bad_png."""
    depth, color, grey_HW = _read_png(data)
    if color != 0 or depth not in (8, 16):
        raise MaskError("bad_png", f"a label map is a grey PNG of 8 or 16 bits, this one has {depth} bits and colour type {color}")
    label_HW = grey_HW.astype(np.int16)
    label_HW[grey_HW == 2**depth - 1] = UNLABELLED
    if label_HW.min() < UNLABELLED:
        raise MaskError("bad_png", f"the PNG holds ids above {np.iinfo(np.int16).max}, more than a label map has")
    return label_HW


def read_label_png(data: bytes) -> NDArray[np.integer[Any]]:
    """The ids of a mask file as published, uint8 or uint16 (H, W): a grey PNG of 1 to 16 bits by its values, one with a palette by index.

    Colours are accepted only where the three channels are equal. Raises `MaskError`: not_png, colored, bad_png.
    """
    depth, color, found = _read_png(data)
    if found.dtype == bool or (color == 0 and depth < 8):
        return (found.astype(np.uint8) // (1 if found.dtype == bool else 255 // (2**depth - 1))).astype(np.uint8)  # Pillow spreads few bits over 0..255
    if found.ndim == 2:
        return found
    if found.shape[2] == 3 and depth == 8 and (found == found[:, :, :1]).all():
        return np.ascontiguousarray(found[:, :, 0])
    raise MaskError("colored", "the PNG holds colours, not class ids; write each px's class id into a grey or palette PNG")


def _read_png(data: bytes) -> tuple[int, int, NDArray[Any]]:
    """Bits a channel, PNG colour type (0 grey, 2 RGB, 3 palette, 4 and 6 with alpha) and the pixels as Pillow has them."""
    try:
        read_header(data, _LIMITS)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        pixels = np.array(image)
    except PhotoError as error:
        is_png = error.reason not in ("format_not_allowed", "unidentified", "format_needs_extra")
        detail = error.detail if is_png else f"{error.detail}; class ids are lost in any other format, write masks as PNG"
        raise MaskError("bad_png" if is_png else "not_png", detail) from error
    except Exception as error:
        raise MaskError("bad_png", f"{type(error).__name__} while the PNG was decoded") from error
    return data[24], data[25], pixels  # of IHDR, which is always the first chunk
