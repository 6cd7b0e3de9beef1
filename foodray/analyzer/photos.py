"""What an analyzer is given of a photo, and what it says of it."""

from dataclasses import dataclass
from typing import Any, Literal

from foodray.corpus.marker import Calibration
from foodray.corpus.photo import PhotoHeader
from foodray.corpus.samples import Box
from foodray.errors import PhotoError


@dataclass(frozen=True, kw_only=True)
class GivenBox:
    """A box that came with the photo."""

    box: Box | None
    """x, y, width, height in px of the oriented photo; None for the whole photo."""
    item_id: str | None = None
    """Its id in the study, kept in the result."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundBox(GivenBox):
    """A box that the segmentation found, in px of the oriented photo."""

    class_name: str
    """The class of the segmentation."""
    score: float
    """Mean probability of that class inside the mask, 0 to 1."""
    mask_rle: str
    """The mask as JSON of a COCO run-length code, on a grid that covers the whole photo."""
    area_px: float
    """What the mask covers, in px of the oriented photo."""
    area_cm2: float | None
    """The same on the table plane; None without a scale."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the segmentation found in a photo."""

    boxes: tuple[FoundBox, ...]
    """The items, largest first."""
    num_dropped: int
    """Pieces of food that are no items: too small, or beyond the largest few."""
    dropped_share: float
    """Share of the food px that they cover, 0 to 1; 0 where there is no food."""


@dataclass(frozen=True, kw_only=True)
class PhotoInput:
    """What is known of a photo beforehand."""

    data: bytes
    """The encoded file."""
    boxes: tuple[GivenBox, ...] = ()
    """Boxes of items; none means that none is known."""
    marker_id: str | None = None
    """The reference object to look for."""
    px_per_mm: float | None = None
    """Scale, where it was measured before; then the marker is not looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What was found in a photo."""

    status: Literal["ok", "ok_no_food", "quarantined"]
    """ok_no_food only when a segmentation found nothing; quarantined with a reason."""
    reason_code: str | None = None
    """One of `foodray.corpus.schema.REASONS`."""
    reason_detail: str | None = None
    """A sentence without paths."""
    header: PhotoHeader | None = None
    """What the file says of itself."""
    marker: Calibration | None = None
    """What the marker told; None where none was looked for."""
    px_per_mm: float | None = None
    """Scale on the table plane, given or measured."""
    items: list[dict[str, Any]] | None = None
    """One dict an item; None when quarantined."""
    tags: list[dict[str, Any]] | None = None
    """One dict a tag that the taggers know, by falling prob: tag, prob, and given, which says whether the photo is given it; None without a tagger or
    when quarantined."""
    num_pieces_dropped: int | None = None
    """Pieces of food that the segmentation saw and that are no items; None where it was not asked."""
    dropped_food_share: float | None = None
    """Share of the food px that they cover."""
    decode_ms: float = 0.0
    """Time to decode, find the marker and cut, of this photo."""
    infer_ms: float = 0.0
    """Time in the networks, this photo's share of its batch."""

    @staticmethod
    def refused(error: PhotoError) -> "Analysis":
        """Of a photo that could not be had or read."""
        return Analysis(status="quarantined", reason_code=error.reason, reason_detail=error.detail[:300])
