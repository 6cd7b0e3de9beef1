"""Pictures that leave the endpoint: always encoded anew from pixels, so that nothing but pixels leaves (no EXIF, no place, no polyglot)."""

from collections.abc import Sequence

import numpy as np
import simplejpeg

from foodray.corpus.photo import Box, PhotoLimits, crop_squares, decode, decode_for, read_header
from foodray.corpus.resize import resize

REVIEW_PX, CROP_PX = 1600, 256
JPEG_QUALITY = 90


def clean_jpeg(data: bytes, limits: PhotoLimits, side_px: int = REVIEW_PX) -> bytes:
    """A photo as a JPEG without metadata, upright, its longest side at most `side_px` px; raises `PhotoError`."""
    header = read_header(data, limits)
    share = min(1.0, side_px / max(header.width_px, header.height_px))
    size = max(1, round(header.width_px * share)), max(1, round(header.height_px * share))
    pixels = decode(data, limits=limits, cover=size).rgb_HW3
    return _encode(pixels if pixels.shape[1::-1] == size else resize(pixels, size))


def crop_jpegs(data: bytes, boxes: Sequence[Box | None], limits: PhotoLimits) -> list[bytes]:
    """The squares around boxes as JPEGs of 256 px; the whole photo for None. Raises `PhotoError`."""
    photo = decode_for(data, [(box, CROP_PX, 0.1) for box in boxes], limits=limits)
    return [_encode(square) for square in crop_squares(photo, boxes, side_px=CROP_PX, margin=0.1)]


def _encode(rgb_HW3: np.ndarray) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb_HW3), quality=JPEG_QUALITY, colorspace="RGB"))
