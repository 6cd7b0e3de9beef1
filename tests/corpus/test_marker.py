"""The fiducial marker: what `markers.yaml` may say, and that the measured scale is the true one."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foodray.corpus.marker import Marker, find_marker, read_markers
from foodray.corpus.sample import MARKER, SampleConfig, compose, plan_photos, render
from foodray.errors import ConfigError

BOARD = Marker(marker_id="card", kind="checkerboard", rows=5, cols=7, square_mm=10.0)


def _board(width_px: int, height_px: int) -> NDArray[np.uint8]:
    """A photo (600, 800, 3) of a board whose squares are `width_px` x `height_px`, on a grey table."""
    checks = (np.indices((6, 8)).sum(axis=0) % 2 * 200 + 30).astype(np.uint8)
    board = np.pad(np.kron(checks, np.ones((height_px, width_px), np.uint8)), 15, constant_values=235)
    photo = np.full((600, 800), 128, np.uint8)
    photo[200 : 200 + board.shape[0], 300 : 300 + board.shape[1]] = board
    return np.repeat(cv2.GaussianBlur(photo, (0, 0), 0.7)[..., None], 3, axis=2).astype(np.uint8)


def test_a_markers_file_gives_markers_by_id() -> None:
    markers = read_markers(
        "markers:\n- {marker_id: card, kind: checkerboard, rows: 5, cols: 7, square_mm: 10}\n- {marker_id: euro, kind: coin, diameter_mm: 23.25}\n"
    )
    assert markers == {"card": BOARD, "euro": Marker(marker_id="euro", kind="coin", diameter_mm=23.25)}


def test_a_bare_list_and_an_empty_file_are_read() -> None:
    assert list(read_markers("- {marker_id: p, kind: plate, diameter_mm: 260}")) == ["p"]
    assert read_markers("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {marker_id: a, kind: banknote}", "kind 'banknote'"),
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
    scale = find_marker(_board(width_px, height_px), BOARD)
    assert scale == pytest.approx((width_px * height_px) ** 0.5 / BOARD.square_mm, rel=0.01)


def test_a_photo_without_a_marker_has_no_scale() -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert find_marker(grey, BOARD) is None
    assert find_marker(noisy, BOARD) is None


def test_a_board_of_another_size_is_not_taken_for_ours() -> None:
    other = Marker(marker_id="other", kind="checkerboard", rows=9, cols=11, square_mm=10.0)
    assert find_marker(_board(14, 14), other) is None


def test_only_checkerboards_are_measured() -> None:
    with pytest.raises(ConfigError, match="only a checkerboard"):
        find_marker(_board(14, 14), Marker(marker_id="euro", kind="coin", diameter_mm=23.25))


def test_the_scale_in_rendered_meals_is_within_3_percent_of_the_true_one() -> None:
    config = SampleConfig(seed=3, num_participants=3, num_days=1, width_px=640, height_px=480, after_share=0.0, broken=False)
    photos = [compose(config, plan) for plan in plan_photos(config)]
    truths = [photo.marker_px_per_mm for photo in photos]
    found = [find_marker(render(photo).rgb, MARKER) for photo in photos]
    shown = [(scale, truth) for scale, truth in zip(found, truths, strict=True) if truth]
    close = [scale is not None and abs(scale / truth - 1) < 0.03 for scale, truth in shown]
    assert len(shown) >= 7
    assert sum(close) >= 0.9 * len(close)
