"""The long-tail family: its losses and rules by hand, its groups, its numbers against plain ones, its classes without a photo, its refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from foodray.errors import ConfigError, CorpusError
from foodray.nn.imbalance import NEVER, effective_weights, largest_margin, log_prior
from foodray.nn.longtail import LongtailNet
from foodray.tasks.longtail import LongtailConfig, LongtailTask, preset, with_row
from foodray.tasks.longtail.config import ROWS, STARTS, Clip, SecondStage, Semantic, Separator
from foodray.tasks.longtail.groups import GROUPS, UNSEEN, GroupConfig, group_of_classes
from foodray.tasks.longtail.metrics import GroupAccuracy

CNN: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "side_px": 32, "stride_px": 0, "parts": False, "contrastive": 0.0}
VIT: dict[str, Any] = {"backbone": "test_vit", "weights": "random", "side_px": 32, "stride_px": 8}
LABELS = ("apple", "bread", "cake", "dumpling", "egg")
COUNTS = (120, 30, 11, 5, 2)
KANG = GroupConfig(frequent_above=100, rare_up_to=19)


def make_task(counts: tuple[int, ...] = COUNTS, **settings: Any) -> LongtailTask:
    """A task of classes with so many training samples."""
    names = np.repeat(np.array(LABELS[: len(counts)], dtype=object), counts)
    return LongtailTask.fit(LongtailConfig(**{**CNN, **settings}), {"class_name": names}, LABELS[: len(counts)])


def in_stage(task: LongtailTask, name: str) -> LongtailTask:
    return task.at(next(stage for stage in task.stages() if stage.name == name))


def logits_of(count: int, num_classes: int = len(LABELS), seed: int = 0) -> Tensor:
    return torch.randn(count, num_classes, generator=torch.Generator().manual_seed(seed)) * 3


def class_loss(task: LongtailTask, logits_BC: Tensor, class_B: Tensor) -> Tensor:
    """The term of the class as the loop divides it."""
    batch = {"class_id": class_B}
    return task.loss({"logits_BC": logits_BC}, batch)["class"] / task.counts(batch)["class"]


CLASS_B = torch.tensor([0, 1, 2, 3, 4, 4, 0])


# ---- Losses.


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_balanced_softmax_is_cross_entropy_of_logits_plus_log_shares(tau: float) -> None:
    task = in_stage(make_task(loss="balanced_softmax", prior_tau=tau), "first")
    shares = torch.tensor(COUNTS) / sum(COUNTS)
    torch.testing.assert_close(class_loss(task, logits_of(7), CLASS_B), cross_entropy(logits_of(7) + tau * shares.log(), CLASS_B))


def test_balanced_softmax_of_classes_of_one_size_is_cross_entropy() -> None:
    task = in_stage(make_task((7, 7, 7, 7, 7), loss="balanced_softmax"), "first")
    torch.testing.assert_close(class_loss(task, logits_of(7), CLASS_B), cross_entropy(logits_of(7), CLASS_B))


@pytest.mark.parametrize(
    ("sampler", "drawn"),
    [
        ("instance", np.array(COUNTS)),
        ("class_unique", np.array(COUNTS)),
        ("class_balanced", np.ones(5)),
        ("square_root", np.sqrt(COUNTS)),
        ("progressive", np.array(COUNTS) / sum(COUNTS) + 1 / 5),
    ],
)
def test_the_prior_of_balanced_softmax_is_what_the_sampler_draws(sampler: Any, drawn: np.ndarray) -> None:
    task = in_stage(make_task(loss="balanced_softmax", sampler=sampler), "first")
    prior = torch.from_numpy(drawn / drawn.sum()).float().log()
    torch.testing.assert_close(class_loss(task, logits_of(7), CLASS_B), cross_entropy(logits_of(7) + prior, CLASS_B))


def test_ldam_is_that_of_its_equations() -> None:
    """Cao et al. 2019: the margin C / n_j^(1/4), the largest 0.5, from the true class's cosine alone; the logits times 30."""
    task = in_stage(make_task(loss="ldam"), "first")
    cosine_BC = logits_of(7).tanh()
    margin_C = np.array([0.5 * (min(COUNTS) / count) ** 0.25 for count in COUNTS])
    terms = []
    for row, label in zip(cosine_BC.double().numpy(), CLASS_B.tolist(), strict=True):
        moved = 30 * (row - margin_C * (np.arange(5) == label))
        terms.append(np.log(np.exp(moved - moved.max()).sum()) + moved.max() - moved[label])
    assert float(class_loss(task, 30 * cosine_BC, CLASS_B)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert largest_margin(torch.tensor(COUNTS), 0.5).max().item() == pytest.approx(0.5)


def test_ldam_compares_directions_with_scale_30() -> None:
    network = make_task(loss="ldam").network().eval()
    assert isinstance(network, LongtailNet)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        z_BD = network.backbone(network.pixels(image))
        weight_CD: Tensor = network.head.weight  # type: ignore[assignment]
        cosine_BC = normalize(z_BD) @ normalize(weight_CD).T
        torch.testing.assert_close(network(image)["logits_BC"], 30 * cosine_BC)


def test_the_second_stage_of_ldam_weighs_classes_by_their_effective_numbers() -> None:
    task = make_task(**ROW("ldam_drw"), drw_beta=0.99)
    weight_C = np.array([(1 - 0.99) / (1 - 0.99**count) for count in COUNTS])
    weight_C /= weight_C.mean()
    assert effective_weights(torch.tensor(COUNTS), 0.99).numpy() == pytest.approx(weight_C, rel=1e-5)
    second, first = in_stage(task, "second"), in_stage(task, "first")
    margin_BC = torch.zeros(7, 5).scatter(1, CLASS_B[:, None], 30 * largest_margin(torch.tensor(COUNTS), 0.5)[CLASS_B][:, None])
    expected = cross_entropy(logits_of(7) - margin_BC, CLASS_B, weight=torch.from_numpy(weight_C).float())
    torch.testing.assert_close(class_loss(second, logits_of(7), CLASS_B), expected)
    torch.testing.assert_close(class_loss(first, logits_of(7), CLASS_B), cross_entropy(logits_of(7) - margin_BC, CLASS_B))


def ROW(name: str) -> dict[str, Any]:  # noqa: N802 - a row of the tables
    """The settings of a row with a second stage of one epoch."""
    changed = with_row(LongtailConfig(**CNN, second=SecondStage(epochs=1)), name)
    return {field: getattr(changed, field) for field in (*ROWS[name], "second")}


def test_smoothed_labels_are_those_of_the_authors() -> None:
    """(1 - e) NLL + e mean over classes of -log p."""
    task = in_stage(make_task(label_smoothing=0.1), "first")
    log_BC = logits_of(7).log_softmax(1)
    expected = 0.9 * -log_BC[torch.arange(7), CLASS_B].mean() + 0.1 * -log_BC.mean()
    torch.testing.assert_close(class_loss(task, logits_of(7), CLASS_B), expected)


def test_smoothed_labels_with_weights_are_those_of_torch() -> None:
    task = in_stage(make_task(second=SecondStage(epochs=1, reweight=True), label_smoothing=0.1), "second")
    weight_C = effective_weights(torch.tensor(COUNTS), 0.9999)
    torch.testing.assert_close(class_loss(task, logits_of(7), CLASS_B), cross_entropy(logits_of(7), CLASS_B, weight=weight_C, label_smoothing=0.1))


def test_labels_are_smoothed_over_the_classes_that_an_expert_answers() -> None:
    """Spread over the others, whose logits are masked, it would push all of its own logits down without end."""
    task = in_stage(make_task(method="separator", label_smoothing=0.1, groups=GroupConfig(by="thirds")), "frequent")
    own = [index for index, group in enumerate(task.groups) if group == 0]
    logits_BC = logits_of(2).index_fill(1, torch.tensor([index for index in range(5) if index not in own]), NEVER).requires_grad_()
    loss = class_loss(task, logits_BC, torch.tensor(own))
    torch.testing.assert_close(loss, cross_entropy(logits_BC[:, own], torch.arange(len(own)), label_smoothing=0.1))
    loss.backward()
    assert logits_BC.grad is not None
    assert logits_BC.grad.sum(1).abs().max() < 1e-6


# ---- Rules after training.


def test_adjusted_logits_are_the_logits_less_the_log_shares() -> None:
    task = replace(make_task(after="logit_adjustment"), tau=0.7)
    expected = logits_of(4) - 0.7 * (torch.tensor(COUNTS) / sum(COUNTS)).log()
    torch.testing.assert_close(task.final_logits({"logits_BC": logits_of(4)}), expected)


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_tau_normalised_logits_have_weights_divided_by_their_length_to_tau_and_no_bias(tau: float) -> None:
    task = replace(make_task(after="tau_norm"), tau=tau)
    torch.manual_seed(0)
    network = task.network().eval()
    assert isinstance(network, LongtailNet)
    with torch.inference_mode():
        network.head.bias.fill_(5.0)  # type: ignore[union-attr, operator]
        network.head.weight[1] *= 9  # type: ignore[index]
        image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        z_BD = network.backbone(network.pixels(image))
        weight_CD: Tensor = network.head.weight  # type: ignore[assignment]
        expected = z_BD @ (weight_CD / weight_CD.norm(dim=1, keepdim=True) ** tau).T
        torch.testing.assert_close(task.final_logits(network(image)), expected, rtol=1e-4, atol=1e-5)


def validation(num: int = 600) -> tuple[Tensor, np.ndarray]:
    """Logits with a bias towards frequent classes, and names of classes that are all as frequent."""
    class_N = torch.arange(num) % 5
    logits_NC = logits_of(num) / 2 + 2 * torch.nn.functional.one_hot(class_N, 5) + 0.5 * (torch.tensor(COUNTS) / sum(COUNTS)).log()
    return logits_NC, np.array(LABELS, dtype=object)[class_N.numpy()]


def test_the_strength_after_training_is_the_best_on_the_validation_side_by_the_mean_over_classes() -> None:
    task, (logits_NC, names_N) = make_task(after="logit_adjustment"), validation()
    fitted = task.calibrate({"logits_BC": logits_NC}, {"class_name": names_N, "participant_id": names_N})
    truth_N = np.array([LABELS.index(name) for name in names_N])

    def macro(tau: float) -> float:
        given_N = replace(task, tau=tau).final_logits({"logits_BC": logits_NC}).argmax(1).numpy()
        return float(np.mean([(given_N[truth_N == index] == index).mean() for index in range(5)]))

    strengths = np.linspace(0, 2, 21).round(1)
    assert fitted.tau == strengths[np.argmax([macro(tau) for tau in strengths])]
    assert fitted.tau > 0
    assert fitted.calibration is not None
    assert make_task().calibrate({"logits_BC": logits_NC}, {"class_name": names_N, "participant_id": names_N}).tau == 0


def test_a_class_that_cannot_be_answered_does_not_spoil_the_temperature() -> None:
    task, (logits_NC, names_N) = make_task((120, 30, 11, 5, 0)), validation()
    people_N = names_N
    seen_N = names_N != "egg"
    whole = task.calibrate({"logits_BC": logits_NC}, {"class_name": names_N, "participant_id": people_N}).calibration
    seen = task.calibrate({"logits_BC": logits_NC[torch.from_numpy(seen_N)]}, {"class_name": names_N[seen_N], "participant_id": people_N[seen_N]}).calibration
    assert whole is not None
    assert seen is not None
    assert whole.temperature == seen.temperature
    assert 0.3 < whole.temperature < 3


# ---- Groups.


@pytest.mark.parametrize(
    ("config", "counts", "groups"),
    [
        (KANG, (101, 100, 20, 19), (0, 1, 1, 2)),
        (GroupConfig(), (101, 100, 11, 10), (0, 1, 1, 2)),
        (GroupConfig(), (500, 1, 0), (0, 2, UNSEEN)),
        (GroupConfig(by="thirds"), (5, 9, 7, 1, 2, 3), (1, 0, 0, 2, 2, 1)),
        (GroupConfig(by="thirds"), (4, 4, 4), (0, 1, 2)),
        (GroupConfig(by="thirds"), (0, 9, 8, 0, 7, 0), (UNSEEN, 0, 1, UNSEEN, 2, UNSEEN)),
    ],
)
def test_groups_are_told_by_training_samples(config: GroupConfig, counts: tuple[int, ...], groups: tuple[int, ...]) -> None:
    assert tuple(group_of_classes(np.array(counts), config)) == groups


def write_labels(folder: Path, lines: list[str]) -> str:
    path = folder / "labels.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_groups_of_a_label_file_are_its_column_whatever_the_counts(tmp_path: Path) -> None:
    words = ("r", "common", "f", "rare", "frequent")
    path = write_labels(tmp_path, ["class_name\ttext\tfrequency", *(f"{label}\tcfr {label}\t{word}" for label, word in zip(LABELS, words, strict=True))])
    task = make_task((120, 30, 11, 5, 0), label_file=path, groups=GroupConfig(by="label_file"))
    assert task.groups == (2, 1, 0, 2, UNSEEN)
    assert task.texts == tuple(f"cfr {label}" for label in LABELS)
    assert make_task(label_file=path).groups == (0, 1, 1, 2, 2)


def test_a_class_is_named_by_its_label_without_underscores_where_no_file_is() -> None:
    assert make_task().texts == LABELS
    names = np.array(["apple_pie", "egg"], dtype=object)
    assert LongtailTask.fit(LongtailConfig(**CNN), {"class_name": names}, ("apple_pie", "egg")).texts == ("apple pie", "egg")


# ---- Numbers.


def measured(task: LongtailTask, logits_NC: Tensor, class_N: Tensor, parts: int = 3) -> dict[str, float]:
    metrics = task.metrics()
    for logits_BC, class_B in zip(logits_NC.tensor_split(parts), class_N.tensor_split(parts), strict=True):
        task.measure(metrics, {"logits_BC": logits_BC}, {"class_id": class_B})
    return {name: float(value) for name, value in metrics.compute().items()}


def test_accuracies_are_those_of_plain_numpy() -> None:
    task = make_task()
    class_N = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(1))
    logits_NC = logits_of(200) + 3 * torch.nn.functional.one_hot(class_N, 5)
    found, right_N = measured(task, logits_NC, class_N), (logits_NC.argmax(1) == class_N).numpy()
    group_N, truth_N = np.array(task.groups)[class_N.numpy()], class_N.numpy()
    assert found["accuracy"] == pytest.approx(right_N.mean())
    assert found["accuracy_macro"] == pytest.approx(np.mean([right_N[truth_N == index].mean() for index in range(5)]))
    for index, name in enumerate(GROUPS):
        assert found[f"accuracy_{name}"] == pytest.approx(right_N[group_N == index].mean())
    assert found["accuracy_top5"] == 1.0
    assert task.objective(found) == pytest.approx(1 - found["accuracy_macro"])


def test_the_calibration_error_is_that_of_fifteen_bins() -> None:
    class_N = torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(2))
    logits_NC = logits_of(300) + torch.nn.functional.one_hot(class_N, 5)
    prob_NC = logits_NC.double().softmax(1).numpy()
    top_N, right_N = prob_NC.max(1), prob_NC.argmax(1) == class_N.numpy()
    bin_N = np.minimum((top_N * 15).astype(int), 14)
    expected = sum((bin_N == place).mean() * abs(top_N[bin_N == place].mean() - right_N[bin_N == place].mean()) for place in set(bin_N))
    assert measured(make_task(), logits_NC, class_N)["ece"] == pytest.approx(expected, abs=1e-6)


REPORT = {
    "baseline": (0.904, 0.704, 0.275, 0.726),
    "aux: multi-task": (0.891, 0.759, 0.399, 0.766),
    "aux: 3-stage": (0.377, 0.535, 0.216, 0.441),
    "cls token": (0.904, 0.722, 0.287, 0.736),
    "CLIP": (0.624, 0.470, 0.224, 0.499),
    "multi-task, none": (0.906, 0.711, 0.240, 0.725),
    "basic, basic": (0.890, 0.743, 0.379, 0.754),
    "basic, multi-task": (0.890, 0.759, 0.400, 0.766),
    "multi-task, multi-task": (0.895, 0.741, 0.384, 0.754),
}
"""Accuracies of the report's Tables 1 and 2: frequent, common, rare, main."""


def test_main_is_the_accuracy_over_samples_as_in_the_report() -> None:
    """The report's main column is one weighted mean of the other three in all rows (erratum 20); with classes in that ratio ours is the same."""
    table = np.array(list(REPORT.values()))
    weight_G, *_ = np.linalg.lstsq(table[:, :3], table[:, 3], rcond=None)
    assert weight_G == pytest.approx([0.36, 0.52, 0.13], abs=0.01)
    assert np.abs(table[:, :3] @ weight_G - table[:, 3]).max() < 0.002
    share_2, *_ = np.linalg.lstsq(table[:, :2] - table[:, 2:3], table[:, 3] - table[:, 2], rcond=None)  # shares of a test side sum to one
    num_G = (10_000 * np.array([*share_2, 1 - share_2.sum()])).round().astype(int)
    class_N = torch.from_numpy(np.repeat(np.arange(3), num_G))
    for row in table:
        right_N = torch.from_numpy(np.concatenate([np.arange(num) < round(share * num) for num, share in zip(num_G, row[:3], strict=True)]))
        accuracy = GroupAccuracy(torch.tensor([0, 1, 2]))
        accuracy.update(torch.where(right_N, class_N, (class_N + 1) % 3)[:, None], class_N)
        found = {name: float(value) for name, value in accuracy.compute().items()}
        assert [found[f"accuracy_{name}"] for name in GROUPS] == pytest.approx(row[:3], abs=5e-4)
        assert found["accuracy"] == pytest.approx(row[3], abs=0.0025)  # 0.002, and the rounding of what is printed
        assert found["accuracy_macro"] == pytest.approx(row[:3].mean(), abs=5e-4)


def test_the_table_of_classes_tells_accuracy_and_samples_on_both_sides() -> None:
    task = make_task()
    metrics = task.metrics()
    task.measure(metrics, {"logits_BC": torch.eye(5)[[0, 0, 1]]}, {"class_id": torch.tensor([0, 1, 1])})
    table = task.by_class(metrics)
    assert table["apple"] == {"accuracy": 1.0, "num_samples": 1.0, "num_train": 120.0}
    assert table["bread"] == {"accuracy": 0.5, "num_samples": 2.0, "num_train": 30.0}
    assert np.isnan(table["egg"]["accuracy"])


def test_samples_of_an_unknown_class_change_no_loss_and_no_number() -> None:
    for settings in ({}, {"contrastive": 1.0}, {"frequency": "first"}, {"method": "separator"}):
        task = in_stage(make_task(groups=GroupConfig(by="thirds"), **settings), "base" if "method" in settings else "first")
        extra = torch.cat([CLASS_B, torch.tensor([-1, -1])])
        outputs = {"logits_BC": logits_of(9), "z_BD": logits_of(9, 6, 1), "frequency_BG": logits_of(9, 3, 2)}
        known = {name: value[:7] for name, value in outputs.items()}
        for function in (lambda out, batch, task=task: task.loss(out, batch), lambda out, batch, task=task: task.counts(batch)):
            torch.testing.assert_close(function(outputs, {"class_id": extra}), function(known, {"class_id": CLASS_B}))
        numbers = [measured(task, out["logits_BC"], labels, parts=1) for out, labels in ((outputs, extra), (known, CLASS_B))]
        assert numbers[0] == pytest.approx(numbers[1], nan_ok=True)


# ---- Classes without a training sample.


@pytest.mark.parametrize("settings", [{}, {"after": "logit_adjustment"}, {"loss": "balanced_softmax"}, {"loss": "ldam"}])
def test_a_class_without_a_training_sample_is_never_answered(settings: dict[str, Any]) -> None:
    task = replace(make_task((120, 30, 0, 5, 2), **settings), tau=1.0)
    columns = task.predictions({"logits_BC": logits_of(50).index_fill(1, torch.tensor([2]), 50.0)})
    assert "cake" not in columns["class_name"]
    assert columns["class_prob"].min() > 0.2  # the others share all there is


def test_a_class_without_a_training_sample_does_not_change_what_the_others_learn() -> None:
    four, five = (5, 6, 7, 8), (5, 6, 7, 8, 0)
    for settings in ({"loss": "ldam", "second": SecondStage(epochs=1, reweight=True)}, {"loss": "balanced_softmax", "label_smoothing": 0.1}):
        stage = "second" if "second" in settings else "first"
        one, other = (in_stage(make_task(counts, **settings), stage) for counts in (four, five))
        logits_BC = logits_of(4, 4)
        unseen_BC = torch.cat([logits_BC, torch.full((4, 1), NEVER)], 1)
        torch.testing.assert_close(class_loss(one, logits_BC, CLASS_B[:4]), class_loss(other, unseen_BC, CLASS_B[:4]))


def test_a_clip_may_answer_a_class_that_it_was_not_trained_on() -> None:
    task = make_task((120, 30, 0, 5, 2), method="clip", clip=Clip(model="random"))
    assert set(task.predictions({"logits_BC": logits_of(5).index_fill(1, torch.tensor([2]), 50.0)})["class_name"]) == {"cake"}


def test_the_log_share_of_a_class_without_a_sample_stands_for_never() -> None:
    assert log_prior(torch.tensor([3, 0, 1])).tolist() == pytest.approx([np.log(0.75), NEVER, np.log(0.25)])


# ---- Terms that compare samples with each other.


def terms_of(task: LongtailTask, name: str, sizes: tuple[int, ...]) -> tuple[float, float]:
    """A term over micro-batches: as the loop divides it, and as the mean over pairs within them, one by one."""
    sums, counts, pairs = 0.0, 0.0, []
    for part, size in enumerate(sizes):
        class_B = torch.arange(size) % 2
        z_BD, zh_BD = (normalize(logits_of(size, 6, seed=10 * part + side).double()) for side in (0, 1))
        outputs = {"z_BD": z_BD, "zh_BD": zh_BD, "logits_BC": logits_of(size)}
        sums += float(task.loss(outputs, {"class_id": class_B})[name])
        counts += float(task.counts({"class_id": class_B})[name])
        others_BD = z_BD if name == "contrastive" else zh_BD
        for i in range(size):
            for j in range(size):
                cos = float(z_BD[i] @ others_BD[j])
                pairs.append(1 - cos if class_B[i] == class_B[j] else max(cos - 0.4, 0.0))
    return sums / counts, float(np.mean(pairs))


@pytest.mark.parametrize(("name", "settings"), [("contrastive", {"contrastive": 1.0}), ("semantic", {"semantic": Semantic(mode="text", encoder="random")})])
def test_over_two_micro_batches_a_contrastive_term_is_the_mean_over_pairs_within_them(name: str, settings: dict[str, Any]) -> None:
    task = in_stage(make_task(**settings), "first")
    assert terms_of(task, name, (3, 5))[0] == pytest.approx(terms_of(task, name, (3, 5))[1], rel=1e-5)


def test_over_two_micro_batches_the_loss_of_a_clip_is_the_mean_over_photos_of_both_directions() -> None:
    task = in_stage(make_task(method="clip", clip=Clip(model="random", targets="diagonal")), "first")
    sums, counts, terms = 0.0, 0.0, []
    for part, size in enumerate((3, 5)):
        image_BD, text_BD = (normalize(logits_of(size, 6, seed=10 * part + side)) for side in (0, 1))
        outputs, batch = {"image_BD": image_BD, "text_BD": text_BD, "scale": torch.tensor(7.0)}, {"class_id": torch.arange(size)}
        sums += float(task.loss(outputs, batch)["clip"])
        counts += float(task.counts(batch)["clip"])
        logits_BB = 7.0 * image_BD @ text_BD.T
        terms += [(-logits_BB.log_softmax(1)[i, i] - logits_BB.log_softmax(0)[i, i]) / 2 for i in range(size)]
    assert sums / counts == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)


@pytest.mark.parametrize("mode", ["second_pass", "text"])
@pytest.mark.parametrize("detach", [False, True])
def test_names_move_their_own_layer_and_are_not_read_in_evaluation(mode: Any, detach: bool) -> None:
    whole = make_task(**VIT, semantic=Semantic(mode=mode, encoder="random", detach=detach))
    task = in_stage(whole, "first")
    network = task.network()
    batch = {"image": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), "class_id": torch.tensor([0, 1, -1])}
    outputs = task.forward(network.train(), batch)
    task.loss(outputs, batch)["semantic"].backward()
    moved = [value.grad is not None and bool(value.grad.abs().max() > 0) for name, value in network.named_parameters() if name.startswith("semantic.")]
    assert moved == [not detach] * 2
    backbone = [value.grad for name, value in network.named_parameters() if name == "backbone.patch_embed.proj.weight"]
    assert backbone[0] is not None
    assert "zh_BD" not in task.forward(network.eval(), batch)
    assert "semantic" not in whole.loss_weights


# ---- Presets and refusals.


def test_a_preset_takes_every_row_that_its_network_can() -> None:
    for name in ROWS:
        for network in ("transfg", "vit") if name != "clip" else ("clip",):
            assert preset(network, name).method in ("separator" if "separator" in name else name, "classifier")
    with pytest.raises(ConfigError, match="replaces the class token of a ViT"):
        preset("resnet", "semantic")
    assert preset("resnet", "semantic_text").semantic.mode == "text"


@pytest.mark.parametrize("row", STARTS)
def test_a_row_that_starts_from_another_has_its_first_stage(row: str) -> None:
    base = LongtailConfig(**CNN, second=SecondStage(epochs=1, trains="shared_bottleneck"))
    one, other = make_task(**vars(with_row(base, row))).stages()[0], make_task(**vars(with_row(base, STARTS[row]))).stages()[0]
    assert replace(one, keeps=True, frozen=()) == replace(other, keeps=True, frozen=())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backbone": "test_resnt"}, "not a timm model; did you mean 'test_resnet'"),
        ({"method": "clasifier"}, "did you mean 'classifier'"),
        ({"loss": "balanced"}, "did you mean 'balanced_softmax'"),
        ({"after": "tau"}, "after = 'tau' is unknown"),
        ({"frequency": "third"}, "frequency = 'third' is unknown"),
        ({"stride_px": -1}, "stride_px = -1 must be >= 0"),
        ({"contrastive": -0.1}, "contrastive = -0.1 must be >= 0"),
        ({"frequency_weight": -1.0}, "frequency_weight = -1.0 must"),
        ({"prior_tau": -1.0}, "prior_tau = -1.0 must"),
        ({"ldam_margin": -1.0}, "ldam_margin = -1.0 must"),
        ({"semantic": Semantic(weight=-1.0)}, "semantic.weight = -1.0 must"),
        ({"margin": -1.0}, "-0.5 <= margin = -1.0 <= 2"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0 < 1"),
        ({"drw_beta": 1.0}, "drw_beta = 1.0 < 1"),
        ({"epochs": 0}, "epochs = 0 must be >= 1"),
        ({"second": SecondStage(epochs=-1)}, "second.epochs = -1 >= 0"),
        ({"method": "separator", "separator": Separator(epochs=0)}, "separator.epochs = 0 >= 1"),
        ({"method": "clip", "epochs": -1}, "epochs = -1 must be >= 0"),
        ({"parts": True}, "set stride_px to the patch's side, or parts = False"),
        ({"semantic": Semantic(mode="second_pass")}, "set stride_px, or semantic.mode = 'text'"),
        ({"after": "tau_norm", "loss": "ldam"}, "which ldam has done already"),
        ({"frequency": "second"}, "frequency = 'second' needs a second stage"),
        ({"frequency": "both"}, "frequency = 'both' needs a second stage"),
        ({"second": SecondStage(reweight=True)}, "second.reweight needs a second stage"),
        ({"method": "separator", "loss": "ldam"}, "method = 'separator' does not go with loss"),
        ({"method": "separator", "second": SecondStage(epochs=1)}, "does not go with second.epochs"),
        ({"method": "clip", "semantic": Semantic(mode="text"), "start": "runs/a"}, "does not go with start, semantic.mode"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LongtailConfig(**{**CNN, **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "count"}, "groups.by = 'count' is unknown; did you mean 'counts'"),
        ({"rare_up_to": 0}, "rare_up_to = 0"),
        ({"rare_up_to": 101}, "rare_up_to = 101 <= frequent_above = 100 does not hold"),
    ],
)
def test_impossible_groups_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        GroupConfig(**settings)


def test_a_preset_or_row_of_another_name_is_refused_with_the_nearest() -> None:
    for name, row, said in (("transgf", "baseline", "'transfg'"), ("vit", "two_stage", "'two_stages'"), ("clip", "crt", "does not go with second.epochs")):
        with pytest.raises(ConfigError, match=said):
            preset(name, row)


@pytest.mark.parametrize(
    ("lines", "settings", "said"),
    [
        (["class_name\ttext", "apple\ta"], {}, "4 of the 5 classes of the corpus have no line"),
        (["class_name\tchinese", *(f"{label}\tx" for label in LABELS)], {}, "there is no column 'text'"),
        (["class_name\ttext", *(f"{label}\tx" for label in LABELS)], {"groups": GroupConfig(by="label_file")}, "a column frequency"),
        (
            ["class_name\ttext", *(f"{label}\t{label[:3] if index else 'egg'}" for index, label in enumerate(LABELS))],
            {"method": "clip", "clip": Clip(model="random")},
            "cannot tell apart classes of the same text: egg",
        ),
    ],
)
def test_a_label_file_that_does_not_do_is_refused(lines: list[str], settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        make_task(label_file=write_labels(tmp_path, lines), **settings)


def test_groups_of_a_label_file_need_one() -> None:
    with pytest.raises(ConfigError, match=r"groups\.by = 'label_file' needs a label_file"):
        make_task(groups=GroupConfig(by="label_file"))


def test_one_class_is_refused_with_its_name() -> None:
    with pytest.raises(CorpusError, match="at least two classes, the corpus has 1: apple"):
        make_task((5,))
