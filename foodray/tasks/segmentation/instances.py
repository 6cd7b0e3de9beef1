"""The foods of a photo as single things: a label map falls apart into instances.

In: the labels of a photo's pixels, and what else is known of them. Out: instances of food, largest first, with the count of
what was left out; polygons of masks. Class 0 is background and negative ids are unlabelled.

C classes, H by W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.proposals import MaskRecord, components
from foodray.tasks.segmentation.fusion import at_least, window_of

METHODS = ("components", "proposals")


@dataclass(frozen=True, kw_only=True)
class InstanceConfig:
    """How a label map falls apart."""

    method: Literal["components", "proposals"] = "components"
    """"components": every connected piece of a class; "proposals": every mask that was fused, then the pieces of what is left.
    Proposals tell touching pieces of one food apart when they come from Segment Anything; superpixels would cut foods up."""
    min_area_share: float = 0.005
    """Instances that cover a smaller share of the photo are dropped and counted."""
    max_items: int = 20
    """At most this many instances, the largest, are returned; the others are counted."""

    def __post_init__(self) -> None:
        choose("method", self.method, METHODS)
        if not 0 <= self.min_area_share < 1:
            raise ConfigError(f"min_area_share = {self.min_area_share} must be at least 0 and below 1")
        if self.max_items < 1:
            raise ConfigError(f"max_items = {self.max_items} must be at least 1")


@dataclass(frozen=True, eq=False)
class Instance:
    """One food: its class, its mask at the size of the map, box (left, top, width, height) and area in px of the map, and the mean
    probability (0-1) of its class inside the mask, None where no probabilities were given."""

    class_id: int
    mask_HW: NDArray[np.bool_]  # noqa: N815
    box_xywh: tuple[int, int, int, int]
    area_px: int
    score: float | None


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of a photo, largest first, then by top, left and class; how many were too small, how many too many, and the
    pixels of both. The areas of `items` and `dropped_px` sum to the food pixels of the map."""

    items: list[Instance]
    num_too_small: int
    num_beyond_max: int
    dropped_px: int


def instances(
    label_HW: NDArray[np.integer], prob_CHW: NDArray[np.floating] | None, proposals: Sequence[MaskRecord] | None, config: InstanceConfig
) -> Instances:
    """The foods of a label map as instances that do not overlap.

    `proposals` are the masks that were painted, `FusedMap.kept`; their class is that of most of their pixels which no smaller mask
    has, and pixels of another class are not theirs. A row of `prob_CHW` is a class id. Raises `ConfigError` for the method
    "proposals" without any, `ValueError` for shapes that do not fit.
    """
    _check(label_HW, prob_CHW, proposals)
    food_HW = np.where(label_HW > 0, label_HW, 0).astype(np.int32)
    if config.method == "proposals":
        if proposals is None:
            raise ConfigError("method = 'proposals' needs the masks that were fused; give them or set method = 'components'")
        found = _claim(food_HW, proposals)
    else:
        found = [(_class_of(food_HW, record), record) for record in components(food_HW)]
    found.sort(key=lambda pair: (-pair[1].area_px, pair[1].box_xywh[1], pair[1].box_xywh[0], pair[0]))
    large = [pair for pair in found if at_least(pair[1].area_px, food_HW.size, config.min_area_share)]
    items = [
        Instance(class_id, record.mask_HW, record.box_xywh, record.area_px, _score(prob_CHW, class_id, record))
        for class_id, record in large[: config.max_items]
    ]
    dropped_px = sum(record.area_px for _, record in found) - sum(item.area_px for item in items)
    return Instances(items, len(found) - len(large), len(large) - len(items), dropped_px)


def polygons_of(mask_HW: NDArray[np.bool_], tolerance: float = 1.0) -> list[list[float]]:
    """COCO polygons [x1, y1, x2, y2, …], one for each connected piece, in px with (0, 0) at the outer corner of the first pixel.

    Outlines follow the outer edges of pixels and are simplified by at most `tolerance` px (Douglas-Peucker). A polygon has no holes:
    where they matter use `foodray.corpus.masks.rle_text`. A piece always has a polygon, however small.
    """
    corner_HW = cv2.dilate(np.pad(mask_HW.astype(np.uint8), ((0, 1), (0, 1))), np.ones((2, 2), np.uint8), anchor=(1, 1))  # the four corners of every pixel
    outlines, _ = cv2.findContours(corner_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
    chosen = [short if len(short) >= 3 else outline for short, outline in zip(simple, outlines, strict=True)]
    return [[float(value) for value in polygon.ravel()] for polygon in chosen]


def _claim(food_HW: NDArray[np.int32], proposals: Sequence[MaskRecord]) -> list[tuple[int, MaskRecord]]:
    """Masks take their pixels, smallest first and of equals the later first, as fusion painted them; the rest falls into pieces."""
    found, left_HW = [], food_HW.copy()
    for index in sorted(range(len(proposals)), key=lambda index: (proposals[index].area_px, -index)):
        record = proposals[index]
        window, inside = window_of(record)
        visible = inside & (left_HW[window] >= 0)
        ids, counts = np.unique(food_HW[window][visible], return_counts=True)
        class_id = int(ids[counts.argmax()]) if len(ids) else 0
        if class_id:
            mine_HW = np.zeros(food_HW.shape, bool)
            mine_HW[window] = visible & (food_HW[window] == class_id)
            found.append((class_id, MaskRecord.of(mine_HW)))
            left_HW[mine_HW] = -1
    left_HW[left_HW < 0] = 0
    return found + [(_class_of(left_HW, record), record) for record in components(left_HW)]


def _class_of(label_HW: NDArray[np.int32], record: MaskRecord) -> int:
    """The label of a component, read from its first pixel in its box's first row."""
    left, top, width, _ = record.box_xywh
    return int(label_HW[top, left + int(record.mask_HW[top, left : left + width].argmax())])


def _score(prob_CHW: NDArray[np.floating] | None, class_id: int, record: MaskRecord) -> float | None:
    return None if prob_CHW is None else float(prob_CHW[class_id][record.mask_HW].mean(dtype=np.float64))


def _check(label_HW: NDArray[np.integer], prob_CHW: NDArray[np.floating] | None, proposals: Sequence[MaskRecord] | None) -> None:
    if label_HW.ndim != 2 or not np.issubdtype(label_HW.dtype, np.integer):
        raise ValueError(f"instances need labels (H, W) in integers, not {label_HW.shape} in {label_HW.dtype}")
    highest = int(label_HW.max(initial=0))
    if prob_CHW is not None and (prob_CHW.shape[1:] != label_HW.shape or highest >= len(prob_CHW)):
        raise ValueError(f"probabilities {prob_CHW.shape} do not fit labels {label_HW.shape} up to class {highest}")
    for index, record in enumerate(proposals or ()):
        if record.mask_HW.shape != label_HW.shape:
            raise ValueError(f"proposal {index} is {record.mask_HW.shape}, the map {label_HW.shape}")
