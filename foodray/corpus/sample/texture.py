"""Texture tiles in physical millimetres: what foods and table tops look like up close.

In: the grain sizes of a `Surface`, or the kind of a table. Out: tiles that are the same in every process, drawn once
from fixed seeds; an instance takes its own place, direction and colours.

Legend: H = W = side of a tile in px.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.corpus.sample.foods import FOODS, RGB, Surface
from foodray.corpus.sample.scene import TABLES

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

TILE_MM = 96
"""Side of a food tile."""
TILE_PX_PER_MM = 4
"""Resolution of the finest level of a food tile."""
TABLE_MM = 512
"""Side of a table tile."""
TABLE_PX_PER_MM = 2
"""Resolution of a table tile."""

_TABLE_COLOURS: dict[str, tuple[tuple[RGB, RGB], ...]] = {
    "wood": (((92, 58, 34), (166, 118, 74)), ((150, 112, 74), (206, 170, 126)), ((52, 36, 28), (98, 70, 52))),
    "cloth": (((198, 194, 184), (232, 229, 221)), ((104, 124, 148), (150, 168, 188)), ((120, 58, 56), (170, 100, 94))),
    "stone": (((98, 98, 100), (148, 148, 150)), ((176, 168, 158), (214, 208, 200)), ((48, 50, 54), (84, 86, 90))),
    "laminate": (((206, 200, 190), (222, 217, 208)), ((116, 138, 128), (134, 156, 146)), ((172, 178, 186), (190, 196, 204))),
}
NUM_TABLE_TILES = {kind: len(colours) for kind, colours in _TABLE_COLOURS.items()}
"""How many tiles there are of each kind of table."""


def warm_up() -> None:
    """Draw every tile now, so that threads share them instead of drawing each their own."""
    for food in FOODS.values():
        food_tile(food.surface)
    for kind in TABLES:
        for variant in range(NUM_TABLE_TILES[kind]):
            table_tile(kind, variant)


@lru_cache(maxsize=64)
def food_tile(surface: Surface) -> tuple[F32, ...]:
    """Levels of 4, 2 and 1 px per mm, each (H, W, 2): tone in [0, 1] from dark to light, and height in [0, 1]."""
    rng = np.random.default_rng([17, *(int(10 * size) for size in surface.grain_mm), len(surface.kind)])
    side = TILE_MM * TILE_PX_PER_MM
    make = {"grains": _grains, "noise": _crumb, "grill": _grill, "flakes": _flakes, "liquid": _bubbles}[surface.kind]
    tone, bump = make(surface, side, rng)
    tile = np.stack([np.clip(0.5 + (tone - 0.5) * surface.contrast, 0, 1), np.clip(bump, 0, 1)], axis=2).astype(np.float32)
    half = np.asarray(cv2.resize(tile, (side // 2, side // 2), interpolation=cv2.INTER_AREA), np.float32)
    return tile, half, np.asarray(cv2.resize(half, (side // 4, side // 4), interpolation=cv2.INTER_AREA), np.float32)


@lru_cache(maxsize=64)
def table_tile(kind: str, variant: int) -> U8:
    """sRGB (H, W, 3) of a table top at 2 px per mm."""
    side, rng = TABLE_MM * TABLE_PX_PER_MM, np.random.default_rng([23, TABLES.index(kind), variant])
    if kind == "wood":
        bend = noise(rng, side, (300, 90), octaves=2)
        rings = 0.5 + 0.5 * np.sin((np.arange(side, dtype=np.float32)[:, None] / 34 + bend * 9) * 2)
        tone = 0.45 * rings + 0.55 * noise(rng, side, (160, 5), octaves=3)
        tone[:: side // 4] *= 0.3
    elif kind == "cloth":
        index = np.arange(side)
        weave = ((index[:, None] // 3 + index[None, :] // 3) % 2).astype(np.float32)
        stripe = (np.sin(index / 34) > 0.75).astype(np.float32)[None, :]
        tone = 0.25 * weave + 0.45 * noise(rng, side, (60, 60), octaves=3) + 0.3 - 0.5 * stripe * (variant != 0)
    elif kind == "stone":
        tone = 0.6 * noise(rng, side, (40, 40), octaves=4) + 0.4 * noise(rng, side, (3, 3), octaves=1)
    else:
        tone = 0.7 * noise(rng, side, (200, 200), octaves=2) + 0.3 * noise(rng, side, (2, 2), octaves=1)
    low, high = (np.array(colour, np.float32) for colour in _TABLE_COLOURS[kind][variant])
    return np.asarray(low + np.clip(tone, 0, 1)[..., None] * (high - low), np.uint8)


def noise(rng: np.random.Generator, side: int, wave_px: tuple[float, float], *, octaves: int) -> F32:
    """Smooth noise (H, W) in [0, 1]: random grids of falling wavelength (across, down) and weight, enlarged and added."""
    total, weight = np.zeros((side, side), np.float32), 1.0
    for octave in range(octaves):
        cols, rows = (max(2, math.ceil(side / max(1.0, wave / 2**octave)) + 1) for wave in wave_px)
        grid = rng.standard_normal((min(rows, side), min(cols, side)), np.float32)
        total += weight * np.asarray(cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
        weight *= 0.55
    low, high = np.percentile(total, (1, 99))
    return np.asarray(np.clip((total - low) / (high - low), 0, 1), np.float32)


def _grains(surface: Surface, side: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Ellipsoids strewn in three layers; each has its own tone, and gaps between them are dark."""
    length, width = (size * TILE_PX_PER_MM for size in surface.grain_mm)
    stamps = [_stamp(length, width, angle) for angle in np.linspace(0, math.pi, 24, endpoint=False)]
    depth, tone = np.zeros((side, side), np.float32), np.full((side, side), 0.1, np.float32)
    count = int(3.0 * side * side / (math.pi / 4 * length * width))
    places, picks, levels = rng.integers(0, side, (count, 2)), rng.integers(0, len(stamps), count), np.linspace(0.0, 1.2, count)
    tones = rng.normal(0.62, 0.14, count)
    for place, pick, level, shade in zip(places, picks, levels, tones, strict=True):
        dome = stamps[pick]
        window = np.ix_((place[0] + np.arange(dome.shape[0])) % side, (place[1] + np.arange(dome.shape[1])) % side)
        height = np.where(dome > 0, dome + level, 0.0).astype(np.float32)
        higher = height > depth[window]
        depth[window] = np.where(higher, height, depth[window])
        tone[window] = np.where(higher, shade - 0.45 * (1 - dome) ** 3, tone[window])
    return tone, (depth - depth.min()) / (depth.max() - depth.min())


def _stamp(length: float, width: float, angle: float) -> F32:
    """Half an ellipsoid of height 1 seen from above, 0 outside."""
    half = math.ceil(length / 2) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    u, v = (x * math.cos(angle) + y * math.sin(angle)) * 2 / length, (y * math.cos(angle) - x * math.sin(angle)) * 2 / width
    return np.asarray(np.sqrt(np.maximum(1 - u * u - v * v, 0.0)), np.float32)


def _waves(surface: Surface) -> tuple[float, float]:
    return surface.grain_mm[0] * TILE_PX_PER_MM, surface.grain_mm[1] * TILE_PX_PER_MM


def _crumb(surface: Surface, side: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Crust, crumb or mash: noise whose hollows are darker than its ridges are light."""
    bump = noise(rng, side, _waves(surface), octaves=4)
    return 0.2 + 0.45 * bump + 0.2 * noise(rng, side, (120, 120), octaves=2), bump


def _grill(surface: Surface, side: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Meat fibres under dark bars 16 mm apart."""
    fibres = noise(rng, side, _waves(surface), octaves=3)
    bend = noise(rng, side, (160, 160), octaves=2)
    bars = np.sin(2 * math.pi * (np.arange(side, dtype=np.float32)[:, None] / (16.0 * TILE_PX_PER_MM) + 0.25 * bend))
    burnt = np.clip((bars - 0.6) * 4, 0, 1) * noise(rng, side, (40, 40), octaves=2) ** 0.5
    return np.asarray((0.3 + 0.5 * fibres) * (1 - 0.85 * burnt), np.float32), np.asarray(fibres * (1 - 0.5 * burnt), np.float32)


def _flakes(surface: Surface, side: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Curved flakes with light lines between them, as on a fillet of fish."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    bend = noise(rng, side, (160, 160), octaves=2)
    phase = (x + 0.35 * np.abs(y - side / 2)) / (surface.grain_mm[0] * TILE_PX_PER_MM) + 1.2 * bend
    saw = phase - np.floor(phase)
    line = np.exp(-(((saw - 0.5) / 0.10) ** 2))
    body = 0.30 + 0.25 * noise(rng, side, (24, 24), octaves=3)
    return np.asarray(body + 0.45 * line, np.float32), np.asarray(0.4 + 0.6 * saw * (1 - line), np.float32)


def _bubbles(surface: Surface, side: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """A nearly even liquid with a few small bubbles."""
    tone = 0.42 + 0.16 * noise(rng, side, (200, 200), octaves=2)
    for _ in range(140):
        x, y, radius = (int(value) for value in rng.integers([0, 0, 1], [side, side, 5]))
        cv2.circle(tone, (x, y), radius, float(rng.uniform(0.6, 0.95)), -1 if radius < 3 else 1, cv2.LINE_AA)
    return tone, np.full_like(tone, 0.5)
