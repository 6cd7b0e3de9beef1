"""A pinhole camera above the table: where a point of the table lands in the photo, and how many px a mm is there.

In: a pose in table coordinates (x right and y down as seen from above, z up, all mm). Out: projections, the table-plane
homography, its inverse as maps, and the local scale that the fiducial marker lets an analysis recover.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pose and lens of one photo."""

    width_px: int
    """Width of the upright photo."""
    height_px: int
    """Height of the upright photo."""
    focal_px: float
    """Focal length."""
    aim_mm: tuple[float, float]
    """Point of the table on the optical axis."""
    distance_mm: float
    """From the camera to that point."""
    tilt_rad: float
    """Angle between the optical axis and the vertical; 0 looks straight down."""
    heading_rad: float
    """Direction on the table that is right in the photo."""
    roll_rad: float
    """Rotation about the optical axis."""

    def rotation(self) -> F64:
        """Rows: right, down and forward of the camera in table coordinates, (3, 3)."""
        cos, sin = math.cos(self.heading_rad), math.sin(self.heading_rad)
        right, near, below = np.array([cos, sin, 0.0]), np.array([-sin, cos, 0.0]), np.array([0.0, 0.0, -1.0])
        down = near * math.cos(self.tilt_rad) + below * math.sin(self.tilt_rad)
        forward = below * math.cos(self.tilt_rad) - near * math.sin(self.tilt_rad)
        rc, rs = math.cos(self.roll_rad), math.sin(self.roll_rad)
        return np.stack([rc * right + rs * down, rc * down - rs * right, forward])

    def centre(self) -> F64:
        """Position of the camera in mm, (3,)."""
        return np.asarray(np.array([*self.aim_mm, 0.0]) - self.distance_mm * self.rotation()[2])

    def matrix(self) -> F64:
        """Lens matrix, (3, 3); the px centre of the photo is on the axis."""
        return np.array([[self.focal_px, 0.0, (self.width_px - 1) / 2], [0.0, self.focal_px, (self.height_px - 1) / 2], [0.0, 0.0, 1.0]])

    def project(self, points_mm: F64) -> F64:
        """px (N, 2) of points (N, 3) in mm."""
        seen = (points_mm - self.centre()) @ self.rotation().T @ self.matrix().T
        return np.asarray(seen[:, :2] / seen[:, 2:])

    def homography(self) -> F64:
        """From (x, y, 1) of the table plane in mm to homogeneous px, (3, 3)."""
        rotation = self.rotation()
        return self.matrix() @ np.column_stack([rotation[:, 0], rotation[:, 1], -rotation @ self.centre()])

    def px_per_mm(self, x_mm: float, y_mm: float) -> float:
        """Local scale on the table plane: the root of the area in px² of one mm²."""
        homography = self.homography()
        depth = float(homography[2] @ np.array([x_mm, y_mm, 1.0]))
        return math.sqrt(abs(float(np.linalg.det(homography))) / depth**3)

    def table_maps(self, step_px: int = 1) -> tuple[F32, F32]:
        """x and y in mm of the table point behind every `step_px`-th px, each (H, W)."""
        inverse = np.linalg.inv(self.homography()).astype(np.float32)
        u, v = np.arange(0, self.width_px, step_px, dtype=np.float32)[None, :], np.arange(0, self.height_px, step_px, dtype=np.float32)[:, None]
        scale = 1.0 / (inverse[2, 0] * u + inverse[2, 1] * v + inverse[2, 2])
        x, y = ((inverse[row, 0] * u + inverse[row, 1] * v + inverse[row, 2]) * scale for row in (0, 1))
        return x, y

    def holds(self, points_mm: F64, margin: float) -> bool:
        """Whether all points (N, 3) are in the photo, `margin` (a share of the shorter side) away from its border."""
        px, border = self.project(points_mm), margin * min(self.width_px, self.height_px)
        upper = np.array([self.width_px, self.height_px]) - 1 - border
        return bool((px >= border).all() and (px <= upper).all())


def frame(camera: Camera, points_mm: F64, *, margin: float) -> Camera:
    """The same view, moved to the shortest distance at which all points (N, 3) are in the photo, roughly centred."""
    near, far = 150.0, 3000.0
    middle = (points_mm[:, :2].min(axis=0) + points_mm[:, :2].max(axis=0)) / 2
    camera = replace(camera, aim_mm=(float(middle[0]), float(middle[1])))
    for _ in range(14):
        distance = (near + far) / 2
        camera = _centred(replace(camera, distance_mm=distance), points_mm)
        near, far = (near, distance) if camera.holds(points_mm, margin) else (distance, far)
    return _centred(replace(camera, distance_mm=far), points_mm)


def _centred(camera: Camera, points_mm: F64) -> Camera:
    """Aim at what projects to the middle of the points' box."""
    px = camera.project(points_mm)
    middle = (px.min(axis=0) + px.max(axis=0)) / 2
    x, y, w = np.linalg.solve(camera.homography(), np.array([*middle, 1.0]))
    return replace(camera, aim_mm=(float(x / w), float(y / w)))
