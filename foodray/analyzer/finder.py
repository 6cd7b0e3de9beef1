"""Finding foods in a photo: a segmentation network's map, sharpened by class-free masks where wanted, taken apart into boxes.

In: the network's square of a photo. Out: one `FoundBox` an item, largest first; none is an answer too. What is too small to be one is
counted. Everything happens on the grid of the network's square, without its padding: a pixel of it is one or more px of the photo.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foodray.analyzer.config import FindConfig
from foodray.analyzer.networks import Network
from foodray.analyzer.photos import Found, FoundBox
from foodray.corpus.marker import Calibration
from foodray.corpus.masks import rle_text
from foodray.corpus.photo import Box, PhotoHeader, window
from foodray.errors import ConfigError
from foodray.nn.proposals import MaskProposer, make_proposer
from foodray.storage.store import Store, is_remote
from foodray.tasks.base import Rows
from foodray.tasks.segmentation import SegmentationTask
from foodray.tasks.segmentation.fusion import fuse
from foodray.tasks.segmentation.instances import Instance, instances

MAP_BYTES = 64 * 2**20
"""Memory that the probability maps of one call may take."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is known of lengths on the table plane."""

    marker: Calibration | None
    px_per_mm: float | None

    def area_cm2(self, mask_HW: NDArray[np.bool_], grid: "Grid") -> float | None:
        """The area of a mask: by the marker's homography where there is one, else by the scale alone; None without either, or at the horizon."""
        if self.marker is not None and self.marker.homography_33 is not None:
            area_mm2 = self.marker.mask_area_mm2(mask_HW, grid.to_photo_33)
            return None if area_mm2 is None else area_mm2 / 100
        return None if self.px_per_mm is None else int(mask_HW.sum()) * grid.scale**2 / self.px_per_mm**2 / 100


@dataclass(frozen=True, kw_only=True, eq=False)
class FindInput:
    """What the finder is given of a photo."""

    square: NDArray[np.uint8]
    """The photo as the network's square, uint8 (S, S, 3)."""
    header: PhotoHeader
    scale: Scale


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The part of the network's square that shows the photo: px whose centre lies in it."""

    rows: slice
    columns: slice
    left: float
    """x of its left edge in px of the oriented photo; less than half a px of the grid from 0."""
    upper: float
    """y of its upper edge."""
    scale: float
    """Px of the oriented photo per px of the grid."""

    @staticmethod
    def of(header: PhotoHeader, side_px: int) -> "Grid":
        """Where a photo lies in the square that it was padded to."""
        left, upper, side = window(header, None, 0.0)
        scale = side / side_px
        (first_x, end_x), (first_y, end_y) = (_span(-start / scale, length / scale) for start, length in ((left, header.width_px), (upper, header.height_px)))
        return Grid(rows=slice(first_y, end_y), columns=slice(first_x, end_x), left=left + first_x * scale, upper=upper + first_y * scale, scale=scale)

    @property
    def to_photo_33(self) -> NDArray[np.float64]:
        """From px of the grid to px of the oriented photo, centres at whole numbers in both."""
        half = (self.scale - 1) / 2
        return np.array([[self.scale, 0, self.left + half], [0, self.scale, self.upper + half], [0, 0, 1]])

    def box(self, box_xywh: tuple[int, int, int, int], header: PhotoHeader) -> Box:
        """A box of the grid in px of the oriented photo, inside it."""
        x, y, width, height = box_xywh
        left, upper = max(0.0, self.left + x * self.scale), max(0.0, self.upper + y * self.scale)
        right, lower = self.left + (x + width) * self.scale, self.upper + (y + height) * self.scale
        return left, upper, min(right, header.width_px) - left, min(lower, header.height_px) - upper


def _span(start: float, length: float) -> tuple[int, int]:
    """First and end of the px whose centre lies on a stretch of an axis; where there is none, the px that holds its middle."""
    first, end = math.ceil(start - 0.5), math.floor(start + length - 0.5) + 1
    middle = math.floor(start + length / 2)
    return (first, end) if first < end else (middle, middle + 1)


class Finder:
    """The segmentation network and what follows it."""

    def __init__(self, network: Network, config: FindConfig, device: str = "cpu") -> None:
        self.network, self.config = network, config
        self.proposer = _proposer(config, device) if config.fuse else None

    @property
    def task(self) -> SegmentationTask:
        """The family's task."""
        assert isinstance(self.network.task, SegmentationTask)
        return self.network.task

    def maps(self, rows: Rows, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Probability of each id at each px of each square, float32 (C, S, S)."""
        size = len(self.task.labels) * self.network.spec.side_px**2 * 4
        for outputs in self.network.outputs(rows, max(1, min(batch_size, MAP_BYTES // size))):
            yield from self.task.probabilities(outputs).numpy()

    def __call__(self, photos: Sequence[FindInput], batch_size: int) -> list[Found]:
        """The items of photos."""
        maps = self.maps({"pixels": np.stack([photo.square for photo in photos])}, batch_size)
        return [self._found(prob_CSS, photo) for prob_CSS, photo in zip(maps, photos, strict=True)]

    def _found(self, prob_CSS: NDArray[np.float32], photo: FindInput) -> Found:
        grid = Grid.of(photo.header, prob_CSS.shape[1])
        prob_CHW = prob_CSS[:, grid.rows, grid.columns]
        label_HW, kept = prob_CHW.argmax(0).astype(np.int32), None
        if self.proposer is not None:
            proposals = self.proposer.propose(np.ascontiguousarray(photo.square[grid.rows, grid.columns]))
            fused = fuse(prob_CHW, proposals, self.config.fusion)
            label_HW, kept = fused.label_HW, fused.kept(proposals)
        found = instances(label_HW, prob_CHW, kept, self.config.instances)
        boxes = tuple(self._box(item, photo.header, grid, photo.scale) for item in found.items)
        food_px = found.dropped_px + sum(item.area_px for item in found.items)
        return Found(boxes=boxes, num_dropped=found.num_too_small + found.num_beyond_max, dropped_share=found.dropped_px / max(1, food_px))

    def _box(self, item: Instance, header: PhotoHeader, grid: Grid, scale: Scale) -> FoundBox:
        return FoundBox(
            box=grid.box(item.box_xywh, header),
            class_name=self.task.labels[item.class_id],
            score=float(item.score or 0.0),
            mask_rle=rle_text(item.mask_HW),
            area_px=item.area_px * grid.scale**2,
            area_cm2=scale.area_cm2(item.mask_HW, grid),
        )


def _proposer(config: FindConfig, device: str) -> MaskProposer:
    """The proposer, its s3:// weights fetched to this machine first."""
    weights = config.proposer.weights
    if not is_remote(weights):
        return make_proposer(config.proposer, device)
    store, folder = Store(weights), Path(tempfile.mkdtemp(prefix="foodray-weights-"))
    if not (keys := store.list()):
        raise ConfigError(f"find.proposer.weights = {weights!r}: nothing is there")
    for key in keys:
        store.fetch(key, folder / key)
    return make_proposer(replace(config.proposer, weights=str(folder)), device)
