"""The scene drawn from straight above, in mm: colour, height and label of everything that stands on the table.

In: a `Scene` and a resolution. Out: a `Canvas`, a raster of the part of the table plane that is not bare. The camera
looks at it in `picture.py`; nothing here knows where the camera is.

Legend: H rows and W columns of the canvas.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.corpus.sample.foods import RGB
from foodray.corpus.sample.scene import BASE_MM, CUP_BRIM_MM, CUP_WALL_MM, MARKER, MARKER_BORDER_MM, Container, Light, Photo, marker_half_mm
from foodray.corpus.sample.shapes import F32, SPILL, Grid, Item, Look, rasterise
from foodray.corpus.sample.texture import TILE_PX_PER_MM, food_tile

MARGIN_MM = 45.0
"""Bare table around everything that stands on it: room for shadows."""
MARKER_LABEL = 255
"""Label of the marker's paper."""
INK, PAPER = 26.0, 236.0
"""sRGB levels of the marker's black and white."""


@dataclass
class Canvas:
    """Layers on one grid."""

    grid: Grid
    """Where on the table the layers lie."""
    colour: F32
    """sRGB 0 to 255 as planes (3, H, W); 0 where alpha is 0."""
    alpha: F32
    """(H, W): 1 on things, 0 on the bare table."""
    height: F32
    """(H, W): height above the table in mm."""
    gloss: F32
    """(H, W): strength of highlights."""
    labels: NDArray[np.uint8]
    """(H, W): 0 nothing, k the k-th item (from 1), 255 the marker."""


def draw_canvas(photo: Photo, px_per_mm: float) -> Canvas:
    """Everything on the table of a photo."""
    scene = photo.scene
    half = scene.container.half_mm
    points = np.concatenate([scene.outline()[:, :2], [[-half[0], -half[1]], half], scene.marker_corners()[:, :2] if photo.marker_shown else np.zeros((0, 2))])
    (x0, y0), (x1, y1) = points.min(axis=0) - MARGIN_MM, points.max(axis=0) + MARGIN_MM
    grid = Grid.around(float(x0), float(y0), float(x1), float(y1), px_per_mm=px_per_mm)
    shape = (grid.num_rows, grid.num_cols)
    layers = [np.zeros(shape, np.float32) for _ in range(3)]
    canvas = Canvas(grid, np.zeros((3, *shape), np.float32), layers[0], layers[1], layers[2], np.zeros(shape, np.uint8))
    _draw_container(canvas, scene.container)
    for item in scene.stains:
        _draw_stain(canvas, item)
    for index, item in enumerate(scene.items):
        if item.food.shape.form == "cup":
            _draw_cup(canvas, item)
        _draw_item(canvas, item, index + 1)
    if photo.marker_shown:
        _draw_marker(canvas, scene.marker_mm)
    return canvas


def shade_canvas(canvas: Canvas, light: Light) -> tuple[F32, F32]:
    """Light and highlights, both (H, W): the first is 1 on a flat, open place; the second is added to sRGB levels."""
    height, scale = canvas.height, canvas.grid.px_per_mm
    slope_x, slope_y = (cv2.Sobel(height, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=scale / 8) for dx in (1, 0))
    cos, sin = math.cos(light.elevation_rad), math.sin(light.elevation_rad)
    toward = (cos * math.cos(light.azimuth_rad), cos * math.sin(light.azimuth_rad))
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1.0)
    facing = np.maximum((sin - slope_x * toward[0] - slope_y * toward[1]) / length, 0.0)
    soft = np.asarray(cv2.blur(height, (2 * round(7 * scale) + 1, 2 * round(7 * scale) + 1)), np.float32)
    hollow = np.clip((soft - height) * 0.05, -0.15, 0.5)
    lit = _lit(height, scale, light)
    shade = (light.ambient + (1 - light.ambient) * facing * lit / sin) * (1 - hollow)
    bisector = np.array([toward[0], toward[1], sin + 1.0]) / math.sqrt(2 + 2 * sin)
    mirror = np.maximum((bisector[2] - slope_x * bisector[0] - slope_y * bisector[1]) / length, 0.0)
    return np.asarray(shade, np.float32), np.asarray(canvas.gloss * lit * mirror**24 * 110.0, np.float32)


def _lit(height_HW: F32, px_per_mm: float, light: Light, *, reach_mm: float = 70.0, steps: int = 12) -> F32:
    """1 where the lamp is seen and 0 in its shadow, at half resolution: what stands higher along the way hides it."""
    small = np.asarray(cv2.resize(height_HW, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)
    hidden = np.zeros_like(small)
    rise = math.tan(light.elevation_rad)
    for distance in np.geomspace(2.0, reach_mm, steps):
        shift = distance * px_per_mm / 2
        move = np.array([[1, 0, -shift * math.cos(light.azimuth_rad)], [0, 1, -shift * math.sin(light.azimuth_rad)]], np.float32)
        hidden = np.maximum(hidden, (cv2.warpAffine(small, move, small.shape[::-1]) - small - distance * rise) / (1.0 + 0.12 * distance))
    soft = cv2.GaussianBlur(np.clip(hidden, 0.0, 1.0), (0, 0), 0.8 * px_per_mm)
    return 1.0 - np.asarray(cv2.resize(soft, height_HW.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _smooth(x: F32, low: float, high: float) -> F32:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _paint(canvas: Canvas, place: tuple[slice, slice], colour: Sequence[float | F32], cover: F32) -> None:
    """Lay three levels, or three planes (H, W), over a window, `cover` (H, W) in 0..1 opaque."""
    clear = 1.0 - cover
    for plane_HW, level in zip(canvas.colour, colour, strict=True):
        plane_HW[place] = plane_HW[place] * clear + level * cover
    canvas.alpha[place] = np.maximum(canvas.alpha[place], cover)


def _draw_container(canvas: Canvas, container: Container) -> None:
    """A plate or tray: a flat well, a rim that rises to the wall's height, and perhaps a band on it."""
    place = canvas.grid.window(0.0, 0.0, max(container.half_mm) + 3)
    x, y = canvas.grid.coordinates(*place)
    if container.kind == "plate":
        inside = container.half_mm[0] - np.sqrt(x * x + y * y)
    else:
        corner = 22.0
        dx, dy = (np.maximum(np.abs(v) - (half - corner), 0.0) for v, half in ((x, container.half_mm[0]), (y, container.half_mm[1])))
        inside = corner - np.sqrt(dx * dx + dy * dy)
    edge = np.asarray(inside, np.float32)
    cover = np.clip(edge * canvas.grid.px_per_mm + 0.5, 0, 1)
    rise = 1.0 - _smooth(edge, 0.0, container.rim_mm)
    lip = np.sqrt(np.clip(edge / 3.0, 0.0, 1.0))
    canvas.height[place] = lip * (BASE_MM + (container.wall_mm - BASE_MM) * rise)
    _paint(canvas, place, container.colour, cover)
    if container.band:
        _paint(canvas, place, container.band, np.asarray(_smooth(edge, 3.0, 3.6) * (1 - _smooth(edge, 8.0, 8.6)), np.float32))
    canvas.gloss[place] = 0.25 * cover


def _draw_cup(canvas: Canvas, item: Item) -> None:
    """The cup under a drink: a wall around it and an empty inside, which the drink then fills."""
    place = canvas.grid.window(item.x_mm, item.y_mm, item.reach_mm + CUP_WALL_MM + 2)
    x, y = canvas.grid.coordinates(*place)
    radius = np.sqrt((x - item.x_mm) ** 2 + (y - item.y_mm) ** 2).astype(np.float32)
    outer, inner = ((np.clip((limit - radius) * canvas.grid.px_per_mm + 0.5, 0, 1)) for limit in (item.reach_mm + CUP_WALL_MM, item.reach_mm))
    served = max(item.lumps[0].height_mm, 45.0)
    canvas.height[place] = np.where(outer > 0.5, np.where(inner > 0.5, BASE_MM, served + CUP_BRIM_MM), canvas.height[place])
    _paint(canvas, place, (224, 226, 226), np.asarray(outer, np.float32))
    canvas.gloss[place] = np.maximum(canvas.gloss[place], 0.5 * outer)


def _palette(item: Item) -> F32:
    """sRGB (3, 256) by tone, from dark over body to light, in the hue of this portion."""
    surface = item.food.surface
    stops = np.array([_shift(colour, item.look) for colour in (surface.dark, surface.body, surface.light)], np.float32)
    tones = np.linspace(0, 1, 256)
    return np.stack([np.interp(tones, (0.05, 0.55, 1.0), stops[:, channel]) for channel in range(3)]).astype(np.float32)


def _shift(colour: RGB, look: Look) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
    red, green, blue = colorsys.hsv_to_rgb((hue + look.hue / 360) % 1.0, min(1.0, saturation * look.saturation), min(1.0, value * look.value))
    return red * 255, green * 255, blue * 255


def _draw_item(canvas: Canvas, item: Item, label: int) -> None:
    """A portion on what carries it; where portions meet, the higher one is seen."""
    surface = item.food.surface
    grid = canvas.grid
    place = grid.window(item.x_mm, item.y_mm, item.reach_mm * SPILL)
    local = Grid(x0_mm=grid.x0_mm - item.x_mm, y0_mm=grid.y0_mm - item.y_mm, px_per_mm=grid.px_per_mm, num_cols=grid.num_cols, num_rows=grid.num_rows)
    solid = rasterise(item.lumps, local, *place)
    tone, bump = _texture(item, local, place, solid.lump)
    tone = tone + surface.rim * _smooth(solid.radius, 0.72, 1.0)
    base = BASE_MM if item.food.shape.form == "cup" else canvas.height[place]
    top = solid.height_mm + (bump - 0.5) * 2 * surface.relief_mm
    owned = canvas.labels[place] > 0
    loose = -2 * surface.relief_mm if item.food.shape.roundness == 1.0 else 0.0
    seen = (top > 0.4) & (solid.height_mm > loose) & (~owned | (BASE_MM + top > canvas.height[place]))
    index = np.clip(tone[seen] * 255, 0, 255).astype(np.uint8)
    for plane_HW, palette in zip(canvas.colour, _palette(item), strict=True):
        plane_HW[place][seen] = palette[index]
    height = np.where(owned, BASE_MM, base) + top
    canvas.height[place][seen] = height[seen]
    canvas.gloss[place][seen] = surface.gloss
    canvas.labels[place][seen] = label


def _texture(item: Item, grid: Grid, place: tuple[slice, slice], lump_HW: NDArray[np.int16]) -> tuple[F32, F32]:
    """Tone and bump (H, W) of a window: every lump shows its own place of the tile, in its own direction and brightness."""
    rng = np.random.default_rng(item.look.texture_seed)
    count = len(item.lumps)
    levels = food_tile(item.food.surface)
    level = min(len(levels) - 1, max(0, int(math.log2(TILE_PX_PER_MM / grid.px_per_mm) + 0.5)))
    scale = TILE_PX_PER_MM / 2**level / item.look.grain
    turn = rng.uniform(0, 2 * math.pi) + np.array([lump.angle_rad for lump in item.lumps])
    shift = rng.uniform(0, levels[level].shape[0], (count, 2))
    brighter = rng.normal(0, 0.07 if count > 1 else 0.0, count).astype(np.float32)
    x, y = grid.coordinates(*place)
    cos, sin = (np.asarray(part * scale, np.float32)[lump_HW] for part in (np.cos(turn), np.sin(turn)))
    map_x = x * cos + y * sin + shift.astype(np.float32)[lump_HW, 0]
    map_y = y * cos - x * sin + shift.astype(np.float32)[lump_HW, 1]
    tile = cv2.remap(levels[level], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(tile[..., 0] + brighter[lump_HW], np.float32), np.asarray(tile[..., 1], np.float32)


def _draw_stain(canvas: Canvas, item: Item) -> None:
    """Traces of what lay there before it was eaten: thin, patchy, without height."""
    grid = canvas.grid
    place = grid.window(item.x_mm, item.y_mm, item.reach_mm * SPILL)
    local = Grid(x0_mm=grid.x0_mm - item.x_mm, y0_mm=grid.y0_mm - item.y_mm, px_per_mm=grid.px_per_mm, num_cols=grid.num_cols, num_rows=grid.num_rows)
    solid = rasterise(item.lumps, local, *place)
    tone, _ = _texture(item, local, place, solid.lump)
    patchy = _smooth(tone, 0.45, 0.8) * (1 - _smooth(solid.radius, 0.6, 1.0)) * canvas.alpha[place]
    _paint(canvas, place, _shift(item.food.surface.body, item.look), np.asarray(0.45 * patchy, np.float32))


def _draw_marker(canvas: Canvas, marker_mm: tuple[float, float, float]) -> None:
    """The printed board with straight, antialiased edges: the product of two clipped triangle waves."""
    x_mm, y_mm, angle = marker_mm
    across, down = marker_half_mm()
    square = MARKER.square_mm or 1.0
    place = canvas.grid.window(x_mm, y_mm, math.hypot(across, down) + 2)
    x, y = canvas.grid.coordinates(*place)
    u = (x - x_mm) * math.cos(angle) + (y - y_mm) * math.sin(angle) + across
    v = (y - y_mm) * math.cos(angle) - (x - x_mm) * math.sin(angle) + down
    sharp = canvas.grid.px_per_mm
    inside = np.minimum(np.minimum(u, 2 * across - u), np.minimum(v, 2 * down - v))
    paper = np.clip(inside * sharp + 0.5, 0, 1)
    wave_u, wave_v = (square / 2 - np.abs(np.mod(t - MARKER_BORDER_MM + square / 2, 2 * square) - square) for t in (u, v))
    checks = np.clip(wave_u * sharp * 2, -1, 1) * np.clip(wave_v * sharp * 2, -1, 1)
    black = (0.5 + 0.5 * checks) * np.clip((inside - MARKER_BORDER_MM) * sharp + 0.5, 0, 1)
    level = (PAPER + (INK - PAPER) * black).astype(np.float32)
    _paint(canvas, place, [level] * 3, np.asarray(paper, np.float32))
    canvas.height[place] = np.maximum(canvas.height[place], 0.3 * paper)
    canvas.gloss[place] *= 1 - paper
    canvas.labels[place][(paper > 0.5) & (canvas.labels[place] == 0)] = MARKER_LABEL
