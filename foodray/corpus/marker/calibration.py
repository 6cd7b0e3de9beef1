"""One answer about the marker of a photo: found or not, scale, homography, tilt, colours, and what makes it doubtful.

In: the oriented photo and the `Marker` it should show. Out: a `Calibration`; a marker that is not there is one of its states.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foodray.corpus.marker.aruco import find_aruco
from foodray.corpus.marker.board import find_board
from foodray.corpus.marker.color import ColorFit, fit_color, patch_colors
from foodray.corpus.marker.disc import find_disc
from foodray.corpus.marker.entries import Marker
from foodray.corpus.marker.plane import F64, View, apply, area_scale
from foodray.corpus.photo import Photo

HIGH_REPROJECTION_SHARE = {"checkerboard": 0.006, "aruco": 0.010, "coin": 0.012, "plate": 0.012}
"""Reprojection error over the root of the marker's area in the photo above which it is high.

Measured (median, 99 %): boards in rendered meals 0.0019 and 0.0079 at 640 x 480, 0.0011 and 0.0036 at 960 x 720, so that 1 to 2 % are flagged;
drawn ArUco markers under an unknown focal length 0.0019 and 0.0070; coins of ECUSTFD seen from
above 0.0028 and 0.0062, from the side 0.0050 and 0.0095."""
STRONG_TILT_DEG = 50.0
"""Tilt above which it is strong: beyond any of the sample study's (35°); a plane seen at 50° is foreshortened to 0.64."""

COVER_PX = 720
"""Least shorter side of the decoded photo in which a marker is sought; more adds time and no accuracy that was measured."""

FLAGS = {
    "marker_not_found": "the marker is not seen in the photo",
    "ambiguous": "something else in the photo may be the marker as well; without a scale where the two would differ in it",
    "high_reprojection_error": "the marker is bent, blurred or half hidden: its points do not lie where a flat one's would",
    "strong_tilt": "the plane is seen so obliquely that scale and areas are uncertain away from the marker",
    "patches_clipped": "some patches were too bright, too dark or outside the photo and were left out of the colour correction",
    "color_gains_only": "too few or too similar patches for the whole map: one factor a channel",
    "color_not_improved": "the colour correction brought the patches no nearer to their reference and was dropped",
}
"""Every flag of a calibration, with its meaning."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What the marker of one photo tells; lengths and areas hold on the plane in which it lies."""

    marker_found: bool
    """Whether the marker was found; without it everything below is None but the flags."""
    px_per_mm: float | None = None
    """Scale at the middle of the marker: the root of the area in px² of a mm² there."""
    homography_33: F64 | None = None
    """From (x, y, 1) in px of the oriented photo to homogeneous mm in the marker's coordinates; affine for a coin or plate."""
    reproj_err_px: float | None = None
    """Root mean square distance in px between what was found and where the fit puts it: corners, or edges of an ellipse."""
    tilt_deg: float | None = None
    """Angle between the camera's axis and the normal of the plane, under an assumed focal length (`plane.FOCAL_SHARE`).

    Of a coin or plate it is the arc cosine of the ratio of the ellipse's axes: the angle of the view to it, and crude near 0 (a ratio
    that is off by 0.02 is 11°)."""
    color_matrix_34: F64 | None = None
    """Affine map in linear RGB (0 to 1) from the photo to the reference, for `apply_color`; None without usable patches."""
    color_delta_e_before: float | None = None
    """Mean CIEDE2000 of the patches as photographed to their reference."""
    color_delta_e_after: float | None = None
    """The same after the map; the patches are those it was fitted to."""
    flags: tuple[str, ...] = ()
    """Words of `FLAGS`."""

    def box_area_mm2(self, box: tuple[float, float, float, float]) -> float | None:
        """Area on the plane of a box (x, y, width, height) in px; None without a marker, or beyond the horizon."""
        corners = self._box_mm(box)
        if corners is None:
            return None
        one, other = corners[2] - corners[0], corners[3] - corners[1]
        return abs(float(one[0] * other[1] - one[1] * other[0])) / 2

    def extent_mm(self, box: tuple[float, float, float, float]) -> tuple[float, float] | None:
        """Width and height on the plane of a box (x, y, width, height) in px, each the mean of two opposite sides; None as for areas."""
        corners = self._box_mm(box)
        if corners is None:
            return None
        top, right, bottom, left = (float(np.linalg.norm(corners[(k + 1) % 4] - corners[k])) for k in range(4))
        return (top + bottom) / 2, (left + right) / 2

    def mask_area_mm2(self, mask_HW: NDArray[np.bool_], to_photo_33: F64 | None = None) -> float | None:
        """Area on the plane of a mask, px by px; None as for boxes, 0 for an empty mask.

        `to_photo_33` takes px of the mask to px of the photo, where the mask is a crop or coarser; px centres are at whole numbers in both.
        """
        if self.homography_33 is None:
            return None
        to_photo_33 = np.eye(3) if to_photo_33 is None else to_photo_33
        points = np.argwhere(mask_HW)[:, ::-1].astype(np.float64)
        if not len(points):
            return 0.0
        if not self._before_horizon(apply(to_photo_33, points)):
            return None
        return float(area_scale(self.homography_33 @ to_photo_33, points).sum())

    def _box_mm(self, box: tuple[float, float, float, float]) -> F64 | None:
        """Corners (4, 2) of a box on the plane, clockwise in the photo from the upper left."""
        x, y, width, height = box
        # A box runs from edge to edge of its px; coordinates are those of px centres.
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) - 0.5
        if self.homography_33 is None or not self._before_horizon(corners):
            return None
        return apply(self.homography_33, corners)

    def _before_horizon(self, points_px_N2: F64) -> bool:
        """Whether points of the photo lie on the plane, on the camera's side of its horizon; `calibrate` makes depths there positive."""
        assert self.homography_33 is not None
        return bool((np.column_stack([points_px_N2, np.ones(len(points_px_N2))]) @ self.homography_33[2] > 1e-9).all())


def calibrate(rgb_HW3: NDArray[np.uint8], marker: Marker) -> Calibration:
    """What the marker of an oriented photo tells. A marker that is not found is reported, never raised.

    Time on one core for 2 MP: rendered meals, checkerboard 39 ms, ArUco 18 ms, coin 33 ms, plate 23 ms; a board that is not found
    in promising windows up to 70 ms.
    """
    finder = {"checkerboard": _find_board, "aruco": find_aruco, "coin": find_disc, "plate": find_disc}[marker.kind]
    view, ambiguous = finder(np.ascontiguousarray(rgb_HW3), marker)
    flags = ["ambiguous"] if ambiguous else []
    if view is None:
        return Calibration(marker_found=False, flags=("marker_not_found", *flags))
    if view.reproj_err_px > HIGH_REPROJECTION_SHARE[marker.kind] * _size_px(view, marker):
        flags.append("high_reprojection_error")
    if view.tilt_deg > STRONG_TILT_DEG:
        flags.append("strong_tilt")
    to_px, color, color_flags = _color(rgb_HW3, marker, view)
    from_px = np.asarray(np.linalg.inv(to_px), np.float64)
    middle = apply(to_px, np.array([view.centre_mm]))[0]
    from_px *= np.sign(from_px[2] @ [*middle, 1.0])  # Depths on this side of the horizon are positive.
    return Calibration(
        marker_found=True,
        px_per_mm=view.px_per_mm,
        homography_33=from_px,
        reproj_err_px=view.reproj_err_px,
        tilt_deg=view.tilt_deg,
        color_matrix_34=color.matrix_34 if color and "color_not_improved" not in color_flags else None,
        color_delta_e_before=color.delta_e_before if color else None,
        color_delta_e_after=color.delta_e_after if color else None,
        flags=(*flags, *color_flags),
    )


def calibrate_photo(photo: Photo, marker: Marker) -> tuple[Calibration, float | None]:
    """The calibration of a decoded photo in its own px, and the scale in px of the oriented original per mm: for training, scoring and serving."""
    found = calibrate(photo.rgb_HW3, marker)
    return found, None if found.px_per_mm is None else found.px_per_mm / photo.scale[0]


def _find_board(rgb_HW3: NDArray[np.uint8], marker: Marker) -> tuple[View | None, bool]:
    return find_board(rgb_HW3, marker), False


def _size_px(view: View, marker: Marker) -> float:
    """Root of the area of the marker in the photo."""
    if marker.kind == "checkerboard":
        return view.px_per_mm * (marker.square_mm or 0.0) * float(np.sqrt(((marker.rows or 0) + 1) * ((marker.cols or 0) + 1)))
    return view.px_per_mm * (marker.square_mm or marker.diameter_mm or 0.0)


def _color(rgb_HW3: NDArray[np.uint8], marker: Marker, view: View) -> tuple[F64, ColorFit | None, tuple[str, ...]]:
    """The homography to px, with a board turned as its colours say, the colour map, and flags.

    A checkerboard looks the same after half a turn, a square one after a quarter: the turn whose patches fit best is the true one.
    """
    if not marker.patch_reference_srgb:
        return view.to_px_33, None, ()
    centres, side = _patches(marker)
    known = [colour is not None for colour in marker.patch_reference_srgb]
    reference = np.array([colour for colour in marker.patch_reference_srgb if colour is not None]).reshape(-1, 3)
    half = side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    best: tuple[F64, ColorFit | None, tuple[str, ...]] = view.to_px_33, None, ()
    for turn in _turns(marker):
        to_px = view.to_px_33 @ turn
        corners = apply(to_px, (centres[known][:, None] + half).reshape(-1, 2)).reshape(-1, 4, 2)
        photo = patch_colors(rgb_HW3, corners)
        color = fit_color(photo, reference)
        if color is not None and (best[1] is None or color.delta_e_after < best[1].delta_e_after):
            best = to_px, color, color.flags
    to_px, color, flags = best
    if color is None:
        return to_px, None, ("patches_clipped",)
    return to_px, color, flags if color.delta_e_after < color.delta_e_before else (*flags, "color_not_improved")


def _patches(marker: Marker) -> tuple[F64, float]:
    """Centres (N, 2) and side of the patches in mm."""
    side = marker.patch_side_mm or marker.square_mm or 0.0
    if marker.patch_mm:
        return np.array(marker.patch_mm), side
    assert marker.rows
    assert marker.cols
    assert marker.square_mm
    rows, cols = np.mgrid[0 : marker.rows + 1, 0 : marker.cols + 1]
    return (np.column_stack([cols.ravel(), rows.ravel()]) + 0.5) * marker.square_mm, side


def _turns(marker: Marker) -> list[F64]:
    """Turns of a marker's coordinates after which it looks the same, (3, 3) each."""
    if marker.kind != "checkerboard":
        return [np.eye(3)]
    assert marker.rows
    assert marker.cols
    assert marker.square_mm
    across, down = (marker.cols + 1) * marker.square_mm, (marker.rows + 1) * marker.square_mm
    half = np.array([[-1.0, 0.0, across], [0.0, -1.0, down], [0.0, 0.0, 1.0]])
    if marker.rows != marker.cols:
        return [np.eye(3), half]
    quarter = np.array([[0.0, -1.0, across], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return [np.eye(3), quarter, half, half @ quarter]
