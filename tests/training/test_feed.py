"""Claims about the run's feed: Ray Data prepares the same batches whatever the step it starts at and the number of ranks."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from toys import stage

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.training.config import RunConfig
from foodray.training.data import Part, PoolFeed, load_samples
from foodray.training.run import Plan, make_plan

Batch = dict[str, torch.Tensor]
BATCH_SIZE = 8
JOINT = stage("joint", epochs=2)


@pytest.fixture(scope="module")
def plan(corpus: Corpus) -> Plan:
    task = MtlConfig(backbone="test_convnext", weights="random", side_px=32, normalization="ln")
    config = RunConfig(task=task, corpus=corpus.store.root, results="unused", split=SplitConfig(test_folds=3, val_folds=3, balance_to=40))
    return make_plan(config, MtlTask, corpus)


@pytest.fixture(scope="module")
def feed(corpus: Corpus, plan: Plan) -> PoolFeed:
    return PoolFeed(store=load_samples(corpus, plan.samples, plan.task), pool=plan.pool, task=plan.task, seed=3)


@pytest.fixture(scope="module")
def whole(feed: PoolFeed) -> list[Batch]:
    """The first six steps, of one rank."""
    return list(feed.train_batches(JOINT, BATCH_SIZE, 0, 6, Part()))


def same(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    """Whether two rows of batches are equal to the last bit, nan included."""
    return len(left) == len(right) and all(
        one.keys() == other.keys() and all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)
        for one, other in zip(left, right, strict=True)
    )


def joined(parts: Sequence[Batch]) -> Batch:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_batches_are_whole_and_have_the_familys_tensors(whole: list[Batch]) -> None:
    assert len(whole) == 6
    for batch in whole:
        assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
            "image": (BATCH_SIZE, 3, 32, 32),
            "scale": (BATCH_SIZE, 3),
            "class_id": (BATCH_SIZE,),
            "portion": (BATCH_SIZE,),
        }
        assert batch["image"].dtype == torch.uint8


def test_batches_from_a_step_on_are_the_tail_of_those_from_the_start(feed: PoolFeed, whole: list[Batch]) -> None:
    assert same(list(feed.train_batches(JOINT, BATCH_SIZE, 3, 6, Part())), whole[3:])


def test_the_shares_of_two_ranks_and_micro_batches_make_the_same_batch_with_the_same_augmentation(feed: PoolFeed, whole: list[Batch]) -> None:
    shares = [list(feed.train_batches(JOINT, BATCH_SIZE, 1, 4, Part(rank, 2, 2))) for rank in range(2)]
    for step in range(3):
        parts = [shares[rank][2 * step + micro] for rank in range(2) for micro in range(2)]
        assert [len(part["image"]) for part in parts] == [2, 2, 2, 2]
        assert same([joined(parts)], [whole[1 + step]])


def test_another_stage_and_another_seed_draw_differently(feed: PoolFeed, whole: list[Batch]) -> None:
    first = feed.order(JOINT, BATCH_SIZE).step(0)[0]
    assert not np.array_equal(first, feed.order(stage("other"), BATCH_SIZE).step(0)[0])
    other = PoolFeed(store=feed.store, pool=feed.pool, task=feed.task, seed=4)
    assert not np.array_equal(first, other.order(JOINT, BATCH_SIZE).step(0)[0])


def test_an_epoch_draws_training_entries_only(feed: PoolFeed) -> None:
    drawn = feed.order(JOINT, BATCH_SIZE)
    entries = np.concatenate([drawn.step(step)[0] for step in range(feed.steps_per_epoch(JOINT, BATCH_SIZE))])
    assert set(entries) <= set(feed.pool.entries("train"))
    assert len(set(entries)) == len(entries)


def test_labels_and_pixels_of_an_entry_belong_together(feed: PoolFeed, plan: Plan) -> None:
    entries = feed.pool.entries("train")
    batch = feed.prepare(entries, None)
    names = plan.samples["class_name"][feed.pool.sample[entries]]
    assert [plan.task.labels[label] for label in batch["class_id"]] == list(names)  # type: ignore[attr-defined]
    centre_NC = batch["image"][:, :, 14:18, 14:18].float().mean((2, 3))
    channel = {"blue": 2, "green": 1, "red": 0}
    assert centre_NC.argmax(1).tolist() == [channel[name] for name in names]


def test_balancing_adds_turned_copies_to_the_training_side_only(feed: PoolFeed) -> None:
    extra = np.flatnonzero(feed.pool.isometry)
    assert len(extra) > 0
    assert set(feed.pool.split[extra]) == {"train"}
    original = np.flatnonzero((feed.pool.sample == feed.pool.sample[extra[0]]) & (feed.pool.isometry == 0))
    turned, upright = (feed.prepare(entries, None)["image"][0] for entries in (extra[:1], original))
    assert not torch.equal(turned, upright)
    assert torch.equal(turned.flatten(1).sort().values, upright.flatten(1).sort().values)  # the same px in other places


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_entry_of_a_split_exactly_once_and_in_order(feed: PoolFeed, world: int) -> None:
    parts = [pair for rank in range(world) for pair in feed.eval_batches("test", 3, Part(rank, world))]
    assert np.array_equal(np.concatenate([entries for entries, _ in parts]), feed.pool.entries("test"))
    assert same([joined([batch for _, batch in parts])], [feed.prepare(feed.pool.entries("test"), None)])


def test_evaluation_of_nothing_gives_no_batch(feed: PoolFeed) -> None:
    count = len(feed.pool.entries("test"))
    assert list(feed.eval_batches("test", 3, Part(0, count + 1))) == []
