"""Claims about decoding on a GPU: which photos go there, that verdicts do not change, and that a failing GPU fails no photo.

Everything runs with torch's CPU too, which takes the same way but for the word "cuda"; what needs a CUDA device is skipped without one.
"""

import io
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.config import identity
from foodray.config import from_plain, to_plain
from foodray.corpus import nvjpeg
from foodray.corpus.photo import Photo, PhotoLimits, crop_squares, decode_crops, decode_for, read_header
from foodray.errors import ConfigError, PhotoError
from foodray.scoring.config import ScoreConfig
from foodray.serving.config import GraphConfig, ReplicaConfig, ServeConfig

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"))
DEVICES = ["cpu", CUDA]
WHOLE = 100_000
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"sampling": "444"},
    "4:2:2": {"sampling": "422"},
    "4:2:0": {"sampling": "420"},
    "4:4:0": {"sampling": "440"},
    "4:1:1": {"sampling": "411"},
    "restart markers": {"restart_marker_blocks": 5},
    "grey": {"mode": "L"},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of any size go to the device."""
    monkeypatch.setattr(nvjpeg, "MIN_PX", 1)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the device decoded, and was believed."""
    seen: list[bytes] = []
    real = nvjpeg.full_pixels

    def watch(data: bytes, *rest: Any) -> NDArray[np.uint8] | None:
        rgb = real(data, *rest)
        if rgb is not None:
            seen.append(data)
        return rgb

    monkeypatch.setattr(nvjpeg, "full_pixels", watch)
    monkeypatch.setattr(nvjpeg, "_told", set())
    return seen


def scene(width: int = 163, height: int = 121, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 60.0)
    for cells, amplitude in ((3, 120), (8, 60), (20, 30)):
        coarse = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255 - 0.3) * amplitude
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image | None = None, *, mode: str = "RGB", turn: int = 1, sampling: str = "", **how: Any) -> bytes:
    if sampling:  # Pillow takes 4:1:1 for 4:2:0
        return simplejpeg.encode_jpeg(np.array(image or scene()), quality=90, colorspace="RGB", colorsubsampling=sampling)
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    (image or scene()).convert(mode).save(file, "JPEG", exif=exif, **{"quality": 90, **how})
    return file.getvalue()


def whole(data: bytes, device: str | None) -> Photo:
    return decode_for(data, [], cover=WHOLE, device=device)


def assert_like(found: Photo, wanted: Photo, device: str) -> None:
    """The same pixels, where nvJPEG repeats chroma up to a few levels in the mean; everything else alike."""
    assert (found.scale, found.origin, found.header) == (wanted.scale, wanted.origin, wanted.header)
    assert found.rgb_HW3.shape == wanted.rgb_HW3.shape
    assert found.rgb_HW3.dtype == np.uint8
    assert found.rgb_HW3.flags["C_CONTIGUOUS"]
    assert found.rgb_HW3.flags["WRITEABLE"]
    assert np.abs(found.rgb_HW3.astype(int) - wanted.rgb_HW3).mean() <= (0.05 if device == "cpu" else 3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("device", DEVICES)
class TestPixels:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("size", [(163, 121), (160, 120), (33, 41)])
    def test_every_kind_of_jpeg_is_the_picture_that_the_cpu_decodes(self, kind: str, size: tuple[int, int], device: str, given: list[bytes]) -> None:
        data = jpeg(scene(*size), **KINDS[kind])
        assert_like(whole(data, device), whole(data, None), device)
        assert given == [data]

    @pytest.mark.parametrize("turn", range(1, 9))
    def test_every_orientation_is_applied_once(self, turn: int, device: str, given: list[bytes]) -> None:
        data = jpeg(turn=turn)
        assert_like(whole(data, device), whole(data, None), device)
        assert len(given) == 1

    def test_rgb_stored_as_it_is_and_further_pictures_behind_the_first_change_nothing(self, device: str, given: list[bytes]) -> None:
        """Whether the device is believed or not: a decoder may take RGB for YCbCr."""
        pair = io.BytesIO()
        scene().save(pair, "MPO", save_all=True, append_images=[scene(seed=1)])
        for data in (jpeg(keep_rgb=True), pair.getvalue()):
            assert_like(whole(data, device), whole(data, None), device)

    def test_threads_do_not_mix_their_photos(self, device: str, given: list[bytes]) -> None:
        photos = [jpeg(scene(163 + seed, 121, seed)) for seed in range(12)] * 3
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda data: whole(data, device), photos))
        assert len(given) == len(photos)
        for photo, data in zip(found, photos, strict=True):
            assert_like(photo, whole(data, None), device)

    def test_crops_are_those_of_the_cpu(self, device: str, given: list[bytes]) -> None:
        data, box = jpeg(turn=6), (10.0, 20.0, 70.0, 60.0)
        photo = decode_for(data, [(box, 64, 0.1)], device=device)
        wanted, _ = decode_crops(data, [box], side_px=64, margin=0.1)
        assert photo.scale == (1.0, 1.0)
        assert len(given) == 1
        assert np.abs(crop_squares(photo, [box], side_px=64, margin=0.1).astype(int) - wanted).mean() <= 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("device", DEVICES)
class TestVerdicts:
    @pytest.mark.parametrize("kind", [*KINDS, "progressive", "CMYK"])
    def test_a_jpeg_cut_anywhere_is_refused_for_the_same_reason(self, kind: str, device: str) -> None:
        data = jpeg(scene(64, 48), **KINDS.get(kind, {"progressive": True} if kind == "progressive" else {"mode": "CMYK"}))
        for end in {*range(3, len(data), 97), *range(len(data) - 4, len(data))}:
            assert verdict(data[:end], device) == verdict(data[:end], None), end

    def test_a_mutated_jpeg_gets_the_verdict_of_the_cpu_and_a_picture_only_with_it(self, device: str, given: list[bytes]) -> None:
        dice, verdicts = random.Random(5), set()
        for kind in ("4:2:0", "4:2:2", "grey"):
            data = jpeg(scene(64, 48), **KINDS[kind])
            for _ in range(120):
                changed = mutated(data, dice)
                found = verdict(changed, device)
                assert found == verdict(changed, None)
                verdicts.add(found[0])
        assert {"ok", "truncated", "decode_error"} <= verdicts
        assert given

    def test_limits_hold_before_any_pixel(self, device: str, given: list[bytes]) -> None:
        with pytest.raises(PhotoError, match="too_many_pixels"):
            decode_for(jpeg(), [], cover=WHOLE, limits=PhotoLimits(max_pixels=10_000), device=device)
        assert not given


def verdict(data: bytes, device: str | None) -> tuple[str, Any]:
    """Why a photo is refused, or the shape of its picture."""
    try:
        photo = whole(data, device)
    except PhotoError as error:
        return error.reason, error.detail
    return "ok", photo.rgb_HW3.shape


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    at = dice.randrange(len(changed))
    match dice.randrange(4):
        case 0:
            changed[at] ^= 1 << dice.randrange(8)
        case 1:
            del changed[at : at + dice.randrange(1, 60)]
        case 2:
            changed[at : at + 8] = dice.randbytes(8)
        case _:
            changed[dice.randrange(min(len(changed), 300))] = dice.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("device", DEVICES)
class TestWhatGoesThere:
    @pytest.mark.parametrize("how", [{"progressive": True}, {"mode": "CMYK"}])
    @pytest.mark.usefixtures("small")
    def test_what_gains_nothing_or_nvjpeg_does_not_take_stays_on_the_cpu(self, how: dict[str, Any], device: str, given: list[bytes]) -> None:
        assert np.array_equal(whole(jpeg(**how), device).rgb_HW3, whole(jpeg(**how), None).rgb_HW3)
        assert not given

    @pytest.mark.usefixtures("small")
    def test_other_formats_and_smaller_scales_stay_on_the_cpu(self, device: str, given: list[bytes]) -> None:
        file = io.BytesIO()
        scene().save(file, "PNG")
        assert whole(file.getvalue(), device).rgb_HW3.shape == (121, 163, 3)
        assert decode_for(jpeg(), [(None, 64, 0.0)], device=device).scale == (0.5, 0.5)
        assert not given

    def test_a_large_photo_goes_there_and_a_small_one_does_not(self, device: str, given: list[bytes]) -> None:
        data = jpeg(scene(1700, 1200))
        assert read_header(data).width_px * read_header(data).height_px >= nvjpeg.MIN_PX
        assert_like(whole(data, device), whole(data, None), device)
        whole(jpeg(scene(1600, 1200)), device)
        assert given == [data]


@pytest.mark.usefixtures("small")
class TestAFailingDevice:
    def test_an_error_of_the_device_fails_no_photo_and_is_said_once(self, caplog: pytest.LogCaptureFixture, given: list[bytes]) -> None:
        with caplog.at_level(logging.WARNING):
            for seed in range(3):
                data = jpeg(scene(seed=seed))
                assert np.array_equal(whole(data, "cuda:99").rgb_HW3, whole(data, None).rgb_HW3)
        assert not given
        assert len(caplog.records) == 1
        assert "the CPU does" in caplog.text

    @pytest.mark.parametrize("wrong", [lambda rgb: 255 - rgb, lambda rgb: rgb[::-1], lambda rgb: np.vstack([rgb[:-8], rgb[:8]]), lambda rgb: rgb[:-1]])
    def test_another_picture_than_the_cpu_sees_is_not_believed(self, wrong: Any, monkeypatch: pytest.MonkeyPatch, given: list[bytes]) -> None:
        import torchvision.io

        real = torchvision.io.decode_jpeg

        def lenient(*args: Any, **how: Any) -> torch.Tensor:
            rgb = np.ascontiguousarray(wrong(real(*args, **how).permute(1, 2, 0).numpy()))
            return torch.from_numpy(rgb).permute(2, 0, 1)

        monkeypatch.setattr(torchvision.io, "decode_jpeg", lenient)
        data = jpeg(scene(160, 120))
        assert np.array_equal(whole(data, "cpu").rgb_HW3, whole(data, None).rgb_HW3)
        assert not given


class TestOption:
    def config(self, **settings: Any) -> AnalyzerConfig:
        return AnalyzerConfig(bundles=("one",), runtime="eager", **settings)

    def test_it_is_refused_without_a_gpu_and_the_message_says_what_to_do(self) -> None:
        with pytest.raises(ConfigError, match="device = 'cpu'; set device = 'cuda'"):
            self.config(decode_on_gpu=True)

    def test_it_makes_another_run(self) -> None:
        plain, gpu = (self.config(device="cuda", decode_on_gpu=on) for on in (False, True))
        assert identity(plain, ["id"], None) != identity(gpu, ["id"], None)

    def test_it_reaches_scoring_and_serving_in_their_config(self) -> None:
        analyzer = self.config(device="cuda", decode_on_gpu=True)
        score = ScoreConfig(study="s", results="r", analyzer=analyzer, use_gpu=True)
        assert from_plain(ScoreConfig, to_plain(score)).analyzer.decode_on_gpu
        serve = ServeConfig(analyzer=analyzer, graph=GraphConfig(decoder=ReplicaConfig(num_gpus=0.2)))
        assert from_plain(ServeConfig, to_plain(serve)).analyzer.decode_on_gpu

    def test_an_endpoint_whose_decoder_has_no_gpu_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"graph\.decoder\.num_gpus"):
            ServeConfig(analyzer=self.config(device="cuda", decode_on_gpu=True))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("device", DEVICES)
def test_real_photos_are_believed(device: str, data: Path, given: list[bytes]) -> None:
    photos = [path.read_bytes() for path in sorted((data / "ecustfd" / "JPEGImages").glob("*.[jJ]*"))[::100]]
    for photo in photos:
        assert_like(whole(photo, device), whole(photo, None), device)
    assert given == photos != []
