"""Photos as files: the ordinary JPEG of a phone, and the odd and broken files that every archive holds.

In: an upright 8-bit photo (H, W, 3). Out: the bytes of a file. The pixels of an ordinary JPEG are turned the way the
phone was held, and its EXIF orientation turns them back.
"""

import io
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

U8 = NDArray[np.uint8]

Kind = Literal["jpeg", "truncated", "empty", "text", "missing", "alpha_png", "grey_jpeg", "cmyk_jpeg", "deep_png"]
"""What a manifest row points to."""
BROKEN: tuple[Kind, ...] = ("truncated", "empty", "text", "missing")
"""Files that no decoder reads: each ends in quarantine, with the reasons truncated, empty, unidentified and not_found."""
UNUSUAL: tuple[Kind, ...] = ("alpha_png", "grey_jpeg", "cmyk_jpeg", "deep_png")
"""Good photos in unusual formats: transparency, grey levels, printing inks, 16 bits a channel."""
TEXT = b"This was meant to be a photo. The upload stored an error page instead.\n"

_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(rgb: U8, kind: Kind, *, quality: int, orientation: int = 1, device_model: str = "", captured_at: str = "") -> bytes:
    """The file of an upright photo (H, W, 3); broken kinds other than truncated ignore it."""
    image = Image.fromarray(rgb)
    if kind == "alpha_png":
        return _png(_with_alpha(rgb))
    if kind == "deep_png":
        # Each grey level in the high byte and again in the low one: 255 becomes 65535.
        return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)[1].tobytes()
    if kind == "grey_jpeg":
        return _jpeg(image.convert("L"), quality)
    if kind == "cmyk_jpeg":
        return _jpeg(image.convert("CMYK"), quality)
    if kind == "text":
        return TEXT
    if kind in ("empty", "missing"):
        return b""
    data = _jpeg(turned(image, orientation), quality, _exif(orientation, device_model, captured_at))
    return data[: len(data) * 3 // 5] if kind == "truncated" else data


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An upright image as a sensor stores it that was held so that EXIF `orientation` (1 to 8) makes it upright again."""
    return image if orientation == 1 else image.transpose(_TURN_BACK[orientation])


def _exif(orientation: int, device_model: str, captured_at: str) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = device_model
    exif[ExifTags.Base.DateTime] = captured_at.replace("-", ":").replace("T", " ")
    return exif


def _jpeg(image: Image.Image, quality: int, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, **({"exif": exif} if exif else {}))
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _with_alpha(rgb: U8) -> Image.Image:
    """A photo with a transparent frame of 1 % of its shorter side."""
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    frame = max(1, min(alpha.shape) // 100)
    alpha[frame:-frame, frame:-frame] = 255
    return Image.fromarray(cast(U8, np.dstack([rgb, alpha])))
