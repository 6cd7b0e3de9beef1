"""Joint distillation: each distance against a plain computation, who learns from whom, and what is delivered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from foodray.errors import ConfigError
from foodray.nn.distillation import MAP_SIDE, activation_map, feature_distance, map_distance, softened_distance
from foodray.tasks.base import Stage
from foodray.tasks.distillation import PAIRS, ROWS, DistillationConfig, LongtailDistillation, MtlDistillation, Teacher
from foodray.tasks.longtail import LongtailConfig
from foodray.tasks.mtl import ROWS as MTL_ROWS
from foodray.tasks.mtl import MtlConfig

LABELS = ("apple", "bread", "rice")
STUDENT = MtlConfig(**MTL_ROWS["classification"], backbone="test_resnet", weights="random", side_px=32)


def make(**changes: Any) -> MtlDistillation:
    config: DistillationConfig[MtlConfig] = DistillationConfig(student=STUDENT, teacher=Teacher(backbone="resnet10t", weights="random"), width=16, epochs=10)
    samples = {"class_name": np.array(LABELS, dtype=object)}
    return MtlDistillation.fit(replace(config, **changes), samples, LABELS).at(Stage(name="joint", epochs=1, optimizer=config.optimizer))  # type: ignore[return-value]


def a_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"image": image, "scale": torch.zeros(6, 3), "class_id": torch.tensor([0, 1, 2, 0, 1, -1]), "portion": torch.full((6,), torch.nan)}


def network_of(task: MtlDistillation) -> nn.Module:
    torch.manual_seed(0)
    return task.network(weights="random").train()


def test_softened_classes_are_temperature_squared_times_the_divergence_of_torch() -> None:
    own, other = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    found = softened_distance(own, other, temperature=4.0, exclusive=True)
    wanted = 16 * kl_div((own / 4).log_softmax(1), (other / 4).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert other.grad is None
    assert own.grad is not None


def test_softened_tags_are_the_mean_divergence_of_yes_and_no() -> None:
    own, other = torch.randn(4, 5), torch.randn(4, 5)
    found = softened_distance(own, other, temperature=2.0, exclusive=False)
    p, q = (other / 2).sigmoid(), (own / 2).sigmoid()
    torch.testing.assert_close(found, 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1))


def test_equal_networks_have_no_distance() -> None:
    logits, features, maps = torch.randn(3, 4), torch.randn(3, 8, 5, 5), torch.rand(3, 14, 14)
    assert softened_distance(logits, logits, temperature=4.0, exclusive=True).abs().max() < 1e-6
    assert feature_distance(features, features).max() == map_distance(maps, maps).max() == 0


def test_the_distance_of_features_is_of_the_smaller_map_and_a_mean_over_places() -> None:
    large, small = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)
    pooled = large.view(2, 8, 2, 2, 2, 2).mean((3, 5))
    torch.testing.assert_close(feature_distance(large, small), (pooled - small).square().sum(1).mean((1, 2)))


def test_an_activation_map_is_that_of_the_photos_own_class_and_sums_to_one() -> None:
    features, weight = torch.randn(2, 8, MAP_SIDE, MAP_SIDE), torch.randn(3, 8)
    truth = torch.tensor([[0, 0, 1], [1, 0, 0]])
    found = activation_map(features, weight, truth)
    by_hand = torch.stack([(features[0] * weight[2][:, None, None]).sum(0), (features[1] * weight[0][:, None, None]).sum(0)]).relu()
    torch.testing.assert_close(found, by_hand / by_hand.sum((1, 2), keepdim=True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2), rtol=1e-4, atol=1e-4)
    energy = features.square().sum(1)
    torch.testing.assert_close(activation_map(features, None, None), energy / energy.sum((1, 2), keepdim=True), rtol=1e-4, atol=1e-6)
    assert activation_map(features, weight, torch.zeros(2, 3)).sum() == 0  # of a photo without a known class


def gradients(task: MtlDistillation, names: set[str]) -> dict[str, float]:
    """Length of the gradient of some terms in each half."""
    network, batch = network_of(task), a_batch()
    terms = task.loss(task.forward(network, batch), batch)
    sum(terms[name] for name in names).backward()  # type: ignore[union-attr]
    return {half: sum(float(p.grad.norm()) for p in getattr(network, half).parameters() if p.grad is not None) for half in ("student", "teacher")}


@pytest.mark.parametrize("term", ["logits", "features", "maps"])
def test_each_learns_from_the_other_without_moving_it(term: str) -> None:
    task = make(rho=1.0)
    told = gradients(task, {f"student_{term}"})
    assert told["student"] > 0
    assert told["teacher"] == 0
    mirrored = gradients(task, {f"teacher_{term}"})
    assert mirrored["teacher"] > 0
    assert mirrored["student"] == 0


def test_rho_weighs_what_the_teacher_is_told_and_zero_tells_it_nothing() -> None:
    half, none = make(rho=0.5).loss_weights, make(rho=0.0).loss_weights
    assert half["teacher_logits"] == 0.5 * half["student_logits"]
    assert not [name for name in none if name in ("teacher_logits", "teacher_features", "teacher_maps")]
    assert none["teacher_class"] == 1.0


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_the_terms_that_it_is_about(row: str) -> None:
    names = set(make(**ROWS[row]).loss_weights)
    assert ("student_maps" in names) == (row not in ("kd", "no_maps"))
    assert ("student_features" in names) == ("student_stages" in names) == (row not in ("kd", "no_stages"))
    assert ("teacher_logits" in names) == (row not in ("kd", "one_way"))
    assert {"student_class", "teacher_class", "student_logits"} <= names


def test_the_comparisons_come_in_over_the_ramp_and_the_truth_counts_from_the_start() -> None:
    task = make(ramp_epochs=5.0)
    start, middle, over = (task.weights_at(epoch) for epoch in (0.0, 2.5, 7.0))
    assert over == task.loss_weights
    assert start["student_class"] == over["student_class"]
    assert start["student_stages"] == over["student_stages"]
    for name in ("student_logits", "student_features", "student_maps", "teacher_logits"):
        assert start[name] == pytest.approx(np.exp(-5) * over[name])
        assert middle[name] == pytest.approx(np.exp(-1.25) * over[name])


def test_the_truth_s_terms_are_cross_entropies_of_each_and_of_the_strides_heads() -> None:
    task, batch = make(), a_batch()
    outputs = task.forward(network_of(task), batch)
    terms = task.loss(outputs, batch)
    known = batch["class_id"] >= 0

    def entropy(logits: Tensor) -> Tensor:
        return cross_entropy(logits[known], batch["class_id"][known], reduction="sum")

    torch.testing.assert_close(terms["student_class"], entropy(outputs["logits_BC"]))
    torch.testing.assert_close(terms["teacher_class"], entropy(outputs["teacher/logits_BC"]))
    torch.testing.assert_close(terms["student_stages"], torch.stack([entropy(outputs[f"student/logits_{stride}"]) for stride in (8, 16, 32)]).sum())
    assert task.counts(batch) == dict.fromkeys(task.loss_weights, 5)


def test_an_unknown_class_changes_nothing() -> None:
    task, batch = make(), a_batch()
    network = network_of(task).eval()  # BatchNorm would mix the samples
    network.training = True

    def terms(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return task.loss(task.forward(network, batch), batch)

    for name, value in terms({name: values[:5] for name, values in batch.items()}).items():
        torch.testing.assert_close(terms(batch)[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_delivered_is_the_student_s_task_and_weights() -> None:
    task = make()
    network = network_of(task)
    student, weights = task.delivered(network.state_dict())
    assert student.config == STUDENT
    alone = student.network(weights="random")
    alone.load_state_dict(weights)
    batch = {name: values[:4] for name, values in a_batch().items()}
    with torch.inference_mode():
        together = task.forward(network.eval(), batch)["logits_BC"]
        torch.testing.assert_close(student.forward(alone.eval(), batch)["logits_BC"], together)


def test_pairs_are_timm_networks_of_which_the_student_is_the_smaller() -> None:
    import timm

    for teacher, student in PAIRS.values():
        with torch.device("meta"):
            large, small = (sum(p.numel() for p in timm.create_model(name, num_classes=101).parameters()) for name in (teacher, student))
        assert large > 3.5 * small


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rho": 1.5}, "0 <= rho = 1.5 <= 1"),
        ({"temperature": 0.0}, "temperature = 0.0 > 0"),
        ({"maps_weight": -1.0}, "maps_weight = -1.0 must be >= 0"),
        ({"maps": "all"}, "maps = 'all' is unknown"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DistillationConfig(student=STUDENT, **changes)


@pytest.mark.parametrize("changes", [{"method": "separator"}, {"start": "runs/first"}])
def test_what_does_not_train_in_one_stage_cannot_be_a_student(changes: dict[str, Any]) -> None:
    student = LongtailConfig(backbone="test_resnet", weights="random", side_px=32, stride_px=0, parts=False, contrastive=0.0)
    samples = {"class_name": np.array(LABELS, dtype=object)}
    with pytest.raises(ConfigError, match=r"cannot be a student|does not go with"):
        LongtailDistillation.fit(DistillationConfig(student=replace(student, **changes)), samples, LABELS)
