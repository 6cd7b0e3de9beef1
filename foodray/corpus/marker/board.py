"""Finding a printed checkerboard: a few windows rich in crossings of black and white, then OpenCV's search in each.

In: the oriented photo and a `Marker`. Out: the `View` of the board, or None.

Measured on rendered meals (tilt up to 35°), 138 of 960 x 720 px and 104 of 640 x 480 px that show the whole board: 99 % and 100 % found.
Error of the scale 0.05 % and 0.07 % (median), 0.13 % and 0.23 % (95 %); of the tilt 0.4° and 0.6°, 1.7° and 1.6°; of the area of
60 x 60 mm in the middle of the plate, which is extrapolated from a board of 64 x 48 mm beside it, 1.3 % and 2.4 %, 4.5 % and 9.6 %.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.corpus.marker.entries import Marker
from foodray.corpus.marker.plane import F64, View, apply, view_of_points

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


def find_board(rgb_HW3: NDArray[np.uint8], marker: Marker) -> View | None:
    """The view of the board; the one in the window with most crossings where there are several.

    A board looks the same turned by half a turn (a square one by a quarter), so the marker's coordinates may be turned alike.
    """
    assert marker.rows
    assert marker.cols
    assert marker.square_mm
    enlarged = min(2.0, SEARCH_SIDE_PX / max(rgb_HW3.shape[:2]))
    gray = _resized(np.asarray(cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY), np.uint8), enlarged)
    for left, top, side in _candidates(gray, marker.rows * marker.cols):
        factor = min(2.0, CROP_SIDE_PX / side)
        corners = _corners(_resized(gray[top : top + side, left : left + side], factor), marker.rows, marker.cols)
        if corners is None:
            continue
        in_gray = (corners + 0.5) / factor + [left, top]
        view = _view(in_gray / enlarged - 0.5, marker.square_mm, (rgb_HW3.shape[0], rgb_HW3.shape[1]))
        if view is not None:
            return view
    return None


def _view(corners_px: F64, square_mm: float, photo_shape: tuple[int, int]) -> View | None:
    """The view of a board from its inner corners (rows, cols, 2), which may run from right to left."""
    rows, cols = corners_px.shape[:2]
    across, down = corners_px[0, -1] - corners_px[0, 0], corners_px[-1, 0] - corners_px[0, 0]
    if across[0] * down[1] - across[1] * down[0] < 0:
        corners_px = corners_px[:, ::-1]
    y, x = np.mgrid[1 : rows + 1, 1 : cols + 1] * square_mm
    return view_of_points(np.column_stack([x.ravel(), y.ravel()]), corners_px.reshape(-1, 2), photo_shape)


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
    rough = np.asarray(corners, np.float64).reshape(-1, 2)
    grid = np.mgrid[0:rows, 0:cols].reshape(2, -1).T[:, ::-1].astype(np.float64)
    # OpenCV takes the outer corner of a square for an inner one in 4 % of small, rendered boards; the others tell where it should be.
    plane = cv2.findHomography(grid, rough, cv2.LMEDS)[0]
    expected = apply(np.asarray(plane, np.float64), grid) if np.shape(plane) == (3, 3) else rough
    # A window that reaches into the next cell pulls corners together; one of a third of a cell does not.
    reach = int(np.clip(_cell_side(expected.reshape(rows, cols, 2)) * 0.33, 2, 6))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.01)
    # OpenCV writes into the array, and refuses points outside the image.
    start = np.ascontiguousarray(np.clip(expected, 0, [gray.shape[1] - 1, gray.shape[0] - 1]), np.float32).reshape(-1, 1, 2)
    fine = cv2.cornerSubPix(gray, start, (reach, reach), (-1, -1), stop)
    return np.asarray(fine, np.float64).reshape(rows, cols, 2)


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
