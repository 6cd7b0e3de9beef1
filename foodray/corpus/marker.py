"""The fiducial marker of a study: what is printed on it, and how many px a mm is where it lies in a photo.

In: the text of `markers.yaml` and the oriented photo. Out: `Marker`s by id, and the scale in px per mm on the table
plane at the marker, or None where it is not seen: a missing marker is a condition to report, not an error.
The camera is tilted, so a square is foreshortened; the scale is therefore the root of the area of a square cell over
the side of the square, which keeps areas on the table right.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from foodray.errors import ConfigError

KINDS = {"checkerboard": ("rows", "cols", "square_mm"), "aruco": ("square_mm",), "coin": ("diameter_mm",), "plate": ("diameter_mm",)}
"""What each kind of marker must tell."""
SEARCH_SIDE_PX = 960
"""Longer side to which a photo is reduced, or up to doubled, before the search."""
NUM_LEVELS = 4
"""How often the photo is halved to find boards that fill more of it."""
WINDOW_PX = 96
"""Side of the window whose crossings are counted, at each level."""
MIN_CONTRAST = 40.0
"""Least difference in grey levels between the black and the white of a crossing."""
MIN_SADDLE = 0.45
"""Least saddle response of a crossing over its squared contrast.

Measured on rendered photos at full size: 0.28 to 0.76 (5 and 95 %) at crossings, below 0.38 (99 %) on food. Crossings
that blur keeps under it are sought again in the halved photo.
"""
MIN_CROSSINGS = 0.7
"""Least share of the board's inner corners that must be among the crossings of a window."""
MAX_CANDIDATES = 3
"""How many windows are searched for a board."""
CROP_SIDE_PX = 360
"""Side to which such a window is reduced or enlarged."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One entry of `markers.yaml`."""

    marker_id: str
    """Name that the images table refers to."""
    kind: str
    """checkerboard, aruco, coin or plate."""
    rows: int | None = None
    """Inner corners down a checkerboard: one less than its squares."""
    cols: int | None = None
    """Inner corners across a checkerboard: one less than its squares."""
    square_mm: float | None = None
    """Side of a square."""
    diameter_mm: float | None = None
    """Diameter of a coin or plate."""


def read_markers(text: str) -> dict[str, Marker]:
    """The markers of a `markers.yaml` (a list of entries, or a mapping with the list under `markers`) by id."""
    try:
        data = yaml.safe_load(text) or []
    except yaml.YAMLError as error:
        raise ConfigError(f"markers.yaml is not YAML: {error}") from error
    entries = data.get("markers") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("markers.yaml must be a list of markers, each with marker_id and kind")
    markers = [_marker(entry) for entry in entries]
    found = {marker.marker_id: marker for marker in markers}
    if len(found) < len(markers):
        raise ConfigError("markers.yaml names a marker_id twice; each marker needs its own")
    return found


def find_marker(rgb: NDArray[np.uint8], marker: Marker) -> float | None:
    """Scale in px per mm on the table plane at the marker, in an oriented photo (H, W, 3); None where it is not found.

    Raises `ConfigError` for a kind that is not measured: only checkerboards are.
    """
    if marker.kind != "checkerboard" or not (marker.rows and marker.cols and marker.square_mm):
        raise ConfigError(
            f"marker {marker.marker_id!r} is of kind {marker.kind!r}: only a checkerboard's scale is measured; leave marker_px_per_mm to the manifest"
        )
    enlarged = min(2.0, SEARCH_SIDE_PX / max(rgb.shape[:2]))
    gray = _resized(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8), enlarged)
    for left, top, side in _candidates(gray, marker.rows * marker.cols):
        factor = min(2.0, CROP_SIDE_PX / side)
        corners = _corners(_resized(gray[top : top + side, left : left + side], factor), marker.rows, marker.cols)
        if corners is not None:
            return float(_cell_side(corners) / (marker.square_mm * factor * enlarged))
    return None


def _marker(entry: dict[str, Any]) -> Marker:
    """One entry checked: a known kind, nothing missing, positive numbers, no unknown keys that look like ours."""
    name, kind = entry.get("marker_id"), entry.get("kind")
    if not name:
        raise ConfigError(f"markers.yaml: an entry has no marker_id: {entry}")
    if kind not in KINDS:
        raise ConfigError(f"marker {name!r} is of kind {kind!r}; known kinds are {', '.join(KINDS)}")
    values: dict[str, Any] = {}
    for field in ("rows", "cols", "square_mm", "diameter_mm"):
        value = entry.get(field)
        if value is None and field in KINDS[kind]:
            raise ConfigError(f"marker {name!r} ({kind}) lacks {field}; a {kind} needs {', '.join(KINDS[kind])}")
        if value is None:
            continue
        whole = field in ("rows", "cols")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not (math.isfinite(value) and value > (1 if whole else 0)):
            raise ConfigError(f"marker {name!r}: {field} must be {'a whole number above 1' if whole else 'a positive number'}, not {value!r}")
        values[field] = value if whole else float(value)
    return Marker(marker_id=str(name), kind=kind, **values)


def _resized(gray: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """An image (H, W) enlarged or reduced."""
    if factor == 1.0:
        return gray
    how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(gray, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def _corners(gray: NDArray[np.uint8], rows: int, cols: int) -> NDArray[np.float64] | None:
    """Inner corners (rows, cols, 2) of a board in px of an image (H, W), to a fraction of a px; None without a board."""
    found, corners = cv2.findChessboardCorners(gray, (cols, rows), flags=cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        return None
    shape = (rows, cols, 2)
    # A window that reaches into the next cell pulls corners together; one of a third of a cell does not.
    reach = int(np.clip(_cell_side(np.asarray(corners, np.float64).reshape(shape)) * 0.33, 2, 6))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.01)
    return np.asarray(cv2.cornerSubPix(gray, corners, (reach, reach), (-1, -1), stop), np.float64).reshape(shape)


def _cell_side(corners: NDArray[np.float64]) -> float:
    """Median over the cells of the root of their area in px, from inner corners (rows, cols, 2)."""
    one, other = corners[1:, 1:] - corners[:-1, :-1], corners[1:, :-1] - corners[:-1, 1:]
    area = np.abs(one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]) / 2
    return float(np.median(np.sqrt(area)))


def _candidates(gray: NDArray[np.uint8], num_corners: int) -> list[tuple[int, int, int]]:
    """Squares (left, top, side) of a photo (H, W) that hold enough crossings of black and white to be a board.

    OpenCV's search takes 270 ms (up to 540) on a whole photo without a board, and 2 ms (up to 50) on such a square.
    """
    found = []
    level = gray
    for halvings in range(NUM_LEVELS):
        if min(level.shape) < WINDOW_PX // 2:
            break
        density = cv2.GaussianBlur(_crossing_density(level), (0, 0), 4.0)
        for _ in range(2):
            _, count, _, (x, y) = cv2.minMaxLoc(density)
            found.append((min(count, 1.2 * num_corners), x << halvings, y << halvings, WINDOW_PX << halvings))
            cv2.circle(density, (x, y), WINDOW_PX * 2 // 3, 0.0, -1)
        level = _resized(level, 0.5)
    found = [window for window in sorted(found, reverse=True) if window[0] >= MIN_CROSSINGS * num_corners][:MAX_CANDIDATES]
    halves = [round(0.85 * size) for *_, size in found]
    return [(max(0, x - half), max(0, y - half), 2 * half) for (_, x, y, _), half in zip(found, halves, strict=True)]


def _crossing_density(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Number of crossings (saddle points of strong, even contrast) in the window around each px of an image (H, W)."""
    smooth = cv2.GaussianBlur(gray, (0, 0), 1.0)
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3) for dx, dy in ((2, 0), (0, 2), (1, 1)))
    saddle = np.maximum(xy * xy - xx * yy, 0.0)
    square = np.ones((9, 9), np.uint8)
    contrast = cv2.subtract(cv2.dilate(smooth, square), cv2.erode(smooth, square)).astype(np.float32)
    peak = (saddle >= cv2.dilate(saddle, np.ones((5, 5), np.uint8))) & (contrast > MIN_CONTRAST) & (saddle > MIN_SADDLE * contrast * contrast)
    side = min(WINDOW_PX, *gray.shape)
    return np.asarray(cv2.boxFilter(peak.astype(np.float32), -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT), np.float32)
