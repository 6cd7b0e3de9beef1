"""Claims about the segmentation family: weights, scores and transforms are those of their definitions."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from foodray.errors import ConfigError, CorpusError
from foodray.tasks.metrics import SegmentationScores
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask, preset
from foodray.tasks.segmentation.task import weights_of
from foodray.tasks.transform import Augmentation, augment_with_masks

LABELS = ("apple", "bread")


def fitted(px: list[list[int]], labels: tuple[str, ...] = LABELS, **settings: Any) -> SegmentationTask:
    return SegmentationTask.fit(SegmentationConfig(**settings), {"mask_px": np.array(px)}, labels)


# Weights of classes


@pytest.mark.parametrize(
    ("k", "share", "weight"),
    [(1.02, 1.0, 1.42), (1.02, 0.5, 2.39), (1.02, 0.3, 3.60), (1.02, 0.1, 8.82), (1.02, 0.01, 33.8), (1.02, 0.001, 48.1), (1.2, 1.0, 1.27)],
)
def test_the_weight_of_a_class_follows_from_its_share_as_published(k: float, share: float, weight: float) -> None:
    total = 10**6
    px = np.array([[round(share * total), total - round(share * total)]])
    assert weights_of(px, "inverse_log", k)[0] == pytest.approx(weight, rel=0.005)


def test_the_rarest_class_has_the_weight_of_a_share_of_nothing_and_an_absent_one_none() -> None:
    for k, most in ((1.02, 50.5), (1.2, 5.48)):
        weights = weights_of(np.array([[10**9, 1, 0]]), "inverse_log", k)
        assert weights[1] == pytest.approx(most, rel=0.001)
        assert weights[2] == 0


def test_median_frequency_counts_only_photos_that_show_the_class() -> None:
    # Class 1: 20 of 100 px in one photo. Class 2: 50 of 200 px of both. Background: 130 of 200 px.
    weights = weights_of(np.array([[60, 20, 20], [70, 0, 30]]), "median_frequency", 1.02)
    assert weights == pytest.approx((0.25 / 0.65, 0.25 / 0.2, 1.0))
    assert weights_of(np.array([[60, 20, 0]]), "none", 1.02) == (1.0, 1.0, 0.0)


def test_the_encoder_has_weights_of_its_own() -> None:
    task = fitted([[900, 90, 10]], weight_k=1.02)
    assert max(task.encoder_class_weights) < 6 < max(task.class_weights)


@pytest.mark.parametrize(("px", "shown"), [([[0, 50, 0], [0, 9, 0]], "apple"), ([[70, 0, 0]], "no food")])
def test_a_corpus_with_nothing_to_tell_apart_is_refused(px: list[list[int]], shown: str) -> None:
    with pytest.raises(CorpusError, match=f"masks show {shown} and nothing else"):
        fitted(px)


# Scores


def scores(predicted: list[list[int]], truth: list[list[int]], num_classes: int = 4) -> dict[str, float]:
    metric = SegmentationScores(num_classes)
    for one, other in zip(predicted, truth, strict=True):
        metric.update(torch.tensor([[one]]), torch.tensor([[other]]))
    return {name: float(value) for name, value in metric.compute().items()}


def test_scores_are_of_summed_pixels_and_not_means_over_photos() -> None:
    # Photo 1: 4 px of background, all right. Photo 2: 1 px of class 1, called background.
    found = scores([[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, -1, -1, -1]])
    assert found["pixel_accuracy"] == pytest.approx(4 / 5)
    assert found["mean_accuracy"] == pytest.approx(1 / 2)
    assert found["miou"] == pytest.approx((4 / 5 + 0) / 2)
    assert found["miou_food"] == 0
    assert found["iou_food_photo"] == 0


def test_a_class_in_neither_truth_nor_prediction_is_left_out_and_one_only_predicted_counts_as_nothing_hit() -> None:
    assert scores([[0, 1, 1]], [[0, 1, 1]])["miou"] == 1
    assert scores([[0, 1, 3]], [[0, 1, 1]])["miou"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_unlabelled_pixels_are_never_seen() -> None:
    assert scores([[0, 1, 3, 2]], [[0, 1, -1, -1]]) == scores([[0, 1, 0, 0]], [[0, 1, -1, -1]])


def test_food_in_photos_is_food_against_background_whatever_its_class() -> None:
    found = scores([[0, 2, 2, 0], [0, 0, 0, 0]], [[0, 1, 1, 1], [0, 0, 0, 0]])
    assert found["iou_food_photo"] == pytest.approx(2 / 3)  # the photo without food in either is left out


def test_by_class_names_what_was_seen() -> None:
    task = fitted([[900, 90, 10]], weight_k=1.02)
    metrics = task.metrics()
    truth = torch.tensor([[[0, 0, 1, 1]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 0]]]), 3).permute(0, 3, 1, 2).float()
    task.measure(metrics, {"logits_BCHW": logits}, {"mask": truth})
    assert task.by_class(metrics) == {
        "background": {"iou": 1 / 3, "accuracy": 0.5, "precision": 0.5, "num_px": 2},
        "apple": {"iou": 1 / 3, "accuracy": 0.5, "precision": 0.5, "num_px": 2},
    }


def test_baselines_are_those_of_a_constant() -> None:
    task = fitted([[900, 90, 10]], weight_k=1.02)
    rows = {"mask_px": np.array([[60, 30, 10], [80, 0, 20]])}
    found = task.baselines({"mask_px": np.array([[900, 90, 10]])}, rows, {})
    assert found["all background"]["pixel_accuracy"] == pytest.approx(140 / 200)
    assert found["all background"]["miou"] == pytest.approx(140 / 200 / 3)
    assert found["all apple"]["miou_food"] == pytest.approx(30 / 200 / 2)


# Photo and mask together


def drawn(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask of blocks, ids 0 and 4, and a photo whose three channels spell it."""
    mask = np.random.default_rng(seed).integers(0, 2, (side // 12, side // 12)).repeat(12, 0).repeat(12, 1).astype(np.int16) * 4
    return (np.stack([mask * 50] * 3, -1)).astype(np.uint8), mask


@pytest.mark.parametrize("zoom", [0.0, 0.7])
def test_a_mask_goes_where_its_photo_goes(zoom: float) -> None:
    pairs = [drawn(96, seed) for seed in range(24)]
    photos, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    image, mask = augment_with_masks(photos, masks, np.arange(24), 84, Augmentation(colour=0.0, zoom=zoom))
    assert image.shape == (24, 3, 84, 84)
    assert mask.shape == (24, 84, 84)
    away = (image[:, 0].float() / 50 - mask).abs() / 4
    assert away.max() < (0.01 if zoom == 0 else 0.76)  # where the photo's interpolation blurs a border, the mask has the nearer side
    assert (away < 0.01).float().mean() > 0.8
    assert set(mask.unique().tolist()) == {0, 4}


def test_ids_are_never_mixed_by_resizing() -> None:
    masks = np.where(np.indices((40, 40)).sum(0) % 2, 7, -1).astype(np.int16)[None].repeat(8, 0)
    _, mask = augment_with_masks(np.zeros((8, 40, 40, 3), np.uint8), masks, np.arange(8), 32, Augmentation(zoom=3.0))
    assert set(mask.unique().tolist()) == {-1, 7}


def test_without_zoom_the_multi_task_family_sees_what_it_saw_before() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    masks = np.zeros((4, 40, 40), np.int16)
    with_masks, _ = augment_with_masks(photos, masks, np.arange(4), 32, Augmentation())
    without, empty = augment_with_masks(photos, None, np.arange(4), 32, Augmentation())
    assert torch.equal(with_masks, without)
    assert len(empty) == 0


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_k": 1.0}, "weight_k = 1.0"),
        ({"side_px": 100}, "side_px = 100 must be a multiple of 32"),
        ({"weights": "pretrained"}, "no published weights of ENet"),
        ({"architecture": "unet"}, "did you mean"),
        ({"class_weights": "median"}, "did you mean 'median_frequency'"),
        ({"epochs": 0}, "epochs = 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationConfig(**settings)


def test_the_paper_preset_is_the_official_recipe_of_each_network() -> None:
    enet = preset("paper", "enet")
    assert (enet.optimizer.name, enet.optimizer.lr, enet.optimizer.weight_decay, enet.epochs) == ("adam", 5e-4, 2e-4, 300)
    fcn = preset("paper", "fcn_resnet50")
    assert (fcn.weights, fcn.aux_weight, fcn.optimizer.name) == ("pretrained", 0.5, "sgd")
    assert [stage.name for stage in SegmentationTask.fit(fcn, {"mask_px": np.array([[9, 1, 1]])}, LABELS).stages()] == ["freeze", "finetune"]


def test_the_two_phases_of_enet_share_the_encoder_and_only_the_second_is_kept() -> None:
    encoder, decoder = fitted([[9, 1, 1]]).stages()
    assert (encoder.keeps, decoder.keeps) == (False, True)
    assert "net.encoder.*" in encoder.trainable
    assert decoder.frozen == ("net.encoder_classifier.*",)
    assert math.isclose(sum(stage.epochs for stage in (encoder, decoder)), 80)
