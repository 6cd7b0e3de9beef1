"""The one safe photo decoder: training, batch scoring and serving all see a photo through it, so they see the same pixels.

In: the bytes of one file. Out: upright 8-bit RGB pixels, no larger than the caller needs, or a `PhotoError` whose reason
is one of `foodray.corpus.schema.REASONS`; nothing else leaves this module, whatever the bytes are.

Before a pixel is decoded the format is told by its first bytes, only that format's parser is run, and bytes, pixels and
sides are held against `PhotoLimits`. JPEG goes through libjpeg-turbo at a DCT scale (1, 1/2, 1/4 or 1/8), in the strict mode
in which a file that ends early or is damaged inside is an error at every scale (`_strict_jpeg`; measured on 6,000 mutated
files: the verdict never depends on the scale). What libjpeg-turbo's simple interface cannot do (odd chroma sampling) is decoded
by Pillow, and so are the other formats. A GPU may decode large JPEGs at full size (`foodray.corpus.nvjpeg`); what is refused, and
why, is decided here all the same. EXIF orientation is always applied. ICC profiles are left as they are: colours are taken
for sRGB, and CMYK for inverted, as Adobe and Pillow have it.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from foodray.corpus import nvjpeg
from foodray.corpus.first_bytes import SIZES, png_chunks, sniff
from foodray.corpus.resize import Rgb, Size, resize
from foodray.errors import ConfigError, PhotoError

Box = tuple[float, float, float, float]
"""x, y, width, height in px of the oriented original."""

FORMATS = ("JPEG", "PNG", "WEBP", "HEIC", "TIFF")
MAX_SCANS = 100
"""Scans of a progressive JPEG; encoders write about 10, and every scan costs a pass over all pixels."""
MAX_CUT_PX = 500_000_000
"""Px of the oriented original that the crops of one photo may read together; 200 boxes of a large photo's size would take minutes."""
SHRINKS = (8, 4, 2, 1)
"""Original px per decoded px. The scales between (3/8, 5/8 …) are slower than the next larger of these: they have no SIMD code."""
PILLOW_MAX_PIXELS = 89_478_485
"""Where Pillow's own guard against decompression bombs sets in; it stays armed behind the limits here."""


@dataclass(frozen=True, kw_only=True)
class PhotoLimits:
    """What a photo may be; everything else is refused before it is decoded."""

    max_bytes: int = 25_000_000
    """Largest file in bytes."""
    max_pixels: int = 50_000_000
    """Largest width times height that a header may announce."""
    max_side_px: int = 12_000
    """Longest width or height that a header may announce."""
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "HEIC")
    """Formats that are decoded. HEIC needs pillow_heif and is refused as format_needs_extra without it; TIFF is opt-in."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise ConfigError(f"photo formats {unknown} are unknown; choose from {', '.join(FORMATS)}")
        if min(self.max_bytes, self.max_pixels, self.max_side_px) < 1 or self.max_pixels > PILLOW_MAX_PIXELS:
            raise ConfigError(f"photo limits must be positive and max_pixels = {self.max_pixels} at most {PILLOW_MAX_PIXELS} (Pillow's own guard)")


@dataclass(frozen=True, kw_only=True)
class PhotoHeader:
    """What is known of a photo before its pixels are decoded."""

    format: str
    """One of `FORMATS`; multi-picture JPEGs are JPEG."""
    width_px: int
    """Width of the oriented photo."""
    height_px: int
    """Height of the oriented photo."""
    exif_orientation: int
    """1..8; 1 where there is none, where it is invalid, and for HEIC, whose decoder turns it."""
    num_bytes: int
    """Size of the file."""
    mode: str
    """Pillow's name of the pixel layout in the file, for instance RGB, L, CMYK, P, RGBA, I;16."""
    num_frames: int = 1
    """Frames of an animated PNG or WEBP, of which the first is used. Further pictures in a JPEG, HEIC or TIFF are not counted."""


@dataclass(kw_only=True, eq=False)
class Photo:
    """A decoded photo. A point of the oriented original lies at `original * scale + origin` in px of `rgb_HW3`."""

    rgb_HW3: Rgb  # noqa: N815
    """Upright pixels, contiguous and writable; alpha is composited on white."""
    scale: tuple[float, float]
    """Decoded px per original px in x and y: 1, 1/2, 1/4 or 1/8."""
    header: PhotoHeader
    origin: tuple[float, float] = (0.0, 0.0)
    """Where the original's upper left corner lies: below 1 px, and 0 unless a photo is mirrored or turned and its side is no multiple of the shrink."""


def read_header(data: bytes, limits: PhotoLimits = PhotoLimits()) -> PhotoHeader:
    """The header of an encoded photo, at a cost of tens of microseconds (a PNG is read once for its checksums); no pixel is decoded.

    Raises `PhotoError`: empty, too_large, unidentified, format_not_allowed, format_needs_extra, truncated, too_many_pixels
    or decode_error. That a header is readable does not mean that the photo is: only `decode` finds missing pixels.
    """
    return _open(data, limits)[1]


def decode(data: bytes, *, limits: PhotoLimits = PhotoLimits(), cover: Size | int | None = None) -> Photo:
    """The photo at the smallest DCT scale that still covers `cover`, its least width and height (one number: both).

    `cover` is in px and speaks of the whole oriented photo; None is full size. Nothing is enlarged or resized: a photo that
    is smaller than `cover` comes at full size, and so does every format but JPEG. The scaled pixels differ from a full decode
    brought to the same size by 0.3 to 0.5 of 255 in the mean. Raises `PhotoError` as `read_header` does, and truncated,
    decode_error or oom.
    """
    image, header = _open(data, limits)
    wide, high = (cover, cover) if isinstance(cover, int) else cover or (header.width_px, header.height_px)
    shrink = next((shrink for shrink in SHRINKS if -(-header.width_px // shrink) >= wide and -(-header.height_px // shrink) >= high), 1)
    return _pixels(data, image, header, shrink)


def decode_crops(
    data: bytes, boxes: Sequence[Box | None], *, side_px: int, margin: float, limits: PhotoLimits = PhotoLimits()
) -> tuple[NDArray[np.uint8], PhotoHeader]:
    """The square crops of all boxes, uint8 (N, S, S, 3) in their order: see `crop_square`.

    The photo is decoded once, at the smallest scale at which no crop has to be enlarged that would not have to be at full
    size. Without boxes it is still decoded, so that a broken photo is refused. Raises `PhotoError`.
    """
    photo = decode_for(data, [(box, side_px, margin) for box in boxes], limits=limits)
    return crop_squares(photo, boxes, side_px=side_px, margin=margin), photo.header


def decode_for(
    data: bytes, crops: Sequence[tuple[Box | None, int, float]], *, cover: int = 0, limits: PhotoLimits = PhotoLimits(), device: str | None = None
) -> Photo:
    """The photo decoded once, at the smallest scale that serves all crops (box, side in px, margin; see `crop_square`) and whose
    shorter side is at least `cover` px, as far as the original has them. Raises as `decode_crops` does.

    `device` is torch's name of a GPU on which nvJPEG may decode where that gains; pixels then differ slightly, verdicts do not.
    """
    image, header = _open(data, limits)
    windows = [(window(header, box, margin)[2], side_px) for box, side_px, margin in crops]
    least = min(header.width_px, header.height_px)
    fits = (shrink for shrink in SHRINKS if all(side >= side_px * shrink for side, side_px in windows) and least >= cover * shrink)
    return _pixels(data, image, header, next(fits, 1), device)


def crop_squares(photo: Photo, boxes: Sequence[Box | None], *, side_px: int, margin: float) -> NDArray[np.uint8]:
    """`crop_square` of every box, uint8 (N, S, S, 3); raises `PhotoError`, bad_box also where they cover too much together (`MAX_CUT_PX`)."""
    if sum(_num_px(photo.header, box, margin) for box in boxes) > MAX_CUT_PX:
        raise PhotoError("bad_box", f"the {len(boxes)} boxes cover more than {MAX_CUT_PX} px of the photo together")
    with _typed_errors():
        crops = [crop_square(photo, box, side_px=side_px, margin=margin) for box in boxes]
        return np.stack(crops) if crops else np.empty((0, side_px, side_px, 3), np.uint8)


def crop_square(photo: Photo, box_xywh: Box | None, *, side_px: int, margin: float) -> Rgb:
    """The square around the centre of a box, uint8 (S, S, 3); its side is the box's longer side times `1 + margin`.

    The box is in px of the oriented original; None is the box of the whole photo, which `margin=0` pads to a square. What lies
    outside the photo is mid-grey. The crop hardly depends on the scale at which the photo was decoded: see `resize`. Raises
    `PhotoError` (bad_box) for a box that is not finite, has a negative side, or is far off any photo.
    """
    left, upper, side = window(photo.header, box_xywh, margin)
    (scale_x, scale_y), (origin_x, origin_y) = photo.scale, photo.origin
    left, upper = left * scale_x + origin_x, upper * scale_y + origin_y
    return resize(photo.rgb_HW3, (side_px, side_px), part=(left, upper, left + side * scale_x, upper + side * scale_y))


def window(header: PhotoHeader, box_xywh: Box | None, margin: float) -> tuple[float, float, float]:
    """Left, upper and side of the square that `crop_square` cuts around a box, in px of the oriented original; raises `PhotoError` (bad_box)."""
    x, y, width, height = box_xywh or (0.0, 0.0, header.width_px, header.height_px)
    if not all(abs(number) < 1e6 for number in (x, y, width, height, margin)) or min(width, height, 1 + margin) < 0:
        raise PhotoError("bad_box", f"box {box_xywh} with margin {margin} cannot be cut: numbers must be finite and below a million, sides not negative")
    side = max(1.0, max(width, height) * (1 + margin))
    return x + (width - side) / 2, y + (height - side) / 2, side


def _num_px(header: PhotoHeader, box: Box | None, margin: float) -> float:
    """Px of the oriented original inside the square around a box."""
    left, upper, side = window(header, box, margin)
    wide, high = min(left + side, header.width_px) - max(left, 0), min(upper + side, header.height_px) - max(upper, 0)
    return max(0.0, wide) * max(0.0, high)


# ---- Before decoding: which format, how large, which way up.


def _open(data: bytes, limits: PhotoLimits) -> tuple[Image.Image, PhotoHeader]:
    """Pillow's handle of a photo whose header is within the limits, not yet loaded, and that header."""
    if not data:
        raise PhotoError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise PhotoError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    kind = sniff(data)
    if kind is None:
        raise PhotoError("unidentified", "the first bytes are not those of a known image format")
    if kind not in limits.formats:
        raise PhotoError("format_not_allowed", f"{kind} is not one of {', '.join(limits.formats)}")
    with _typed_errors():
        if kind in SIZES:
            _check_size(SIZES[kind](data), limits)
        image = _parse(data, kind)
        _check_size(image.size, limits)
        if image.info.get("progressive") and (num_scans := data.count(b"\xff\xda")) > MAX_SCANS:
            raise PhotoError("decode_error", f"a progressive JPEG of {num_scans} scans, the limit is {MAX_SCANS}")
        turn = _orientation(image, data)
        width, height = image.size if turn < 5 else image.size[::-1]
        frames = int(getattr(image, "n_frames", 1)) if kind in ("PNG", "WEBP") else 1
    return image, PhotoHeader(format=kind, width_px=width, height_px=height, exif_orientation=turn, num_bytes=len(data), mode=image.mode, num_frames=frames)


def _parse(data: bytes, kind: str) -> Image.Image:
    if kind == "JPEG":
        # Not through Image.open, which would follow a multi-picture index to the pictures behind the photo.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    if kind != "HEIC":
        return Image.open(io.BytesIO(data), formats=[kind])
    if find_spec("pillow_heif") is None:
        raise PhotoError("format_needs_extra", "HEIC needs pillow_heif: install it, or convert the photos to JPEG")
    from pillow_heif import HeifImageFile

    return cast(Image.Image, HeifImageFile(io.BytesIO(data)))


def _check_size(size: Size, limits: PhotoLimits) -> None:
    if min(size) < 1:
        raise PhotoError("decode_error", f"the header announces {size[0]} x {size[1]} px")
    if size[0] * size[1] > limits.max_pixels or max(size) > limits.max_side_px:
        raise PhotoError("too_many_pixels", f"{size[0]} x {size[1]} px, the limits are {limits.max_pixels} px and {limits.max_side_px} px a side")


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1..8. Unreadable metadata is no reason to refuse a photo."""
    with suppress(Exception):
        if image.format == "PNG" and "exif" not in image.info:
            # Behind the pixels Pillow finds it only after decoding them; hence also the base class's method.
            image.info.update((("exif", data[start:end]) for kind, start, end in png_chunks(data) if kind == b"eXIf"))
        turn = Image.Image.getexif(image).get(0x0112, 1)
        return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    return 1


# ---- Decoding.


def _pixels(data: bytes, image: Image.Image, header: PhotoHeader, shrink: int, device: str | None = None) -> Photo:
    """The opened photo at 1 / `shrink`, upright."""
    jpeg = header.format == "JPEG"
    shrink = shrink if jpeg else 1
    with _typed_errors():
        rgb, origin = _upright(_jpeg(data, image, shrink, device) if jpeg else _to_rgb(image), header, shrink)
    return Photo(rgb_HW3=rgb, scale=(1 / shrink, 1 / shrink), header=header, origin=origin)


def _jpeg(data: bytes, image: Image.Image, shrink: int, device: str | None) -> Rgb:
    """A JPEG at 1 / `shrink`, as it lies in the file, rounded up to whole px."""
    width, height = image.size
    size = (-(-width // shrink), -(-height // shrink))
    rgb = _full_on(device, data, image) if device and shrink == 1 else None
    if rgb is None:
        rgb = _strict_jpeg(data, size)
    if rgb is None:
        image.draft(image.mode, (max(1, width // shrink), max(1, height // shrink)))
        rgb = _to_rgb(image)
    if rgb.shape[1::-1] != size:
        raise PhotoError("decode_error", f"decoded to {rgb.shape[1]} x {rgb.shape[0]} px where the header promises {size[0]} x {size[1]}")
    return rgb


def _full_on(device: str, data: bytes, image: Image.Image) -> Rgb | None:
    """A JPEG at full size from the GPU, after the judgement at 1/8 that refuses what a full decode would; None where the CPU has to decode."""
    if not nvjpeg.gains(image):
        return None
    eighth = _strict_jpeg(data, (-(-image.width // 8), -(-image.height // 8)))
    return None if eighth is None else nvjpeg.full_pixels(data, image.size, eighth, device)


_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_LOST = re.compile(r"premature end|corrupt jpeg data", re.IGNORECASE)


def _strict_jpeg(data: bytes, least: Size) -> Rgb | None:
    """A JPEG at the smallest scale that covers `least`, or None where Pillow has to judge.

    Strict mode makes every warning of libjpeg an error. Those that mean lost or wrong pixels refuse the photo. Zeros that some cameras write
    between segments are taken out and the file is judged again. Everything else (an unusual header, chroma sampling that the
    interface has no name for) is left to Pillow, which refuses fatal errors and files that end early, but would
    accept a scan that stops at a marker; so Pillow never overrules a refusal from here.
    """
    for _ in range(3):
        try:
            return cast(Rgb, simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1]))
        except (ValueError, KeyError) as error:
            message = str(error)
        if padding := _PADDING.search(message):
            marker = bytes((0xFF, int(padding[2], 16)))
            cleaned = data.replace(bytes(int(padding[1])) + marker, marker, 1)
            if cleaned != data:
                data = cleaned
                continue
        if _LOST.search(message):
            raise _refusal(message)
        return None
    raise _refusal(message)


def _to_rgb(image: Image.Image) -> Rgb:
    """Any Pillow image as 8-bit RGB: 16-bit grey divided by 257 (Pillow would clip it), alpha composited on white."""
    if image.mode.startswith("I;16"):
        grey_HW = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise PhotoError("decode_error", f"pixels of mode {image.mode} have no range of brightness that is agreed on")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _upright(rgb: Rgb, header: PhotoHeader, shrink: int) -> tuple[Rgb, tuple[float, float]]:
    """The pixels turned upright, and where the original's upper left corner then lies."""
    turn = header.exif_orientation
    flip_x, flip_y = turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)
    if turn >= 5:
        rgb = cast(Rgb, cv2.transpose(rgb))
    if flip_x or flip_y:
        rgb = cast(Rgb, cv2.flip(rgb, -1 if flip_x and flip_y else int(flip_x)))
    # The last stored row and column may reach beyond the photo; turned around they come first.
    beyond_x, beyond_y = rgb.shape[1] - header.width_px / shrink, rgb.shape[0] - header.height_px / shrink
    return rgb, (beyond_x if flip_x else 0.0, beyond_y if flip_y else 0.0)


# ---- Errors.

_TRUNCATED = re.compile(r"premature end|truncated|unexpected end|not enough data|end of file|file size too small", re.IGNORECASE)
_NO_MEMORY = re.compile(r"insufficient memory|out of memory|cannot allocate", re.IGNORECASE)


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Whatever a decoder raises becomes a `PhotoError`."""
    try:
        yield
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError("oom", "not enough memory for the pixels") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError("too_many_pixels", "Pillow takes the file for a decompression bomb") from error
    except Exception as error:
        raise _refusal(f"{type(error).__name__}: {error}") from error


def without_places(message: str) -> str:
    """A message for a study's table: addresses and paths are taken out and the length is bounded."""
    return re.sub(r"<[^>]*>|\S*[/\\]\S*", "…", " ".join(message.split()))[:300]


def _refusal(message: str) -> PhotoError:
    """The refusal that a decoder's message means."""
    detail = without_places(message)
    if _NO_MEMORY.search(message):
        return PhotoError("oom", detail)
    return PhotoError("truncated" if _TRUNCATED.search(message) else "decode_error", detail)
