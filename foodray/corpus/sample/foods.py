"""The foods of the sample study: what each weighs, yields and looks like, all in physical units.

In: nothing. Out: `FOODS`, a table of `Food` by class name. Energy and density are typical cooked values, rounded, and
serve the demonstration only. The shape says how a volume becomes an outline in mm and a height profile; the surface
says how large the grains are in mm, so that a photo from twice the distance shows them half as large.
Some pairs are close on purpose: meatballs and falafel, mashed potato and scrambled egg, steak and meatballs.
"""

from dataclasses import dataclass
from typing import Literal

RGB = tuple[int, int, int]
Kind = Literal["grains", "noise", "grill", "flakes", "liquid"]

SOURCE = "typical cooked value, rounded; for demonstration only"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a volume becomes an outline and a height profile h = H (1 - r^edge)^roundness, r = 1 on the outline."""

    form: Literal["body", "pieces", "cup"]
    """One body, several pieces of a given size, or a liquid in a cup beside the plate."""
    half_mm: tuple[float, float] = (1.0, 1.0)
    """Half length and half width of a piece in mm; of a body only their ratio counts."""
    height_mm: float | None = None
    """Height of a piece or thickness of a body; None lets the height of a body grow with its width."""
    height_ratio: float = 0.45
    """Height of a body over its mean radius, where no thickness is given."""
    power: float = 2.0
    """Exponent of the outline: 2 is an ellipse, larger is closer to a rectangle."""
    edge: float = 2.0
    """How late the height falls off: 2 is a mound, 10 a slab."""
    roundness: float = 1.0
    """How steeply the edge ends: 1 is a slope, 0.5 a rounded vertical edge."""
    wobble: float = 0.0
    """Irregularity of the outline of a body, as a share of its radius."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Colour and texture, laid out in mm."""

    kind: Kind
    """What the texture is made of."""
    grain_mm: tuple[float, float]
    """Length and width of a grain, or wavelengths along and across of the noise."""
    relief_mm: float
    """How far the grains stand out."""
    dark: RGB
    """sRGB colour of gaps and burnt places."""
    body: RGB
    """sRGB colour of most of the food."""
    light: RGB
    """sRGB colour of the brightest places."""
    gloss: float = 0.1
    """Strength of the highlights, 0 to 1."""
    rim: float = 0.0
    """Change of tone towards the outline: below 0 is a dark crust."""
    contrast: float = 1.0
    """How far the tone departs from that of the body."""


@dataclass(frozen=True, kw_only=True)
class Food:
    """One class of the label set."""

    class_name: str
    """Name in the truth table."""
    parent_group: str
    """Food group."""
    energy_kcal_per_100g: float
    """Energy density in kcal per 100 g."""
    density_g_per_ml: float
    """Bulk density in g per mL of the outlined volume."""
    portion_ml: float
    """Median volume of a portion."""
    popularity: float
    """Relative frequency at lunch and dinner; the tail is rare on purpose."""
    breakfast: float
    """Relative frequency at breakfast."""
    shape: Shape
    """Outline and height."""
    surface: Surface
    """Colour and texture."""


def _surface(kind: Kind, grain_mm: tuple[float, float], relief_mm: float, *stops: RGB, **more: float) -> Surface:
    dark, body, light = stops
    return Surface(kind=kind, grain_mm=grain_mm, relief_mm=relief_mm, dark=dark, body=body, light=light, **more)


def _mound(ratio: float, wobble: float, edge: float = 2.2) -> Shape:
    return Shape(form="body", half_mm=(1.15, 1.0), height_ratio=ratio, wobble=wobble, edge=edge)


def _slab(aspect: float, thickness_mm: float, power: float, wobble: float) -> Shape:
    return Shape(form="body", half_mm=(aspect, 1.0), height_mm=thickness_mm, power=power, edge=9.0, roundness=0.5, wobble=wobble)


def _pieces(length: float, width: float, height: float, *, power: float = 2.0, edge: float = 2.0) -> Shape:
    return Shape(form="pieces", half_mm=(length / 2, width / 2), height_mm=height, power=power, edge=edge, roundness=0.5)


_CUP = Shape(form="cup", power=2.0, edge=200.0, roundness=0.5)


# class: group, kcal per 100 g, g per mL, median portion in mL, relative frequency at lunch and dinner, and at breakfast
_AMOUNTS = {
    "rice": ("grains", 130, 0.68, 105, 1.0, 0.1),
    "pasta": ("grains", 157, 0.55, 120, 0.9, 0.1),
    "bread": ("grains", 250, 0.28, 85, 0.7, 2.5),
    "mashed_potato": ("vegetables", 110, 0.95, 85, 0.7, 0.2),
    "fries": ("vegetables", 310, 0.45, 95, 0.8, 0.1),
    "peas": ("vegetables", 82, 0.70, 55, 0.8, 0.1),
    "broccoli": ("vegetables", 35, 0.38, 95, 0.7, 0.1),
    "carrots": ("vegetables", 36, 0.65, 50, 0.8, 0.1),
    "cherry_tomatoes": ("vegetables", 18, 0.95, 50, 0.6, 1.5),
    "scrambled_egg": ("protein", 150, 0.90, 70, 0.3, 2.5),
    "steak": ("protein", 250, 1.05, 95, 0.5, 0.1),
    "salmon": ("protein", 205, 1.02, 95, 0.5, 0.4),
    "meatballs": ("protein", 200, 0.98, 85, 0.5, 0.1),
    "falafel": ("protein", 330, 0.80, 75, 0.35, 0.1),
    "diet_cola": ("drinks", 0, 1.00, 130, 0.5, 0.3),
    "orange_juice": ("drinks", 45, 1.04, 120, 0.3, 1.5),
}

_SHAPES = {
    "rice": _mound(0.45, 0.05),
    "pasta": _mound(0.42, 0.06),
    "bread": _slab(1.15, 13, 3.6, 0.02),
    "mashed_potato": _mound(0.42, 0.09, 2.6),
    "fries": _pieces(58, 9, 10, power=7.0, edge=8.0),
    "peas": _mound(0.33, 0.08),
    "broccoli": _pieces(38, 32, 23),
    "carrots": _pieces(24, 22, 7, edge=10.0),
    "cherry_tomatoes": _pieces(27, 26, 20),
    "scrambled_egg": _mound(0.36, 0.12),
    "steak": _slab(1.4, 17, 2.4, 0.07),
    "salmon": _slab(1.9, 20, 3.0, 0.03),
    "meatballs": _pieces(36, 34, 24),
    "falafel": _pieces(40, 38, 20, edge=3.0),
    "diet_cola": _CUP,
    "orange_juice": _CUP,
}

_SURFACES = {
    "rice": _surface("grains", (6.5, 2.2), 1.6, (176, 166, 140), (235, 229, 213), (252, 250, 243)),
    "pasta": _surface("grains", (36, 9.5), 5.0, (160, 110, 45), (228, 190, 112), (248, 226, 168), gloss=0.25),
    "bread": _surface("noise", (2.2, 1.8), 0.5, (98, 56, 24), (194, 152, 102), (228, 198, 154), gloss=0.0, rim=-0.75),
    "mashed_potato": _surface("noise", (13, 7), 2.0, (210, 184, 118), (237, 219, 160), (250, 241, 204), gloss=0.15),
    "fries": _surface("noise", (12, 5), 0.4, (166, 100, 28), (231, 182, 82), (250, 220, 140), rim=-0.2),
    "peas": _surface("grains", (8.2, 7.6), 3.0, (52, 98, 26), (104, 158, 50), (158, 204, 92), gloss=0.3),
    "broccoli": _surface("grains", (3.2, 2.8), 1.8, (22, 54, 22), (58, 108, 46), (116, 156, 84), gloss=0.05),
    "carrots": _surface("noise", (7, 6), 0.2, (186, 80, 12), (235, 128, 40), (250, 172, 92), gloss=0.25, rim=-0.3),
    "cherry_tomatoes": _surface("noise", (25, 25), 0.1, (128, 14, 12), (204, 38, 28), (232, 88, 58), gloss=0.9, contrast=0.4),
    "scrambled_egg": _surface("grains", (17, 12), 4.0, (206, 146, 44), (244, 206, 98), (253, 234, 160), gloss=0.3, contrast=0.7),
    "steak": _surface("grill", (9, 3), 1.0, (38, 22, 16), (112, 66, 46), (158, 104, 80), gloss=0.3),
    "salmon": _surface("flakes", (9, 9), 0.8, (198, 100, 70), (236, 148, 112), (250, 208, 182), gloss=0.35),
    "meatballs": _surface("noise", (4.5, 3.5), 1.2, (58, 30, 17), (112, 66, 40), (164, 110, 72), gloss=0.35),
    "falafel": _surface("grains", (3.0, 2.4), 1.4, (78, 48, 18), (136, 92, 44), (190, 146, 88), gloss=0.0),
    "diet_cola": _surface("liquid", (6, 6), 0.1, (16, 8, 6), (48, 22, 14), (120, 76, 50), gloss=0.6),
    "orange_juice": _surface("liquid", (5, 5), 0.1, (222, 128, 18), (247, 170, 44), (255, 206, 104), gloss=0.3),
}

FOODS = {
    name: Food(
        class_name=name,
        parent_group=group,
        energy_kcal_per_100g=kcal,
        density_g_per_ml=density,
        portion_ml=portion_ml,
        popularity=popularity,
        breakfast=breakfast,
        shape=_SHAPES[name],
        surface=_SURFACES[name],
    )
    for name, (group, kcal, density, portion_ml, popularity, breakfast) in _AMOUNTS.items()
}
"""The label set, in the order of the foods table."""
