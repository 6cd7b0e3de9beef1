"""The decoder against naive Pillow: photos of 0.5 and 12 megapixels brought to 224 x 224 px on one core.

And what decoding on a GPU can gain at most: a full decode against the judgement at 1/8 that stays on the CPU; with a CUDA device also what it gains.

`run()` measures and returns one row a kind of photo; `python -m tests.bench.decode` prints them. Both ways take turns on
the same bytes, so that a noisy neighbour hits both, and the ratio is that of the medians. Photos are generated; with
`FOODRAY_DATA` set, real ones of ECUSTFD are measured too.
"""

import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from foodray.corpus.photo import Photo, decode, decode_for, resize

SIDE_PX = 224
BUDGET_S = 4.0
"""Seconds for one comparison."""


def run() -> list[dict[str, Any]]:
    """Rows with name, ratio (naive Pillow's time / ours), goal and detail."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        half, large = (816, 612), (4032, 3024)
        kinds = {
            "0.5 MP": [_photo(seed, half, noise=2.0) for seed in range(8)],
            "12 MP, detailed": [_photo(0, large, noise=6.0)],
            "12 MP, smooth": [_photo(0, large, noise=0.0)],
        }
        folder = Path(os.environ.get("FOODRAY_DATA", ""), "ecustfd", "JPEGImages")
        if "FOODRAY_DATA" in os.environ and folder.is_dir():
            kinds["0.5 MP, ECUSTFD"] = [path.read_bytes() for path in sorted(folder.iterdir())[::50]]
        rows = [_row(f"decode {kind}", photos, goal=3.0 if "12 MP" in kind else 2.0) for kind, photos in kinds.items()]
        kinds["12 MP, progressive"] = [_progressive(photo) for photo in kinds["12 MP, smooth"]]
        rows += [_gain(f"full / judged at 1/8, {kind}", photos, judged, goal="none: more decode_on_gpu cannot gain") for kind, photos in kinds.items()]
        if torch.cuda.is_available():
            rows += [_gain(f"full / on the GPU, {kind}", photos, on_gpu, goal="> 1") for kind, photos in kinds.items() if kind.startswith("12 MP")]
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


def judged(data: bytes) -> Photo:
    """What stays on the CPU of a photo that a GPU decodes."""
    return decode_for(data, [])


def on_gpu(data: bytes) -> Photo:
    """The whole photo through nvJPEG, judged before."""
    return decode_for(data, [], cover=100_000, device="cuda")


def _row(name: str, photos: Sequence[bytes], *, goal: float) -> dict[str, Any]:
    slow, fast, turns = _medians(photos, naive, ours)
    apart = statistics.mean(float(np.abs(ours(data).astype(int) - full(data)).mean()) for data in photos[:8])
    detail = f"{slow * 1e3:.2f} -> {fast * 1e3:.2f} ms, {turns} turns, {statistics.mean(map(len, photos)) / 1e3:.0f} kB, {apart:.2f} of 255 from full decode"
    return {"name": name, "ratio": slow / fast, "goal": goal, "detail": detail}


def _gain(name: str, photos: Sequence[bytes], way: Callable[[bytes], Photo], *, goal: str) -> dict[str, Any]:
    slow, fast, turns = _medians(photos, decode, way)
    return {"name": name, "ratio": slow / fast, "goal": goal, "detail": f"{slow * 1e3:.2f} -> {fast * 1e3:.2f} ms, {turns} turns"}


def _medians(photos: Sequence[bytes], *ways: Callable[[bytes], Any]) -> tuple[float, float, int]:
    """Seconds of the one way and of the other, and how often each was gone."""
    times: list[list[float]] = [[] for _ in ways]
    began, turn = time.perf_counter(), 0
    while turn < 7 or (turn < 200 and time.perf_counter() - began < BUDGET_S):
        for way, taken in zip(ways, times, strict=True):
            start = time.perf_counter()
            way(photos[turn % len(photos)])
            taken.append(time.perf_counter() - start)
        turn += 1
    slow, fast = (statistics.median(taken[1:]) for taken in times)
    return slow, fast, turn


def _progressive(data: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "JPEG", quality=88, progressive=True)
    return file.getvalue()


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
        print(f"{row['name']:<42} {row['ratio']:5.2f} x  (goal {row['goal']})  {row['detail']}")
