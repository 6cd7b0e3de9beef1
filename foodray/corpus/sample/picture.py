"""From a `Photo` to pixels: the canvas seen through the camera, under the light of the room, with the faults of a phone.

In: a `Photo`. Out: a `Picture`: the upright 8-bit photo and the label of what each pixel shows. Heights are real: a
ray stops at the first food, wall or rim it meets, so that a tall portion hides what is behind it when the camera tilts.

Legend: H, W of the upright photo; h, w of the coarser raster on which rays are marched.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.corpus.sample.canvas import Canvas, draw_canvas, shade_canvas
from foodray.corpus.sample.scene import Photo
from foodray.corpus.sample.shapes import F32
from foodray.corpus.sample.texture import NUM_TABLE_TILES, TABLE_PX_PER_MM, table_tile

U8 = NDArray[np.uint8]

OVERSAMPLING = 1.05
"""Resolution of the canvas over that of the photo at the centre of the container."""
RAY_STEP_PX = 2
"""Rays are marched for every second pixel; heights are smooth enough between."""
OPEN_LEVEL = 140.0
"""Byte that stands for the light on a flat, open place."""
MARCH_PX = 4.0
"""How far a ray moves over the canvas between two looks at the height map."""
JUMP_MM = 4.0
"""Where neighbouring rays stop at heights that differ by more, every pixel gets a ray of its own."""


@dataclass(frozen=True)
class Picture:
    """A rendered photo."""

    rgb: U8
    """The upright photo, (H, W, 3)."""
    labels: U8
    """(H, W): 0 nothing, k the k-th item of the scene (from 1), 255 the marker."""


def render(photo: Photo) -> Picture:
    """Draw a photo; the same photo always gives the same pixels."""
    camera = photo.camera
    canvas = draw_canvas(photo, min(4.0, OVERSAMPLING * camera.px_per_mm(0.0, 0.0)))
    shade, shine = shade_canvas(canvas, photo.scene.light)
    x_HW, y_HW = camera.table_maps()
    map_x, map_y = _look(canvas, photo, x_HW, y_HW)
    layers = cv2.merge([*(plane_HW.astype(np.uint8) for plane_HW in canvas.colour), (canvas.alpha * 255.0).astype(np.uint8)])
    things = cv2.remap(layers, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    lamp = cv2.merge([np.minimum(part, 255.0).astype(np.uint8) for part in (np.sqrt(shade) * OPEN_LEVEL, shine)])
    light = np.asarray(cv2.remap(lamp, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(OPEN_LEVEL, 0.0)), np.uint8)
    label = cv2.remap(canvas.labels, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    rgb = _expose(photo, _table(photo, x_HW, y_HW), np.asarray(things, np.uint8), light)
    return Picture(rgb, np.asarray(label, np.uint8))


def _look(canvas: Canvas, photo: Photo, x_HW: F32, y_HW: F32) -> tuple[F32, F32]:
    """Canvas column and row seen by each px, (H, W): rays are marched for every second px, and again where heights jump."""
    grid = canvas.grid
    centre_x, centre_y, centre_z = (float(value) for value in photo.camera.centre())
    col, row = (x_HW - grid.x0_mm) * grid.px_per_mm, (y_HW - grid.y0_mm) * grid.px_per_mm
    lean_x, lean_y = (centre_x - x_HW) * (grid.px_per_mm / centre_z), (centre_y - y_HW) * (grid.px_per_mm / centre_z)
    rows, cols = _canvas_box(canvas, photo)
    height_hw = np.zeros(col[::RAY_STEP_PX, ::RAY_STEP_PX].shape, np.float32)
    every = (slice(rows.start * RAY_STEP_PX, rows.stop * RAY_STEP_PX, RAY_STEP_PX), slice(cols.start * RAY_STEP_PX, cols.stop * RAY_STEP_PX, RAY_STEP_PX))
    height_hw[rows, cols] = _march(canvas.height, *(np.ascontiguousarray(part[every]) for part in (col, row, lean_x, lean_y)))
    square = np.ones((3, 3), np.uint8)
    jump_hw = (cv2.dilate(height_hw, square) - cv2.erode(height_hw, square) > JUMP_MM).astype(np.uint8)
    size = (x_HW.shape[1], x_HW.shape[0])
    # A coarse cell (i, j) is centred on px (2i, 2j): an affine warp keeps that, cv2.resize would shift it by half a px.
    enlarge = np.array([[1 / RAY_STEP_PX, 0, 0], [0, 1 / RAY_STEP_PX, 0]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    height = np.asarray(cv2.warpAffine(height_hw, enlarge, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32)
    again = cv2.resize(jump_hw, size, interpolation=cv2.INTER_NEAREST).astype(bool)
    if again.any():
        height[again] = _march(canvas.height, *(part[again][None, :] for part in (col, row, lean_x, lean_y)), halvings=4)[0]
    return col + lean_x * height, row + lean_y * height


def _canvas_box(canvas: Canvas, photo: Photo) -> tuple[slice, slice]:
    """Rows and columns of the coarse raster whose rays may meet something that stands on the canvas."""
    grid, step = canvas.grid, RAY_STEP_PX
    x1, y1 = grid.x0_mm + grid.num_cols / grid.px_per_mm, grid.y0_mm + grid.num_rows / grid.px_per_mm
    corners = [[x, y, z] for x in (grid.x0_mm, x1) for y in (grid.y0_mm, y1) for z in (0.0, float(canvas.height.max()))]
    px = photo.camera.project(np.array(corners)) / step
    last_col, last_row = -(-photo.camera.width_px // step), -(-photo.camera.height_px // step)
    (left, top), (right, bottom) = np.floor(px.min(axis=0)).astype(int), np.ceil(px.max(axis=0)).astype(int) + 1
    return slice(max(0, int(top)), min(last_row, int(bottom))), slice(max(0, int(left)), min(last_col, int(right)))


def _march(height_HW: F32, col: F32, row: F32, lean_x: F32, lean_y: F32, *, halvings: int = 0) -> F32:
    """Height in mm at which each ray (h, w) first meets the height map; `lean` is how many canvas px it moves per mm of height.

    A slope is met between two levels where the line through both gaps is 0; a wall needs the interval to be halved.
    """

    def gap_at(level: F32 | np.float32) -> F32:
        return level - _sample(height_HW, col + lean_x * level, row + lean_y * level)

    top = float(height_HW.max()) + 0.5
    count = int(np.clip(math.ceil(top * float(np.hypot(lean_x, lean_y).max()) / MARCH_PX), 6, 16))
    levels = np.linspace(top, 0.0, count + 1, dtype=np.float32)
    met, gap_above = np.zeros(col.shape, np.float32), np.full(col.shape, 1.0, np.float32)
    for above, level in itertools.pairwise(levels):
        gap = gap_at(level)
        hit = (gap <= 0) & (gap_above > 0)
        met = np.where(hit, level + (above - level) * (gap / np.minimum(gap - gap_above, -1e-6)), met)
        # A ray that has met something stays met: its gap is kept at 0 from then on.
        gap_above = np.where(gap_above > 0, np.maximum(gap, 0.0), 0.0)
    if halvings:
        low = np.floor(met / levels[-2] - 1e-4) * levels[-2]
        high = low + levels[-2]
        for _ in range(halvings):
            middle = np.asarray((low + high) / 2, np.float32)
            under = gap_at(middle) <= 0
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        met = np.where(met > 0, (low + high) / 2, 0.0)
    return np.asarray(met, np.float32)


def _sample(image_HW: F32, col: F32, row: F32) -> F32:
    """Bilinear samples; OpenCV takes no more than 32767 columns, so a long list is folded."""
    if col.shape[0] > 1 or col.shape[1] < 32767:
        return np.asarray(cv2.remap(image_HW, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.float32)
    count, folds = col.shape[1], math.ceil(col.shape[1] / 16384)
    col, row = (np.pad(part, ((0, 0), (0, folds * 16384 - count))).reshape(folds, 16384) for part in (col, row))
    return np.asarray(cv2.remap(image_HW, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.float32).reshape(1, -1)[:, :count]


def _table(photo: Photo, x_HW: F32, y_HW: F32) -> U8:
    """sRGB (H, W, 3) of the bare table."""
    scene = photo.scene
    rng = np.random.default_rng(scene.table_seed)
    tile = table_tile(scene.table, int(rng.integers(NUM_TABLE_TILES[scene.table])))
    angle, shift = float(rng.uniform(0, 2 * math.pi)), rng.uniform(0, tile.shape[0], 2)
    cos, sin = math.cos(angle) * TABLE_PX_PER_MM, math.sin(angle) * TABLE_PX_PER_MM
    map_x, map_y = x_HW * cos + y_HW * sin + shift[0], y_HW * cos - x_HW * sin + shift[1]
    return np.asarray(cv2.remap(tile, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.uint8)


@lru_cache(maxsize=1)
def _grain() -> F32:
    """Unit noise (1200, 1200), from which each photo takes its own part."""
    return np.random.default_rng(5).standard_normal((1200, 1200), np.float32)


def _expose(photo: Photo, table: U8, things: U8, light_HW2: U8) -> U8:
    """Colours under the light, blurred, noisy and clipped, (H, W, 3). sRGB is taken as the square root of light."""
    height, width = table.shape[:2]
    *levels, alpha = cv2.split(things)
    clear = 1.0 - alpha.astype(np.float32) / 255.0
    light, shine = (part.astype(np.float32) for part in cv2.split(light_HW2))
    light *= _field(photo, width, height)
    blur = photo.blur_px * max(height, width) / 960
    noise = _noise(photo, width, height)
    planes = []
    for table_HW, level_HW, gain in zip(cv2.split(table), levels, photo.gains, strict=True):
        plane = (table_HW * clear + level_HW) * (light * math.sqrt(max(gain, 0.05))) + shine
        if blur > 0.25:
            plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), blur), np.float32)
        plane += noise
        planes.append(np.clip(plane, 0.0, 255.0).astype(np.uint8))
    return np.asarray(cv2.merge(planes), np.uint8)


def _field(photo: Photo, width: int, height: int) -> F32:
    """Root of the light across the photo over the byte of an open place, (H, W)."""
    u, v = np.linspace(-1, 1, width, dtype=np.float32)[None, :], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    across = 1.0 + photo.gradient[0] * u - photo.vignette * 0.5 * u * u
    down = photo.gradient[1] * v - photo.vignette * 0.5 * v * v
    return np.asarray(np.sqrt(np.maximum(across + down, 0.15)) / OPEN_LEVEL, np.float32)


def _noise(photo: Photo, width: int, height: int) -> F32:
    """Sensor noise in grey levels, (H, W): a part of one large field, scaled."""
    side = _grain().shape[0]
    row, col = (int(start) for start in np.random.default_rng(photo.noise_seed).integers(0, side, 2))
    rows, cols = np.arange(row, row + height) % side, np.arange(col, col + width) % side
    return np.asarray(_grain()[rows[:, None], cols[None, :]] * np.float32(photo.noise), np.float32)
