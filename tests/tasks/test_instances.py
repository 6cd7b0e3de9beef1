"""Instances of a label map: every food pixel is in one instance or counted as dropped; codes, polygons and areas of masks."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foodray.errors import ConfigError
from foodray.nn.proposals import MaskRecord
from foodray.tasks.segmentation.fusion import FusionConfig, fuse
from foodray.tasks.segmentation.instances import InstanceConfig, Instances, instances, polygons_of

H, W = 20, 30


def region(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((H, W), bool)
    mask[top:bottom, left:right] = True
    return mask


def table() -> NDArray[np.int32]:
    """Two pieces of class 2 that touch in no pixel, one of class 300 next to the first, something unlabelled."""
    label_HW = np.zeros((H, W), np.int32)
    label_HW[region(0, 0, 10, 10)] = 2
    label_HW[region(10, 0, 14, 10)] = 300
    label_HW[region(20, 0, 25, 10)] = 2
    label_HW[region(0, 15, 8, 20)] = -1
    return label_HW


def found(label_HW: NDArray[Any], prob: Any = None, masks: Any = None, **changes: Any) -> Instances:
    return instances(label_HW, prob, masks, InstanceConfig(**changes))


def said(result: Instances) -> list[tuple[int, tuple[int, ...], int]]:
    return [(item.class_id, item.box_xywh, item.area_px) for item in result.items]


def test_every_connected_piece_of_a_food_is_an_instance_and_background_and_unlabelled_are_none() -> None:
    result = found(table())
    assert said(result) == [(2, (0, 0, 10, 10), 100), (2, (20, 0, 5, 10), 50), (300, (10, 0, 4, 10), 40)]
    assert (result.num_too_small, result.num_beyond_max, result.dropped_px) == (0, 0, 0)
    assert np.array_equal(result.items[0].mask_HW, region(0, 0, 10, 10))


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    label_HW = np.where(region(0, 0, 5, 5) | region(5, 5, 10, 10), 1, 0)
    assert said(found(label_HW)) == [(1, (0, 0, 10, 10), 50)]


def test_a_photo_without_food_has_no_instances() -> None:
    assert found(np.zeros((H, W), np.uint8)).items == []
    assert found(np.full((H, W), -1)).items == []
    assert found(np.zeros((H, W), np.uint8), masks=[], method="proposals").items == []


def test_small_instances_are_dropped_and_counted_with_their_pixels() -> None:
    result = found(table(), min_area_share=0.08)  # of 600 px: 48
    assert [area for _, _, area in said(result)] == [100, 50]
    assert (result.num_too_small, result.dropped_px) == (1, 40)
    assert len(found(table(), min_area_share=0.05).items) == 3


def test_at_most_max_items_are_returned_and_the_others_counted() -> None:
    result = found(table(), max_items=1)
    assert said(result) == [(2, (0, 0, 10, 10), 100)]
    assert (result.num_too_small, result.num_beyond_max, result.dropped_px) == (0, 2, 90)


def test_instances_of_equal_area_are_in_order_of_place() -> None:
    label_HW = np.zeros((H, W), np.int32)
    for value, (left, top) in ((9, (20, 0)), (1, (0, 10)), (5, (5, 0))):
        label_HW[top : top + 4, left : left + 4] = value
    assert [item.class_id for item in found(label_HW).items] == [5, 9, 1]


def test_the_score_is_the_mean_probability_of_the_class_inside_the_mask() -> None:
    label_HW = np.where(region(0, 0, 10, 10), 1, 0)
    prob = np.stack([np.full((H, W), 0.25), np.full((H, W), 0.75)])
    prob[1, :5] = 0.5
    assert [item.score for item in found(label_HW, prob).items] == [0.625]
    assert [item.score for item in found(label_HW).items] == [None]


# Proposals


def test_a_proposal_parts_what_touches() -> None:
    label_HW = np.where(region(0, 0, 20, 10), 4, 0)
    halves = [MaskRecord.of(region(0, 0, 10, 10)), MaskRecord.of(region(10, 0, 20, 10))]
    assert len(found(label_HW, method="components").items) == 1
    assert said(found(label_HW, masks=halves, method="proposals")) == [(4, (0, 0, 10, 10), 100), (4, (10, 0, 10, 10), 100)]


def test_where_proposals_overlap_the_smaller_one_wins_and_the_rest_falls_into_pieces() -> None:
    label_HW = np.where(region(0, 0, 20, 10), 4, 0) + np.where(region(25, 0, 30, 10), 6, 0)
    masks = [MaskRecord.of(region(0, 0, 16, 10)), MaskRecord.of(region(0, 0, 6, 10))]
    assert said(found(label_HW, masks=masks, method="proposals")) == [
        (4, (6, 0, 10, 10), 100),
        (4, (0, 0, 6, 10), 60),
        (6, (25, 0, 5, 10), 50),
        (4, (16, 0, 4, 10), 40),
    ]


def test_a_proposal_of_background_is_no_instance() -> None:
    label_HW = np.where(region(0, 0, 4, 4), 4, 0)
    assert said(found(label_HW, masks=[MaskRecord.of(region(0, 0, 20, 20))], method="proposals")) == [(4, (0, 0, 4, 4), 16)]


def test_proposals_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="method = 'proposals' needs the masks"):
        found(table(), method="proposals")


@pytest.mark.parametrize("method", ["components", "proposals"])
def test_instances_do_not_overlap_and_with_the_dropped_they_are_all_food_pixels(method: Any) -> None:
    rng = np.random.default_rng(2)
    scores = cv2.resize(rng.integers(0, 4, (5, 6), dtype=np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)
    masks = [MaskRecord.of(region(left, top, left + rng.integers(2, 15), top + rng.integers(2, 12))) for left, top in rng.integers(0, 16, (15, 2))]
    fused = fuse(scores, masks, FusionConfig())
    result = found(fused.label_HW, masks=fused.kept(masks), method=method, max_items=6, min_area_share=0.01)
    covered = sum(item.mask_HW.astype(int) for item in result.items)
    assert np.max(covered) == 1
    assert np.sum(covered) + result.dropped_px == (fused.label_HW > 0).sum()
    for item in result.items:
        assert (fused.label_HW[item.mask_HW] == item.class_id).all()
        assert item.area_px == item.mask_HW.sum()
    again = found(fused.label_HW, masks=fused.kept(masks), method=method, max_items=6, min_area_share=0.01)
    assert said(again) == said(result)


# Codes, polygons and areas


def disc(radius: int = 8) -> NDArray[np.bool_]:
    return cv2.circle(np.zeros((H, W), np.uint8), (12, 9), radius, 1, -1).astype(bool)


def test_a_rectangle_s_polygon_is_its_outer_edge() -> None:
    (polygon,) = polygons_of(region(3, 4, 8, 10))
    assert {(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)} == {(3, 4), (8, 4), (8, 10), (3, 10)}
    (pixel,) = polygons_of(region(7, 7, 8, 8), tolerance=5)
    assert len(pixel) == 8


def test_every_piece_has_a_polygon_and_nothing_has_none() -> None:
    assert len(polygons_of(region(0, 0, 5, 5) | region(10, 10, 15, 15))) == 2
    assert polygons_of(np.zeros((H, W), bool)) == []


def test_a_polygon_is_close_to_its_mask_and_tolerance_shortens_it() -> None:
    from pycocotools import mask as coco

    large = cv2.circle(np.zeros((100, 120), np.uint8), (60, 50), 40, 1, -1).astype(bool)
    fine, coarse = polygons_of(large, 0.5), polygons_of(large, 3.0)
    assert len(coarse[0]) < len(fine[0])
    drawn = coco.decode(coco.merge(coco.frPyObjects(fine, 100, 120))).astype(bool)
    assert (drawn & large).sum() / (drawn | large).sum() > 0.98
