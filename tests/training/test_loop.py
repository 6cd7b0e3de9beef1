"""Claims about the loop, on a toy in memory and without Ray: steps, stages, resume, what is kept, and any number of ranks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from toys import ADAMW, MemoryFeed, Recorder, ToyTask, largest_difference, memory_feed, same_bits, stage, toy_task, trained

from foodray.errors import ConfigError
from foodray.tasks.base import Stage, Task
from foodray.training.config import LoopConfig
from foodray.training.loop import Loop, freeze

STEPS = 4  # of an epoch: 24 training rows in batches of 6


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return dict(loop.network.state_dict())


class TestSteps:
    def test_accumulating_micro_batches_gives_the_same_weights(self) -> None:
        whole, halves, unequal = (trained(toy_task(), accumulate=parts) for parts in (1, 2, 4))
        assert largest_difference(weights(whole), weights(halves)) < 1e-5
        assert largest_difference(weights(whole), weights(unequal)) < 1e-5

    def test_training_moves_every_trainable_tensor_and_lowers_the_loss(self) -> None:
        loop = trained(toy_task(stage(epochs=6, optimizer=ADAMW)))
        start = dict(Loop(toy_task(), memory_feed(toy_task()), LoopConfig()).network.state_dict())
        names = {name for name, _ in loop.network.named_parameters()}
        assert all(not torch.equal(start[name], weights(loop)[name]) for name in names)
        first, last = loop.history[0], loop.history[-1]
        assert last["train_class_loss"] + last["train_portion_loss"] < 0.8 * (first["train_class_loss"] + first["train_portion_loss"])

    def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones(self) -> None:
        one, same, other = (trained(toy_task(dropout=0.2), seed=seed) for seed in (0, 0, 1))
        assert same_bits(weights(one), weights(same))
        assert not same_bits(weights(one), weights(other))

    def test_clipping_bounds_the_change_of_a_step(self) -> None:
        free, clipped = (trained(toy_task(stage(epochs=1)), clip_norm=norm, batch_size=24) for norm in (0.0, 1e-3))
        start = dict(Loop(toy_task(), memory_feed(toy_task()), LoopConfig()).network.state_dict())
        assert largest_difference(start, weights(clipped)) < 0.02 * 1e-3 + 1e-4 * 0.02 * 2 + 1e-7  # learning rate times norm, and weight decay
        assert largest_difference(start, weights(clipped)) < largest_difference(start, weights(free))

    def test_bf16_trains_and_keeps_the_weights_in_single_precision(self) -> None:
        loop = trained(toy_task(), precision="bf16")
        assert all(tensor.dtype == torch.float32 for tensor in loop.kept.weights.values() if tensor.is_floating_point())
        assert all(math.isfinite(value) for entry in loop.history for value in entry.values() if isinstance(value, float))
        assert 0 < largest_difference(weights(loop), weights(trained(toy_task()))) < 0.1

    def test_the_moving_average_is_what_is_evaluated_and_kept(self) -> None:
        loop = trained(toy_task(), ema_decay=0.9, keep="last")
        assert loop.average is not None
        assert same_bits(loop.kept.weights, dict(loop.average.module.state_dict()))
        assert not same_bits(loop.kept.weights, weights(loop))
        assert loop.history[-1]["val_accuracy"] == loop.evaluate("val")["accuracy"]

    def test_progress_tells_where_the_run_is_and_how_long_it_still_takes(self) -> None:
        recorder = Recorder()
        trained(toy_task(stage(epochs=3)), recorder=recorder)
        assert [(line["epoch"], line["step"]) for line in recorder.progress if line["step"] % STEPS == 0][-1] == (3, 3 * STEPS)
        assert all(line["steps"] == 3 * STEPS and line["epochs"] == 3 and line["stage"] == "joint" for line in recorder.progress)
        assert any(line["eta_s"] is not None and line["samples_per_s"] > 0 for line in recorder.progress)
        assert recorder.progress[-1]["eta_s"] == 0
        assert "val_accuracy" in recorder.progress[-1]["latest"]

    def test_evaluation_waits_for_its_turn_but_never_skips_the_last_epoch(self) -> None:
        loop = trained(toy_task(stage(epochs=3)), evaluate_every=2)
        assert ["val_accuracy" in entry for entry in loop.history] == [False, True, True]

    def test_metrics_do_not_depend_on_the_evaluation_batch(self) -> None:
        task = toy_task()
        one, whole = (Loop(task, memory_feed(task), LoopConfig(eval_batch_size=size)).evaluate("val") for size in (1, 64))
        assert one == pytest.approx(whole, rel=1e-5)

    def test_compiling_changes_speed_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Dynamo without its C++ backend, which takes minutes on a small machine; the slow test below has it.
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
        compare_compiled(heads="classification", sharing="none", cdfa=False, normalization="none")

    @pytest.mark.slow
    def test_a_network_compiled_for_this_machine_trains_alike(self) -> None:
        compare_compiled()


def compare_compiled(**settings: Any) -> None:
    plain, compiled = (trained(toy_task(stage(epochs=1), **settings), compile=option) for option in (False, True))
    assert plain.network._compiled_call_impl is None
    assert compiled.network._compiled_call_impl is not None
    assert largest_difference(plain.kept.weights, compiled.kept.weights) < 1e-5


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw with warm-up": {"optimizer": ADAMW},
    "dropout": {"dropout": 0.3},
    "moving average, clipped": {"ema_decay": 0.9, "clip_norm": 0.5, "optimizer": ADAMW},
    "two micro-batches with dropout": {"accumulate": 2, "dropout": 0.3},
    "BatchNorm": {"backbone": "test_resnet", "normalization": "ln_bn"},
}


class TestResume:
    @pytest.mark.parametrize("kind", RESUMED)
    def test_a_run_resumed_inside_an_epoch_ends_with_the_same_bits(self, kind: str) -> None:
        settings = dict(RESUMED[kind])
        optimizer = settings.pop("optimizer", stage().optimizer)
        made = {name: settings.pop(name) for name in ("dropout", "backbone", "normalization") if name in settings}

        def run(**more: Any) -> Loop:
            return trained(toy_task(stage(epochs=3, optimizer=optimizer), **made), checkpoint_every=3, **settings, **more)

        recorder = Recorder()
        straight = run(recorder=recorder)
        assert sorted(recorder.states) == [(0, 3), (0, 6), (0, 9), (0, 12)]
        for step in (3, 6):  # inside the first and the second epoch
            resumed = run(state=recorder.state(0, step))
            assert same_bits(weights(resumed), weights(straight))
            assert same_bits(resumed.kept.weights, straight.kept.weights)
            assert (resumed.kept.epoch, resumed.kept.objective) == (straight.kept.epoch, straight.kept.objective)
            assert validation(resumed) == validation(straight)

    def test_a_run_resumed_between_stages_ends_with_the_same_bits(self) -> None:
        task = toy_task(stage("first"), stage("second", trainable=("portion_head.*", "class_head.*")))
        recorder = Recorder()
        straight = trained(task, recorder=recorder)
        resumed = trained(task, state=recorder.state(0, STEPS))
        assert same_bits(weights(resumed), weights(straight))
        assert resumed.history == straight.history

    def test_a_run_resumed_before_a_stage_that_resets_ends_with_the_same_bits(self) -> None:
        task = toy_task(stage("first"), stage("second", reset=("class_head",)))
        recorder = Recorder()
        straight = trained(task, recorder=recorder)
        assert same_bits(weights(trained(task, state=recorder.state(0, STEPS))), weights(straight))

    def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(self) -> None:
        recorder = Recorder()
        straight = trained(toy_task(), recorder=recorder, checkpoint_every=3)
        assert trained(toy_task(), state=recorder.state(0, 3)).history == straight.history

    def test_a_finished_state_resumes_to_its_end_without_a_step(self) -> None:
        recorder = Recorder()
        straight = trained(toy_task(), recorder=recorder)
        again = Recorder()
        resumed = trained(toy_task(), state=recorder.state(0, 2 * STEPS), recorder=again)
        assert same_bits(resumed.kept.weights, straight.kept.weights)
        assert again.states == {}
        assert resumed.history == straight.history

    def test_by_default_a_checkpoint_ends_each_epoch(self) -> None:
        recorder = Recorder()
        trained(toy_task(stage("a", epochs=2), stage("b")), recorder=recorder)
        assert list(recorder.states) == [(0, STEPS), (0, 2 * STEPS), (1, STEPS)]


def validation(loop: Loop) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if not name.startswith("train_")} for entry in loop.history]


class TestStages:
    def test_stages_run_in_order_and_train_only_what_they_name(self) -> None:
        recorder = Recorder()
        heads = ("class_head.*", "portion_head.*")
        loop = trained(toy_task(stage("heads", epochs=2, trainable=heads), stage("all")), recorder=recorder)
        assert [(entry["stage"], entry["epoch"]) for entry in loop.history] == [("heads", 1), ("heads", 2), ("all", 1)]
        start = dict(Loop(toy_task(), memory_feed(toy_task()), LoopConfig()).network.state_dict())
        after_heads, after_all = recorder.state(0, 2 * STEPS)["network"], recorder.state(1, STEPS)["network"]
        moved = {name for name in start if not torch.equal(start[name], after_heads[name])}
        assert moved == {f"{head}.{part}" for head in ("class_head", "portion_head") for part in ("weight", "bias")}
        assert all(not torch.equal(after_heads[name], after_all[name]) for name, _ in loop.network.named_parameters())

    def test_frozen_batch_norm_keeps_its_statistics_through_training_and_evaluation(self) -> None:
        frozen = stage("heads", epochs=2, trainable=("class_head.*", "portion_head.*"))
        settings = {"backbone": "test_resnet", "normalization": "bn"}
        start = dict(toy_network(toy_task(**settings)).state_dict())
        kept, moved = (weights(trained(toy_task(plan, **settings))) for plan in (frozen, stage("all")))
        statistics = [name for name in start if name.endswith(("running_mean", "running_var"))]
        assert len(statistics) > 10
        assert all(torch.equal(start[name], kept[name]) for name in statistics)
        assert not any(torch.equal(start[name], moved[name]) for name in statistics)

    def test_a_stage_that_trains_nothing_is_an_error_that_shows_a_right_name(self) -> None:
        with pytest.raises(ConfigError, match=r"stage 'heads': no parameter matches .*'head\.\*'.* parameter names such as '\w+\."):
            trained(toy_task(stage("heads", trainable=("head.*",))))

    def test_reset_initialises_anew_when_the_stage_begins(self) -> None:
        recorder = Recorder()
        still = stage().optimizer.__class__(name="sgd", lr=1e-12, weight_decay=0.0)
        trained(toy_task(stage("first"), stage("second", optimizer=still, reset=("class_head",))), recorder=recorder)
        before, after = recorder.state(0, STEPS)["network"], recorder.state(1, STEPS)["network"]
        assert float((before["class_head.weight"] - after["class_head.weight"]).abs().max()) > 1e-2
        others = [name for name in before if not name.startswith("class_head")]
        assert largest_difference({name: before[name] for name in others}, {name: after[name] for name in others}) < 1e-6

    def test_freezing_tells_which_modules_stay_in_training(self) -> None:
        network = toy_network(toy_task(backbone="test_resnet", normalization="bn"))
        trained_names = freeze(network, stage(trainable=("portion.*", "portion_head.*")))
        assert {"", "portion.bn1", "portion_head"} <= trained_names
        assert not {"classifier.bn1", "class_head", "adapt.whole.0"} & trained_names

    def test_what_is_frozen_by_name_does_not_train_whatever_is_trainable(self) -> None:
        network = toy_network(toy_task(backbone="test_resnet", normalization="bn"))
        trained_names = freeze(network, stage(frozen=("classifier.*",)))
        assert {"portion.bn1", "portion_head", "class_head"} <= trained_names
        assert "classifier.bn1" not in trained_names
        assert not any(parameter.requires_grad for name, parameter in network.named_parameters() if name.startswith("classifier."))

    def test_a_stage_trains_the_task_as_it_is_there(self) -> None:
        loop = trained(StagedTask(**vars(toy_task(stage("plain"), stage("heavy")))))
        plain, heavy = (entry["train_portion_loss"] for entry in loop.history)
        assert heavy == 0.0 < plain
        assert loop.history[-1]["val_accuracy"] == loop.evaluate("val")["accuracy"]

    def test_pictures_are_taken_at_the_start_and_after_each_stage_and_not_again_after_a_restart(self) -> None:
        recorder, taken = Recorder(), []
        task = StagedTask(**vars(toy_task(stage("one"), stage("two"))))
        hooks = replace(recorder.hooks(), pictures=lambda number, when, arrays: taken.append((number, when, len(arrays["image"]))))
        Loop(task, memory_feed(task), LoopConfig(batch_size=6), hooks=hooks).run()
        assert taken == [(0, "start", 8), (1, "one", 8), (2, "two", 8)]
        loop = Loop(task, memory_feed(task), LoopConfig(batch_size=6), hooks=hooks)
        loop.load(recorder.state(1, STEPS))
        loop.run()
        assert taken[3:] == [(2, "two", 8)]

    def test_the_speed_of_every_stage_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        monkeypatch.setattr("foodray.training.loop.time", clock)
        recorder = Recorder()
        task = toy_task(stage("long", epochs=3), stage("short", epochs=3))
        trained(task, feed=SlowFeed(**vars(memory_feed(task)), clock=clock), recorder=recorder)
        told = [(line["stage"], line["samples_per_s"]) for line in recorder.progress if line["step"] == 2 * STEPS]
        assert dict(told) == {"long": 6.0, "short": 6.0}


class StagedTask(ToyTask):
    """In the stage heavy the portion is not trained; it has pictures."""

    def at(self, stage: Stage) -> Task:
        return WithoutPortion(**vars(self)) if stage.name == "heavy" else self

    def pictures(self, batch: Any, outputs: Any) -> dict[str, np.ndarray]:
        return {"image": batch["image"].numpy()}


class WithoutPortion(ToyTask):
    def loss(self, outputs: Any, batch: Any) -> dict[str, torch.Tensor]:
        terms = super().loss(outputs, batch)
        return {**terms, "portion": 0.0 * terms["portion"]}


class FakeClock:
    """Stands for the `time` module: it goes on by a second a batch."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class SlowFeed(MemoryFeed):
    clock: FakeClock

    def train_batches(self, *args: Any, **settings: Any) -> Iterator[dict[str, torch.Tensor]]:
        for batch in super().train_batches(*args, **settings):
            self.clock.now += 1.0
            yield batch


def toy_network(task: ToyTask) -> nn.Module:
    """The network as the loop makes it."""
    return Loop(task, memory_feed(task), LoopConfig()).network


class TestKept:
    @pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
    def test_the_kept_weights_are_those_of_the_epoch_that_was_asked_for(self, keep: str, epoch: int) -> None:
        recorder = Recorder()
        loop = trained(toy_task(stage(epochs=4), objectives=(3.0, 1.0, 2.0, 1.0)), keep=keep, recorder=recorder)
        assert loop.kept.epoch == epoch
        assert same_bits(loop.kept.weights, recorder.state(0, epoch * STEPS)["network"])

    def test_the_best_epoch_is_that_of_the_familys_own_objective(self) -> None:
        loop = trained(toy_task(stage(epochs=4, optimizer=ADAMW)))
        scores = [loop.task.objective({name.removeprefix("val_"): value for name, value in entry.items()}) for entry in loop.history]
        assert loop.kept.epoch == 1 + int(np.argmin(scores))
        assert loop.kept.objective == min(scores)

    def test_a_stage_that_keeps_nothing_never_gives_the_bundle(self) -> None:
        loop = trained(toy_task(stage("part", epochs=2, keeps=False), stage("whole", epochs=2), objectives=(5.0, 6.0)))
        assert (loop.kept.epoch, loop.kept.objective) == (1, 5.0)
        assert all("val_accuracy" in entry for entry in loop.history)

    def test_an_epoch_that_could_not_be_measured_is_not_the_best(self) -> None:
        loop = trained(toy_task(stage(epochs=3), objectives=(math.nan, 2.0, 1.0)))
        assert loop.kept.epoch == 3


# ---- Two ranks. One spawn answers for all of it: what a scenario returns is compared with one rank in this process.


def two_stages(**settings: Any) -> Loop:
    """Stages with and without frozen parts, clipped, two micro-batches of unequal size, a moving average."""
    task = toy_task(stage("heads", trainable=("class_head.*", "portion_head.*")), stage("all", epochs=2, reset=("class_head",)))
    return trained(task, feed=memory_feed(task, num_val=9, num_test=1), accumulate=2, clip_norm=1.0, ema_decay=0.8, **settings)


def scenario_weights() -> dict[str, Any]:
    loop = two_stages()
    collected: list[np.ndarray] = []
    loop.evaluate("val", collect=lambda entries, outputs: collected.append(entries))
    entries = np.concatenate(collected)
    return {"weights": weights(loop), "kept": loop.kept.weights, "history": loop.history, "test": loop.evaluate("test"), "entries": entries.tolist()}


def scenario_batch_norm() -> dict[str, Any]:
    """BatchNorm's statistics are each rank's own; what is evaluated and kept must be the same on all."""
    loop = trained(toy_task(backbone="test_resnet", normalization="ln_bn"))
    return {"weights": weights(loop), "history": loop.history}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {"weights": scenario_weights, "batch norm": scenario_batch_norm}


def rank_process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    torch.save({name: scenario() for name, scenario in SCENARIOS.items()}, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks has."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_process, args=(2, str(folder)), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one rank has after the same."""
    return scenario_weights()


class TestRanks:
    @pytest.mark.parametrize("which", ["weights", "kept"])
    def test_two_ranks_end_with_the_weights_of_one(self, one: dict[str, Any], two: list[dict[str, Any]], which: str) -> None:
        assert largest_difference(one[which], two[0]["weights"][which]) < 1e-4

    def test_all_ranks_hold_the_same_bits(self, two: list[dict[str, Any]]) -> None:
        for name in ("weights", "batch norm"):
            parameters = [{key: value for key, value in rank[name]["weights"].items() if "running" not in key} for rank in two]
            assert same_bits(*parameters)
            assert two[0][name]["history"] == two[1][name]["history"]

    def test_metrics_of_unequal_shares_are_merged_exactly(self, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
        assert [len(rank["weights"]["entries"]) for rank in two] == [4, 5]
        assert two[0]["weights"]["entries"] + two[1]["weights"]["entries"] == one["entries"]
        for mine, theirs in zip(one["history"], two[0]["weights"]["history"], strict=True):
            assert mine.pop("stage") == theirs["stage"]
            assert mine == pytest.approx({name: value for name, value in theirs.items() if name != "stage"}, rel=1e-3, abs=1e-5)
            assert mine["val_accuracy"] == theirs["val_accuracy"]

    def test_a_rank_without_a_share_does_not_change_the_metrics(self, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
        assert two[0]["weights"]["test"] == two[1]["weights"]["test"]
        assert two[0]["weights"]["test"] == pytest.approx(one["test"], rel=1e-4, nan_ok=True)
