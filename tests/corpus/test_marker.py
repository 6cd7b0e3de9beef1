"""The fiducial marker: what `markers.yaml` may say, and that scale, tilt, homography and colours are the true ones.

Truth comes from drawn markers seen through known homographies, from the renderer of the sample study, and from annotated photos.
"""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foodray.corpus.marker import FLAGS, Calibration, Marker, apply_color, calibrate, read_markers
from foodray.corpus.marker.color import delta_e_2000, to_linear, to_srgb
from foodray.corpus.marker.plane import apply
from foodray.corpus.sample import MARKER, SampleConfig, compose, plan_photos, render
from foodray.errors import ConfigError

BOARD = Marker(marker_id="card", kind="checkerboard", rows=5, cols=7, square_mm=10.0)


ARUCO = Marker(marker_id="tag", kind="aruco", square_mm=50.0, aruco_dictionary="4X4_50", aruco_id=7)
COIN = Marker(marker_id="euro", kind="coin", diameter_mm=25.0)
PLATE = Marker(marker_id="plate", kind="plate", diameter_mm=240.0)
FOCAL_PX = 850.0
SIZE = (1000, 750)

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def _board(width_px: int, height_px: int) -> U8:
    """A photo (600, 800, 3) of a board whose squares are `width_px` x `height_px`, on a grey table."""
    checks = (np.indices((6, 8)).sum(axis=0) % 2 * 200 + 30).astype(np.uint8)
    board = np.pad(np.kron(checks, np.ones((height_px, width_px), np.uint8)), 15, constant_values=235)
    photo = np.full((600, 800), 128, np.uint8)
    photo[200 : 200 + board.shape[0], 300 : 300 + board.shape[1]] = board
    return np.repeat(cv2.GaussianBlur(photo, (0, 0), 0.7)[..., None], 3, axis=2).astype(np.uint8)


def _camera(tilt_deg: float, *, distance_mm: float = 400.0, turn_deg: float = 25.0, aim_mm: tuple[float, float] = (0.0, 0.0)) -> F64:
    """Homography (3, 3) from mm on the table (x right, y towards the viewer) to px of a photo of `SIZE` that looks at `aim_mm`."""
    tilt, turn = math.radians(tilt_deg), math.radians(turn_deg)
    about_z = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(tilt), math.sin(tilt)], [0, -math.sin(tilt), math.cos(tilt)]])
    rotation = about_x @ about_z
    shift = np.array([0, 0, distance_mm]) - rotation @ [*aim_mm, 0.0]
    lens = np.array([[FOCAL_PX, 0, (SIZE[0] - 1) / 2], [0, FOCAL_PX, (SIZE[1] - 1) / 2], [0, 0, 1]])
    return np.asarray(lens @ np.column_stack([rotation[:, 0], rotation[:, 1], shift]))


def _photo(to_px: F64, *cards: tuple[U8, float, tuple[float, float]], seed: int = 0) -> U8:
    """A table with cards (image (H, W, 3) with 0 for nothing, px per mm, place of its first px in mm) under uneven light, blurred and noisy."""
    rng = np.random.default_rng(seed)
    cloth = cv2.GaussianBlur(rng.normal(0, 1, (SIZE[1], SIZE[0])).astype(np.float32), (0, 0), 3.0)
    photo = np.array([150, 112, 74], np.float32) + 30 * cloth[..., None]
    for card, scale, (x, y) in cards:
        from_card = np.array([[1 / scale, 0, x + 0.5 / scale], [0, 1 / scale, y + 0.5 / scale], [0, 0, 1]])
        seen = cv2.warpPerspective(card.astype(np.float32), to_px @ from_card, SIZE, flags=cv2.INTER_AREA)
        cover = cv2.warpPerspective((card.max(axis=2) > 0).astype(np.float32), to_px @ from_card, SIZE)[..., None]
        photo = photo * (1 - cover) + np.asarray(seen)
    light = np.linspace(0.8, 1.05, SIZE[0], dtype=np.float32)[None, :, None]
    photo = np.asarray(cv2.GaussianBlur(photo * light, (0, 0), 0.8)) + rng.normal(0, 3, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


def _checkerboard(colors: U8 | None = None) -> U8:
    """The card of `BOARD` at 8 px per mm with one square of white paper around it; its own squares, or given colours (6, 8, 3)."""
    if colors is None:
        colors = np.repeat((np.indices((6, 8)).sum(axis=0) % 2 * 200 + 30)[..., None], 3, axis=2).astype(np.uint8)
    return np.pad(np.kron(colors, np.ones((80, 80, 1), np.uint8)), ((80, 80), (80, 80), (0, 0)), constant_values=235)


def _tag(aruco_id: int) -> U8:
    """The card of an ArUco marker of 50 mm at 8 px per mm with 10 mm of white paper around it."""
    tag = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), aruco_id, 400)
    return np.repeat(np.pad(np.clip(tag, 25, 230), 80, constant_values=230)[..., None], 3, axis=2).astype(np.uint8)


def _disc(diameter_mm: float, color: tuple[int, int, int], scale: float = 8.0) -> U8:
    """A disc with a darker ring inside its edge, on nothing."""
    side = round(diameter_mm * scale)
    card = np.zeros((side, side, 3), np.uint8)
    cv2.circle(card, (side // 2, side // 2), side // 2 - 1, color, -1)
    cv2.circle(card, (side // 2, side // 2), round(side * 0.42), tuple(round(0.92 * part) for part in color), round(side * 0.02))
    return card


COIN_CARD, COIN_PLACE = _disc(25.0, (150, 150, 146)), (-12.5, -12.5)
PLATE_CARD, PLATE_PLACE = _disc(240.0, (228, 228, 224), scale=2.0), (-120.0, -120.0)
MEAL = ((_disc(60.0, (170, 60, 40)), 8.0, (-90.0, -60.0)), (np.full((300, 500, 3), (90, 140, 60), np.uint8), 8.0, (10.0, -20.0)))
CARDS = {
    "checkerboard": (BOARD, _checkerboard(), (-50.0, -40.0)),
    "aruco": (ARUCO, _tag(7), (-35.0, -35.0)),
    "coin": (COIN, COIN_CARD, COIN_PLACE),
    "plate": (PLATE, PLATE_CARD, PLATE_PLACE),
}
"""Of each kind the marker, its card and where its first px is, so that its middle is at the origin of the table."""


def _seen(kind: str, tilt_deg: float, seed: int = 0) -> tuple[Marker, F64, U8]:
    """A marker, the true homography to px, and a photo of it."""
    marker, card, place = CARDS[kind]
    to_px = _camera(tilt_deg, distance_mm=520.0 if kind == "plate" else 400.0)
    return marker, to_px, _photo(to_px, (card, 2.0 if kind == "plate" else 8.0, place), seed=seed)


def _inverse(homography_33: F64) -> F64:
    return np.asarray(np.linalg.inv(homography_33), np.float64)


def _scale(to_px: F64, x_mm: float = 0.0, y_mm: float = 0.0) -> float:
    """True root of the area in px² of a mm²."""
    depth = float(to_px[2] @ [x_mm, y_mm, 1.0])
    return math.sqrt(abs(float(np.linalg.det(to_px))) / abs(depth) ** 3)


def test_a_markers_file_gives_markers_by_id() -> None:
    markers = read_markers(
        "markers:\n- {marker_id: card, kind: checkerboard, rows: 5, cols: 7, square_mm: 10}\n- {marker_id: euro, kind: coin, diameter_mm: 23.25}\n"
    )
    assert markers == {"card": BOARD, "euro": Marker(marker_id="euro", kind="coin", diameter_mm=23.25)}


def test_a_bare_list_and_an_empty_file_are_read() -> None:
    assert list(read_markers("- {marker_id: p, kind: plate, diameter_mm: 260}")) == ["p"]
    assert read_markers("") == {}


def test_an_aruco_entry_with_patches_is_read_and_its_dictionary_may_be_named_in_full() -> None:
    text = (
        "- {marker_id: t, kind: aruco, square_mm: 40, aruco_dictionary: DICT_4x4_50, aruco_id: 0, print_batch: 7,\n"
        "   patch_side_mm: 6, patch_mm: [[-5, 1.5]], patch_reference_srgb: [[10, 20, 30.5]]}"
    )
    assert read_markers(text)["t"] == Marker(
        marker_id="t",
        kind="aruco",
        square_mm=40.0,
        aruco_dictionary="4X4_50",
        aruco_id=0,
        patch_reference_srgb=((10.0, 20.0, 30.5),),
        patch_mm=((-5.0, 1.5),),
        patch_side_mm=6.0,
        print_batch="7",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {marker_id: a, kind: banknote}", "kind 'banknote'"),
        ("- {marker_id: a, kind: chekerboard}", "did you mean 'checkerboard'"),
        ("- {marker_id: a, kind: coin, diametre_mm: 20}", "did you mean 'diameter_mm'"),
        ("- {marker_id: a, kind: aruco, square_mm: 40}", "lacks aruco_dictionary"),
        ("- {marker_id: a, kind: aruco, square_mm: 40, aruco_dictionary: 4X4_55, aruco_id: 3}", "did you mean '4X4_50'"),
        ("- {marker_id: a, kind: aruco, square_mm: 40, aruco_dictionary: 4X4_50, aruco_id: 50}", "0 to 49"),
        ("- {marker_id: a, kind: aruco, square_mm: 40, aruco_dictionary: 4X4_50, aruco_id: 1, patch_reference_srgb: [[1, 2, 3]]}", "without patch_mm"),
        ("- {marker_id: a, kind: coin, diameter_mm: 2, patch_reference_srgb: [[1, 2, 3]]}", "no patches"),
        ("- {marker_id: a, kind: checkerboard, rows: 2, cols: 2, square_mm: 8, patch_reference_srgb: [[1, 2, 3]]}", "for 9 squares"),
        ("- {marker_id: a, kind: checkerboard, rows: 2, cols: 2, square_mm: 8, patch_reference_srgb: [[1, 2, 300]]}", "from 0 to 255"),
        ("- {marker_id: a, kind: checkerboard, rows: 2, cols: 2, square_mm: 8, patch_mm: [[1, 2]]}", "each patch needs both"),
        ("- {kind: coin, diameter_mm: 20}", "no marker_id"),
        ("- {marker_id: a, kind: checkerboard, rows: 5, cols: 7}", "lacks square_mm"),
        ("- {marker_id: a, kind: coin, diameter_mm: -3}", "positive number"),
        ("- {marker_id: a, kind: checkerboard, rows: 5.5, cols: 7, square_mm: 8}", "whole number"),
        ("- {marker_id: a, kind: coin, diameter_mm: 2}\n- {marker_id: a, kind: coin, diameter_mm: 3}", "twice"),
        ("just text", "list of markers"),
        ("{unclosed", "not YAML"),
    ],
)
def test_a_wrong_markers_file_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_markers(text)


@pytest.mark.parametrize(("width_px", "height_px"), [(6, 6), (14, 14), (25, 16), (40, 40)])
def test_the_scale_is_the_root_of_the_area_of_a_square(width_px: int, height_px: int) -> None:
    scale = calibrate(_board(width_px, height_px), BOARD).px_per_mm
    assert scale == pytest.approx((width_px * height_px) ** 0.5 / BOARD.square_mm, rel=0.01)


@pytest.mark.parametrize("kind", CARDS)
@pytest.mark.parametrize("tilt_deg", [0.0, 20.0, 40.0])
def test_scale_and_tilt_are_those_of_the_camera(kind: str, tilt_deg: float) -> None:
    marker, to_px, photo = _seen(kind, tilt_deg)
    found = calibrate(photo, marker)
    assert found.marker_found
    assert not found.flags
    # The centre of an ellipse is not quite the centre of the circle: a plate seen at 40 degrees is 4 % off.
    assert found.px_per_mm == pytest.approx(_scale(to_px), rel={"coin": 0.02, "plate": 0.05}.get(kind, 0.01))
    # The axes of an ellipse tell little of a small tilt: their ratio is its cosine.
    assert found.tilt_deg == pytest.approx(tilt_deg, abs=3.0 if kind in ("checkerboard", "aruco") else 5.0 if tilt_deg else 10.0)
    assert found.reproj_err_px is not None
    assert found.reproj_err_px < 1.0


@pytest.mark.parametrize("kind", ["checkerboard", "aruco"])
def test_the_homography_takes_px_back_to_the_table(kind: str) -> None:
    marker, to_px, photo = _seen(kind, 30.0)
    found = calibrate(photo, marker)
    assert found.homography_33 is not None
    table = np.array([[x, y] for x in (-60.0, 0.0, 60.0) for y in (-60.0, 0.0, 60.0)])
    mm = apply(found.homography_33, apply(to_px, table))
    between = np.linalg.norm(mm[:, None] - mm[None], axis=2), np.linalg.norm(table[:, None] - table[None], axis=2)
    np.testing.assert_allclose(between[0], between[1], atol=1.5)
    if kind == "aruco":
        np.testing.assert_allclose(mm, table + 25.0, atol=1.0)


@pytest.mark.parametrize("kind", CARDS)
def test_areas_and_extents_are_those_on_the_table(kind: str) -> None:
    marker, to_px, photo = _seen(kind, 25.0)
    found = calibrate(photo, marker)
    x, y = apply(to_px, np.array([[0.0, 0.0]]))[0]
    box = float(x) - 25.0, float(y) - 15.0, 50.0, 30.0
    corners = apply(_inverse(to_px), np.array([[box[0], box[1]], [box[0] + 50, box[1]], [box[0] + 50, box[1] + 30], [box[0], box[1] + 30]]) - 0.5)
    true_mm2 = cv2.contourArea(corners.astype(np.float32))
    width, height = (float(np.linalg.norm(corners[k] - corners[k + 1])) for k in (0, 1))
    tolerance = 0.03 if kind in ("checkerboard", "aruco") else 0.06
    assert found.box_area_mm2(box) == pytest.approx(true_mm2, rel=tolerance)
    assert found.extent_mm(box) == pytest.approx((width, height), rel=tolerance)


def test_a_mask_has_the_area_of_its_px_and_may_be_a_crop_or_coarser() -> None:
    marker, _, photo = _seen("checkerboard", 35.0)
    found = calibrate(photo, marker)
    mask = np.zeros(photo.shape[:2], bool)
    mask[300:420, 500:640] = True
    whole = found.mask_area_mm2(mask)
    assert whole == pytest.approx(found.box_area_mm2((500.0, 300.0, 140.0, 120.0)), rel=1e-3)
    assert found.mask_area_mm2(mask[300:420, 500:640], np.array([[1.0, 0, 500], [0, 1, 300], [0, 0, 1]])) == pytest.approx(whole)
    four = np.array([[4.0, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])  # a px for four by four, its centre between the second and the third
    assert found.mask_area_mm2(mask[::4, ::4], four) == pytest.approx(whole, rel=1e-3)
    assert found.mask_area_mm2(~mask & mask) == 0.0


def test_what_lies_beyond_the_horizon_has_no_area() -> None:
    marker, card, place = CARDS["checkerboard"]
    found = calibrate(_photo(_camera(60.0), (card, 8.0, place)), marker)
    assert "strong_tilt" in found.flags
    assert found.box_area_mm2((500.0, 400.0, 50.0, 50.0)) is not None
    for box in ((500.0, -2000.0, 50.0, 50.0), (500.0, -2000.0, 50.0, 2500.0)):
        assert found.box_area_mm2(box) is None
        assert found.extent_mm(box) is None


@pytest.mark.parametrize("kind", CARDS)
def test_a_photo_without_the_marker_says_so_and_has_no_scale(kind: str) -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for photo in (grey, noisy, _photo(_camera(20.0), *MEAL), grey[:1, :1], grey[:, :3]):
        found = calibrate(photo, CARDS[kind][0])
        assert not found.marker_found
        assert found.flags == ("marker_not_found",)
        values = [value for name, value in vars(found).items() if name not in ("marker_found", "flags")]
        box = 1.0, 1.0, 5.0, 5.0
        measures = [found.box_area_mm2(box), found.extent_mm(box), found.mask_area_mm2(np.ones((2, 2), bool))]
        assert all(value is None for value in (*values, *measures))


def test_a_board_of_another_size_is_not_taken_for_ours() -> None:
    other = Marker(marker_id="other", kind="checkerboard", rows=9, cols=11, square_mm=10.0)
    assert not calibrate(_board(14, 14), other).marker_found


def test_only_the_aruco_marker_with_the_right_id_counts() -> None:
    to_px = _camera(20.0, distance_mm=500.0)
    photo = _photo(to_px, (_tag(3), 8.0, (-90.0, -35.0)), (_tag(7), 8.0, (20.0, -35.0)))
    assert calibrate(photo, ARUCO).px_per_mm == pytest.approx(_scale(to_px, 55.0, 0.0), rel=0.01)
    assert not calibrate(_photo(to_px, (_tag(3), 8.0, (-35.0, -35.0))), ARUCO).marker_found


def test_two_aruco_markers_of_one_id_are_ambiguous() -> None:
    photo = _photo(_camera(10.0, distance_mm=500.0), (_tag(7), 8.0, (-90.0, -35.0)), (_tag(7), 8.0, (20.0, -35.0)))
    assert calibrate(photo, ARUCO).flags == ("ambiguous",)


def test_two_like_coins_are_ambiguous_but_give_a_scale_and_two_unlike_ones_give_none() -> None:
    to_px = _camera(5.0)
    twins = calibrate(_photo(to_px, (COIN_CARD, 8.0, (-60.0, 0.0)), (COIN_CARD, 8.0, (30.0, 0.0))), COIN)
    assert twins.flags == ("ambiguous",)
    assert twins.px_per_mm == pytest.approx(_scale(to_px), rel=0.04)
    unlike = calibrate(_photo(to_px, (COIN_CARD, 8.0, (-60.0, 0.0)), (_disc(20.0, (150, 150, 146)), 8.0, (30.0, 0.0))), COIN)
    assert unlike.flags == ("marker_not_found", "ambiguous")
    assert unlike.px_per_mm is None


def test_a_coin_beside_a_plate_with_food_is_told_from_both() -> None:
    to_px = _camera(15.0, distance_mm=520.0)
    photo = _photo(to_px, (PLATE_CARD, 2.0, (-150.0, -120.0)), *MEAL, (COIN_CARD, 8.0, (120.0, 40.0)))
    assert calibrate(photo, COIN).px_per_mm == pytest.approx(_scale(to_px, 132.5, 52.5), rel=0.03)
    assert calibrate(photo, PLATE).px_per_mm == pytest.approx(_scale(to_px, -30.0, 0.0), rel=0.03)


def test_a_photo_turned_by_exif_gives_the_same_scale_once_the_caller_has_turned_it() -> None:
    for kind in CARDS:
        marker, _, photo = _seen(kind, 20.0)
        scales = [calibrate(np.rot90(photo, turn), marker).px_per_mm for turn in range(4)]
        assert scales == pytest.approx([scales[0]] * 4, rel=0.02 if kind in ("coin", "plate") else 0.01)


def test_an_aruco_marker_in_a_mirror_is_not_the_marker() -> None:
    marker, _, photo = _seen("aruco", 10.0)
    assert not calibrate(photo[:, ::-1], marker).marker_found


def test_a_bent_board_is_found_with_a_high_reprojection_error() -> None:
    _, _, photo = _seen("checkerboard", 0.0)
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float32)
    bent = cv2.remap(photo, x, y + 12 * np.sin(x / 40).astype(np.float32), cv2.INTER_LINEAR)
    assert calibrate(np.asarray(bent, np.uint8), BOARD).flags == ("high_reprojection_error",)


def test_the_colour_distance_is_ciede2000() -> None:
    pairs = np.array(SHARMA)
    np.testing.assert_allclose(delta_e_2000(pairs[:, :3], pairs[:, 3:6]), pairs[:, 6], atol=5e-5)


CAST = np.array([[0.80, 0.05, 0.02, 0.010], [0.04, 0.70, 0.03, 0.005], [0.02, 0.06, 0.55, 0.008]])
"""What a lamp and a phone do to the reference colours, in linear light."""


def _patched(turned: bool) -> tuple[Marker, U8]:
    """A coloured board (bright and dark squares in turn) with its reference, and a photo of it under a cast; perhaps half a turn about."""
    rng = np.random.default_rng(4)
    dark, bright = rng.integers(15, 60, (6, 8, 3)), rng.integers(150, 235, (6, 8, 3))
    reference = np.where((np.indices((6, 8)).sum(axis=0) % 2)[..., None] > 0, bright, dark)
    linear = to_linear(reference.astype(np.float64))
    shown = np.rint(to_srgb(linear @ CAST[:, :3].T + CAST[:, 3])).astype(np.uint8)
    card = _checkerboard(shown)
    photo = _photo(_camera(15.0, turn_deg=205.0 if turned else 25.0), (card, 8.0, (-50.0, -40.0)))
    patches = tuple((float(r), float(g), float(b)) for r, g, b in reference.reshape(-1, 3))
    return Marker(marker_id="card", kind="checkerboard", rows=5, cols=7, square_mm=10.0, patch_reference_srgb=(*patches[:5], None, *patches[6:])), photo


@pytest.mark.parametrize("turned", [False, True])
def test_the_colour_map_undoes_a_cast_however_the_board_is_turned(turned: bool) -> None:
    marker, photo = _patched(turned)
    found = calibrate(photo, marker)
    assert not found.flags
    assert found.color_matrix_34 is not None
    assert found.color_delta_e_before is not None
    assert found.color_delta_e_after is not None
    assert found.color_delta_e_before > 8
    assert found.color_delta_e_after < 3
    # Uneven light on the table, 0.92 of full where the board lies, is part of the cast.
    undone = np.linalg.inv(np.vstack([CAST, [0, 0, 0, 1]]))[:3]
    grey = np.array([0.3, 0.25, 0.15, 1.0])
    np.testing.assert_allclose(found.color_matrix_34 @ grey, undone @ grey * [1.2, 1.2, 1.2], rtol=0.12)


def test_grey_patches_give_one_factor_a_channel() -> None:
    levels = [(40.0, 40.0, 40.0), (220.0, 220.0, 220.0)]
    patches = tuple(levels[(row + col) % 2] for row in range(6) for col in range(8))
    marker = Marker(marker_id="card", kind="checkerboard", rows=5, cols=7, square_mm=10.0, patch_reference_srgb=patches)
    found = calibrate(_photo(_camera(10.0), (_checkerboard(), 8.0, (-50.0, -40.0))), marker)
    assert "color_gains_only" in found.flags
    assert found.color_matrix_34 is not None
    assert np.count_nonzero(found.color_matrix_34) == 3


def test_patches_outside_the_photo_or_too_bright_are_reported() -> None:
    places = ((-20.0, 25.0), (70.0, 25.0), (25.0, 4000.0))
    marker = Marker(**{**vars(ARUCO), "patch_mm": places, "patch_side_mm": 6.0, "patch_reference_srgb": ((240.0, 240.0, 240.0),) * 3})
    to_px = _camera(0.0)
    found = calibrate(_photo(to_px, (_tag(7), 8.0, (-35.0, -35.0))), marker)
    assert "patches_clipped" in found.flags
    nowhere = Marker(**{**vars(marker), "patch_mm": ((25.0, 4000.0),), "patch_reference_srgb": ((9.0, 9.0, 9.0),)})
    found = calibrate(_photo(to_px, (_tag(7), 8.0, (-35.0, -35.0))), nowhere)
    assert found.flags == ("patches_clipped",)
    assert found.color_matrix_34 is None
    assert found.color_delta_e_before is None


def test_applying_a_colour_map_equals_the_formula_to_a_grey_level() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    exact = to_srgb(to_linear(photo.astype(np.float64)) @ CAST[:, :3].T + CAST[:, 3])
    mapped = apply_color(photo, CAST)
    assert mapped.dtype == np.uint8
    assert np.abs(mapped - exact).max() < 1.0
    np.testing.assert_array_equal(apply_color(photo, np.eye(3, 4)), photo)


def test_every_flag_is_documented() -> None:
    assert {"marker_not_found", "high_reprojection_error", "strong_tilt", "ambiguous"} <= set(FLAGS)
    assert Calibration(marker_found=False).flags == ()


def test_the_scale_in_rendered_meals_is_within_1_percent_of_the_true_one() -> None:
    config = SampleConfig(seed=3, num_participants=3, num_days=1, width_px=640, height_px=480, after_share=0.0, broken=False)
    photos = [compose(config, plan) for plan in plan_photos(config)]
    found = [calibrate(render(photo).rgb, MARKER) for photo in photos]
    shown = [(seen, photo) for seen, photo in zip(found, photos, strict=True) if photo.marker_px_per_mm]
    scales = [seen.px_per_mm is not None and abs(seen.px_per_mm / (photo.marker_px_per_mm or math.nan) - 1) < 0.01 for seen, photo in shown]
    tilts = [seen.tilt_deg is not None and abs(seen.tilt_deg - math.degrees(photo.camera.tilt_rad)) < 4 for seen, photo in shown]
    assert len(shown) >= 7
    assert sum(scales) >= 0.9 * len(shown)
    assert sum(tilts) >= 0.9 * len(shown)


def _annotated(folder: Path, name: str) -> tuple[U8, Box]:
    """A photo of ECUSTFD and the box (left, upper, right, lower) of its coin."""
    tree = ET.parse(folder / "Annotations" / f"{name}.xml")
    coin = next(found for found in tree.iter("object") if found.findtext("name") == "coin")
    left, upper, right, lower = (float(coin.findtext(f"bndbox/{side}") or math.nan) for side in ("xmin", "ymin", "xmax", "ymax"))
    with Image.open(folder / "JPEGImages" / f"{name}.JPG") as photo:
        return np.asarray(photo.convert("RGB"), np.uint8), (left, upper, right, lower)


def test_the_coin_of_real_photos_is_found_where_it_was_annotated(data: Path) -> None:
    names = ["apple001T(1)", "banana002T(1)", "egg001T(1)", "lemon001T(1)", "orange001T(1)", "apple001S(1)", "grape001S(1)", "mooncake001S(1)"]
    right = 0
    for name in names:
        photo, (left, upper, right_edge, lower) = _annotated(data / "ecustfd", name)
        found = calibrate(photo, COIN)
        if found.homography_33 is None or found.px_per_mm is None:
            continue
        x, y = apply(_inverse(found.homography_33), np.zeros((1, 2)))[0]
        size = math.sqrt((right_edge - left) * (lower - upper))
        right += left < x < right_edge and upper < y < lower and abs(found.px_per_mm * 25.0 / size - 1) < 0.15
    assert right >= len(names) - 1


SHARMA = [
    (50.0, 2.6772, -79.7751, 50.0, 0.0, -82.7485, 2.0425),
    (50.0, 3.1571, -77.2803, 50.0, 0.0, -82.7485, 2.8615),
    (50.0, 2.8361, -74.02, 50.0, 0.0, -82.7485, 3.4412),
    (50.0, -1.3802, -84.2814, 50.0, 0.0, -82.7485, 1.0),
    (50.0, 0.0, 0.0, 50.0, -1.0, 2.0, 2.3669),
    (50.0, 2.49, -0.001, 50.0, -2.49, 0.0009, 7.1792),
    (50.0, 2.49, -0.001, 50.0, -2.49, 0.0011, 7.2195),
    (50.0, -0.001, 2.49, 50.0, 0.0009, -2.49, 4.8045),
    (50.0, 2.5, 0.0, 50.0, 0.0, -2.5, 4.3065),
    (50.0, 2.5, 0.0, 73.0, 25.0, -18.0, 27.1492),
    (50.0, 2.5, 0.0, 61.0, -5.0, 29.0, 22.8977),
    (50.0, 2.5, 0.0, 56.0, -27.0, -3.0, 31.9030),
    (50.0, 2.5, 0.0, 58.0, 24.0, 15.0, 19.4535),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
    (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
    (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
    (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
    (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
    (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
    (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
]
"""Two CIELAB colours and their distance, from the test data of Sharma, Wu and Dalal (2005)."""
