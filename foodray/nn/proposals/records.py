"""One proposed mask with what is known about it, and the interface of whatever proposes masks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class MaskRecord:
    """A class-free mask of a photo; never empty.

    `mask_HW` is bool at the photo's size, `area_px` its count of True, `box_xywh` left, top, width and height in whole px
    (width counts pixels, as COCO does: one more than in Segment Anything's own records). The last four are None from
    back-ends without a network: predicted IoU (the network's guess of its quality, about 0-1), stability score (0-1),
    the point in px of the photo that was asked, and the box of the crop it was found in.
    """

    mask_HW: NDArray[np.bool_]  # noqa: N815
    area_px: int
    box_xywh: tuple[int, int, int, int]
    predicted_iou: float | None = None
    stability_score: float | None = None
    point_xy: tuple[float, float] | None = None
    crop_box_xywh: tuple[int, int, int, int] | None = None

    @classmethod
    def of(
        cls,
        mask_HW: NDArray[np.bool_],
        *,
        predicted_iou: float | None = None,
        stability_score: float | None = None,
        point_xy: tuple[float, float] | None = None,
        crop_box_xywh: tuple[int, int, int, int] | None = None,
    ) -> Self:
        """The record of a mask with at least one True pixel; area and box are counted here."""
        area_px = int(np.count_nonzero(mask_HW))
        assert area_px, "an empty mask is no proposal"
        left, top, width, height = map(int, cv2.boundingRect(mask_HW.astype(np.uint8)))
        return cls(mask_HW, area_px, (left, top, width, height), predicted_iou, stability_score, point_xy, crop_box_xywh)


class MaskProposer(ABC):
    """Proposes masks of a photo; the same photo and config give the same masks in the same order."""

    @abstractmethod
    def propose(self, image_HW3: NDArray[np.uint8]) -> list[MaskRecord]:
        """The masks of an RGB photo (H, W, 3) uint8; they may overlap and need not cover it. No mask is an empty list, not an error."""


def check_image(image_HW3: NDArray[np.uint8]) -> None:
    """Refuse anything but an RGB photo in uint8; `ValueError` names what came."""
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8 or not image_HW3.size:
        raise ValueError(f"a proposer needs an RGB photo (H, W, 3) in uint8, not {image_HW3.shape} in {image_HW3.dtype}")
