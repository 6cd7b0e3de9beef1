"""Portions as solids: a food and a volume become lumps with an outline in mm and a height profile.

In: a `Food`, a volume in mL and a random generator. Out: an `Item`, whose volume, mass and energy follow from
integrating its own height profile over its own footprint, whatever volume was asked for.

Legend: H rows and W columns of a `Grid` laid on the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foodray.corpus.sample.foods import Food

F32 = NDArray[np.float32]

VOLUME_STEP_MM = 0.5
"""Side of the cells the volume is summed over; a quarter of it changes no volume by more than 0.1 %."""
SPILL = 1.25
"""How far beyond its outline, in radii, a lump is evaluated: loose grains lie there."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A raster on the table plane."""

    x0_mm: float
    """x of the centre of the first column."""
    y0_mm: float
    """y of the centre of the first row."""
    px_per_mm: float
    """Resolution."""
    num_cols: int
    """W."""
    num_rows: int
    """H."""

    @classmethod
    def around(cls, x0_mm: float, y0_mm: float, x1_mm: float, y1_mm: float, *, px_per_mm: float) -> "Grid":
        """The grid that covers a rectangle."""
        cols, rows = math.ceil((x1_mm - x0_mm) * px_per_mm) + 1, math.ceil((y1_mm - y0_mm) * px_per_mm) + 1
        return cls(x0_mm=x0_mm, y0_mm=y0_mm, px_per_mm=px_per_mm, num_cols=cols, num_rows=rows)

    def window(self, x_mm: float, y_mm: float, reach_mm: float) -> tuple[slice, slice]:
        """Rows and columns within `reach_mm` of a point; empty where that is outside."""
        col, row, reach = (x_mm - self.x0_mm) * self.px_per_mm, (y_mm - self.y0_mm) * self.px_per_mm, reach_mm * self.px_per_mm
        rows = slice(max(0, math.floor(row - reach)), max(0, min(self.num_rows, math.ceil(row + reach) + 1)))
        cols = slice(max(0, math.floor(col - reach)), max(0, min(self.num_cols, math.ceil(col + reach) + 1)))
        return rows, cols

    def coordinates(self, rows: slice, cols: slice) -> tuple[F32, F32]:
        """x (1, W) and y (H, 1) in mm of a window."""
        x = self.x0_mm + np.arange(cols.start, cols.stop, dtype=np.float32) / self.px_per_mm
        y = self.y0_mm + np.arange(rows.start, rows.stop, dtype=np.float32) / self.px_per_mm
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Lump:
    """One solid on a flat base: h = height (1 - r^edge)^roundness over a superellipse with an irregular outline."""

    x_mm: float
    """Centre."""
    y_mm: float
    """Centre."""
    angle_rad: float
    """Direction of the half length."""
    half_mm: tuple[float, float]
    """Half length and half width."""
    height_mm: float
    """Height at the centre."""
    power: float
    """Exponent of the superellipse."""
    edge: float
    """How late the height falls off."""
    roundness: float
    """How steeply the edge ends."""
    wobble: tuple[tuple[int, float, float], ...] = ()
    """Harmonics of the outline: order, share of the radius, phase."""

    @property
    def reach_mm(self) -> float:
        """Radius of a circle around the centre that holds the outline."""
        corner = 1.0 if self.power <= 2.0 else 2.0 ** (0.5 - 1.0 / self.power)
        return max(self.half_mm) * corner * (1.0 + sum(share for _, share, _ in self.wobble))

    @property
    def volume_ml(self) -> float:
        """Volume in closed form: outline area x height x (2/k) B(2/k, p + 1); what the summed volume is tested against."""
        n, k, p = self.power, self.edge, self.roundness
        area = 4.0 * self.half_mm[0] * self.half_mm[1] * math.gamma(1 + 1 / n) ** 2 / math.gamma(1 + 2 / n)
        area *= 1.0 + sum(share**2 for _, share, _ in self.wobble) / 2.0
        beta = math.gamma(2 / k) * math.gamma(p + 1) / math.gamma(2 / k + p + 1)
        return area * self.height_mm * (2 / k) * beta / 1000.0

    def radius(self, x_mm: F32, y_mm: F32) -> F32:
        """Radius relative to the outline, 1 on it, of the points of x (1, W) and y (H, 1)."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dx, dy = x_mm - np.float32(self.x_mm), y_mm - np.float32(self.y_mm)
        u = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(self.half_mm[0])
        v = (dy * np.float32(cos) - dx * np.float32(sin)) / np.float32(self.half_mm[1])
        power = self.power
        radius = np.sqrt(u * u + v * v) if power == 2.0 else (np.abs(u) ** power + np.abs(v) ** power) ** (1.0 / power)
        if self.wobble:
            theta = np.arctan2(v, u)
            radius = radius / (1.0 + sum(share * np.cos(order * theta + phase) for order, share, phase in self.wobble))
        return np.asarray(radius, np.float32)

    def height(self, radius_HW: F32) -> F32:
        """Height in mm at relative radii; negative beyond the outline, where only the grains of the texture stand out."""
        fall = 1.0 - np.minimum(radius_HW, SPILL) ** self.edge
        inside = np.maximum(fall, 0.0) ** self.roundness
        return np.asarray(self.height_mm * (inside + np.minimum(fall, 0.0)), np.float32)


@dataclass(frozen=True)
class Solid:
    """Lumps on a grid, all of shape (H, W); where lumps meet, the higher one is seen."""

    height_mm: F32
    """Height above the base; 0 or less is outside the footprint."""
    radius: F32
    """Radius relative to the outline of the lump that is seen."""
    lump: NDArray[np.int16]
    """Which lump is seen."""


def rasterise(lumps: Sequence[Lump], grid: Grid, rows: slice, cols: slice) -> Solid:
    """Lumps on a window of a grid."""
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    height, radius, seen = np.full(shape, -1e3, np.float32), np.full(shape, 9.0, np.float32), np.zeros(shape, np.int16)
    for index, lump in enumerate(lumps):
        inner_rows, inner_cols = grid.window(lump.x_mm, lump.y_mm, lump.reach_mm * SPILL)
        inner_rows = slice(max(rows.start, inner_rows.start), min(rows.stop, inner_rows.stop))
        inner_cols = slice(max(cols.start, inner_cols.start), min(cols.stop, inner_cols.stop))
        if inner_rows.start >= inner_rows.stop or inner_cols.start >= inner_cols.stop:
            continue
        r = lump.radius(*grid.coordinates(inner_rows, inner_cols))
        h = lump.height(r)
        place = (slice(inner_rows.start - rows.start, inner_rows.stop - rows.start), slice(inner_cols.start - cols.start, inner_cols.stop - cols.start))
        higher = h > height[place]
        height[place][higher], radius[place][higher], seen[place][higher] = h[higher], r[higher], index
    return Solid(height, radius, seen)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one portion differs from the next of its class."""

    hue: float
    """Shift of the hue in degrees."""
    saturation: float
    """Factor on the saturation."""
    value: float
    """Factor on the brightness."""
    grain: float
    """Factor on the size of the grains."""
    texture_seed: int
    """Where on the texture tile its pieces lie."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One portion of a food. Lumps are relative to (x_mm, y_mm)."""

    food: Food
    """Its class."""
    lumps: tuple[Lump, ...]
    """Its solids."""
    look: Look
    """Its variation."""
    x_mm: float = 0.0
    """Where it lies on the table plane."""
    y_mm: float = 0.0
    """Where it lies on the table plane."""

    @cached_property
    def reach_mm(self) -> float:
        """Radius of a circle around its place that holds the footprint."""
        return max(math.hypot(lump.x_mm, lump.y_mm) + lump.reach_mm for lump in self.lumps)

    @cached_property
    def top_mm(self) -> float:
        """Largest height above the base."""
        return max(lump.height_mm for lump in self.lumps)

    @cached_property
    def volume_ml(self) -> float:
        """Height profile summed over the footprint; lumps that overlap share their volume."""
        reach = self.reach_mm
        grid = Grid.around(-reach, -reach, reach, reach, px_per_mm=1.0 / VOLUME_STEP_MM)
        height = rasterise(self.lumps, grid, slice(0, grid.num_rows), slice(0, grid.num_cols)).height_mm
        return float(np.maximum(height, 0.0).sum(dtype=np.float64)) * VOLUME_STEP_MM**2 / 1000.0

    @property
    def mass_g(self) -> float:
        """Volume times the density of the foods table."""
        return self.volume_ml * self.food.density_g_per_ml

    @property
    def energy_kcal(self) -> float:
        """Mass times the energy of the foods table."""
        return self.mass_g * self.food.energy_kcal_per_100g / 100.0


def make_item(food: Food, volume_ml: float, rng: np.random.Generator) -> Item:
    """A portion of about `volume_ml` of a food."""
    look = Look(
        hue=float(rng.normal(0, 3.0)),
        saturation=float(np.clip(rng.normal(1.0, 0.10), 0.7, 1.3)),
        value=float(np.clip(rng.normal(1.0, 0.06), 0.8, 1.15)),
        grain=float(rng.uniform(0.9, 1.12)),
        texture_seed=int(rng.integers(2**31)),
    )
    if food.shape.form == "pieces":
        lumps = _pieces(food, volume_ml, rng)
    elif food.shape.form == "cup":
        radius = float(rng.uniform(30, 38))
        lumps = (_lump(food, (radius, radius), volume_ml * 1000 / (math.pi * radius**2), 0.0),)
    else:
        lumps = (_body(food, volume_ml, rng),)
    return Item(food=food, lumps=lumps, look=look)


def leave(item: Item, share: float, rng: np.random.Generator) -> Item:
    """What is left of an item when `share` (0 to 1) of it is not eaten: fewer pieces, a smaller body, a lower level."""
    lump = item.lumps[0]
    if item.food.shape.form == "cup":
        return replace(item, lumps=(replace(lump, height_mm=lump.height_mm * share),))
    if len(item.lumps) > 1:
        kept = rng.permutation(len(item.lumps))[: max(1, round(share * len(item.lumps)))]
        return replace(item, lumps=tuple(item.lumps[index] for index in sorted(kept)))
    shrink = share**0.5 if item.food.shape.height_mm else share ** (1 / 3)
    height = lump.height_mm * (1.0 if item.food.shape.height_mm else shrink)
    half = (lump.half_mm[0] * shrink, lump.half_mm[1] * shrink)
    away, angle = lump.half_mm[1] * (1 - shrink) * 0.8, rng.uniform(0, 2 * math.pi)
    wobble = _wobble(max(0.08, item.food.shape.wobble), rng)
    moved = replace(lump, half_mm=half, height_mm=height, wobble=wobble, x_mm=lump.x_mm + away * math.cos(angle), y_mm=lump.y_mm + away * math.sin(angle))
    return replace(item, lumps=(moved,))


def _lump(food: Food, half_mm: tuple[float, float], height_mm: float, angle_rad: float) -> Lump:
    shape = food.shape
    return Lump(x_mm=0.0, y_mm=0.0, angle_rad=angle_rad, half_mm=half_mm, height_mm=height_mm, power=shape.power, edge=shape.edge, roundness=shape.roundness)


def _wobble(size: float, rng: np.random.Generator) -> tuple[tuple[int, float, float], ...]:
    return tuple((order, float(abs(rng.normal(0, size / order**0.5))), float(rng.uniform(0, 2 * math.pi))) for order in (2, 3, 4, 6))


def _body(food: Food, volume_ml: float, rng: np.random.Generator) -> Lump:
    """One body of the wanted volume: first of unit radius, then scaled by the cube root (or square root at a given thickness)."""
    shape = food.shape
    aspect = shape.half_mm[0] ** float(rng.normal(1.0, 0.2))
    half = (aspect**0.5, aspect**-0.5)
    thickness = None if shape.height_mm is None else shape.height_mm * float(np.exp(rng.normal(0, 0.15)))
    height = thickness or shape.height_ratio * float(np.exp(rng.normal(0, 0.15)))
    unit = replace(_lump(food, half, height, float(rng.uniform(0, 2 * math.pi))), wobble=_wobble(shape.wobble, rng))
    ratio = volume_ml / unit.volume_ml
    scale = ratio**0.5 if thickness else ratio ** (1 / 3)
    return replace(unit, half_mm=(half[0] * scale, half[1] * scale), height_mm=height if thickness else height * scale)


def _pieces(food: Food, volume_ml: float, rng: np.random.Generator) -> tuple[Lump, ...]:
    """Pieces laid out in a sunflower spiral (long ones thrown in a bundle) until the volume is reached."""
    shape = food.shape
    assert shape.height_mm is not None, food.class_name
    size = float(np.exp(rng.normal(0, 0.08)))
    half, height = (shape.half_mm[0] * size, shape.half_mm[1] * size), shape.height_mm * size
    count = max(1, round(volume_ml / _lump(food, half, height, 0.0).volume_ml))
    long = half[0] > 3 * half[1]
    pitch = (half[0] * half[1]) ** 0.5 * (0.95 if long else 1.08)
    along, turn = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi))
    lumps = []
    for index in range(count):
        distance, theta = pitch * math.sqrt(index + (0.5 if count > 1 else 0.0)), turn + index * 2.39996
        jitter = rng.normal(0, 0.06 * half[1], 2)
        part = float(np.exp(rng.normal(0, 0.07)))
        angle = along + float(rng.normal(0, 0.5)) if long else float(rng.uniform(0, 2 * math.pi))
        lump = _lump(
            food,
            (half[0] * part * float(rng.uniform(0.7, 1.1) if long else 1.0), half[1] * part),
            height * part * (float(rng.uniform(0.8, 2.0)) if long else 1.0),
            angle,
        )
        lumps.append(replace(lump, x_mm=distance * math.cos(theta) + float(jitter[0]), y_mm=distance * math.sin(theta) + float(jitter[1])))
    return tuple(lumps)
