"""Fusion of masks with a semantic map: FoodSAM's published rule in exact integers, and what we add to it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foodray.errors import ConfigError
from foodray.nn.proposals import MaskRecord, ProposerConfig, make_proposer
from foodray.tasks.segmentation.fusion import FusedMap, FusionConfig, at_least, fuse

H, W = 10, 20


def box(left: int, top: int, right: int, bottom: int, shape: tuple[int, int] = (H, W)) -> MaskRecord:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return MaskRecord.of(mask)


def labels(*rows: tuple[int, slice, slice]) -> NDArray[np.int32]:
    """Background with boxes of labels."""
    label_HW = np.zeros((H, W), np.int32)
    for value, ys, xs in rows:
        label_HW[ys, xs] = value
    return label_HW


def probabilities(label_HW: NDArray[np.int32], sure: float, classes: int = 4) -> NDArray[np.float32]:
    """`sure` for the label, the rest shared by the others."""
    prob = np.full((classes, *label_HW.shape), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(prob, label_HW[None], sure, axis=0)
    return prob


def fused(scores: NDArray[Any], *masks: MaskRecord, **changes: Any) -> FusedMap:
    return fuse(scores, masks, FusionConfig(**changes))


def reasons(result: FusedMap) -> dict[int, str]:
    return {mask.index: mask.reason for mask in result.masks}


def test_of_two_overlapping_masks_the_small_one_wins() -> None:
    scores = labels((1, slice(0, 10), slice(0, 10)), (2, slice(2, 4), slice(2, 4)))
    large, small = box(0, 0, 11, 10), box(2, 2, 5, 4)
    for masks in ((large, small), (small, large)):
        result = fused(scores, *masks)
        assert (result.label_HW[2:4, 2:5] == 2).all()
        assert (result.label_HW[:, 10] == 1).all()
        assert [mask.area_px for mask in result.masks] == [110, 6]


def test_a_mask_of_low_purity_paints_nothing() -> None:
    scores = labels((1, slice(0, 1), slice(0, 9)), (2, slice(1, 2), slice(0, 6)), (3, slice(2, 3), slice(0, 5)))
    result = fused(scores, box(0, 0, 10, 2))
    assert np.array_equal(result.label_HW, scores)
    (mask,) = result.masks
    assert (mask.category_id, mask.purity, mask.kept, mask.reason, mask.area_share) == (1, 0.45, False, "purity", 0.1)


@pytest.mark.parametrize(("votes", "kept"), [(99, False), (100, True)])
def test_495_of_1000_do_not_pass_one_half_though_rounded_they_would(votes: int, kept: bool) -> None:
    scores = np.arange(10, 210, dtype=np.int32).reshape(H, W)
    scores.ravel()[:votes] = 1
    result = fused(scores, box(0, 0, W, H))
    assert result.masks[0].purity == votes / 200
    assert result.masks[0].kept == kept


def test_thresholds_are_compared_in_integers() -> None:
    assert 0.55 * 100 > 55, "floating point would refuse it"
    assert at_least(55, 100, 0.55)
    assert not at_least(549_999, 1_000_000, 0.55)


def test_of_equal_votes_the_lowest_id_wins() -> None:
    scores = labels((7, slice(0, 2), slice(0, 2)), (3, slice(0, 2), slice(2, 4)))
    assert fused(scores, box(0, 0, 4, 2)).masks[0].category_id == 3
    assert fused(scores - 10, box(0, 0, 4, 2)).masks[0].category_id == -7


def test_of_equal_areas_the_later_mask_is_on_top() -> None:
    scores = labels((1, slice(0, 4), slice(0, 3)), (2, slice(0, 4), slice(3, 6)))
    one, two = box(0, 0, 4, 4), box(2, 0, 6, 4)
    assert (fused(scores, one, two).label_HW[:4, 2:4] == 2).all()
    assert (fused(scores, two, one).label_HW[:4, 2:4] == 1).all()


def test_background_is_painted_like_any_class() -> None:
    scores = labels((1, slice(0, 2), slice(0, 2)))
    assert not fused(scores, box(0, 0, 8, 8)).label_HW.any()


def test_only_the_largest_top_k_are_considered_and_all_are_recorded() -> None:
    scores = labels((1, slice(0, 10), slice(0, 6)))
    masks = [box(0, row, 7, row + 1) for row in range(3)] + [box(0, 5, 8, 7)]
    result = fused(scores, *masks, top_k=2)
    assert reasons(result) == {3: "", 0: "", 1: "beyond top_k", 2: "beyond top_k"}
    assert result.label_HW[:3, 6].tolist() == [1, 0, 0]
    assert FusionConfig().top_k == 80


def test_masks_below_the_area_are_left_out_and_one_of_just_that_area_stays() -> None:
    scores = labels((1, slice(0, 10), slice(0, 20)))
    assert reasons(fused(scores, box(0, 0, 10, 1), box(0, 0, 9, 1), area_thr=0.05)) == {0: "", 1: "area"}


def test_no_masks_leave_the_map_unchanged() -> None:
    scores = labels((300, slice(0, 3), slice(0, 3)))
    result = fused(scores)
    assert np.array_equal(result.label_HW, scores)
    assert result.label_HW.dtype == np.int32
    assert (result.masks, result.uncertain_HW.any()) == ([], False)
    assert result.label_HW is not scores


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_any_integers_are_labels_and_the_given_map_is_not_changed(dtype: Any) -> None:
    scores = labels((5, slice(0, 4), slice(0, 4))).astype(dtype)
    before = scores.copy()
    assert (fused(scores, box(0, 0, 5, 4)).label_HW[:4, :5] == 5).all()
    assert np.array_equal(scores, before)


def test_ids_above_255_are_kept() -> None:
    scores = labels((70_000, slice(0, 4), slice(0, 4)))
    result = fused(scores, box(0, 0, 5, 4))
    assert result.label_HW[0, 4] == 70_000
    assert result.masks[0].category_id == 70_000


def test_records_are_plain_rows_and_names_may_hold_commas() -> None:
    scores = labels((1, slice(0, 4), slice(0, 4)))
    rows = fused(scores, box(0, 0, 4, 4)).rows(["background", 'noodles, "fried"'])
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["category_name"] == 'noodles, "fried"'
    assert rows[0].keys() == {"index", "area_px", "category_id", "purity", "area_share", "kept", "reason", "category_name"}


def test_the_kept_masks_are_given_back_in_painting_order() -> None:
    scores = labels((1, slice(0, 10), slice(0, 5)), (2, slice(0, 10), slice(5, 9)), (3, slice(0, 10), slice(9, 14)))
    masks = [box(0, 0, 2, 2), box(0, 0, 14, 10), box(0, 0, 3, 3)]
    assert fuse(scores, masks, FusionConfig()).kept(masks) == [masks[2], masks[0]]


# Probabilities


def test_probabilities_vote_hard_with_their_most_probable_class() -> None:
    scores = labels((2, slice(0, 4), slice(0, 4)), (1, slice(0, 4), slice(4, 6)))
    masks = box(0, 0, 6, 4), box(3, 2, 9, 8)
    from_labels, from_prob = fused(scores, *masks), fused(probabilities(scores, 0.9), *masks)
    assert np.array_equal(from_labels.label_HW, from_prob.label_HW)
    assert from_labels.masks == from_prob.masks


def test_the_soft_vote_hears_how_sure_each_pixel_is() -> None:
    scores = labels((1, slice(0, 1), slice(0, 6)), (2, slice(0, 1), slice(6, 10)))
    prob = np.where(scores == 1, probabilities(scores, 0.34, 3), probabilities(scores, 1.0, 3)).astype(np.float32)
    mask = box(0, 0, 10, 1)
    assert fused(prob, mask).masks[0].category_id == 1
    (soft,) = fused(prob, mask, vote="soft").masks
    assert soft.category_id == 2
    assert soft.purity == pytest.approx(0.4 + 0.6 * 0.33)
    assert soft.kept
    assert not fused(prob, mask, vote="soft", ratio_thr=0.6).masks[0].kept


def test_a_soft_vote_needs_probabilities() -> None:
    with pytest.raises(ConfigError, match="vote = 'soft' needs probabilities"):
        fused(labels(), box(0, 0, 2, 2), vote="soft")


def mixed() -> NDArray[np.int32]:
    """Three classes in equal parts: no mask over them is pure."""
    return labels((1, slice(0, 9), slice(0, 3)), (2, slice(0, 9), slice(3, 6)), (3, slice(0, 9), slice(6, 9)))


def test_pixels_of_an_impure_mask_are_uncertain_where_confidence_is_low_and_keep_their_labels() -> None:
    prob = probabilities(mixed(), 0.4)
    prob[:, 0] = probabilities(mixed(), 0.9)[:, 0]
    result = fused(prob, box(0, 0, 9, 9))
    wanted = np.zeros((H, W), bool)
    wanted[1:9, :9] = True
    assert np.array_equal(result.uncertain_HW, wanted)
    assert np.array_equal(result.label_HW, mixed())
    assert not fused(prob, box(0, 0, 9, 9), confidence_thr=0.3).uncertain_HW.any()


def test_what_a_smaller_pure_mask_paints_is_no_longer_uncertain() -> None:
    result = fused(probabilities(mixed(), 0.4), box(0, 0, 9, 9), box(0, 0, 4, 9))
    assert not result.uncertain_HW[:, :4].any()
    assert result.uncertain_HW[:9, 4:9].all()


def test_labels_alone_are_never_uncertain() -> None:
    assert not fused(mixed(), box(0, 0, 9, 9)).uncertain_HW.any()


@pytest.mark.parametrize("vote", ["hard", "soft"])
def test_fusion_agrees_with_the_rule_written_pixel_by_pixel(vote: Any) -> None:
    rng = np.random.default_rng(5)
    prob = rng.dirichlet(np.ones(3) * 0.3, (H, W)).transpose(2, 0, 1)
    masks = []
    for _ in range(12):
        left, top = rng.integers(0, W - 4), rng.integers(0, H - 3)
        masks.append(box(left, top, left + rng.integers(1, 5), top + rng.integers(1, 4)))
    painted = prob.argmax(0)
    for record in sorted(masks, key=lambda record: -record.area_px):
        inside = prob[:, record.mask_HW]
        share = inside.mean(1) if vote == "soft" else np.bincount(inside.argmax(0), minlength=3) / record.area_px
        if share.max() >= 0.5:
            painted[record.mask_HW] = share.argmax()
    assert np.array_equal(fuse(prob, masks, FusionConfig(vote=vote)).label_HW, painted)


# Real photographs


def truth(data: Path, name: str, height: int, width: int) -> NDArray[np.int32]:
    """The labelled polygons of a photo, class + 1, on background 0."""
    label_HW = np.zeros((height, width), np.int32)
    for line in (data / "segmentation" / "labels" / f"{name}.txt").read_text().splitlines():
        number, *values = line.split()
        points = np.array(values, float).reshape(-1, 2) * [width, height]
        cv2.fillPoly(label_HW, [np.round(points).astype(np.int32)], int(number) + 1)
    return label_HW


def test_superpixels_of_real_photos_follow_the_true_outlines_and_repair_a_noisy_map(data: Path) -> None:
    if not (data / "segmentation").is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder segmentation/")
    rng, proposer, reached, before, after = np.random.default_rng(0), make_proposer(ProposerConfig()), [], [], []
    for name in (f"{number:05d}" for number in range(0, 1000, 100)):
        image = np.ascontiguousarray(cv2.imread(str(data / "segmentation" / "images" / f"{name}.jpg"))[:, :, ::-1])
        wanted, masks = truth(data, name, *image.shape[:2]), proposer.propose(image)
        assert len(masks) <= 100
        noisy = np.where(rng.random(wanted.shape) < 0.3, rng.integers(0, 11, wanted.shape), wanted).astype(np.int32)
        before.append((noisy == wanted).mean())
        after.append((fuse(noisy, masks, FusionConfig()).label_HW == wanted).mean())
        reached.append((fuse(wanted, masks, FusionConfig()).label_HW == wanted).mean())
    assert np.mean(reached) > 0.94
    assert np.mean(before) < 0.75
    assert np.mean(after) > 0.9


# Refusals


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the same size"):
        fused(labels(), box(0, 0, 2, 2, (5, 5)))
    with pytest.raises(ValueError, match="labels \\(H, W\\) in integers"):
        fused(labels().astype(float))
    empty = MaskRecord(np.zeros((H, W), bool), 0, (0, 0, 0, 0))
    with pytest.raises(ValueError, match="proposal 0 is empty"):
        fused(labels(), empty)


@pytest.mark.parametrize(("changes", "message"), [({"vote": "softt"}, "did you mean 'soft'"), ({"top_k": 0}, "at least 1"), ({"ratio_thr": 1.5}, "0–1")])
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FusionConfig(**changes)
