"""The multi-task family: what it refuses, what it scales and inverts, what it counts, and the numbers of the paper."""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foodray.errors import ConfigError, CorpusError
from foodray.tasks.metrics import PAPER_CONSTANT, CorrectPortionError, MeanError
from foodray.tasks.mtl import ROWS, SCALE_POWER, UNITS, MtlConfig, MtlTask, portion_baselines, preset, scale_features
from foodray.tasks.transform import Augmentation

NAN = float("nan")
LABELS = ("apple", "bread", "rice")
TINY: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "side_px": 32}
SCALES = ("standardize", "log1p", "raw")
# kcal of 400 training items: skewed, with zeros, as portions are.
PORTIONS = np.concatenate([np.zeros(5), np.random.default_rng(0).gamma(1.5, 110, 395)])


def make_task(portions: np.ndarray = PORTIONS, **settings: Any) -> MtlTask:
    """A tiny task fitted to these portions."""
    config = MtlConfig(**{**TINY, **settings})
    names = np.array([LABELS[index % 3] for index in range(len(portions))], dtype=object)
    unknown = np.full(len(portions), NAN)
    samples = {"class_name": names, **dict.fromkeys(UNITS, portions), "extent_w_mm": portions, "extent_h_mm": unknown}
    return MtlTask.fit(config, samples, LABELS)


def network_value(task: MtlTask, portion_B: Tensor) -> Tensor:
    """What the network has to say for these portions to be reported: `scale_target`, and the inverse of softplus."""
    scaled_B = task.scale_target(portion_B.double())
    if not task.config.nonnegative:
        return scaled_B
    zero = task.target_mean / task.target_std
    above_B = scaled_B + zero
    return above_B + torch.log(-torch.expm1(-above_B)) - zero


# Settings


def test_the_eight_rows_differ_in_what_the_paper_varies() -> None:
    configs = {row: MtlConfig(**TINY, **settings) for row, settings in ROWS.items()}
    assert {row: (config.heads, config.sharing, config.cdfa, config.normalization) for row, config in configs.items()} == {
        "classification": ("classification", "none", False, "none"),
        "portion": ("portion", "none", False, "none"),
        "hps": ("both", "hard", False, "none"),
        "sps": ("both", "soft", False, "none"),
        "sps_cdfa": ("both", "soft", True, "none"),
        "sps_cdfa_bn": ("both", "soft", True, "bn"),
        "sps_cdfa_ln": ("both", "soft", True, "ln"),
        "sps_cdfa_ln_bn": ("both", "soft", True, "ln_bn"),
    }


def test_the_paper_s_preset_is_what_the_paper_says() -> None:
    config = preset("paper")
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adam", 0.1, 1e-4)
    assert (optimizer.schedule, optimizer.milestones, optimizer.gamma, config.epochs) == ("multistep", (30, 60, 90), 0.1, 100)
    assert (config.sharing_weight, config.sharing_reduction, config.shared_layers) == (1.0, "sum", "layer2")
    assert (config.target_scale, config.nonnegative, config.detach_classifier, config.mccr_constant) == ("raw", False, False, 1.0)
    assert (config.backbone, config.side_px) == ("resnet18", 224)
    assert config.augmentation == Augmentation(flip=False, turn=False, shift=False, colour=0.0)
    assert dataclasses.replace(preset("sgd"), optimizer=optimizer) == config


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", ["default", "paper", "sgd"])
def test_every_preset_has_every_row(name: str, row: str) -> None:
    config = preset(name, row)
    assert {field: getattr(config, field) for field in ROWS[row]} == ROWS[row]
    task = MtlTask(config=dataclasses.replace(config, **TINY), labels=LABELS)
    fewer = {"classification": ["class"], "portion": ["portion"], "hps": ["class", "portion"]}
    assert list(task.loss_weights) == fewer.get(row, ["class", "portion", "sharing"])


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"cdfa": False}, ["normalization", "cdfa"]),
        ({"sharing": "hard"}, ["cdfa", "sharing"]),
        ({"heads": "portion"}, ["cdfa", "heads"]),
        ({"heads": "portion", "cdfa": False, "normalization": "none"}, ["sharing", "heads"]),
        ({"heads": "classification", "sharing": "none", "cdfa": False, "normalization": "none", "scale_input": "marker"}, ["scale_input", "heads"]),
        ({"scale_input": "marker", "target_scale": "raw"}, ["scale_input", "target_scale"]),
        ({"shared_layers": "layer9"}, ["shared_layers", "layer9"]),
        ({"backbone": "resnt18"}, ["backbone", "resnt18"]),
        ({"epochs": 0}, ["epochs = 0"]),
        ({"sharing_weight": -1.0}, ["sharing_weight = -1"]),
        ({"portion_weight": 0.0}, ["portion_weight = 0"]),
    ],
)
def test_an_impossible_combination_names_its_fields(settings: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        MtlConfig(**settings)
    assert all(field in str(caught.value) for field in fields), str(caught.value)


@pytest.mark.parametrize(("name", "row"), [("papers", "sps"), ("paper", "spss")])
def test_an_unknown_preset_or_row_names_the_nearest(name: str, row: str) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        preset(name, row)


@pytest.mark.parametrize(
    ("portions", "message"),
    [([NAN, NAN], "no training item has a value in energy_kcal"), ([5.0, -1.0, NAN], "1 training items have a negative energy_kcal")],
)
def test_unfit_portions_are_refused(portions: list[float], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make_task(np.array(portions))


def test_a_classifier_of_one_class_and_a_marker_that_nobody_used_are_refused() -> None:
    with pytest.raises(CorpusError, match="at least two classes"):
        MtlTask.fit(MtlConfig(**TINY), {"energy_kcal": PORTIONS}, ("apple",))
    nowhere = {"energy_kcal": PORTIONS, "extent_w_mm": np.full(len(PORTIONS), NAN)}
    with pytest.raises(CorpusError, match="scale_input = 'marker'"):
        MtlTask.fit(MtlConfig(**TINY, scale_input="marker", target_scale="log1p"), nowhere, LABELS)


# Target scaling


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_the_target_s_scaling_is_exactly_inverted(scale: str, nonnegative: bool) -> None:
    task = make_task(target_scale=scale, nonnegative=nonnegative)
    portion_B = torch.from_numpy(PORTIONS[PORTIONS > 0.01])
    torch.testing.assert_close(task.unscale_target(network_value(task, portion_B)), portion_B, rtol=1e-9, atol=1e-9)
    single_B = network_value(task, portion_B).float()
    torch.testing.assert_close(task.unscale_target(single_B), portion_B, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scale", SCALES)
def test_a_perfect_network_has_no_loss_and_no_error(scale: str) -> None:
    task = make_task(target_scale=scale, nonnegative=True)
    truth_B = torch.tensor([0.5, 20.0, 164.0, 984.0])
    outputs = {"logits_BC": torch.zeros(4, 3), "portion_B": network_value(task, truth_B).float()}
    batch = {"class_id": torch.full((4,), -1), "portion": truth_B, "image": truth_B}
    assert task.loss(outputs, batch)["portion"].item() == pytest.approx(0, abs=1e-3)
    assert np.allclose(task.predictions(outputs)["energy_kcal"], truth_B, rtol=1e-4)


def test_the_standardised_target_has_mean_zero_and_spread_one() -> None:
    task = make_task(target_scale="standardize")
    scaled_B = task.scale_target(torch.from_numpy(PORTIONS))
    assert scaled_B.mean().item() == pytest.approx(0, abs=1e-9)
    assert scaled_B.std(correction=0).item() == pytest.approx(1)
    raw = make_task(target_scale="raw")
    assert torch.equal(raw.scale_target(torch.from_numpy(PORTIONS)), torch.from_numpy(PORTIONS))


def test_portions_that_are_all_equal_can_be_scaled() -> None:
    task = make_task(np.full(9, 80.0))
    assert task.unscale_target(task.scale_target(torch.tensor([80.0, 90.0]))).tolist() == [80, 90]


@pytest.mark.parametrize("scale", SCALES)
def test_with_nonnegative_no_portion_is_below_zero_by_more_than_rounding(scale: str) -> None:
    task = make_task(target_scale=scale, nonnegative=True)
    value_B = torch.cat([torch.linspace(-1e4, 50, 20_001), torch.tensor([-1e30, 0.0])])
    portion_B = task.unscale_target(value_B)
    assert portion_B.isfinite().all() or scale == "log1p"  # e^50 spreads of a log are more than a double
    assert portion_B.min() >= -1e-9
    assert make_task(target_scale=scale).unscale_target(torch.tensor([-100.0])).item() < 0


@pytest.mark.parametrize("scale", ["standardize", "log1p"])
def test_with_nonnegative_no_portion_is_below_zero(scale: str) -> None:
    task = MtlTask(config=MtlConfig(**TINY, target_scale=scale, nonnegative=True), labels=LABELS, target_mean=3.7, target_std=0.9)
    assert task.unscale_target(torch.linspace(-1e4, 0, 101)).min() >= 0


# Batches


def make_rows(count: int = 6, **columns: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    plain = {
        "pixels": rng.integers(0, 256, (count, 36, 36, 3), dtype=np.uint8),
        "seed": np.arange(count),
        "class_name": np.array([LABELS[index % 3] for index in range(count)], dtype=object),
        "energy_kcal": rng.uniform(0, 500, count),
        "extent_w_mm": rng.uniform(20, 200, count),
        "extent_h_mm": rng.uniform(20, 200, count),
    }
    return {**plain, **columns}


def test_a_batch_holds_images_scale_and_targets_with_unknowns_marked() -> None:
    names = np.array(["rice", None, "pizza", "apple"], dtype=object)
    rows = make_rows(4, class_name=names, energy_kcal=np.array([1.5, NAN, 0.0, 3.0]))
    batch = make_task().prepare(rows, train=False)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((4, 3, 32, 32), torch.uint8),
        "scale": ((4, 3), torch.float32),
        "class_id": ((4,), torch.int64),
        "portion": ((4,), torch.float32),
    }
    assert batch["class_id"].tolist() == [2, -1, -1, 0]
    torch.testing.assert_close(batch["portion"], torch.tensor([1.5, NAN, 0.0, 3.0]), equal_nan=True)


def test_a_photo_without_labels_can_be_predicted() -> None:
    rows = make_rows(2)
    task = make_task(scale_input="marker", target_scale="log1p")
    batch = task.prepare({name: rows[name] for name in ("pixels", "extent_w_mm", "extent_h_mm")}, train=False)
    assert batch.keys() == {"image", "scale"}
    with torch.inference_mode():
        outputs = task.forward(task.network().eval(), batch)
    assert len(task.predictions(outputs)["energy_kcal"]) == 2


def test_at_first_the_portion_grows_with_a_power_of_the_size() -> None:
    task = make_task(scale_input="marker", target_scale="log1p")
    rows = make_rows(2)
    network = task.network().eval()
    with torch.inference_mode():
        small, large = (
            task.predictions(task.forward(network, task.prepare({**rows, "extent_w_mm": side, "extent_h_mm": side}, train=False)))["energy_kcal"]
            for side in (np.full(2, 100.0), np.full(2, 200.0))
        )
    assert np.allclose((large + 1) / (small + 1), 2**SCALE_POWER, rtol=1e-3)


def test_scale_features_do_not_change_when_a_box_is_turned() -> None:
    width, height = np.array([30.0, 200.0, 80.0]), np.array([60.0, 50.0, 80.0])
    features = scale_features(width, height, 0.5)
    assert np.array_equal(features, scale_features(height, width, 0.5))
    assert np.allclose(features[0], [math.log(math.sqrt(1800) / 100) - 0.5, math.log(2), 1])
    assert np.allclose(features[2], [math.log(0.8) - 0.5, 0, 1])


def test_scale_features_are_zero_where_nothing_is_known() -> None:
    unknown = scale_features(np.array([NAN, 30.0, 0.0, -1.0, np.inf]), np.array([30.0, NAN, 10.0, 10.0, 10.0]), 0.5)
    assert not unknown.any()
    assert unknown.dtype == np.float32


def test_an_unknown_size_counts_as_the_mean_of_the_known_training_sizes() -> None:
    config = MtlConfig(**TINY, scale_input="marker", target_scale="log1p")
    sides = np.array([50.0, 200.0, NAN])
    task = MtlTask.fit(config, {"energy_kcal": np.array([1.0, 2.0, 3.0]), "extent_w_mm": sides, "extent_h_mm": sides}, LABELS)
    scale_BS = task.prepare(make_rows(3, extent_w_mm=sides, extent_h_mm=sides), train=False)["scale"]
    torch.testing.assert_close(scale_BS, torch.tensor([[-math.log(2), 0, 1], [math.log(2), 0, 1], [0, 0, 0]]))


# Loss


def made_outputs(task: MtlTask, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return task.forward(task.network().train(), batch)


def test_unknown_classes_and_portions_are_masked_in_loss_and_counts() -> None:
    task = make_task()
    names = np.array(["rice", None, "apple", None], dtype=object)
    batch = task.prepare(make_rows(4, class_name=names, energy_kcal=np.array([NAN, 200.0, 0.0, NAN])), train=False)
    outputs = made_outputs(task, batch)
    counts, loss = task.counts(batch), task.loss(outputs, batch)
    assert {name: int(count) for name, count in counts.items()} == {"class": 2, "portion": 2, "sharing": 1}
    log_probs_BC = outputs["logits_BC"].log_softmax(1)
    torch.testing.assert_close(loss["class"], -(log_probs_BC[0, 2] + log_probs_BC[2, 0]))
    scaled_B = task.scale_target(torch.tensor([200.0, 0.0]))
    torch.testing.assert_close(loss["portion"], (outputs["portion_B"][1:3] - scaled_B).abs().sum())
    (gradient_B,) = torch.autograd.grad(loss["portion"], outputs["portion_B"], retain_graph=True)
    assert (gradient_B[[0, 3]] == 0).all()
    assert gradient_B.isfinite().all()


def test_a_batch_in_which_nothing_is_known_has_no_loss_and_no_counts() -> None:
    task = make_task()
    batch = task.prepare(make_rows(3, class_name=np.array([None] * 3, dtype=object), energy_kcal=np.full(3, NAN)), train=False)
    loss, counts = task.loss(made_outputs(task, batch), batch), task.counts(batch)
    assert (loss["class"].item(), loss["portion"].item()) == (0, 0)
    assert (counts["class"].item(), counts["portion"].item()) == (0, 0)


def test_the_sharing_term_is_the_distance_of_the_towers() -> None:
    task = make_task()
    torch.manual_seed(0)
    network = task.network().train()
    batch = task.prepare(make_rows(3), train=False)
    loss = task.loss(task.forward(network, batch), batch)
    assert loss["sharing"].item() == network.distance().item() > 0  # type: ignore[operator, union-attr]
    assert task.loss(task.forward(network.eval(), batch), batch)["sharing"].item() == 0


# Metrics


def joint(absolute_errors: list[float], correct: list[bool], constant: float = 1.0) -> dict[str, float]:
    metric = CorrectPortionError(constant=constant)
    truth_B = torch.full((len(correct),), 100.0, dtype=torch.float64)
    metric.update(truth_B + torch.tensor(absolute_errors, dtype=torch.float64), truth_B, torch.tensor(correct))
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize(("constant", "printed"), [(1.0, 0.13527), (PAPER_CONSTANT, 0.5667)])
def test_mccr_is_the_published_number(constant: float, printed: float) -> None:
    found = joint([50.86] * 376 + [900.0] * 48, [True] * 376 + [False] * 48, constant)
    assert found["mccr"] == pytest.approx(printed, abs=1.5e-4)
    assert found["mae_correct"] == pytest.approx(50.86)
    assert (found["num_correct"], found["num_both"], found["mccr_constant"]) == (376, 424, constant)
    assert found["mae_per_accuracy"] == pytest.approx(50.86 / (376 / 424))


def test_mccr_without_a_correct_class_is_undefined() -> None:
    found = joint([1.0, 2.0], [False, False])
    assert all(math.isnan(found[name]) for name in ("mccr", "mae_correct", "mae_per_accuracy"))
    assert (found["num_correct"], found["num_both"]) == (0, 2)


def test_mccr_halves_when_the_test_set_doubles_and_its_companion_does_not() -> None:
    once, twice = joint([3.0, 5.0, 9.0], [True, True, False]), joint([3.0, 5.0, 9.0] * 2, [True, True, False] * 2)
    assert twice["mccr"] == pytest.approx(once["mccr"] / 2)
    assert twice["mae_per_accuracy"] == pytest.approx(once["mae_per_accuracy"])


def test_bias_has_the_sign_of_overestimation() -> None:
    metric = MeanError()
    metric.update(torch.tensor([12.0, 7.0]), torch.tensor([10.0, 3.0]))
    assert metric.compute().item() == 3


def by_hand() -> tuple[MtlTask, dict[str, Tensor], dict[str, Tensor]]:
    """Five items: classes right, right, wrong, unknown, right; portions off by 10, unknown, -20, 40, 0."""
    task = make_task()
    class_id = torch.tensor([0, 1, 2, -1, 2])
    said = torch.tensor([0, 1, 0, 1, 2])
    truth_B = torch.tensor([100.0, NAN, 50.0, 60.0, 30.0])
    given_B = torch.tensor([110.0, 5.0, 30.0, 100.0, 30.0])
    outputs = {"logits_BC": 9 * torch.nn.functional.one_hot(said, 3).float(), "portion_B": task.scale_target(given_B.double())}
    return task, outputs, {"class_id": class_id, "portion": truth_B}


def test_metrics_are_those_of_a_hand_calculation() -> None:
    task, outputs, batch = by_hand()
    metrics = task.metrics()
    task.measure(metrics, outputs, batch)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "accuracy": 3 / 4,
            "accuracy_macro": (1 + 1 + 1 / 2) / 3,
            "accuracy_top5": 1.0,
            "mae_kcal": 70 / 4,
            "ep_item": 70 / 240,
            "bias_kcal": 30 / 4,
            "mae_correct": 10 / 2,
            "mccr": 10 / 4,
            "mccr_constant": 1.0,
            "num_correct": 2,
            "num_both": 3,
            "mae_per_accuracy": 5 / (2 / 3),
        }
    )


@pytest.mark.parametrize("at", [1, 2, 4])
def test_metrics_of_two_parts_merged_are_those_of_the_whole(at: int) -> None:
    task, outputs, batch = by_hand()
    whole, left, right = task.metrics(), task.metrics(), task.metrics()
    task.measure(whole, outputs, batch)
    for metrics, part in ((left, slice(None, at)), (right, slice(at, None))):
        task.measure(metrics, {name: value[part] for name, value in outputs.items()}, {name: value[part] for name, value in batch.items()})
    for name, metric in left.items():
        metric.merge_state(right[name])
    merged = {name: float(value) for name, value in left.compute().items()}
    assert merged == pytest.approx({name: float(value) for name, value in whole.compute().items()})


def test_a_part_in_which_no_portion_is_known_changes_nothing() -> None:
    task, outputs, batch = by_hand()
    metrics = task.metrics()
    for part in (slice(0, 1), slice(1, 2)):
        task.measure(metrics, {name: value[part] for name, value in outputs.items()}, {name: value[part] for name, value in batch.items()})
    assert metrics["mae_kcal"].compute().item() == pytest.approx(10)


def test_a_part_in_which_no_class_is_known_changes_nothing() -> None:
    task, outputs, batch = by_hand()
    metrics = task.metrics()
    for part in (slice(0, 1), slice(3, 4)):
        task.measure(metrics, {name: value[part] for name, value in outputs.items()}, {name: value[part] for name, value in batch.items()})
    assert metrics["accuracy"].compute().item() == 1
    assert metrics["mae_kcal"].compute().item() == pytest.approx(25)


@pytest.mark.parametrize("num_classes", [2, 3, 9])
def test_top_five_works_with_any_number_of_classes(num_classes: int) -> None:
    task = MtlTask(config=MtlConfig(**TINY), labels=tuple(f"class{index}" for index in range(num_classes)))
    metrics, batch = task.metrics(), {"class_id": torch.tensor([0, 1, 1]), "portion": torch.ones(3)}
    outputs = {"logits_BC": torch.arange(num_classes).float().repeat(3, 1), "portion_B": torch.ones(3)}
    task.measure(metrics, outputs, batch)
    assert metrics["accuracy_top5"].compute().item() == (0 if num_classes == 9 else 1)
    assert task.predictions(outputs)["topk_prob"].shape == (3, min(5, num_classes))


def test_the_objective_falls_when_either_head_gets_better() -> None:
    task = make_task()
    worst = task.objective({"accuracy": 0.5, "mae_kcal": 60.0})
    assert task.objective({"accuracy": 0.6, "mae_kcal": 60.0}) < worst
    assert task.objective({"accuracy": 0.5, "mae_kcal": 50.0}) < worst
    assert make_task(**ROWS["classification"]).objective({"accuracy": 0.75}) == 0.25
    assert make_task(**ROWS["portion"]).objective({"mae_kcal": PORTIONS.std()}) == pytest.approx(1)


@pytest.mark.parametrize("scale", ["log1p", "raw"])
def test_the_objective_does_not_depend_on_how_the_target_is_scaled(scale: str) -> None:
    found = {"accuracy": 0.5, "mae_kcal": 60.0}
    assert make_task(target_scale=scale).objective(found) == pytest.approx(make_task().objective(found))


# Predictions and baselines


def test_predictions_have_the_same_columns_for_every_row_and_the_portion_under_its_name() -> None:
    task, outputs, _ = by_hand()
    columns = task.predictions(outputs)
    assert list(columns) == ["class_id", "class_name", "class_prob", "topk_class_name", "topk_prob", "energy_kcal"]
    assert columns["class_id"].tolist() == [0, 1, 0, 1, 2]
    assert columns["class_name"].tolist() == ["apple", "bread", "apple", "bread", "rice"]
    assert np.allclose(columns["topk_prob"].sum(1), 1)
    assert np.array_equal(columns["topk_prob"][:, 0], columns["class_prob"])
    assert np.array_equal(columns["topk_class_name"][:, 0], columns["class_name"])
    assert np.allclose(columns["energy_kcal"], [110, 5, 30, 100, 30])
    assert list(make_task(**ROWS["portion"], target="mass_g").predictions({"portion_B": torch.ones(1)})) == ["mass_g"]
    assert "energy_kcal" not in make_task(**ROWS["classification"]).predictions({"logits_BC": torch.ones(1, 3)})


def names(*words: str | None) -> np.ndarray:
    return np.array(words, dtype=object)


def test_baselines_are_those_of_a_hand_calculation() -> None:
    train = {"class_name": names("apple", "apple", "apple", "rice", "rice"), "energy_kcal": np.array([10.0, 20.0, 60.0, 100.0, NAN])}
    test = {"class_name": names("apple", "rice", "bread", "apple"), "energy_kcal": np.array([20.0, 110.0, 50.0, NAN])}
    predicted = {"class_name": names("rice", "rice", "apple", "apple")}
    assert make_task().baselines(train, test, predicted) == {
        "most frequent class": {"accuracy": 0.5},
        "mean": {"mae_kcal": pytest.approx((27.5 + 62.5 + 2.5) / 3), "ep_item": pytest.approx(92.5 / 180)},
        "median": {"mae_kcal": pytest.approx((20 + 70 + 10) / 3), "ep_item": pytest.approx(100 / 180)},
        "class median, true class given": {"mae_kcal": pytest.approx((0 + 10 + 10) / 3), "ep_item": pytest.approx(20 / 180)},
        "class median of the predicted class": {"mae_kcal": pytest.approx((80 + 10 + 30) / 3), "ep_item": pytest.approx(120 / 180)},
    }


def test_the_baselines_of_a_single_head_are_those_of_that_head() -> None:
    rows = {"class_name": names("apple", "rice"), "energy_kcal": np.array([1.0, 2.0])}
    assert list(make_task(**ROWS["classification"]).baselines(rows, rows, {"class_name": names("apple", "rice")})) == ["most frequent class"]
    assert list(make_task(**ROWS["portion"]).baselines(rows, rows, {})) == ["mean", "median", "class median, true class given"]


@pytest.mark.parametrize("head", ["classification", "portion"])
def test_items_of_unknown_class_do_not_count_in_the_baselines(head: str) -> None:
    train = {"class_name": names(None, None, None, "rice", "apple", "rice"), "energy_kcal": np.array([5.0, 6.0, 7.0, 8.0, 9.0, 10.0])}
    test = {"class_name": names("rice", None), "energy_kcal": np.array([8.0, 9.0])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if head == "portion":
            assert math.isfinite(portion_baselines(train, test, {}, "energy_kcal")["class median, true class given"]["mae_kcal"])
        else:
            assert make_task().baselines(train, test, {})["most frequent class"] == {"accuracy": 1.0}
