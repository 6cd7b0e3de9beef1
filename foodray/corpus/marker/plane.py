"""The plane a marker lies in: from points of the marker and where they are in the photo to scale, tilt and homography.

In: points in mm and in px of the oriented photo. Out: a `View`. Px coordinates are those of px centres.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

FOCAL_SHARE = 0.85
"""Assumed focal length over the longer side of the photo; that of the sample study's cameras is 0.78 to 1.0.

It matters only to `tilt_deg` and to the error of a marker of four points; the scale and the homography do not use it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """How a marker is seen."""

    to_px_33: F64
    """Homography from the marker's coordinates in mm to px of the photo."""
    centre_mm: tuple[float, float]
    """Middle of the marker in its coordinates."""
    reproj_err_px: float
    """Root mean square distance between the points found and where the fit puts them."""
    tilt_deg: float
    """Angle between the camera's axis and the normal of the plane."""

    @property
    def px_per_mm(self) -> float:
        """Root of the area in px² of a mm² at the middle of the marker."""
        return math.sqrt(float(area_scale(self.to_px_33, np.array([self.centre_mm]))[0]))


def view_of_points(points_mm_N2: F64, points_px_N2: F64, photo_shape: tuple[int, int]) -> View | None:
    """The view of a flat marker from at least four of its points; None where they cannot be seen like that.

    Four points fit any homography, so their error is that of the best pose under the assumed focal length; it is never less than a
    homography's.
    """
    to_px = np.asarray(cv2.findHomography(points_mm_N2, points_px_N2)[0], np.float64)
    if to_px.shape != (3, 3):
        return None  # OpenCV answers None where the points lie on a line.
    centre = points_mm_N2.mean(axis=0)
    if float(np.linalg.det(to_px)) * float(to_px[2] @ [*centre, 1.0]) <= 0:
        return None  # Seen from below: no marker lies like that.
    tilt, pose_error = _pose(points_mm_N2 - centre, points_px_N2, photo_shape)
    fit_error = _rms(apply(to_px, points_mm_N2) - points_px_N2)
    error = pose_error if len(points_mm_N2) == 4 else fit_error
    return View(to_px_33=to_px, centre_mm=(float(centre[0]), float(centre[1])), reproj_err_px=error, tilt_deg=tilt)


def apply(homography_33: F64, points_N2: F64) -> F64:
    """Points (N, 2) through a homography."""
    through = np.column_stack([points_N2, np.ones(len(points_N2))]) @ homography_33.T
    return np.asarray(through[:, :2] / through[:, 2:])


def area_scale(homography_33: F64, points_N2: F64) -> F64:
    """By what factor a homography changes the area of something small at each point, (N,)."""
    depth = np.column_stack([points_N2, np.ones(len(points_N2))]) @ homography_33[2]
    return np.asarray(abs(float(np.linalg.det(homography_33))) / np.abs(depth) ** 3)


def _pose(points_mm_N2: F64, points_px_N2: F64, photo_shape: tuple[int, int]) -> tuple[float, float]:
    """Tilt in degrees and error in px of the better of the two poses of a small plane (IPPE, Collins and Bartoli 2014)."""
    height, width = photo_shape
    focal = FOCAL_SHARE * max(height, width)
    lens = np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
    points = np.column_stack([points_mm_N2, np.zeros(len(points_mm_N2))])
    num, turns, shifts, _ = cv2.solvePnPGeneric(points, points_px_N2, lens, None, flags=cv2.SOLVEPNP_IPPE)
    if not num:
        return math.nan, math.inf
    turn, _ = cv2.Rodrigues(turns[0])
    seen, _ = cv2.projectPoints(points, turns[0], shifts[0], lens, None)
    return math.degrees(math.acos(min(1.0, abs(float(turn[2, 2]))))), _rms(seen[:, 0] - points_px_N2)


def _rms(offsets_N2: F64) -> float:
    return float(np.sqrt((offsets_N2**2).sum(axis=1).mean()))
