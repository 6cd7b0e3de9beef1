"""What the bytes of a photo say before any decoder sees them: which format they are, and how many pixels they announce.

In: the bytes of one file. Out: the name of a format, a size, or a `PhotoError`. Nothing is allocated for pixels here, so that
a file that promises too many of them, or ends early, is refused at the cost of reading its header.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from foodray.corpus.resize import Size
from foodray.errors import PhotoError

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "PSD": rb"8BPS",
    "ICO": rb"\x00\x00\x01\x00",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "camera raw": rb"FUJIFILMCCD-RAW|IIRO|....ftypcrx ",
}
_MARKER = re.compile(rb"\xff[^\xff\x00]", re.DOTALL)  # of a run of fill bytes the last: a pattern for the whole run takes quadratic time


def sniff(data: bytes) -> str | None:
    """The image format that the first bytes announce; no parser is run for it."""
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in (8, *range(16, min(len(data), struct.unpack(">I", data[:4])[0], 256), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return next((name for name, magic in _MAGIC.items() if re.match(magic, data, re.DOTALL)), None)


def _jpeg_size(data: bytes) -> Size:
    """Width and height in the frame header; a file that ends before its first scan begins is truncated."""
    size, at = None, 2
    while marker := _MARKER.search(data, at):
        code, at = data[marker.end() - 1], marker.end()
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            continue
        if code == 0xD9:
            raise PhotoError("decode_error", "the JPEG has no pixels")
        if at + 8 > len(data):
            break
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            size = (width, height)
        at += max(2, struct.unpack(">H", data[at : at + 2])[0])
        if code == 0xDA and at <= len(data):
            if size is None:
                raise PhotoError("decode_error", "the JPEG has a scan without a frame header")
            return size
    raise PhotoError("truncated", "the JPEG ends inside its header")


def _png_size(data: bytes) -> Size:
    """Width and height in IHDR; all chunks must be there, and the critical ones undamaged, which Pillow checks only in part."""
    for kind, start, end in png_chunks(data):
        if kind[:1].isupper() and zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise PhotoError("decode_error", f"the PNG has a damaged {kind!r} chunk")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name of each chunk, and where its body starts and ends; truncated where there is no last one."""
    kind, end = b"", 4
    while kind != b"IEND":
        start = end + 12
        length, kind = struct.unpack(">I4s", data[start - 8 : start].ljust(8, b"\0"))
        end = start + length
        if end + 4 > len(data):
            raise PhotoError("truncated", "the PNG ends before its IEND chunk")
        yield kind, start, end


def _webp_size(data: bytes) -> Size:
    """Width and height of the canvas; the file must be as long as its RIFF header says."""
    if len(data) < 30 or len(data) < struct.unpack("<I", data[4:8])[0] + 8:
        raise PhotoError("truncated", "the WEBP is shorter than its header says")
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


SIZES: dict[str, Callable[[bytes], Size]] = {"JPEG": _jpeg_size, "PNG": _png_size, "WEBP": _webp_size}
"""Our own look at the size: these run before Pillow, which allocates the canvas of a WEBP when it opens it."""
