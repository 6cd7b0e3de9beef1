"""What every family of models promises the loop (`foodray.tasks.base`): one suite over all of them.

A new family adds its tiny settings to `CONFIGS`; columns of labels that no family had before go into `label_columns`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from foodray.analyzer.export import answering
from foodray.config import to_plain
from foodray.corpus.corpus import SAMPLE_COLUMNS
from foodray.nn.onnx import open_onnx, to_onnx
from foodray.nn.runtime import difference
from foodray.nn.segmentation import PointSettings
from foodray.storage.bundle import read_bundle, write_bundle
from foodray.storage.store import Store
from foodray.tasks import TASKS, task_of
from foodray.tasks.base import Task
from foodray.tasks.distillation import DistillationConfig, Teacher
from foodray.tasks.facts import example_batch, network_facts
from foodray.tasks.longtail import LongtailConfig, with_row
from foodray.tasks.longtail.config import Clip, SecondStage, Semantic
from foodray.tasks.longtail.groups import GroupConfig
from foodray.tasks.mtl import ROWS, MtlConfig
from foodray.tasks.segmentation import SegmentationConfig
from foodray.tasks.tagging import TaggingConfig

NUM_ROWS = 8
LABELS = ("apple", "bread", "rice")
TINY: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "side_px": 32, "epochs": 2}

SMALL: dict[str, Any] = {"side_px": 64, "epochs": 2}

TEACHER = Teacher(backbone="resnet10t", weights="random")
GROUPS = GroupConfig(by="thirds")
CNN = LongtailConfig(**TINY, stride_px=0, parts=False, contrastive=0.0, groups=GROUPS)
VIT = LongtailConfig(backbone="test_vit", weights="random", side_px=32, epochs=2, stride_px=8, groups=GROUPS)

CONFIGS: dict[str, dict[str, Any]] = {
    "mtl": {
        "best row": MtlConfig(**TINY),
        "hard sharing, log target, scale": MtlConfig(**TINY, **ROWS["hps"], target_scale="log1p", nonnegative=True, scale_input="marker", target="mass_g"),
        "classes only": MtlConfig(**TINY, **ROWS["classification"]),
        "portion only": MtlConfig(**TINY, **ROWS["portion"], target_scale="raw"),
    },
    "segmentation": {
        "ENet in two phases": SegmentationConfig(**SMALL),
        "ENet at once, median frequencies": SegmentationConfig(**SMALL, first_epochs=0, class_weights="median_frequency"),
        "transfer": SegmentationConfig(**SMALL, architecture="lraspp_mobilenet_v3_large", class_weights="none"),
        "auxiliary head": SegmentationConfig(**SMALL, architecture="deeplabv3_mobilenet_v3_large"),
        "PointRend": SegmentationConfig(**SMALL, architecture="pointrend", pointrend_backbone="resnet18", points=PointSettings(num_points=64)),
    },
    "tagging": {
        "one threshold": TaggingConfig(**TINY),
        "asymmetric loss, a threshold a tag, a tag at least": TaggingConfig(
            **TINY, loss="asymmetric", thresholds="per_tag", min_positives=1, at_least_one=True
        ),
    },
    "longtail": {
        "TransFG": VIT,
        "plain ViT, names in a second pass": replace(with_row(VIT, "semantic"), parts=False, semantic=Semantic(mode="second_pass", encoder="random")),
        "names as they are": replace(with_row(CNN, "semantic_text"), semantic=Semantic(mode="text", encoder="random")),
        "auxiliary head in both stages, shared layer": replace(with_row(CNN, "aux_both"), second=SecondStage(epochs=1, trains="shared_bottleneck")),
        "cRT": with_row(CNN, "crt"),
        "last block": replace(with_row(CNN, "two_stages"), second=SecondStage(epochs=1, trains="last_block")),
        "last block of a ViT": replace(with_row(VIT, "aux_second"), second=SecondStage(epochs=1, trains="last_block")),
        "tau-normalised": with_row(CNN, "tau_norm"),
        "adjusted logits": with_row(CNN, "logit_adjustment"),
        "balanced softmax": with_row(CNN, "balanced_softmax"),
        "LDAM-DRW": with_row(CNN, "ldam_drw"),
        "separator": with_row(CNN, "separator"),
        "separator, soft": with_row(VIT, "separator_soft"),
        "CLIP": LongtailConfig(method="clip", side_px=32, epochs=2, stride_px=0, parts=False, contrastive=0.0, clip=Clip(model="random")),
    },
    "mtl-distillation": {
        "JDNet": DistillationConfig(student=MtlConfig(**TINY, **ROWS["classification"]), teacher=TEACHER, epochs=2, width=16),
        "with portions, one way, attention": DistillationConfig(student=MtlConfig(**TINY), teacher=TEACHER, epochs=2, width=16, rho=0.0, maps="attention"),
    },
    "tagging-distillation": {
        "attention": DistillationConfig(student=TaggingConfig(**TINY), teacher=TEACHER, epochs=2, width=16, maps="attention"),
    },
    "longtail-distillation": {
        "plain": DistillationConfig(student=CNN, teacher=TEACHER, epochs=2, stages=False, maps="none", ramp_epochs=0.0),
    },
}
"""Tiny settings of each family: every kind of head and of input once."""


def label_columns() -> dict[str, np.ndarray]:
    """The samples of a small study, every truth known."""
    rng = np.random.default_rng(0)
    columns = {name: rng.uniform(20, 300, NUM_ROWS) for name in ("mass_g", "energy_kcal", "volume_ml", "extent_w_mm", "extent_h_mm")}
    mask_px = rng.integers(0, 3_000, (NUM_ROWS, 1 + len(LABELS)))
    columns["tags"] = np.fromiter(([LABELS[index % 3]] + [LABELS[2]] * (index % 2) for index in range(NUM_ROWS)), dtype=object, count=NUM_ROWS)
    words = {"class_name": [LABELS[index % 3] for index in range(NUM_ROWS)], "participant_id": [f"p{index}" for index in range(NUM_ROWS)]}
    return {**columns, **{name: np.array(values, dtype=object) for name, values in words.items()}, "mask_px": mask_px}


def cases() -> Iterator[Any]:
    for family in TASKS:
        for name, config in CONFIGS.get(family, {}).items():
            yield pytest.param((family, config), id=f"{family}: {name}")


@pytest.fixture(params=cases())
def task(request: pytest.FixtureRequest) -> Task:
    """Each family, fitted to the small study, with each of its settings."""
    family, config = request.param
    return TASKS[family].fit(config, label_columns(), LABELS)


def make_rows(task: Task) -> dict[str, np.ndarray]:
    """Rows as the feed hands them to `prepare`, in training."""
    side = task.spec.stored_px
    pixels = np.random.default_rng(1).integers(0, 256, (NUM_ROWS, side, side, 3), dtype=np.uint8)
    labels = label_columns()
    rows = {"pixels": pixels, **{name: labels[name] for name in task.columns}, "seed": np.arange(100, 100 + NUM_ROWS)}
    if task.masks:
        blocks = np.random.default_rng(2).integers(-1, 1 + len(LABELS), (NUM_ROWS, side // 8 + 1, side // 8 + 1)).astype(np.int16)
        rows["mask"] = blocks.repeat(8, 1).repeat(8, 2)[:, :side, :side].copy()
    return rows


def part(values: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Some rows of columns, or of tensors; what is one number for the whole batch stays."""
    return {name: value[rows] if value.ndim else value for name, value in values.items()}


def equal(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(np.asarray(left[name]), np.asarray(right[name]), err_msg=name)


def make_network(task: Task, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return task.network(weights="random")


def predicted(task: Task, network: nn.Module) -> dict[str, Tensor]:
    """Outputs in evaluation."""
    with torch.inference_mode():
        return task.forward(network.eval(), task.prepare(make_rows(task), train=False))


def test_every_family_is_under_contract() -> None:
    assert CONFIGS.keys() == TASKS.keys()
    assert all(CONFIGS.values())
    assert all(family.name == word for word, family in TASKS.items())


def test_what_a_task_reads_is_a_column_of_the_corpus(task: Task) -> None:
    assert set(task.columns) <= set(SAMPLE_COLUMNS)
    assert task.spec.level == task.level


def test_a_training_row_is_the_same_alone_and_in_any_batch(task: Task) -> None:
    rows = make_rows(task)
    whole = task.prepare(rows, train=True)
    for chosen in ([3], [5, 0], list(range(NUM_ROWS))[::-1]):
        equal(task.prepare(part(rows, chosen), train=True), part(whole, chosen))


def test_a_training_row_depends_on_its_seed_and_is_not_changed_in_place(task: Task) -> None:
    rows = make_rows(task)
    before = rows["pixels"].copy()
    one, other = (task.prepare({**rows, "seed": rows["seed"] + shift}, train=True) for shift in (0, 1_000))
    assert not torch.equal(one["image"], other["image"])
    assert np.array_equal(rows["pixels"], before)


def test_an_evaluated_row_is_the_same_alone_without_a_seed_and_again(task: Task) -> None:
    rows = make_rows(task)
    del rows["seed"]
    whole = task.prepare(rows, train=False)
    equal(task.prepare(rows, train=False), whole)
    equal(task.prepare(part(rows, [4, 1]), train=False), part(whole, [4, 1]))


@pytest.mark.parametrize("train", [True, False])
def test_every_tensor_of_a_batch_has_one_entry_a_row(task: Task, train: bool) -> None:
    batch = task.prepare(make_rows(task), train=train)
    assert {name: len(value) for name, value in batch.items()} == dict.fromkeys(batch, NUM_ROWS)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape[1:] == (3, task.spec.side_px, task.spec.side_px)
    assert batch["image"].is_contiguous()


def test_counts_terms_and_weights_have_the_same_names(task: Task) -> None:
    batch = task.prepare(make_rows(task), train=True)
    network = make_network(task)
    for staged in (task.at(stage) for stage in task.stages()):
        terms, counts = staged.loss(staged.forward(network.train(), batch), batch), staged.counts(batch)
        assert terms.keys() == counts.keys() == staged.loss_weights.keys()
        assert all(value.ndim == 0 and value.isfinite() for value in (*terms.values(), *counts.values()))
        assert all(weight >= 0 for weight in staged.loss_weights.values())


def mean_loss(task: Task, parts: list[tuple[dict[str, Tensor], dict[str, Tensor]]], *, without: frozenset[str] = frozenset()) -> Tensor:
    """The total as the loop has it: sums over all parts, divided by the counts of all parts, weighted."""
    terms, counts = ([function(*arguments) for arguments in parts] for function in (task.loss, lambda outputs, batch: task.counts(batch)))
    names = {name: weight for name, weight in task.loss_weights.items() if name not in without} or {"": 0.0}
    if "" in names:
        return torch.zeros(())
    return torch.stack([names[name] * sum(term[name] for term in terms) / sum(count[name] for count in counts) for name in names]).sum()


def test_the_loss_of_a_batch_is_that_of_its_parts_summed_and_divided_once(task: Task) -> None:
    batch = task.prepare(make_rows(task), train=True)
    outputs = task.forward(make_network(task).train(), batch)
    halves = [(part(outputs, rows), part(batch, rows)) for rows in (slice(0, 3), slice(3, None))]
    torch.testing.assert_close(mean_loss(task, halves, without=task.compares), mean_loss(task, [(outputs, batch)], without=task.compares))


def test_the_loss_reaches_every_parameter_that_a_stage_trains(task: Task) -> None:
    batch = task.prepare(make_rows(task), train=True)
    for stage in task.stages():
        network, staged = make_network(task).train(), task.at(stage)
        mean_loss(staged, [(staged.forward(network, batch), batch)]).backward()
        names = [name for name, _ in network.named_parameters()]
        trained = set(matched(names, stage.trainable)) - set(matched(names, stage.frozen))
        assert not [name for name, value in network.named_parameters() if value.grad is None and name in trained]


def test_metrics_of_every_stage_are_those_of_the_task(task: Task) -> None:
    network, batch = make_network(task).eval(), task.prepare(make_rows(task), train=False)
    for staged in (task.at(stage) for stage in task.stages()):
        with torch.inference_mode():
            found = values(measured(staged, staged.forward(network, batch), batch))
        assert found.keys() == values(measured(task, predicted(task, network), batch)).keys()


def test_pictures_and_classes_are_arrays_and_numbers_of_known_labels(task: Task) -> None:
    batch, outputs = task.prepare(make_rows(task), train=False), predicted(task, make_network(task))
    pictures = task.pictures(batch, outputs)
    assert all(isinstance(array, np.ndarray) for array in pictures.values())
    assert all(len(array) == NUM_ROWS for name, array in pictures.items() if name != "labels")
    for name, row in task.by_class(measured(task, outputs, batch)).items():
        assert name in ("background", *LABELS)
        assert all(isinstance(value, int | float) for value in row.values())


def measured(task: Task, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> MetricCollection:
    metrics = task.metrics()
    task.measure(metrics, outputs, batch)
    return metrics


def values(metrics: MetricCollection) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.compute().items()}


def test_metrics_are_finite_numbers_and_so_is_the_objective(task: Task) -> None:
    outputs, batch = predicted(task, make_network(task)), task.prepare(make_rows(task), train=False)
    if "logits_BC" in outputs and "class_id" in batch:  # what is measured on correct classes needs one
        outputs["logits_BC"] = outputs["logits_BC"].index_put((torch.tensor([0]), batch["class_id"][:1]), torch.tensor(99.0))
    found = values(measured(task, outputs, batch))
    assert found
    assert all(np.isfinite(list(found.values())))
    assert np.isfinite(task.objective(found))


def test_metrics_of_parts_merge_into_those_of_the_whole(task: Task) -> None:
    outputs, batch = predicted(task, make_network(task)), task.prepare(make_rows(task), train=False)
    whole = values(measured(task, outputs, batch))
    left, right = (measured(task, part(outputs, rows), part(batch, rows)) for rows in (slice(0, 3), slice(3, None)))
    for name, metric in left.items():
        metric.merge_state(right[name])
    assert values(left) == pytest.approx(whole, rel=1e-5, nan_ok=True)  # torchmetrics keeps confidences in single precision


def test_predictions_are_columns_with_one_value_a_row_that_do_not_depend_on_the_batch(task: Task) -> None:
    network = make_network(task)
    whole = task.predictions(predicted(task, network))
    assert whole
    assert all(len(column) == NUM_ROWS for column in whole.values())
    rows = part(make_rows(task), [6, 2])
    with torch.inference_mode():
        some = task.predictions(task.forward(network.eval(), task.prepare(rows, train=False)))
    for name, column in some.items():
        if column.dtype == object:
            assert np.array_equal(column, whole[name][[6, 2]])
        else:
            np.testing.assert_allclose(column, whole[name][[6, 2]], rtol=1e-4)


def test_a_network_that_is_evaluated_is_not_changed(task: Task) -> None:
    network = make_network(task)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predicted(task, network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_baselines_are_numbers_with_a_name(task: Task) -> None:
    rows = {**label_columns(), "sample_id": np.arange(NUM_ROWS)}
    columns = task.predictions(predicted(task, make_network(task)))
    found = task.baselines(part(rows, slice(0, 5)), part(rows, slice(5, None)), part(columns, slice(5, None)))
    metrics = values(measured(task, predicted(task, make_network(task)), task.prepare(make_rows(task), train=False)))
    assert found
    for name, scores in found.items():
        assert set(scores) <= set(metrics), name
        assert all(np.isfinite(list(scores.values()))), name


def test_a_task_comes_back_from_its_config_and_state(task: Task) -> None:
    card = json.loads(json.dumps({"task": task.name, "config": to_plain(task.config), "state": task.state()}))
    twin = task_of(card)
    assert type(twin) is type(task)
    assert twin.config == task.config
    assert twin.state() == task.state()
    network = make_network(task)
    equal(twin.predictions(predicted(twin, network)), task.predictions(predicted(task, network)))


def test_a_bundle_gives_the_same_outputs(task: Task, tmp_path: Path) -> None:
    network = make_network(task)
    write_bundle(Store(str(tmp_path)), {"task": task.name, "config": to_plain(task.config), "state": task.state()}, network.state_dict())
    bundle = read_bundle(str(tmp_path), task=task.name)
    twin = task_of(bundle.card)
    fresh = make_network(twin, seed=1)
    fresh.load_state_dict(bundle.weights)
    equal(predicted(twin, fresh), predicted(task, network))


def test_answers_are_the_predictions_as_tensors(task: Task) -> None:
    """What an exported file computes is what a table says, in float32."""
    outputs = predicted(task, make_network(task))
    answers, columns = task.answers(outputs), task.predictions(outputs)
    assert bool(answers) != task.masks
    assert all(tensor.dtype == torch.float32 for tensor in answers.values())
    for name in ("mass_g", "energy_kcal", "volume_ml"):
        assert (name in answers) == (name in columns)
        if name in answers:
            np.testing.assert_allclose(answers[name].numpy(), columns[name], rtol=1e-4, atol=1e-3)
    if "prob_BC" in answers:
        np.testing.assert_allclose(answers["prob_BC"].max(1).values.numpy(), columns["class_prob"], rtol=1e-5)
        assert [LABELS[index] for index in answers["prob_BC"].argmax(1)] == columns["class_name"].tolist()
    if "prob_BT" in answers:
        np.testing.assert_allclose(answers["prob_BT"].sort(1, descending=True).values.numpy(), columns["tag_prob"], rtol=1e-5)


EXPORTED = [
    ("mtl", "hard sharing, log target, scale"),
    ("tagging", "one threshold"),
    *(("longtail", name) for name in ("TransFG", "separator", "tau-normalised", "CLIP")),
]


@pytest.mark.parametrize(("family", "name"), EXPORTED)
def test_an_exported_file_says_what_eager_says(family: str, name: str) -> None:
    task = TASKS[family].fit(CONFIGS[family][name], label_columns(), LABELS)
    network = make_network(task).eval().requires_grad_(False)
    run = open_onnx(to_onnx(network, answering(task), example_batch(task, 2)))
    for number in (1, 5):
        batch = example_batch(task, number)
        with torch.no_grad():
            wanted = answering(task)(network, batch)
        assert difference(run(batch), wanted) < 1e-4


def test_the_facts_of_a_network_are_counted_and_leave_it_as_it_was(task: Task) -> None:
    network = make_network(task)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    facts = network_facts(network, task)
    assert facts["num_parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["num_flops"] > 0
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_flops_count_a_multiply_add_as_two() -> None:
    """A linear layer of 12 inputs and 3 outputs is 36 of them."""
    task = TASKS["mtl"].fit(CONFIGS["mtl"]["classes only"], label_columns(), LABELS)
    network = make_network(task)
    wide = network_facts(network, task)["num_flops"]
    network.class_head = nn.Sequential(network.class_head, nn.Linear(len(LABELS), 12, bias=False))
    assert network_facts(network, task)["num_flops"] - wide == 2 * 12 * len(LABELS)


def test_stages_train_something_for_some_time_and_their_patterns_match(task: Task) -> None:
    stages = task.stages()
    network = make_network(task)
    parameters, modules = [name for name, _ in network.named_parameters()], [name for name, _ in network.named_modules()]
    assert stages
    assert stages[-1].keeps
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert stage.epochs >= 1
        assert matched(parameters, stage.trainable), stage
        assert not stage.backbone or matched(parameters, stage.backbone), stage
        assert not stage.frozen or matched(parameters, stage.frozen), stage
        assert all(matched(modules, (pattern,)) for pattern in stage.reset), stage


def matched(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def test_the_same_seed_gives_the_same_network(task: Task) -> None:
    one, again, other = (make_network(task, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
