"""Samples: what a task trains on. An item (a crop around its box) or a whole photo, cut at one working size.

`SampleSpec` is the task's wish; `cut` fulfils it for training, scoring and serving alike, decoding each photo once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foodray.corpus.marker import apply_color
from foodray.corpus.photo import PhotoHeader, PhotoLimits, decode_crops
from foodray.errors import ConfigError

Box = tuple[float, float, float, float]
"""x, y, width, height in px of the oriented photo."""


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """How a sample is cut from a photo."""

    level: Literal["item", "photo"]
    """Whether a sample is an item of a photo or the photo itself."""
    side_px: int
    """Side of the square that the network sees."""
    margin: float = 0.1
    """Share of the box's longer side that is kept around it; negative cuts into it."""
    slack: float = 0.125
    """Share by which the stored square is larger than the network's, for random shifts in training."""
    color: Literal["as_is", "marker"] = "as_is"
    """marker: colours are corrected by the reference patches of the photo's marker, where it has some and they were seen."""

    def __post_init__(self) -> None:
        if self.side_px < 16 or not -0.9 <= self.margin <= 2 or not 0 <= self.slack <= 1:
            raise ConfigError(f"side_px = {self.side_px} must be >= 16, -0.9 <= margin = {self.margin} <= 2, 0 <= slack = {self.slack} <= 1")

    @property
    def stored_px(self) -> int:
        """Side of the square that is stored; the network sees its middle, or a random part of it in training."""
        return self.side_px + 2 * round(self.side_px * self.slack / 2)

    @property
    def stored_margin(self) -> float:
        """Margin of the stored square, such that its middle `side_px` is the square with `margin`."""
        return (1 + self.margin) * self.stored_px / self.side_px - 1


def cut(
    data: bytes, boxes: Sequence[Box | None], spec: SampleSpec, limits: PhotoLimits, *, color_matrix: Sequence[float] | None = None
) -> tuple[np.ndarray, PhotoHeader]:
    """The stored squares of a photo, uint8 (N, P, P, 3), in the order of the boxes; None is the whole photo.

    `color_matrix` is the marker's correction (12 numbers, 3 x 4 by rows). Raises `PhotoError` when the photo cannot be read.
    """
    squares, header = decode_crops(data, boxes, side_px=spec.stored_px, margin=spec.stored_margin, limits=limits)
    return corrected(squares, spec, color_matrix), header


def corrected(squares_NPP3: np.ndarray, spec: SampleSpec, color_matrix: Sequence[float] | None) -> np.ndarray:
    """The squares in the colours that the spec wants."""
    if spec.color == "as_is" or color_matrix is None or not len(squares_NPP3):
        return squares_NPP3
    flat = np.ascontiguousarray(squares_NPP3).reshape(-1, squares_NPP3.shape[2], 3)
    return apply_color(flat, np.asarray(color_matrix, np.float64).reshape(3, 4)).reshape(squares_NPP3.shape)
