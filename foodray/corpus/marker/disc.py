"""Finding a disc of known diameter, a coin or a plate, as the best supported ellipse of a plausible size.

In: the oriented photo and a `Marker`. Out: its `View`, or None. Three steps: edge points vote for centres along their gradient
(Loy and Zelinsky 2003); around the best centres the strongest closed path of edges is sought on rays, by dynamic programming, and an
ellipse fitted to it (Fitzgibbon, Pilu and Fisher 1999), three times, each around the last ellipse; the ellipses are ranked.

What it knows of a coin: the longer side of a photo of a meal shows 150 to 1000 mm; a coin is round, evenly lit, and less colourful
than what it lies on. What it confuses with one: grapes and other round, pale food of its size, screw heads, a second coin. Two
ellipses with near-equal support but different size give no scale at all, for a false one is worse than none. Of a plate it knows
only that it is large; a plate that leaves the photo on one side may lose to the round food on it.
An ellipse tells no perspective: the homography is affine, scale and areas hold near the disc, and the scale of a plate seen at 40° from
520 mm comes out 4 % high. A coin that stands on its edge, as in the side views of ECUSTFD, gives the scale of its own upright plane; the
rim of a plate lies above the table, which makes things on the table 2 to 6 % too small (20 mm of height seen from 350 to 900 mm).

Measured. Coins of ECUSTFD, 65 top and 66 side views that were not tuned on: found (IoU with the annotated box of at least 0.5) in 100 % and
88 %; of the discs reported, 100 % and 98 % are the coin. The scale is 5.4 % and 1.5 % below that of the annotated boxes, which are drawn
loosely; about that it varies by 2.8 % and 2.0 % (median), 6.5 % and 4.5 % (90 %). Where the coin was painted over, 2 % of 60 top views and
7 % of 60 side views give a false scale, and so do 26 % of 145 rendered meals without one (cups of coffee, meat balls). Do not name a coin
that is not there.
Plates: in 96 rendered meals 89 % found, scale at the rim off by 1.8 % (median) and 3.4 % (95 %); on a tray instead of a plate 8 % of 49 are
taken for one. Of 50 top views of ECUSTFD 47 give the published diameter within 12 %, 2 the food on a plate that is cut.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from foodray.corpus.marker.entries import Marker
from foodray.corpus.marker.plane import View

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

FIELD_MM = (150.0, 1000.0)
"""What the longer side of a photo may show."""
USUAL_FIELD_MM = (220.0, 500.0)
"""What it shows as a rule; a disc that would mean less or more is ranked lower."""
NUM_RAYS = 64
"""Rays on which edges are sought."""
RINGS = ((0.6, 1.5), (0.75, 1.3), (0.85, 1.18))
"""Range of each of the three searches, as shares of the radius so far."""
OUTER_RING = (1.025, 1.14)
"""Range in which a larger ellipse around that of a plate is sought: the edge of a rim with a printed band inside it."""
OUTER_SUPPORT = 0.8
"""Least support of a larger, concentric ellipse over that of a smaller one, for the larger to be the rim of the plate."""
NUM_STEPS = 24
"""Steps along a ray in that range."""
SOFT_EDGE = 6.0
"""Gradient in grey levels per px that counts half as an edge; ten times as much counts nearly whole."""
BEND = 0.05
"""Cost of a path for each step outwards or inwards, in edges."""
MAX_COIN_CHROMA = 0.65
"""Saturation above which nothing is a coin: 0.57 is the 99 % point of the coins of ECUSTFD, juice and tomatoes are at 0.7 to 0.9."""
SAME_SHARE = 0.05
"""Difference in size up to which two discs give the same scale."""


@dataclass(frozen=True, kw_only=True)
class DiscRule:
    """How a kind of disc is sought."""

    search_side_px: int
    """Longer side to which the photo is reduced; a coin is then 20 to 100 px wide, a plate at least 90."""
    num_candidates: int
    """Centres that are followed up."""
    min_axis_ratio: float
    """Least minor over major axis: the cosine of the largest tilt."""
    min_support: float
    """Least share of the rays, weighed by the strength of the edge, that meet an edge on the ellipse."""
    min_score: float
    """Least support after what speaks against the disc is taken off."""
    plain: bool
    """Whether it is plain metal: evenly lit and less colourful than what is around it."""
    outermost: bool
    """Whether the largest of concentric ellipses is taken: a plate has a rim and a well."""
    margin: float
    """Lead in score below which the second best disc makes the first ambiguous."""


RULES = {
    "coin": DiscRule(search_side_px=640, num_candidates=12, min_axis_ratio=0.6, min_support=0.40, min_score=0.42, plain=True, outermost=False, margin=0.05),
    "plate": DiscRule(search_side_px=320, num_candidates=10, min_axis_ratio=0.5, min_support=0.50, min_score=0.58, plain=False, outermost=True, margin=0.05),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipse:
    """A disc as it is seen in the reduced photo."""

    frame_23: F64
    """From the unit circle to px: major and minor half axis, then the centre."""
    support: float
    """Share of the rays that meet an edge on it, weighed by its strength; 0 to 1."""
    error_px: float
    """Root mean square distance of those edges from it."""

    @property
    def radius(self) -> float:
        """Root of the product of the half axes, in px."""
        return math.sqrt(abs(float(np.linalg.det(self.frame_23[:, :2]))))

    @property
    def half_axes(self) -> tuple[float, float]:
        """Major and minor half axis in px."""
        major, minor = (float(length) for length in np.linalg.norm(self.frame_23[:, :2], axis=0))
        return major, minor

    @property
    def centre(self) -> tuple[float, float]:
        """In px."""
        return float(self.frame_23[0, 2]), float(self.frame_23[1, 2])


def find_disc(rgb_HW3: U8, marker: Marker) -> tuple[View | None, bool]:
    """The view of a coin or plate, and whether another disc has near-equal support; None where they would differ in scale."""
    assert marker.diameter_mm is not None
    rule = RULES[marker.kind]
    factor = min(1.0, rule.search_side_px / max(rgb_HW3.shape[:2]))
    small = np.asarray(cv2.resize(rgb_HW3, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8) if factor < 1 else rgb_HW3
    ranked = ranked_discs(small, marker.diameter_mm, rule)
    if not ranked:
        return None, False
    best = ranked[0][1]
    rivals = [disc for score, disc in ranked[1:] if ranked[0][0] - score < rule.margin]
    if any(abs(math.log(disc.radius / best.radius)) > SAME_SHARE for disc in rivals):
        return None, True
    frame = best.frame_23 / factor
    frame[:, 2] += 0.5 / factor - 0.5
    frame[:, :2] /= marker.diameter_mm / 2
    major, minor = best.half_axes
    view = View(
        to_px_33=np.vstack([frame, [0.0, 0.0, 1.0]]),
        centre_mm=(0.0, 0.0),
        reproj_err_px=best.error_px / factor,
        tilt_deg=math.degrees(math.acos(minor / major)),
    )
    return view, bool(rivals)


def ranked_discs(rgb_HW3: U8, diameter_mm: float, rule: DiscRule) -> list[tuple[float, Ellipse]]:
    """The discs of a reduced photo that are supported well enough, with their scores, best first."""
    gx, gy = _gradient(rgb_HW3)
    height, width = gx.shape
    side = max(height, width)
    radii = diameter_mm / 2 * side / FIELD_MM[1], min(diameter_mm / 2 * side / FIELD_MM[0], 0.55 * side)
    discs: list[Ellipse | None] = [
        Ellipse(frame_23=np.array([[r, 0.0, x], [0.0, r, y]]), support=0.0, error_px=0.0) for x, y, r in _centres(gx, gy, radii, rule.num_candidates)
    ]
    for ring in RINGS:
        discs = _refined(gx, gy, [disc for disc in discs if disc is not None], ring)
    if rule.outermost:
        found = [disc for disc in discs if disc is not None]
        wider = _refined(gx, gy, found, OUTER_RING)
        discs = [outer if outer is not None and outer.support > OUTER_SUPPORT * disc.support else disc for disc, outer in zip(found, wider, strict=True)]
    fair = [disc for disc in discs if disc is not None and _is_fair(disc, rule, radii, (height, width))]
    scored = sorted(((_score(rgb_HW3, disc, diameter_mm, rule), disc) for disc in fair), key=lambda pair: -pair[0])
    return _apart([pair for pair in scored if pair[0] >= rule.min_score], rule)


def _is_fair(disc: Ellipse, rule: DiscRule, radii: tuple[float, float], shape: tuple[int, int]) -> bool:
    """Whether it is supported, not too narrow, of a size that can be, and centred in the photo."""
    major, minor = disc.half_axes
    x, y = disc.centre
    plausible = 0.9 * radii[0] < disc.radius < 1.1 * radii[1]
    return disc.support >= rule.min_support and minor >= rule.min_axis_ratio * major and plausible and 0 <= x < shape[1] and 0 <= y < shape[0]


def _score(rgb_HW3: U8, disc: Ellipse, diameter_mm: float, rule: DiscRule) -> float:
    """Support, less what speaks against this disc."""
    field_mm = diameter_mm / 2 * max(rgb_HW3.shape) / disc.radius
    unusual = max(0.0, math.log(USUAL_FIELD_MM[0] / field_mm), math.log(field_mm / USUAL_FIELD_MM[1]))
    score = disc.support - 0.3 * unusual
    if not rule.plain:
        return score
    major, minor = disc.half_axes
    inside, outside = _ring_colors(rgb_HW3, disc, (0.2, 0.4, 0.6, 0.8)), _ring_colors(rgb_HW3, disc, (1.15, 1.25, 1.35))
    if _chroma(inside) > MAX_COIN_CHROMA:
        return -math.inf
    colourful = max(0.0, _chroma(inside) - _chroma(outside) + 0.1)
    uneven = float(inside.mean(axis=1).std()) / 100
    return score - 0.5 * colourful - 1.0 * (1 - minor / major) - 0.5 * uneven


def _apart(scored: list[tuple[float, Ellipse]], rule: DiscRule) -> list[tuple[float, Ellipse]]:
    """One disc at each place: the best, or with `outermost` the largest of those nearly as good."""
    kept: list[tuple[float, Ellipse]] = []
    for score, disc in scored:
        rivals = [k for k, (_, other) in enumerate(kept) if math.dist(disc.centre, other.centre) < 0.5 * max(disc.radius, other.radius)]
        if not rivals:
            kept.append((score, disc))
        elif rule.outermost and disc.radius > kept[rivals[0]][1].radius and disc.support > OUTER_SUPPORT * kept[rivals[0]][0]:
            kept[rivals[0]] = kept[rivals[0]][0], disc
    return kept


def _gradient(rgb_HW3: U8) -> tuple[F32, F32]:
    """Gradient (H, W) in grey levels per px, at each px of the channel where it is largest."""
    smooth = cv2.GaussianBlur(rgb_HW3, (0, 0), 1.0)
    most, gx, gy = (np.zeros(rgb_HW3.shape[:2], np.float32) for _ in range(3))
    for plane in cv2.split(smooth):
        x, y = (cv2.Scharr(plane, cv2.CV_32F, dx, dy, scale=1 / 32) for dx, dy in ((1, 0), (0, 1)))
        size = cv2.magnitude(x, y)
        larger = np.asarray(size > most, np.uint8)
        cv2.copyTo(x, larger, gx)
        cv2.copyTo(y, larger, gy)
        cv2.copyTo(size, larger, most)
    return gx, gy


def _centres(gx: F32, gy: F32, radii: tuple[float, float], num: int) -> list[tuple[float, float, float]]:
    """Centres and radii (x, y, r) for which most edge points vote, each along its gradient both ways, best first."""
    gx16, gy16 = (np.asarray(part * 16, np.int16) for part in (gx, gy))  # Canny takes whole numbers.
    rows, cols = np.nonzero(cv2.Canny(gx16, gy16, 2.0 * 16, 5.0 * 16, L2gradient=True))
    size = np.hypot(gx[rows, cols], gy[rows, cols])
    ux, uy = gx[rows, cols] / size, gy[rows, cols] / size
    found: list[tuple[float, float, float, float]] = []
    for r in np.geomspace(*radii, max(2, math.ceil(math.log(radii[1] / radii[0]) / math.log(1.2)) + 1)):
        found += _peaks(np.concatenate([cols - r * ux, cols + r * ux]), np.concatenate([rows - r * uy, rows + r * uy]), float(r), gx.shape)
    kept: list[tuple[float, float, float]] = []
    for _, x, y, r in sorted(found, reverse=True):
        if all(math.hypot(x - a, y - b) > 0.35 * max(r, c) or not 1 / 1.3 < r / c < 1.3 for a, b, c in kept):
            kept.append((x, y, r))
            if len(kept) == num:
                break
    return kept


def _peaks(x: F64, y: F64, r: float, shape: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    """Local maxima of the votes at (x, y), as the share of a circle of radius r that votes, x, y and r."""
    cell = 0.14 * r
    cols, rows = int(shape[1] / cell) + 1, int(shape[0] / cell) + 1
    inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    votes = np.bincount((y[inside] / cell).astype(int) * cols + (x[inside] / cell).astype(int), minlength=rows * cols)
    share = cv2.GaussianBlur(votes.reshape(rows, cols).astype(np.float32), (3, 3), 0) * (4 / (2 * math.pi * r))
    peaks = np.nonzero((share >= cv2.dilate(share, np.ones((3, 3), np.uint8))) & (share > 0.25))
    return [(float(share[i, j]), (j + 0.5) * cell, (i + 0.5) * cell, r) for i, j in zip(*peaks, strict=True)]


def _refined(gx: F32, gy: F32, discs: list[Ellipse], ring: tuple[float, float]) -> list[Ellipse | None]:
    """Each disc fitted again to the strongest closed path of edges in a ring around it; None where there is none."""
    if not discs:
        return []
    angle = np.linspace(0, 2 * math.pi, NUM_RAYS, endpoint=False)
    circle, shares = np.stack([np.cos(angle), np.sin(angle)]), np.linspace(*ring, NUM_STEPS)
    frames = np.stack([disc.frame_23 for disc in discs])
    places = frames[:, :, 2, None, None] + (frames[:, :, :2] @ circle)[..., None] * shares
    normal = np.linalg.inv(frames[:, :, :2]).transpose(0, 2, 1) @ circle
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    flat = [np.ascontiguousarray(places[:, k].reshape(-1, NUM_STEPS), np.float32) for k in (0, 1)]
    sx, sy = (
        np.asarray(cv2.remap(part, flat[0], flat[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)).reshape(len(discs), NUM_RAYS, NUM_STEPS)
        for part in (gx, gy)
    )
    across = np.abs(sx * normal[:, 0, :, None] + sy * normal[:, 1, :, None])
    # An edge counts as far as it is strong and runs along the ring: nothing at more than 60°.
    edge = across / (across + SOFT_EDGE) * np.clip(2 * across / (np.hypot(sx, sy) + 1e-3) - 1, 0, 1)
    path = _closed_path(np.asarray(edge, np.float32))
    strength = np.take_along_axis(edge, path[..., None], 2)[..., 0]
    points = frames[:, None, :, 2] + (circle.T[None] * shares[path][..., None]) @ frames[:, :, :2].transpose(0, 2, 1)
    return [_fitted(points[k], strength[k]) for k in range(len(discs))]


def _fitted(points_R2: F64, strength_R: F64) -> Ellipse | None:
    """The ellipse of most of the points of a path, fitted three times without what was far from the last."""
    good = strength_R > 0.2
    ellipse = None
    for _ in range(3):
        if good.sum() < NUM_RAYS // 3:
            return None
        (x, y), (one, other), degrees = cv2.fitEllipseDirect(points_R2[good].astype(np.float32))
        if not (math.isfinite(one * other) and 3 < max(one, other) < 3 * min(one, other)):
            return None
        turn = math.radians(degrees if one >= other else degrees + 90)
        major, minor = max(one, other) / 2, min(one, other) / 2
        axes = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * [major, minor]
        radius = math.sqrt(major * minor)
        off = (np.linalg.norm(np.linalg.solve(axes, (points_R2 - [x, y]).T), axis=0) - 1) * radius
        good = (np.abs(off) < max(1.0, 0.05 * radius)) & (strength_R > 0.2)
        error = float(np.sqrt((off[good] ** 2).mean())) if good.any() else math.inf
        ellipse = Ellipse(frame_23=np.column_stack([axes, [x, y]]), support=float((strength_R * good).mean()), error_px=error)
    return ellipse


def _closed_path(edge_NRS: F32) -> NDArray[np.int64]:
    """Step (N, R) on each ray that together make the closed path with most edge, moving one step or none from ray to ray.

    The rays are gone through twice and the middle of the way is kept, so that the path ends where it begins.
    """
    num, rays, steps = edge_NRS.shape
    total = np.zeros((num, steps + 2), np.float32)
    total[:, [0, -1]] = -1e6
    came = np.zeros((2 * rays, num, steps), np.int8)
    for turn in range(2 * rays):
        stay, out, back = total[:, 1:-1], total[:, :-2] - BEND, total[:, 2:] - BEND
        sideways = np.maximum(out, back)
        came[turn] = np.where(stay >= sideways, 0, np.where(out >= back, -1, 1))
        total[:, 1:-1] = np.maximum(stay, sideways) + edge_NRS[:, turn % rays]
    step = total[:, 1:-1].argmax(axis=1)
    path, every = np.zeros((num, rays), np.int64), np.arange(num)
    for turn in range(2 * rays - 1, rays // 2 - 1, -1):
        if turn < rays + rays // 2:
            path[:, turn % rays] = step
        step = step + came[turn, every, step]
    return path


def _ring_colors(rgb_HW3: U8, disc: Ellipse, shares: tuple[float, ...]) -> F64:
    """Colours (N, 3) on ellipses inside or around a disc."""
    angle = np.linspace(0, 2 * math.pi, NUM_RAYS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    x, y = disc.frame_23[:, 2, None, None] + (disc.frame_23[:, :2] @ circle)[:, None, :] * np.array(shares)[:, None]
    colors = cv2.remap(rgb_HW3, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(colors, np.float64).reshape(-1, 3)


def _chroma(colors_N3: F64) -> float:
    """Median saturation (HSV, softened in the dark)."""
    most = colors_N3.max(axis=1)
    return float(np.median((most - colors_N3.min(axis=1)) / (most + 8)))
