"""Tiny models as bundles, and an archive of good photos and of every odd file we know."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from foodray.config import to_plain
from foodray.corpus.manifest import write_study
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.calibration import Calibration
from foodray.tasks.longtail import LongtailConfig, LongtailTask
from foodray.tasks.longtail.groups import GroupConfig
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.tasks.tagging import TaggingConfig, TaggingTask
from foodray.tasks.tagging.thresholds import TagCalibration

LABELS = ("apple", "bread", "rice")
LONGTAIL_LABELS = ("ramen", "sushi", "tacos", "unseen")
TAGS = ("carbs", "dessert", "meat", "protein")


def make_bundle(folder: Path, *, seed: int = 0, **settings: object) -> str:
    """A tiny two-headed network with random weights and a calibration, as a bundle."""
    torch.manual_seed(seed)
    wanted = {"backbone": "test_resnet", "weights": "random", "side_px": 32, "target_scale": "log1p", **settings}
    config = MtlConfig(**wanted)  # type: ignore[arg-type]
    task = MtlTask(config=config, labels=LABELS, target_mean=4.0, target_std=1.0, target_spread=80.0)
    fitted = Calibration(level=0.8, num_items=100, num_participants=9, temperature=1.5, portion_halfwidth=0.3, day_halfwidth=0.2, num_days=18)
    task = replace(task, calibration=fitted)
    card = {"task": "mtl", "config": to_plain(config), "state": task.state(), "metrics": {}, "data": {"sample_data": True}}
    network = task.network()
    write_bundle(Store(str(folder)), card, network.state_dict())
    return str(folder)


def make_tagger(folder: Path, tags: tuple[str, ...] = TAGS, *, seed: int = 0, **settings: object) -> str:
    """A tiny tagger with random weights, as a bundle; its calibration spreads what it says, so that some tags are given and some not."""
    torch.manual_seed(seed)
    wanted = {"backbone": "test_resnet", "weights": "random", "side_px": 32, **settings}
    config = TaggingConfig(**wanted)  # type: ignore[arg-type]
    task = TaggingTask(config=config, labels=tags, calibration=TagCalibration(num_photos=50, slope=20.0, one=0.5))
    card = {"task": "tagging", "config": to_plain(config), "state": task.state(), "metrics": {}, "data": {"sample_data": True}}
    write_bundle(Store(str(folder)), card, task.network().state_dict())
    return str(folder)


def make_longtail(folder: Path, *, seed: int = 0, **settings: object) -> str:
    """A tiny classifier of the long-tail family with random weights, as a bundle; nobody trained its last class."""
    torch.manual_seed(seed)
    wanted = {"backbone": "test_resnet", "weights": "random", "side_px": 32, "stride_px": 0, "parts": False, "contrastive": 0.0, **settings}
    names = np.array(["ramen"] * 9 + ["sushi"] * 5 + ["tacos"] * 2, dtype=object)
    task = LongtailTask.fit(LongtailConfig(groups=GroupConfig(by="thirds"), **wanted), {"class_name": names}, LONGTAIL_LABELS)  # type: ignore[arg-type]
    task = replace(task, tau=0.5, calibration=Calibration(num_items=100, num_participants=9, temperature=1.5))
    card = {"task": "longtail", "config": to_plain(task.config), "state": task.state(), "metrics": {}, "data": {"sample_data": True}}
    write_bundle(Store(str(folder)), card, task.network().state_dict())
    return str(folder)


def picture(seed: int, *, width: int = 96, height: int = 72) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    """An image as a file."""
    sink = io.BytesIO()
    image.save(sink, kind, **how)  # type: ignore[arg-type]
    return sink.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


def odd_files() -> dict[str, tuple[bytes | None, str]]:
    """Every odd file we know: its bytes (None: not there) and how it has to end: "ok", or the reason of its quarantine."""
    photo = picture(1)
    jpeg, png = encoded(photo, quality=92), encoded(photo, "PNG")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    frames = [picture(index, width=40, height=30) for index in range(3)]
    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    return {
        "plain.jpg": (jpeg, "ok"),
        "sideways.jpg": (encoded(photo, exif=sideways), "ok"),
        "progressive.jpg": (encoded(photo, progressive=True), "ok"),
        "grey.jpg": (encoded(photo.convert("L")), "ok"),
        "cmyk.jpg": (encoded(photo.convert("CMYK")), "ok"),
        "deep.png": (encoded(Image.fromarray(deep), "PNG"), "ok"),
        "alpha.png": (encoded(photo.convert("RGBA"), "PNG"), "ok"),
        "palette.png": (encoded(photo.convert("P"), "PNG"), "ok"),
        "photo.webp": (encoded(photo, "WEBP"), "ok"),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "ok"),
        "animated.png": (encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), "ok"),
        "misnamed.png": (jpeg, "ok"),
        "no-suffix": (png, "ok"),
        "tiny.jpg": (encoded(picture(2, width=1, height=1)), "ok"),
        "polyglot.jpg": (jpeg + b"PK\x03\x04 a zip behind it", "ok"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "almost.jpg": (jpeg[:-40], "truncated"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "nothing.jpg": (b"", "empty"),
        "text.jpg": (b"<html>502 Bad Gateway</html>", "unidentified"),
        "noise.jpg": (np.random.default_rng(3).bytes(4000), "unidentified"),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "format_not_allowed"),
        "scan.tif": (encoded(photo, "TIFF"), "format_not_allowed"),
        "drawing.bmp": (encoded(photo, "BMP"), "format_not_allowed"),
        "photo.heic": (struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 100, "format_needs_extra"),
        "bomb.png": (_png_header(9_500, 9_500), "too_many_pixels"),
        "long.png": (_png_header(20_000, 10), "too_many_pixels"),
        "huge.jpg": (jpeg + b"\0" * 25_000_001, "too_large"),
        "document.pdf": (b"%PDF-1.7\n" + b"0" * 500, "unidentified"),
        "absent.jpg": (None, "not_found"),
    }


def write_archive(root: str, *, num_good: int = 12, odd: bool = True, first: int = 0) -> Store:
    """A study package: good photos of two days of four people, before and after, with boxes on every other, and the odd files."""
    store = Store(root)
    files: dict[str, bytes | None] = {f"good-{index:03d}.jpg": encoded(picture(100 + index), quality=85) for index in range(first, first + num_good)}
    names = list(files)
    files |= {name: data for name, (data, _) in odd_files().items()} if odd else {}
    for name, data in files.items():
        if data is not None:
            store.write(f"photos/{name}", data, replace=True)
    images = [_image_row(name, index) for index, name in enumerate(files)]
    items = [
        {"truth_item_id": f"{name}-{k}", "image_id": _id(name), "bbox_x": 4.0 + 40 * k, "bbox_y": 6.0, "bbox_w": 36.0, "bbox_h": 50.0}
        for name in names[::2]
        for k in range(2)
    ]
    table = pa.Table.from_pylist(items) if items else pa.table({"truth_item_id": pa.array([], pa.string()), "image_id": pa.array([], pa.string())})
    write_study(store, images=pa.Table.from_pylist(images), truth_items=table, info={"name": "odd", "photos_root": "photos"})
    return store


def _id(name: str) -> str:
    return name.replace(".", "_")


def _image_row(name: str, index: int) -> dict[str, object]:
    meal = ("breakfast", "lunch", "dinner")[index // 16 % 3]
    return {
        "image_id": _id(name),
        "image_uri": name,
        "participant_id": f"p{index % 4}",
        "study_day": index // 4 % 2 + 1,
        "occasion_type": meal,
        "capture_role": "after" if index // 8 % 2 else "before",
    }


def rewrite_images(store: Store, rows: list[dict[str, object]]) -> None:
    """Replace the images table of a package by a CSV with these rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)] + [",".join("" if row.get(name) is None else str(row[name]) for name in names) for row in rows]
    store.delete("images.parquet")
    store.write("images.csv", ("\n".join(lines) + "\n").encode(), replace=True)
