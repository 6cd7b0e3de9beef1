"""Samples: what a task trains on. An item (a crop around its box) or a whole photo, cut at one working size.

`SampleSpec` is the task's wish; `cut` fulfils it for training, scoring and serving alike, decoding each photo once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    """Share of the box's longer side that is kept around it."""
    slack: float = 0.125
    """Share by which the stored square is larger than the network's, for random shifts in training."""

    def __post_init__(self) -> None:
        if self.side_px < 16 or not 0 <= self.margin <= 2 or not 0 <= self.slack <= 1:
            raise ConfigError(f"side_px = {self.side_px} must be >= 16, 0 <= margin = {self.margin} <= 2, 0 <= slack = {self.slack} <= 1")

    @property
    def stored_px(self) -> int:
        """Side of the square that is stored; the network sees its middle, or a random part of it in training."""
        return self.side_px + 2 * round(self.side_px * self.slack / 2)

    @property
    def stored_margin(self) -> float:
        """Margin of the stored square, such that its middle `side_px` is the square with `margin`."""
        return (1 + self.margin) * self.stored_px / self.side_px - 1


def cut(data: bytes, boxes: Sequence[Box | None], spec: SampleSpec, limits: PhotoLimits) -> tuple[np.ndarray, PhotoHeader]:
    """The stored squares of a photo, uint8 (N, P, P, 3), in the order of the boxes; None is the whole photo.

    Raises `PhotoError` when the photo cannot be read.
    """
    return decode_crops(data, boxes, side_px=spec.stored_px, margin=spec.stored_margin, limits=limits)
