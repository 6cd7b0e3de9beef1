"""What the stages of the long-tail family train, with the real loop: frozen backbones, new heads, experts and their gate."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from longtails import LABELS, SGD, changed, drawn, feed_of, longtail_task, states_of
from torch import Tensor

from foodray.nn.imbalance import GATE_NEVER
from foodray.nn.longtail import SeparatorNet
from foodray.tasks.longtail.config import Clip, SecondStage, Semantic
from foodray.tasks.longtail.groups import GroupConfig
from foodray.training.config import LoopConfig
from foodray.training.data import set_aside
from foodray.training.loop import Loop

HEAD = {"head.weight", "head.bias"}
FREQUENCY = {"frequency.weight", "frequency.bias"}


def second(**settings: Any) -> SecondStage:
    return SecondStage(**{"epochs": 1, "optimizer": SGD, **settings})


# ---- The second stage.


def after_second(frequency: Any, **settings: Any) -> dict[str, dict[str, Tensor]]:
    return states_of(longtail_task(frequency=frequency, second=second(**settings)))


def test_with_a_frozen_backbone_an_auxiliary_head_changes_no_bit_of_the_class_head() -> None:
    """The point of spec g.4: two heads on the same frozen features share nothing that trains."""
    without, beside = after_second("none"), after_second("second")
    assert changed(beside["first"], beside["second"]) == HEAD | FREQUENCY
    assert changed(without["first"], without["second"]) == HEAD
    assert not {name for name in without["first"] if not torch.equal(without["first"][name], beside["first"][name])}
    assert not changed({name: without["second"][name] for name in HEAD}, beside["second"])


def test_with_a_shared_layer_an_auxiliary_head_changes_the_class_head() -> None:
    without, beside = (after_second(frequency, trains="shared_bottleneck") for frequency in ("none", "second"))
    assert changed(beside["first"], beside["second"]) == HEAD | FREQUENCY | {"bottleneck.0.weight", "bottleneck.0.bias"}
    assert changed({name: without["second"][name] for name in HEAD}, beside["second"]) == HEAD


def test_an_auxiliary_head_of_the_first_stage_alone_rests_in_the_second() -> None:
    states = after_second("first")
    assert changed(states["start"], states["first"]) >= FREQUENCY
    assert changed(states["first"], states["second"]) == HEAD


def test_crt_begins_with_a_new_head_and_leaves_the_backbone_and_its_statistics_alone() -> None:
    task = longtail_task(second=second(reset=True, optimizer=replace(SGD, lr=1e-12)))
    states = states_of(task)
    assert changed(states["first"], states["second"]) == HEAD
    kept = states_of(replace(task, config=replace(task.config, second=replace(task.config.second, reset=False))))
    assert torch.allclose(kept["second"]["head.weight"], kept["first"]["head.weight"], atol=1e-6)
    assert (states["second"]["head.weight"] - states["first"]["head.weight"]).abs().max() > 0.01, "only a new head is so far away at this rate"
    statistics = {name for name in states["start"] if name.endswith(("running_mean", "running_var"))}
    assert statistics
    assert statistics <= changed(states["start"], states["first"])


@pytest.mark.parametrize(("trains", "moves"), [("last_block", ("layer4.",)), ("all", ("conv1.", "layer1.", "layer4."))])
def test_the_backbone_trains_as_far_down_as_is_said(trains: Any, moves: tuple[str, ...]) -> None:
    states = states_of(longtail_task(second=second(trains=trains)))
    moved = {name.removeprefix("backbone.") for name in changed(states["first"], states["second"]) if name.startswith("backbone.")}
    weights = {name for name in moved if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert all(any(name.startswith(part) for name in weights) for part in moves)
    if trains == "last_block":
        assert all(name.startswith("layer4.") for name in moved)


def test_names_are_read_in_the_first_stage_alone() -> None:
    states = states_of(longtail_task(semantic=Semantic(mode="text", encoder="random", weight=1.0), second=second()))
    semantic = {"semantic.weight", "semantic.bias"}
    assert semantic <= changed(states["start"], states["first"])
    assert changed(states["first"], states["second"]) == HEAD


# ---- The separator.


SEPARATOR: dict[str, Any] = {"method": "separator", "groups": GroupConfig(frequent_above=10, rare_up_to=4)}


def test_experts_draw_from_their_own_classes_and_people_that_the_gate_does_not() -> None:
    task = longtail_task(**SEPARATOR)
    feed = feed_of(task)
    names, people = feed.store.labels["class_name"], feed.store.labels["participant_id"]
    wanted = {"base": set(LABELS), "frequent": {"apple"}, "common": {"bread", "cake"}, "rare": {"dumpling"}, "gate": set(LABELS)}
    seen = {stage.name: drawn(feed.order(stage, 1)).ravel() for stage in task.stages()}
    assert list(seen) == list(wanted)
    for name, entries in seen.items():
        assert set(names[entries]) <= wanted[name]
        assert set(names[entries]) == wanted[name] or name == "gate"
    aside = {person for person, is_aside in zip(people, set_aside(people), strict=True) if is_aside}
    assert set(people[seen["gate"]]) == aside & {people[entry] for entry in feed.pool.entries("train")}
    assert not set(people[np.concatenate([entries for name, entries in seen.items() if name != "gate"])]) & aside
    assert sorted(np.concatenate([seen["base"], seen["gate"]])) == feed.pool.entries("train").tolist()


def test_as_published_the_gate_learns_on_what_the_others_learned_on() -> None:
    task = longtail_task(**SEPARATOR)
    task = replace(task, config=replace(task.config, separator=replace(task.config.separator, gate_on="train")))
    assert {stage.part for stage in task.stages()} == {"all"}


def test_each_stage_of_a_separator_trains_its_own_part_and_only_the_last_is_kept() -> None:
    task = longtail_task(**SEPARATOR)
    task = replace(task, config=replace(task.config, separator=replace(task.config.separator, epochs=2)))
    states = states_of(task)
    order = list(states)
    assert order == ["start", "base", "frequent", "common", "rare", "gate"]
    for before, stage in pairwise(order):
        prefix = "gate." if stage == "gate" else f"nets.{stage}."
        assert all(name.startswith(prefix) for name in changed(states[before], states[stage]))
        assert changed(states[before], states[stage])
    assert [stage.keeps for stage in task.stages()] == [False, False, False, False, True]


def test_a_group_without_classes_has_no_expert() -> None:
    task = longtail_task(counts=(24, 8), **SEPARATOR)
    assert [stage.name for stage in task.stages()] == ["base", "frequent", "common", "gate"]
    network = task.network().eval()
    with torch.inference_mode():
        gate_BG = network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))["logits_BC"].exp().sum(1)
    assert gate_BG.tolist() == pytest.approx([1, 1], abs=1e-5)


def said(routing: str) -> tuple[SeparatorNet, dict[str, Tensor], dict[str, Tensor]]:
    """A separator whose gate is far from even, what it says of some photos, and what its experts say."""
    task = longtail_task(**SEPARATOR)
    torch.manual_seed(0)
    network = replace(task, config=replace(task.config, separator=replace(task.config.separator, routing=routing))).network().eval()
    assert isinstance(network, SeparatorNet)
    image = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for layer in network.gate[::2]:
            layer.weight *= 8
        network.gate[-1].bias -= network(image, "gate")["gate_BG"].mean(0)
        experts = {name: network(image, name)["logits_BC"] for name in ("frequent", "common", "rare")}  # type: ignore[arg-type]
        return network, network(image), experts


def test_hard_routing_is_the_expert_of_the_likeliest_group() -> None:
    _, found, experts = said("hard")
    group_B = found["gate_BG"].argmax(1)
    assert len(set(group_B.tolist())) > 1
    for row, group in enumerate(group_B.tolist()):
        expert_C = list(experts.values())[group][row]
        assert found["logits_BC"][row].argmax() == expert_C.argmax()
        own = expert_C > -100
        torch.testing.assert_close(found["logits_BC"][row][own], expert_C[own].log_softmax(0))
        assert found["logits_BC"][row][~own].max() <= GATE_NEVER


def test_soft_routing_is_the_mean_of_the_experts_weighted_by_the_gate_and_sums_to_one() -> None:
    _, found, experts = said("soft")
    gate_BG = found["gate_BG"].softmax(1)
    expected = torch.stack([experts[name].softmax(1) * gate_BG[:, [group]] for group, name in enumerate(experts)]).sum(0)
    torch.testing.assert_close(found["logits_BC"].exp(), expected, rtol=1e-4, atol=1e-6)
    assert found["logits_BC"].exp().sum(1).tolist() == pytest.approx([1.0] * 16, abs=1e-5)


# ---- Nothing to train.


def test_a_rule_after_training_needs_no_stage_where_training_is_another_runs() -> None:
    task = longtail_task(after="tau_norm")
    assert replace(task, config=replace(task.config, start="runs/other")).stages() == ()


def test_a_zero_shot_clip_is_kept_as_it_is_with_its_error_on_the_validation_side() -> None:
    task = longtail_task(method="clip", clip=Clip(model="random"), epochs=0)
    assert task.stages() == ()
    loop = Loop(task, feed_of(task), LoopConfig(batch_size=8))
    kept = loop.run()
    assert (kept.epoch, loop.history) == (0, [])
    assert kept.objective == pytest.approx(1 - loop.evaluate("val")["accuracy_macro"])
    assert not changed(kept.weights, task.network().state_dict())
