"""What lies on the table at one eating occasion and how one photo looks at it, before any pixel is drawn.

In: random generators and the size of the photo. Out: a `Scene` (container, items, marker, table, light, all in mm) and
a `Photo` (scene, camera, exposure), from which the true scale at the marker is known without rendering.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foodray.corpus.marker import Marker
from foodray.corpus.sample.camera import Camera, frame
from foodray.corpus.sample.foods import FOODS, RGB, Food
from foodray.corpus.sample.shapes import Item, leave, make_item

MARKER = Marker(marker_id="board-8mm", kind="checkerboard", rows=5, cols=7, square_mm=8.0)
"""The printed board of the sample study: 5 x 7 inner corners, 8 x 6 squares of 8 mm."""
MARKER_BORDER_MM = 8.0
"""White paper around the squares."""
BASE_MM = 4.0
"""Height of the well of a plate above the table."""
CUP_WALL_MM = 3.0
"""Thickness of the wall of a cup."""
CUP_BRIM_MM = 9.0
"""How far the wall stands above a full level."""
PORTION_SIGMA = 0.45
"""Spread of the log of a portion: the 5 % and 95 % portions are a factor 4.4 apart."""
PLATE_COLOURS: tuple[RGB, ...] = ((244, 243, 238), (238, 232, 220), (206, 220, 228), (96, 112, 128), (226, 214, 196), (58, 60, 66))
TRAY_COLOURS: tuple[RGB, ...] = ((186, 190, 194), (150, 120, 92), (198, 92, 70), (84, 124, 112), (222, 216, 204))
LARGEST_MM = {"plate": 145.0, "tray": 170.0}
"""Half width beyond which a container does not grow to fit its meal."""
TABLES = ("wood", "cloth", "stone", "laminate")


@dataclass(frozen=True, kw_only=True)
class Container:
    """A round plate or a rectangular tray, centred at the origin."""

    kind: str
    """plate or tray."""
    half_mm: tuple[float, float]
    """Half width and half depth; both the radius of a plate."""
    rim_mm: float
    """Width of the raised rim."""
    wall_mm: float
    """Height of the rim above the table."""
    colour: RGB
    """sRGB colour."""
    band: RGB | None
    """Colour of a printed band along the rim, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """One lamp and the sky."""

    azimuth_rad: float
    """Direction it comes from."""
    elevation_rad: float
    """Its height above the horizon."""
    ambient: float
    """Share of the light that has no direction."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything on the table at one occasion."""

    container: Container
    """What carries the food."""
    items: tuple[Item, ...]
    """Portions, in drawing order; a drink stands beside the container."""
    stains: tuple[Item, ...]
    """Portions whose traces are left on the plate of an after photo."""
    marker_mm: tuple[float, float, float]
    """Centre (x, y) of the marker and its direction in rad."""
    table: str
    """What the table is made of."""
    table_seed: int
    """Which piece of it."""
    light: Light
    """Where the light comes from."""

    def outline(self) -> NDArray[np.float64]:
        """Points (N, 3) in mm that hold every item."""
        theta = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        rings = []
        for item in self.items:
            reach = item.reach_mm + (CUP_WALL_MM if item.food.shape.form == "cup" else 0.0)
            circle = np.column_stack([item.x_mm + reach * np.cos(theta), item.y_mm + reach * np.sin(theta), np.zeros(12)])
            rings += [circle, circle + np.array([0.0, 0.0, BASE_MM + item.top_mm + (CUP_BRIM_MM if item.food.shape.form == "cup" else 0.0)])]
        return np.concatenate(rings)

    def marker_corners(self) -> NDArray[np.float64]:
        """The corners (4, 3) of the marker's paper in mm."""
        x, y, angle = self.marker_mm
        across, down = marker_half_mm()
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [across, down]
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return np.column_stack([signs @ turn.T + [x, y], np.zeros(4)])


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One look at a scene."""

    scene: Scene
    """What is seen."""
    camera: Camera
    """From where."""
    marker_shown: bool
    """Whether the marker lies there at all."""
    gains: tuple[float, float, float]
    """Exposure and light colour as factors on red, green and blue."""
    gradient: tuple[float, float]
    """Relative change of the light across and down the photo."""
    vignette: float
    """Loss of light in the corners."""
    blur_px: float
    """Standard deviation of the blur, for a photo 960 px long."""
    noise: float
    """Standard deviation of the sensor noise in grey levels."""
    jpeg_quality: int
    """Quality of the file."""
    noise_seed: int
    """Which noise."""

    @property
    def marker_px_per_mm(self) -> float | None:
        """True scale at the centre of the marker; None unless its paper is entirely in the photo."""
        corners = self.scene.marker_corners()
        if not self.marker_shown or not self.camera.holds(corners, 0.0):
            return None
        return self.camera.px_per_mm(self.scene.marker_mm[0], self.scene.marker_mm[1])


def marker_half_mm() -> tuple[float, float]:
    """Half width and half height of the marker's paper."""
    assert MARKER.cols
    assert MARKER.rows
    assert MARKER.square_mm
    return (MARKER.cols + 1) * MARKER.square_mm / 2 + MARKER_BORDER_MM, (MARKER.rows + 1) * MARKER.square_mm / 2 + MARKER_BORDER_MM


def make_scene(rng: np.random.Generator, *, meal: str, appetite: float, tray_share: float) -> Scene:
    """A served meal: 3 to 6 foods of different classes, one of them perhaps a drink."""
    container = _container(rng, tray_share)
    foods = _choose(rng, meal, int(rng.integers(4, 7) if container.kind == "tray" else rng.integers(3, 6)))
    portions = [food.portion_ml * appetite * float(np.exp(np.clip(rng.normal(0, PORTION_SIGMA), -1.1, 1.1))) for food in foods]
    solid = [make_item(food, ml, rng) for food, ml in zip(foods, portions, strict=True) if food.shape.form != "cup"]
    drink = [make_item(food, ml, rng) for food, ml in zip(foods, portions, strict=True) if food.shape.form == "cup"]
    placed, container = _pack(solid, container, rng, at_least=3 - len(drink))
    marker_angle = float(rng.uniform(0, 2 * math.pi))
    drink_angle = marker_angle + float(rng.uniform(1.3, 2 * math.pi - 1.3))
    for item in drink:
        x, y = _beside(container, drink_angle, item.reach_mm + CUP_WALL_MM + float(rng.uniform(6, 25)))
        placed.append(replace(item, x_mm=x, y_mm=y))
    marker_x, marker_y = _beside(container, marker_angle, math.hypot(*marker_half_mm()) + float(rng.uniform(4, 18)))
    return Scene(
        container=container,
        items=tuple(placed),
        stains=(),
        marker_mm=(marker_x, marker_y, float(rng.uniform(0, 2 * math.pi))),
        table=str(rng.choice(TABLES)),
        table_seed=int(rng.integers(2**31)),
        light=Light(azimuth_rad=float(rng.uniform(0, 2 * math.pi)), elevation_rad=float(rng.uniform(0.65, 1.25)), ambient=float(rng.uniform(0.4, 0.65))),
    )


def after_meal(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same table after the meal: every food is still there, with 8 to 60 % of its amount left, and traces of the rest."""
    left = tuple(leave(item, float(rng.uniform(0.08, 0.6)), rng) for item in scene.items)
    return replace(scene, items=left, stains=tuple(item for item in scene.items if item.food.shape.form != "cup"))


def take_photo(scene: Scene, rng: np.random.Generator, *, width_px: int, height_px: int, markerless_share: float) -> Photo:
    """A look at a scene from a random place; all items are in the photo, the marker in most."""
    if rng.random() < 0.25:
        width_px, height_px = height_px, width_px
    camera = Camera(
        width_px=width_px,
        height_px=height_px,
        focal_px=float(rng.uniform(0.78, 1.0)) * max(width_px, height_px),
        aim_mm=(0.0, 0.0),
        distance_mm=500.0,
        tilt_rad=math.radians(float(rng.uniform(0, 35))),
        heading_rad=float(rng.uniform(0, 2 * math.pi)),
        roll_rad=math.radians(float(rng.normal(0, 4))),
    )
    shown = rng.random() >= markerless_share
    points = np.concatenate([scene.outline(), scene.marker_corners()]) if shown and rng.random() < 0.97 else scene.outline()
    camera = frame(camera, points, margin=0.02)
    widest = 1.35 if scene.container.kind == "tray" else 1.9
    camera = replace(camera, distance_mm=camera.distance_mm * float(rng.uniform(1.0, widest)))
    warmth, exposure = float(rng.normal(0, 0.10)), float(np.exp(rng.normal(0, 0.14)))
    return Photo(
        scene=scene,
        camera=camera,
        marker_shown=bool(shown),
        gains=(exposure * (1 + warmth), exposure * float(rng.normal(1.0, 0.015)), exposure * (1 - warmth)),
        gradient=(float(rng.normal(0, 0.14)), float(rng.normal(0, 0.14))),
        vignette=float(rng.uniform(0.0, 0.3)),
        blur_px=float(rng.uniform(0.0, 1.0)),
        noise=float(rng.uniform(1.0, 6.0)),
        jpeg_quality=int(rng.integers(72, 96)),
        noise_seed=int(rng.integers(2**31)),
    )


def _container(rng: np.random.Generator, tray_share: float) -> Container:
    if rng.random() < tray_share:
        half = (float(rng.uniform(135, 165)), float(rng.uniform(95, 120)))
        colour = TRAY_COLOURS[int(rng.integers(len(TRAY_COLOURS)))]
        return Container(kind="tray", half_mm=half, rim_mm=14.0, wall_mm=float(rng.uniform(14, 22)), colour=colour, band=None)
    radius = float(rng.uniform(110, 142))
    colour = PLATE_COLOURS[int(rng.integers(len(PLATE_COLOURS)))]
    shades = [int(level) for level in rng.integers(30, 200, 3)]
    band = (shades[0], shades[1], shades[2]) if rng.random() < 0.35 else None
    return Container(kind="plate", half_mm=(radius, radius), rim_mm=0.3 * radius, wall_mm=float(rng.uniform(14, 22)), colour=colour, band=band)


def _choose(rng: np.random.Generator, meal: str, count: int) -> list[Food]:
    """Different classes, at most one of them a drink."""
    foods = list(FOODS.values())
    weights = np.array([food.breakfast if meal == "breakfast" else food.popularity for food in foods])
    order = [foods[index] for index in rng.choice(len(foods), len(foods), replace=False, p=weights / weights.sum())]
    drinks = [food for food in order if food.shape.form == "cup"]
    return [food for food in order if food not in drinks[1:]][:count]


def _beside(container: Container, angle: float, clearance_mm: float) -> tuple[float, float]:
    """The nearest place (x, y) in a direction that is `clearance_mm` away from a container."""
    for distance in np.arange(clearance_mm, 1000.0, 2.0):
        x, y = float(distance) * math.cos(angle), float(distance) * math.sin(angle)
        if container.kind == "plate":
            gap = float(distance) - container.half_mm[0]
        else:
            gap = math.hypot(max(0.0, abs(x) - container.half_mm[0]), max(0.0, abs(y) - container.half_mm[1]))
        if gap >= clearance_mm:
            break
    return x, y


def _pack(items: list[Item], container: Container, rng: np.random.Generator, *, at_least: int) -> tuple[list[Item], Container]:
    """Push the items apart until they overlap only slightly: take a larger container, then fewer items, then smaller ones."""
    largest_mm = LARGEST_MM[container.kind]
    while True:
        reach = np.array([item.reach_mm * 0.80 for item in items])
        places, overlap = min((_relax(reach, container, rng) for _ in range(3)), key=lambda found: found[1])
        if overlap < 0.13:
            return [replace(item, x_mm=float(x), y_mm=float(y)) for item, (x, y) in zip(items, places, strict=True)], container
        if container.half_mm[0] < largest_mm:
            container = replace(container, half_mm=(container.half_mm[0] * 1.09, container.half_mm[1] * 1.09))
        elif len(items) > at_least:
            crowding = max(items, key=lambda item: item.reach_mm)
            items = [item for item in items if item is not crowding]
        else:
            items = [make_item(item.food, item.volume_ml * 0.8, rng) for item in items]


def _relax(reach: NDArray[np.float64], container: Container, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Centres (N, 2) of circles after up to 80 steps of repulsion, and their largest overlap or overhang as a share of the radius."""
    half = np.array(container.half_mm) - container.rim_mm * 0.55
    places = rng.uniform(-0.5, 0.5, (len(reach), 2)) * half
    sums = reach[:, None] + reach[None, :]
    np.fill_diagonal(sums, 0.0)
    room = np.maximum(half[None, :] - reach[:, None], 0.0)
    for _ in range(80):
        apart = places[:, None] - places[None, :]
        distance = np.sqrt((apart**2).sum(axis=2)) + 1e-6
        push = np.maximum(sums - distance, 0.0)
        places = places + (apart / distance[..., None] * push[..., None]).sum(axis=1) * 0.4
        if container.kind == "plate":
            places *= np.minimum(1.0, room[:, 0] / (np.sqrt((places**2).sum(axis=1)) + 1e-6))[:, None]
        else:
            places = np.clip(places, -room, room)
        if push.max(initial=0.0) < 0.1:
            break
    distance = np.sqrt(((places[:, None] - places[None, :]) ** 2).sum(axis=2))
    overlap = np.maximum(sums - distance, 0.0) / np.minimum(reach[:, None], reach[None, :])
    overhang = np.maximum(reach[:, None] - half[None, :], 0.0) / reach[:, None]
    return places, float(max(overlap.max(initial=0.0), overhang.max(initial=0.0)))
