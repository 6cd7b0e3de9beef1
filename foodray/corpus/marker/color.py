"""Colour correction from reference patches: an affine map in linear light, and how far colours are from the reference.

In: the oriented photo, where its patches are and which colours they have. Out: a `ColorFit`; `apply_color` uses its matrix.
Colours are sRGB (IEC 61966-2-1), distances CIEDE2000 (Sharma, Wu and Dalal 2005) under D65.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

MIN_PATCHES = 6
"""Fewest patches for which all 12 numbers of the map are fitted."""
MIN_SPREAD = 0.04
"""Least spread (standard deviation in linear light) of the patches in every direction of colour for that: grey patches have none across."""
CLIPPED = (3, 252)
"""Levels of a channel at and beyond which a patch tells nothing about its colour."""
SAMPLES = 9
"""Points along the side of the middle half of a patch whose median is its colour."""
LEVELS = 8192
"""Steps of the table from linear light to sRGB; its first step is 0.4 of a grey level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ColorFit:
    """A map from the photo's colours to the reference."""

    matrix_34: F64
    """Affine map in linear RGB from 0 to 1."""
    delta_e_before: float
    """Mean CIEDE2000 over the patches between photo and reference."""
    delta_e_after: float
    """The same after the map, on the patches it was fitted to."""
    flags: tuple[str, ...]
    """color_gains_only, patches_clipped."""


def fit_color(photo_N3: F64, reference_N3: F64) -> ColorFit | None:
    """The map from patch colours in the photo (sRGB, 0 to 255) to the reference; None where no patch is usable.

    Least squares in linear light. Fewer than six patches, or patches without spread in some direction of colour (greys), cannot tell
    12 numbers: then each channel gets a factor, through black.
    """
    usable = (photo_N3 > CLIPPED[0]).all(axis=1) & (photo_N3 < CLIPPED[1]).all(axis=1)
    if not usable.any():
        return None
    flags = [] if usable.all() else ["patches_clipped"]
    photo, reference = to_linear(photo_N3[usable]), to_linear(reference_N3[usable])
    spread = np.linalg.svd(photo - photo.mean(axis=0), compute_uv=False)[-1] / math.sqrt(len(photo)) if len(photo) >= MIN_PATCHES else 0.0
    if spread >= MIN_SPREAD:
        matrix = np.linalg.lstsq(np.column_stack([photo, np.ones(len(photo))]), reference, rcond=None)[0].T
    else:
        flags.append("color_gains_only")
        matrix = np.column_stack([np.diag((photo * reference).sum(axis=0) / (photo**2).sum(axis=0)), np.zeros(3)])
    after = np.clip(photo @ matrix[:, :3].T + matrix[:, 3], 0.0, 1.0)
    goal = _lab(reference)
    return ColorFit(
        matrix_34=np.asarray(matrix, np.float64),
        delta_e_before=float(delta_e_2000(_lab(photo), goal).mean()),
        delta_e_after=float(delta_e_2000(_lab(after), goal).mean()),
        flags=tuple(flags),
    )


def patch_colors(rgb_HW3: U8, corners_px_N42: F64) -> F64:
    """Median colour (N, 3) of the middle half of patches whose corners are in order around them; NaN for one that is not all in the photo."""
    height, width = rgb_HW3.shape[:2]
    t = np.linspace(0.25, 0.75, SAMPLES)
    u, v = (part.ravel() for part in np.meshgrid(t, t))
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v])
    points = np.einsum("ncd,cs->nsd", corners_px_N42, weights)
    x, y = (np.ascontiguousarray(points[..., part], np.float32) for part in (0, 1))
    samples = np.asarray(cv2.remap(rgb_HW3, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float64)
    colors = np.median(samples, axis=1)
    inside = (corners_px_N42 >= 0).all(axis=(1, 2)) & (corners_px_N42 <= [width - 1, height - 1]).all(axis=(1, 2))
    colors[~inside] = math.nan
    return np.asarray(colors)


def apply_color(rgb_HW3: U8, color_matrix_34: F64) -> U8:
    """A photo (H, W, 3) in 8 bits with its colours mapped in linear light, clipped to 8 bits again."""
    linear = np.asarray(cv2.LUT(rgb_HW3, _TO_LINEAR), np.float32)
    scaled = np.asarray(color_matrix_34, np.float64) * (LEVELS - 1)
    # Converting to 16 bits unsigned rounds, and clips below; the table repeats its last level beyond 1.
    mapped = np.asarray(cv2.transform(linear, scaled), np.float32)
    return np.asarray(_TO_SRGB[np.clip(mapped + 0.5, 0, LEVELS - 1).astype(np.uint16)], np.uint8)


def to_linear(srgb: F64) -> F64:
    """Linear light (0 to 1) of sRGB levels (0 to 255)."""
    level = np.asarray(srgb, np.float64) / 255.0
    return np.asarray(np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4))


def to_srgb(linear: F64) -> F64:
    """sRGB levels (0 to 255, not rounded) of linear light; clipped."""
    light = np.clip(linear, 0.0, 1.0)
    return np.asarray(255.0 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))


_TO_LINEAR = to_linear(np.arange(256.0)).astype(np.float32)
_TO_SRGB = np.rint(to_srgb(np.arange(LEVELS) / (LEVELS - 1))).astype(np.uint8)


def _lab(linear_N3: F64) -> F64:
    """CIELAB (N, 3) of linear sRGB under D65."""
    xyz = linear_N3 @ np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]).T
    ratio = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.column_stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])])


def delta_e_2000(one_N3: F64, other_N3: F64) -> F64:
    """CIEDE2000 (N,) between CIELAB colours (Sharma, Wu and Dalal 2005, equations 2 to 22)."""
    (l1, a1, b1), (l2, a2, b2) = one_N3.T, other_N3.T
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = (h2 - h1 + 180) % 360 - 180
    turn = np.where(grey, 0.0, np.where((turn == -180) & (h2 > h1), 180.0, turn))
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    far = np.abs(h1 - h2) > 180
    h_mean = np.where(grey, h1 + h2, (h1 + h2 + np.where(far, np.where(h1 + h2 < 360, 360.0, -360.0), 0.0)) / 2)
    t = 1 - 0.17 * _cos(h_mean - 30) + 0.24 * _cos(2 * h_mean) + 0.32 * _cos(3 * h_mean + 6) - 0.20 * _cos(4 * h_mean - 63)
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    rotation = -2 * np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h_mean - 275) / 25) ** 2))))
    return np.asarray(np.sqrt((d_l / s_l) ** 2 + (d_c / s_c) ** 2 + (d_h / s_h) ** 2 + rotation * (d_c / s_c) * (d_h / s_h)))


def _cos(degrees: F64) -> F64:
    return np.asarray(np.cos(np.radians(degrees)))
