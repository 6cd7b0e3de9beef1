"""The tagging family: its loss, its scores against independent ones, its thresholds, its baselines and its stages."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, hamming_loss, precision_score, recall_score
from torch.nn.functional import binary_cross_entropy_with_logits

from foodray.errors import ConfigError, CorpusError
from foodray.nn.backbone import num_features
from foodray.nn.tagging import TagNet, asymmetric_loss
from foodray.tasks.tagging import TaggingConfig, TaggingTask, preset
from foodray.tasks.tagging.metrics import make_metrics, update
from foodray.tasks.tagging.thresholds import CANDIDATES, fit, sample_f1, sigmoid

TAGS = ("carbs", "meat", "soups", "sweet")
TINY: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "side_px": 32}


def lists(truth_NT: np.ndarray) -> np.ndarray:
    return np.fromiter(([TAGS[place] for place in np.flatnonzero(row)] for row in truth_NT), dtype=object, count=len(truth_NT))


def make_task(**settings: Any) -> TaggingTask:
    return TaggingTask.fit(TaggingConfig(**{**TINY, **settings}), {"tags": lists(np.eye(4, dtype=bool))}, TAGS)


def photos(count: int = 400, seed: int = 0, *, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and truth of tags of different frequency; the logits are too high by `shift`."""
    rng = np.random.default_rng(seed)
    truth_NT = rng.random((count, 4)) < [0.6, 0.3, 0.08, 0.02]
    return (2.0 * truth_NT - 1 + rng.normal(0, 1.2, truth_NT.shape) + shift).astype(np.float32), truth_NT


# ---- The loss.


def test_without_focusing_and_clip_the_asymmetric_loss_is_binary_cross_entropy() -> None:
    logits, truth = (torch.from_numpy(values) for values in photos())
    expected = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, truth, gamma_positive=0, gamma_negative=0, clip=0), expected)
    torch.testing.assert_close(asymmetric_loss(logits, truth, gamma_positive=0, gamma_negative=0, clip=1e-9), expected, rtol=1e-4, atol=1e-5)


def test_the_asymmetric_loss_is_that_of_its_equations() -> None:
    prob = np.array([0.03, 0.2, 0.7, 0.99])
    logits = torch.from_numpy(np.log(prob / (1 - prob)))[None]
    present = asymmetric_loss(logits, torch.ones(1, 4), gamma_positive=1, gamma_negative=4, clip=0.05)[0].numpy()
    absent = asymmetric_loss(logits, torch.zeros(1, 4), gamma_positive=1, gamma_negative=4, clip=0.05)[0].numpy()
    moved = np.maximum(prob - 0.05, 0)
    np.testing.assert_allclose(present, -(1 - prob) * np.log(prob), rtol=1e-6)
    np.testing.assert_allclose(absent, -(moved**4) * np.log(1 - moved), rtol=1e-5, atol=1e-12)
    assert absent[0] == 0, "an absent tag below the clip costs nothing"


def test_no_gradient_flows_through_the_focusing_weight() -> None:
    logits = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    asymmetric_loss(logits, torch.ones(1, 1), gamma_positive=2, gamma_negative=4, clip=0.05).sum().backward()
    prob = float(logits.detach().sigmoid())
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-((1 - prob) ** 2) * (1 - prob))


# ---- The scores, against scikit-learn.


def test_the_scores_are_those_of_scikit_learn() -> None:
    logits, truth = photos(60)
    prob, given = sigmoid(logits), sigmoid(logits) >= 0.5
    metrics = make_metrics(4)
    for part in (slice(0, 25), slice(25, 60)):
        update(metrics, torch.from_numpy(prob[part]), torch.from_numpy(given[part]), torch.from_numpy(truth[part]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["sample_f1"] == pytest.approx(f1_score(truth, given, average="samples", zero_division=1.0))
    assert found["f1_micro"] == pytest.approx(f1_score(truth, given, average="micro"))
    assert found["f1_macro"] == pytest.approx(f1_score(truth, given, average="macro", zero_division=0.0))
    assert found["subset_accuracy"] == pytest.approx((truth == given).all(1).mean())
    assert found["hamming"] == pytest.approx(hamming_loss(truth, given))
    carried = truth.any(0)
    assert found["map"] == pytest.approx(average_precision_score(truth[:, carried], prob[:, carried], average="macro"))


def test_a_photo_without_tags_that_is_given_none_counts_one() -> None:
    given, truth = np.array([[0, 0], [0, 1], [0, 0], [1, 1]], bool), np.array([[0, 0], [0, 0], [1, 0], [1, 0]], bool)
    assert sample_f1(given, truth).tolist() == [1.0, 0.0, 0.0, pytest.approx(2 / 3)]


def test_the_table_of_tags_is_that_of_scikit_learn() -> None:
    task, (logits, truth) = make_task(), photos(80)
    metrics = task.metrics()
    task.measure(metrics, {"logits_BT": torch.from_numpy(logits)}, {"tags": torch.from_numpy(truth).float()})
    table, given = task.by_class(metrics), sigmoid(logits) >= 0.5
    for place, tag in enumerate(TAGS):
        columns = truth[:, place], given[:, place]
        assert table[tag]["num_photos"] == truth[:, place].sum()
        assert table[tag]["precision"] == pytest.approx(precision_score(*columns))
        assert table[tag]["recall"] == pytest.approx(recall_score(*columns))
        assert table[tag]["ap"] == pytest.approx(average_precision_score(truth[:, place], logits[:, place]))


def test_a_tag_that_no_photo_carries_has_no_precision_and_does_not_count_in_the_mean() -> None:
    task, (logits, truth) = make_task(), photos(40)
    truth[:, 3] = False
    metrics = task.metrics()
    task.measure(metrics, {"logits_BT": torch.from_numpy(logits)}, {"tags": torch.from_numpy(truth).float()})
    assert np.isnan(task.by_class(metrics)["sweet"]["ap"])
    assert float(metrics.compute()["map"]) == pytest.approx(average_precision_score(truth[:, :3], logits[:, :3], average="macro"))


# ---- Thresholds and calibration.


def test_the_common_threshold_is_the_best_there_is_on_the_validation_side() -> None:
    logits, truth = photos()
    fitted = fit(logits, truth, min_positives=20)
    prob = sigmoid(fitted.slope * logits + fitted.shift)
    assert fitted.sample_f1_one == pytest.approx(max(sample_f1(prob >= threshold, truth).mean() for threshold in CANDIDATES))
    assert fitted.sample_f1_one > fitted.sample_f1_half


def test_a_tag_has_a_threshold_of_its_own_only_where_enough_photos_carry_it() -> None:
    logits, truth = photos()
    fitted = fit(logits, truth, min_positives=20)
    assert fitted.num_positives == tuple(truth.sum(0))
    assert [threshold == fitted.one for threshold in fitted.per_tag] == [num < 20 for num in fitted.num_positives]
    prob = sigmoid(fitted.slope * logits + fitted.shift)[:, 0]
    assert f1_score(truth[:, 0], prob >= fitted.per_tag[0]) == pytest.approx(max(f1_score(truth[:, 0], prob >= threshold) for threshold in CANDIDATES))


def test_probabilities_that_are_too_high_are_brought_down() -> None:
    logits, truth = photos(2000, shift=2.0)
    fitted = fit(logits, truth, min_positives=20)
    assert fitted.ece_before is not None
    assert fitted.ece_after is not None
    assert fitted.ece_after < fitted.ece_before / 3
    scaled = sigmoid(fitted.slope * logits + fitted.shift)
    assert brier_score_loss(truth.ravel(), scaled.ravel()) < brier_score_loss(truth.ravel(), sigmoid(logits).ravel())


@pytest.mark.parametrize("value", [True, False])
def test_a_validation_side_of_one_kind_leaves_the_probabilities_alone(value: bool) -> None:
    fitted = fit(photos(30)[0], np.full((30, 4), value), min_positives=20)
    assert (fitted.slope, fitted.shift) == (1.0, 0.0)


@pytest.mark.parametrize("rule", ["half", "one", "per_tag"])
def test_what_is_given_follows_the_thresholds_that_travel_in_the_bundle(rule: str) -> None:
    logits, truth = photos()
    task = make_task(thresholds=rule).calibrate({"logits_BT": torch.from_numpy(logits)}, {"tags": lists(truth)})
    again = TaggingTask.from_state(vars(task.config), task.state())
    assert again.thresholds == task.thresholds
    columns = again.predictions({"logits_BT": torch.from_numpy(logits)})
    limits = dict(zip(TAGS, again.thresholds, strict=True))
    assert task.calibration is not None
    assert set(limits.values()) == {"half": {0.5}, "one": {task.calibration.one}, "per_tag": set(task.calibration.per_tag)}[rule]
    for names, probs, tags in zip(columns["tag_name"], columns["tag_prob"], columns["tags"], strict=True):
        assert (np.diff(probs) <= 0).all()
        assert tags == [name for name, prob in zip(names, probs, strict=True) if prob >= limits[name]]


def test_a_photo_below_all_thresholds_may_be_given_its_most_probable_tag() -> None:
    logits = torch.tensor([[-3.0, -1.0, -2.0, -4.0], [2.0, -1.0, -2.0, -4.0]])
    assert list(make_task().predictions({"logits_BT": logits})["tags"]) == [[], ["carbs"]]
    assert list(make_task(at_least_one=True).predictions({"logits_BT": logits})["tags"]) == [["meat"], ["carbs"]]


# ---- Baselines, stages, what is refused.


def test_the_fixed_tags_are_those_that_score_best_on_the_training_photos() -> None:
    train = np.array([[1, 1, 0, 0]] * 6 + [[1, 0, 1, 0]] * 3 + [[0, 0, 0, 1]])
    rows = {"tags": lists(train.astype(bool)), "class_name": np.array(["stew"] * 6 + ["bread"] * 3 + [None], dtype=object)}
    test = {"tags": lists(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], bool)), "class_name": np.array(["stew", "bread", "cake"], dtype=object)}
    found = make_task().baselines(rows, test, {})
    assert found["the most frequent tags"]["sample_f1"] == pytest.approx((1 + 0.5 + 0) / 3), "carbs and meat"
    assert found["the tags of the true dish"]["sample_f1"] == pytest.approx((1 + 1 + 0) / 3), "a new dish has the most frequent tags"


def test_the_reliability_is_measured_on_the_probabilities_that_are_reported() -> None:
    logits, truth = photos()
    task = make_task().calibrate({"logits_BT": torch.from_numpy(logits)}, {"tags": lists(truth)})
    assert task.calibration is not None
    found = task.reliability({"tags": lists(truth)}, task.predictions({"logits_BT": torch.from_numpy(logits)}))
    assert found["ece_tags"] == pytest.approx(task.calibration.ece_after)
    prob = sigmoid(task.calibration.slope * logits + task.calibration.shift)
    assert found["brier"] == pytest.approx(((prob - truth) ** 2).mean())


def test_a_published_backbone_waits_for_its_head_and_a_random_one_does_not() -> None:
    published, random = make_task(weights="pretrained").stages(), make_task().stages()
    assert [(stage.name, stage.epochs, stage.frozen) for stage in published] == [("head", 5, ("backbone.*",)), ("finetune", 45, ())]
    assert published[1].backbone == ("backbone.*",)
    assert [(stage.name, stage.epochs, stage.backbone) for stage in random] == [("finetune", 45, ())]
    assert [stage.name for stage in make_task(weights="pretrained", first_epochs=0).stages()] == ["finetune"]


@pytest.mark.parametrize(
    ("backbone", "features"), [("resnet50", 2048), ("densenet121", 1024), ("legacy_xception", 2048), ("mobilenetv1_100", 1024), ("mobilenetv3_small_050", 1024)]
)
def test_the_tutorials_backbones_and_others_end_in_a_head_of_128_units(backbone: str, features: int) -> None:
    network = TagNet(backbone, "random", hidden=128, num_tags=10).eval()
    assert num_features(network.backbone) == features
    assert [tuple(layer.weight.shape) for layer in (network.head[0], network.head[2])] == [(128, features), (10, 128)]
    assert network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))["logits_BT"].shape == (1, 10)


def test_pixels_are_normalised_as_the_published_weights_want_them() -> None:
    grey = torch.full((1, 3, 1, 1), 127.5)
    assert TagNet("legacy_xception", "random", hidden=8, num_tags=2).pixels(grey).abs().max() < 1e-6
    assert TagNet("resnet50", "random", hidden=8, num_tags=2).pixels(grey)[0, :, 0, 0].tolist() == pytest.approx(
        [(0.5 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)], abs=1e-5
    )


def test_the_tutorials_preset_is_as_published() -> None:
    found = preset("tutorial")
    assert (found.epochs, found.first_epochs, found.optimizer.name, found.optimizer.lr, found.thresholds) == (50, 0, "adam", 1e-3, "half")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backbone": "resnet5O"}, "not a timm model; did you mean"),
        ({"loss": "focal"}, "'focal'"),
        ({"thresholds": "best"}, "'best'"),
        ({"clip": 1.0}, "0 <= clip = 1.0 < 1"),
        ({"epochs": 0}, "epochs = 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TaggingConfig(**{**TINY, **settings})


def test_a_corpus_without_tags_cannot_train_a_tagger() -> None:
    with pytest.raises(CorpusError, match="fill the column tags"):
        TaggingTask.fit(TaggingConfig(**TINY), {"tags": lists(np.eye(4, dtype=bool))}, ())
