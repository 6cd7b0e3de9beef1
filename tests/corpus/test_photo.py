"""Claims about the decoder: what it refuses and why, which pixels it returns, and that its shortcuts change neither."""

import importlib.util
import io
import random
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from foodray.corpus.photo import Photo, PhotoLimits, crop_square, decode, decode_crops, read_header
from foodray.corpus.resize import GREY, resize
from foodray.corpus.schema import REASONS
from foodray.errors import ConfigError, PhotoError


def scene(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A picture with shapes of several sizes, so that a wrong turn, shift or scale shows."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 90.0)
    for cells, amplitude in ((3, 70), (8, 40), (24, 12)):
        coarse = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255 - 0.3) * amplitude
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference in grey levels."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def refusal(data: bytes, **how: Any) -> str:
    with pytest.raises(PhotoError) as caught:
        decode(data, **how)
    assert caught.value.reason in REASONS
    assert 0 < len(caught.value.detail) <= 300
    return caught.value.reason


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG written by hand, so that its header can promise anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def odd_jpeg() -> bytes:
    """A flat grey JPEG whose chroma sampling (2x1, 1x2, 1x2) has no name in libjpeg-turbo's simple interface."""
    plain = encoded(Image.new("RGB", (16, 16), (128,) * 3), "JPEG", subsampling=0)
    frame, scan = plain.index(b"\xff\xc0"), plain.index(b"\xff\xda")
    head = bytearray(plain[: scan + 2 + int.from_bytes(plain[scan + 2 : scan + 4], "big")])
    head[frame + 11], head[frame + 14], head[frame + 17] = 0x21, 0x12, 0x12
    blocks = "001010" * 2 + "0000" * 4
    return bytes(head) + int(blocks.ljust(32, "1"), 2).to_bytes(4, "big") + b"\xff\xd9"


class TestRefusals:
    def test_no_bytes_are_empty(self) -> None:
        assert refusal(b"") == "empty"

    def test_more_bytes_than_the_limit_are_too_large(self) -> None:
        assert refusal(encoded(scene(), "JPEG"), limits=PhotoLimits(max_bytes=100)) == "too_large"

    @pytest.mark.parametrize("data", [b"hello, I am a text file", b"\0" * 1000, b"PK\x03\x04 a zip", b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF", b"\xff\xd8"])
    def test_what_is_no_image_is_unidentified(self, data: bytes) -> None:
        assert refusal(data) == "unidentified"

    @pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "AVIF"])
    def test_formats_off_the_list_are_not_allowed(self, kind: str) -> None:
        assert refusal(encoded(scene(), kind)) == "format_not_allowed"

    def test_a_format_can_be_struck_off_the_list(self) -> None:
        assert refusal(encoded(scene(), "PNG"), limits=PhotoLimits(formats=("JPEG",))) == "format_not_allowed"

    def test_tiff_is_decoded_when_asked_for(self) -> None:
        photo = decode(encoded(scene(), "TIFF"), limits=PhotoLimits(formats=("JPEG", "TIFF")))
        assert apart(photo.rgb_HW3, np.asarray(scene())) == 0

    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
    def test_heic_without_its_decoder_says_what_is_missing(self, brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("foodray.corpus.photo.find_spec", lambda name: None)
        assert refusal(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0" * 64) == "format_needs_extra"

    @pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="pillow_heif is not installed")
    def test_heic_is_decoded_upright_with_its_decoder(self) -> None:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(scene()).save(file, quality=95, exif=turned(6).tobytes())
        photo = decode(file.getvalue())
        assert photo.header.format == "HEIC"
        assert apart(photo.rgb_HW3, np.rot90(np.asarray(scene()), -1)) < 4
        assert refusal(file.getvalue()[:-20]) == "truncated"

    def test_a_bomb_is_refused_before_it_is_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the bomb was opened"))
        bomb = png(9_450, 9_450, rows=bytes(1_000))
        assert len(bomb) < 11_000
        assert refusal(bomb) == "too_many_pixels"

    @pytest.mark.parametrize("size", [(12_001, 1), (1, 12_001), (8_000, 8_000), (65_000, 65_000)])
    def test_a_header_beyond_the_limits_is_too_many_pixels(self, size: tuple[int, int]) -> None:
        assert refusal(png(*size)) == "too_many_pixels"

    def test_a_jpeg_header_beyond_the_limits_is_too_many_pixels(self) -> None:
        data = bytearray(encoded(scene(), "JPEG"))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
        assert refusal(bytes(data)) == "too_many_pixels"

    def test_a_webp_canvas_beyond_the_limits_is_too_many_pixels(self) -> None:
        data = bytearray(encoded(scene(), "WEBP", exif=turned(1)))
        assert data[12:16] == b"VP8X"
        data[24:30] = (16_000).to_bytes(3, "little") * 2
        assert refusal(bytes(data)) == "too_many_pixels"

    def test_a_progressive_jpeg_of_countless_scans_is_refused(self) -> None:
        data = encoded(scene(), "JPEG", progressive=True)
        at = data.rindex(b"\xff\xda")
        assert refusal(data[:at] + data[at:-2] * 100 + b"\xff\xd9") == "decode_error"

    def test_running_out_of_memory_is_typed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise MemoryError

        monkeypatch.setattr("simplejpeg.decode_jpeg", fail)
        assert refusal(encoded(scene(), "JPEG")) == "oom"

    def test_limits_that_disarm_the_guards_are_refused(self) -> None:
        for wrong in ({"max_pixels": 10**9}, {"max_bytes": 0}, {"formats": ("JPG",)}):
            with pytest.raises(ConfigError):
                PhotoLimits(**wrong)


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 4},
    "greyscale": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "full chroma": {"subsampling": 0},
}


class TestDamage:
    @pytest.mark.parametrize("kind", JPEGS)
    @pytest.mark.parametrize("cover", [None, 8])
    def test_a_jpeg_cut_anywhere_is_truncated(self, kind: str, cover: int | None) -> None:
        how = dict(JPEGS[kind])
        data = encoded(scene().convert(how.pop("mode", "RGB")), "JPEG", **how)
        for end in {*range(3, len(data), 61), len(data) // 2, len(data) * 95 // 100, *range(len(data) - 12, len(data))}:
            assert refusal(data[:end], cover=cover) == "truncated", end

    @pytest.mark.parametrize("share", [0.5, 0.95])
    def test_a_cut_jpeg_with_an_end_marker_put_back_is_truncated(self, share: float) -> None:
        data = encoded(scene(300, 200), "JPEG")
        cut = data[: int(len(data) * share)] + b"\xff\xd9"
        Image.open(io.BytesIO(cut)).load()  # Pillow sees nothing wrong
        assert refusal(cut) == refusal(cut, cover=8) == "truncated"

    def test_a_cut_jpeg_of_odd_sampling_is_truncated(self) -> None:
        assert refusal(odd_jpeg()[:-2]) == refusal(odd_jpeg()[:-5]) == "truncated"

    @pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})])
    def test_a_png_or_webp_cut_anywhere_is_truncated(self, kind: str, how: dict[str, Any]) -> None:
        data = encoded(scene(), kind, **how)
        for end in {*range(12, len(data), 61), *range(len(data) - 16, len(data))}:
            assert refusal(data[:end]) == "truncated", end

    def test_a_damaged_png_is_refused_even_where_pillow_would_not_look(self) -> None:
        data = bytearray(encoded(scene(), "PNG"))
        at = data.index(b"IDAT")
        length = int.from_bytes(data[at - 4 : at], "big")
        data[at + 4 + length] ^= 1  # the checksum itself
        Image.open(io.BytesIO(data)).load()
        assert refusal(bytes(data)) == "decode_error"

    def test_damage_inside_a_jpeg_is_judged_alike_at_every_scale(self) -> None:
        dice, data, verdicts = random.Random(0), encoded(scene(), "JPEG"), set()
        for _ in range(60):
            damaged = bytearray(data)
            at = dice.randrange(650, len(data) - 2)
            damaged[at : at + 8] = dice.randbytes(8)
            found = {verdict(bytes(damaged), cover) for cover in (None, 48, 24, 8)}
            assert len(found) == 1
            verdicts |= found
        assert {"truncated", "decode_error"} & verdicts

    def test_zeros_before_the_end_marker_are_forgiven(self) -> None:
        data = encoded(scene(), "JPEG")
        padded = data[:-2] + bytes(7) + data[-2:]
        assert apart(decode(padded).rgb_HW3, decode(data).rgb_HW3) == 0
        assert refusal(padded[: len(data) // 2]) == "truncated"

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_mutated_bytes_raise_nothing_but_photo_errors(self, kind: str) -> None:
        dice, data = random.Random(kind), encoded(scene(40, 30), kind, exif=turned(6))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(400):
                assert verdict(mutated(data, dice), dice.choice([None, 8])) in {"ok", *REASONS}

    def test_random_bytes_behind_a_signature_raise_nothing_but_photo_errors(self) -> None:
        dice = random.Random(1)
        for magic in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 ", b"\0\0\0\x18ftypheic", b"II*\0"):
            for _ in range(30):
                assert verdict(magic + dice.randbytes(dice.randrange(200)), None) in REASONS


def verdict(data: bytes, cover: int | None) -> str:
    try:
        decode(data, cover=cover)
    except PhotoError as error:
        return error.reason if len(error.detail) <= 300 else f"too long a detail: {error.detail}"
    return "ok"


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at = dice.randrange(len(changed))
        match dice.randrange(5):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                del changed[at : at + dice.randrange(1, 60)]
            case 2:
                changed[at:at] = dice.randbytes(dice.randrange(1, 40))
            case 3:
                changed[at : at + 30] = bytes(len(changed[at : at + 30]))
            case _:
                changed[dice.randrange(min(len(changed), 200))] = dice.randrange(256)
    return bytes(changed)


class TestPixels:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_every_orientation_is_applied_as_pillow_does(self, orientation: int, kind: str) -> None:
        data = encoded(scene(), kind, exif=turned(orientation))
        photo = decode(data)
        want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert apart(photo.rgb_HW3, want) < 0.6
        assert photo.header.exif_orientation == orientation
        assert (photo.header.width_px, photo.header.height_px) == want.shape[1::-1]
        assert read_header(data) == photo.header

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_is_applied_at_reduced_scale(self, orientation: int) -> None:
        data = encoded(scene(), "JPEG", exif=turned(orientation))
        photo, whole = decode(data, cover=16), decode(data)
        assert photo.scale == (0.25, 0.25)
        assert apart(photo.rgb_HW3, resize(whole.rgb_HW3, photo.rgb_HW3.shape[1::-1])) < 2

    def test_an_exif_chunk_behind_the_pixels_of_a_png_counts(self) -> None:
        data = encoded(scene(), "PNG", exif=turned(6))
        at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
        moved = data[:at] + data[at + len(chunk) : end] + chunk + data[end:]
        assert decode(moved).rgb_HW3.shape == decode(data).rgb_HW3.shape == (96, 64, 3)

    @pytest.mark.parametrize("value", [0, 9, 77])
    def test_an_impossible_orientation_counts_as_upright(self, value: int) -> None:
        assert read_header(encoded(scene(), "JPEG", exif=turned(value))).exif_orientation == 1

    def test_sixteen_bit_grey_is_scaled_and_not_clipped(self) -> None:
        grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
        photo = decode(encoded(Image.fromarray(grey), "PNG"))
        assert photo.header.mode == "I;16"
        assert np.array_equal(photo.rgb_HW3[:, :, 1], np.rint(grey / 257).astype(np.uint8))

    def test_sixteen_bit_colour_is_scaled(self) -> None:
        photo = decode(png(2, 1, depth=16, colour=2, rows=b"\0" + struct.pack(">6H", 0, 32_896, 65_535, 257, 2_570, 65_000)))
        assert np.abs(photo.rgb_HW3.astype(int) - [[[0, 128, 255], [1, 10, 253]]]).max() <= 1

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
    def test_every_png_mode_becomes_rgb(self, mode: str) -> None:
        image = scene().convert(mode)
        photo = decode(encoded(image, "PNG"))
        assert photo.header.mode == mode
        assert apart(photo.rgb_HW3, np.asarray(image.convert("RGB"))) == 0

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_alpha_is_composited_on_white(self, kind: str) -> None:
        image = Image.new("RGBA", (32, 16), (200, 0, 0, 255))
        image.paste((200, 0, 0, 0), (0, 0, 16, 16))
        image.paste((200, 0, 0, 128), (0, 0, 8, 16))
        rgb = decode(encoded(image, kind, lossless=True)).rgb_HW3
        assert np.abs(rgb[8, [4, 12, 24]].astype(int) - [[227, 127, 127], [255, 255, 255], [200, 0, 0]]).max() <= 1

    def test_a_transparent_palette_colour_becomes_white(self) -> None:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        assert (decode(encoded(image, "PNG", transparency=1)).rgb_HW3 == 255).all()
        assert (decode(encoded(image, "PNG")).rgb_HW3 == [10, 20, 30]).all()

    @pytest.mark.parametrize("cover", [None, 16])
    def test_inverted_cmyk_has_the_right_colours(self, cover: int | None) -> None:
        data = encoded(scene().convert("CMYK"), "JPEG", quality=95, subsampling=0)
        assert b"Adobe" in data
        photo = decode(data, cover=cover)
        assert photo.header.mode == "CMYK"
        assert apart(photo.rgb_HW3, resize(np.asarray(scene()), photo.rgb_HW3.shape[1::-1])) < 2

    @pytest.mark.parametrize("transform", [0, 2, None])
    def test_every_kind_of_cmyk_is_read_as_pillow_does(self, transform: int | None) -> None:
        data = encoded(scene().convert("CMYK"), "JPEG")
        at = data.index(b"Adobe")
        data = data[: at - 4] + data[at + 12 :] if transform is None else data[: at + 11] + bytes([transform]) + data[at + 12 :]
        assert apart(decode(data).rgb_HW3, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) < 1.1

    def test_a_jpeg_of_odd_sampling_is_decoded(self) -> None:
        assert np.array_equal(decode(odd_jpeg()).rgb_HW3, np.full((16, 16, 3), 128))
        assert decode(odd_jpeg(), cover=4).rgb_HW3.shape == (4, 4, 3)

    def test_an_rgb_jpeg_is_not_taken_for_ycbcr(self) -> None:
        data = encoded(Image.new("RGB", (16, 16), (200, 30, 60)), "JPEG", quality=95, keep_rgb=True)
        assert np.abs(decode(data).rgb_HW3.astype(int) - [200, 30, 60]).max() <= 2

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_of_an_animation_the_first_frame_is_taken_and_the_frames_are_counted(self, kind: str) -> None:
        data = encoded(scene(), kind, save_all=True, append_images=[scene(seed=1)], lossless=True)
        photo = decode(data)
        assert photo.header.num_frames == 2
        assert apart(photo.rgb_HW3, np.asarray(scene())) < 1

    def test_a_multi_picture_jpeg_is_its_first_picture(self) -> None:
        photo = decode(encoded(scene(), "MPO", save_all=True, append_images=[scene(seed=1)], quality=95))
        assert photo.header.format == "JPEG"
        assert apart(photo.rgb_HW3, np.asarray(scene())) < 3

    def test_a_zip_behind_a_jpeg_changes_nothing(self) -> None:
        data = encoded(scene(), "JPEG")
        photo = decode(data + b"PK\x03\x04" + bytes(range(256)) * 8)
        assert photo.header.format == "JPEG"
        assert apart(photo.rgb_HW3, decode(data).rgb_HW3) == 0

    def test_pixels_are_contiguous_and_writable(self) -> None:
        for data in (encoded(scene(), "PNG"), encoded(scene(), "JPEG", exif=turned(7)), encoded(scene().convert("CMYK"), "JPEG")):
            assert decode(data).rgb_HW3.flags["C_CONTIGUOUS"]
            assert decode(data).rgb_HW3.flags["WRITEABLE"]


class TestScale:
    @pytest.mark.parametrize(
        ("cover", "shape"),
        [(None, (400, 600)), (600, (400, 600)), (201, (400, 600)), (200, (200, 300)), (101, (200, 300)), (51, (100, 150)), (50, (50, 75)), (1, (50, 75))],
    )
    def test_the_smallest_scale_that_covers_is_taken(self, cover: int | None, shape: tuple[int, int]) -> None:
        assert decode(encoded(scene(600, 400), "JPEG"), cover=cover).rgb_HW3.shape[:2] == shape

    def test_cover_speaks_of_the_oriented_photo(self) -> None:
        data = encoded(scene(600, 400), "JPEG", exif=turned(6))
        assert decode(data, cover=(100, 150)).rgb_HW3.shape[:2] == (150, 100)
        assert decode(data, cover=(150, 100)).rgb_HW3.shape[:2] == (300, 200)

    @pytest.mark.parametrize("cover", [300, 150, 75])
    def test_scaled_pixels_are_close_to_a_full_decode(self, cover: int) -> None:
        data = encoded(scene(900, 600), "JPEG")
        photo = decode(data, cover=cover)
        assert apart(photo.rgb_HW3, resize(decode(data).rgb_HW3, photo.rgb_HW3.shape[1::-1])) < 1

    def test_full_size_is_close_to_pillow(self) -> None:
        data = encoded(scene(900, 600), "JPEG")
        assert apart(decode(data).rgb_HW3, np.asarray(Image.open(io.BytesIO(data)))) < 0.5

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_origin_and_scale_place_a_point_of_an_odd_sized_photo(self, orientation: int) -> None:
        image = Image.new("RGB", (403, 301))
        image.paste((255, 255, 255), (200, 100, 240, 180))
        data = encoded(image, "JPEG", exif=turned(orientation), quality=95)
        photo = decode(data, cover=37)
        assert photo.scale == (1 / 8, 1 / 8)
        for axis in (0, 1):
            at = np.average(np.arange(photo.rgb_HW3.shape[1 - axis]) + 0.5, weights=photo.rgb_HW3[:, :, 1].sum(axis))
            whole = decode(data).rgb_HW3
            want = np.average(np.arange(whole.shape[1 - axis]) + 0.5, weights=whole[:, :, 1].sum(axis))
            assert abs(at - (want * photo.scale[axis] + photo.origin[axis])) < 0.02


class TestCrops:
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_crops_of_the_scaled_photo_equal_those_of_the_full_one(self, orientation: int) -> None:
        data = encoded(scene(1003, 701), "JPEG", exif=turned(orientation))
        boxes = [(100.0, 150.5, 300.0, 260.0), (333.3, 200.0, 280.0, 300.0), (-60.0, 400.0, 500.0, 310.0), None]
        crops, header = decode_crops(data, boxes, side_px=64, margin=0.1)
        whole = decode(data)
        assert crops.shape == (4, 64, 64, 3)
        assert header == whole.header
        for crop, box in zip(crops, boxes, strict=True):
            assert apart(crop, crop_square(whole, box, side_px=64, margin=0.1)) < 1

    def test_a_crop_shows_what_is_in_the_box(self) -> None:
        image = Image.new("RGB", (200, 100), (10, 10, 10))
        image.paste((250, 100, 50), (120, 30, 160, 70))
        photo = decode(encoded(image, "PNG"))
        crop = crop_square(photo, (120, 30, 40, 40), side_px=20, margin=0.0)
        assert np.array_equal(crop[1:-1, 1:-1], np.full((18, 18, 3), (250, 100, 50)))
        wider = crop_square(photo, (120, 30, 40, 40), side_px=20, margin=1.0)
        assert (wider[:4] == 10).all()
        assert (wider[6:14, 6:14] == (250, 100, 50)).all()

    def test_what_lies_outside_the_photo_is_grey(self) -> None:
        photo = decode(encoded(Image.new("RGB", (100, 50), (0, 0, 0)), "PNG"))
        whole = crop_square(photo, None, side_px=40, margin=0.0)
        assert (whole[:10] == GREY).all()
        assert (whole[30:] == GREY).all()
        assert (whole[10:30] == 0).all()
        assert (crop_square(photo, (500, 500, 20, 20), side_px=8, margin=0) == GREY).all()

    def test_a_crop_at_its_own_size_copies_the_pixels(self) -> None:
        photo = decode(encoded(scene(), "PNG"))
        assert np.array_equal(crop_square(photo, (20, 10, 32, 32), side_px=32, margin=0), photo.rgb_HW3[10:42, 20:52])

    @pytest.mark.parametrize("side_px", [7, 13, 48, 100])
    def test_resizing_agrees_with_the_antialiased_filter_of_pillow(self, side_px: int) -> None:
        rgb = decode(encoded(scene(300, 200), "PNG")).rgb_HW3
        want = np.asarray(Image.fromarray(rgb).resize((side_px, side_px), Image.Resampling.BILINEAR))
        assert apart(resize(rgb, (side_px, side_px)), want) < 1.5

    def test_the_photo_is_decoded_once_and_no_crop_is_enlarged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import simplejpeg

        sizes: list[tuple[int, ...]] = []
        real = simplejpeg.decode_jpeg

        def count(*args: Any, **how: Any) -> NDArray[np.uint8]:
            rgb: NDArray[np.uint8] = real(*args, **how)
            sizes.append(rgb.shape[:2])
            return rgb

        monkeypatch.setattr("simplejpeg.decode_jpeg", count)
        data = encoded(scene(800, 600), "JPEG")
        decode_crops(data, [(0, 0, 400, 300), (100, 100, 130, 100)], side_px=32, margin=0)
        decode_crops(data, [(0, 0, 10, 10)], side_px=32, margin=0)
        decode_crops(data, [None], side_px=100, margin=0)
        assert sizes == [(150, 200), (600, 800), (75, 100)]

    def test_without_boxes_a_broken_photo_is_still_refused(self) -> None:
        data = encoded(scene(), "JPEG")
        assert decode_crops(data, [], side_px=32, margin=0)[0].shape == (0, 32, 32, 3)
        with pytest.raises(PhotoError):
            decode_crops(data[:-9], [], side_px=32, margin=0)

    @pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 0.01, 0.01), (95.99, 10, 50, 50), (-50, -50, 50.005, 50), (-9e5, 0, 9e5, 9e5), (0, 0, 96, 1)])
    def test_extreme_boxes_are_cut(self, box: tuple[float, float, float, float]) -> None:
        photo = decode(encoded(scene(), "PNG"))
        assert crop_square(photo, box, side_px=16, margin=0.2).shape == (16, 16, 3)

    @pytest.mark.parametrize("box", [(0, 0, -1, 5), (float("nan"), 0, 5, 5), (0, 0, float("inf"), 5), (1e9, 0, 5, 5)])
    def test_impossible_boxes_are_refused(self, box: tuple[float, float, float, float]) -> None:
        with pytest.raises(PhotoError, match="cannot be cut"):
            decode_crops(encoded(scene(), "PNG"), [box], side_px=16, margin=0)

    def test_a_photo_of_one_row_is_cut(self) -> None:
        photo: Photo = decode(png(12_000, 1, rows=bytes(12_001)))
        crop = crop_square(photo, None, side_px=225, margin=0)
        assert (crop[112] == 0).all()
        assert (crop[:112] == GREY).all()
