"""The decoder against naive Pillow: photos of 0.5 and 12 megapixels brought to 224 x 224 px on one core.

`run()` measures and returns one row a kind of photo; `python -m tests.bench.decode` prints them. Both ways take turns on
the same bytes, so that a noisy neighbour hits both, and the ratio is that of the medians. Photos are generated; with
`FOODRAY_DATA` set, real ones of ECUSTFD are measured too.
"""

import io
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foodray.corpus.photo import decode, resize

SIDE_PX = 224
BUDGET_S = 4.0
"""Seconds for one kind of photo; four kinds and the making of the photos stay below 20."""


def run() -> list[dict[str, Any]]:
    """Rows with name, ratio (naive Pillow's time / ours), goal and detail."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        half, large = (816, 612), (4032, 3024)
        rows = [
            _row("decode 0.5 MP", [_photo(seed, half, noise=2.0) for seed in range(8)], goal=2.0),
            _row("decode 12 MP, detailed", [_photo(0, large, noise=6.0)], goal=3.0),
            _row("decode 12 MP, smooth", [_photo(0, large, noise=0.0)], goal=3.0),
        ]
        folder = Path(os.environ.get("FOODRAY_DATA", ""), "ecustfd", "JPEGImages")
        if "FOODRAY_DATA" in os.environ and folder.is_dir():
            real = [path.read_bytes() for path in sorted(folder.iterdir())[::50]]
            rows.append(_row("decode 0.5 MP, ECUSTFD", real, goal=2.0))
        return rows
    finally:
        cv2.setNumThreads(threads)


def naive(data: bytes) -> NDArray[np.uint8]:
    """What nearly every training script does: (224, 224, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE_PX, SIDE_PX)))


def ours(data: bytes) -> NDArray[np.uint8]:
    """The same picture through foodray's decoder."""
    return resize(decode(data, cover=SIDE_PX).rgb_HW3, (SIDE_PX, SIDE_PX))


def full(data: bytes) -> NDArray[np.uint8]:
    """Ours without the scaled decoding, to tell what that changes."""
    return resize(decode(data).rgb_HW3, (SIDE_PX, SIDE_PX))


def _row(name: str, photos: Sequence[bytes], *, goal: float) -> dict[str, Any]:
    times: dict[Any, list[float]] = {naive: [], ours: []}
    began, turn = time.perf_counter(), 0
    while turn < 7 or (turn < 200 and time.perf_counter() - began < BUDGET_S):
        for way, taken in times.items():
            start = time.perf_counter()
            way(photos[turn % len(photos)])
            taken.append(time.perf_counter() - start)
        turn += 1
    slow, fast = (statistics.median(taken[1:]) for taken in times.values())
    apart = statistics.mean(float(np.abs(ours(data).astype(int) - full(data)).mean()) for data in photos[:8])
    detail = f"{slow * 1e3:.2f} -> {fast * 1e3:.2f} ms, {turn} turns, {statistics.mean(map(len, photos)) / 1e3:.0f} kB, {apart:.2f} of 255 from full decode"
    return {"name": name, "ratio": slow / fast, "goal": goal, "detail": detail}


def _photo(seed: int, size: tuple[int, int], *, noise: float) -> bytes:
    """A JPEG with shapes of all sizes, as photos have (amplitude in proportion to wavelength), and sensor noise in grey levels."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), 110, np.float32)
    for cells in (3, 6, 12, 25, 50, 100, 200):
        coarse = rng.normal(0, 110 / cells**0.9, (cells * 3 // 4 + 1, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    if noise:
        image += rng.standard_normal(image.shape, dtype=np.float32) * noise
    file = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92 if noise > 3 else 88)
    return file.getvalue()


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:<26} {row['ratio']:5.1f} x  (goal {row['goal']:.0f})  {row['detail']}")
