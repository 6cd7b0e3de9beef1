"""What the samplers draw of a long tail, through the run's own feed: shares of classes over epochs, the same for any number of workers."""

from typing import Any

import numpy as np
import pytest
from longtails import LABELS, SGD, drawn, feed_of

from foodray.errors import ConfigError
from foodray.tasks.base import Stage
from foodray.training.data import Part, PrepareSteps, set_aside

COUNTS = (120, 48, 20, 12)
BATCH = 20
EPOCHS = 40


def a_stage(sampler: Any, **settings: Any) -> Stage:
    return Stage(**{"name": "first", "epochs": EPOCHS, "optimizer": SGD, "sampler": sampler, **settings})


def shares(sampler: str, epochs: range = range(EPOCHS), batch_size: int = BATCH) -> np.ndarray:
    """How often each class is drawn in some epochs, (C,)."""
    feed = feed_of(counts=COUNTS)
    order = feed.order(a_stage(sampler), batch_size)
    names = feed.store.labels["class_name"][np.concatenate([drawn(order, epoch).ravel() for epoch in epochs])]
    return np.array([(names == label).mean() for label in LABELS])


N = np.array(COUNTS)


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [("instance", N / N.sum()), ("class_balanced", np.full(4, 1 / 4)), ("square_root", np.sqrt(N) / np.sqrt(N).sum())],
)
def test_classes_are_drawn_in_the_samplers_shares(sampler: str, wanted: np.ndarray) -> None:
    assert shares(sampler) == pytest.approx(wanted, abs=0.015)  # 8,000 draws: two and a half standard deviations


def test_progressive_goes_from_the_shares_of_samples_to_those_of_classes() -> None:
    early, late = (shares("progressive", epochs) for epochs in (range(4), range(EPOCHS - 4, EPOCHS)))
    assert early == pytest.approx(N / N.sum(), abs=0.06)
    assert late == pytest.approx(np.full(4, 1 / 4), abs=0.06)
    assert shares("progressive") == pytest.approx((N / N.sum() + 1 / 4) / 2, abs=0.015)


def test_progressive_of_one_epoch_is_that_of_samples() -> None:
    order = feed_of(counts=COUNTS).order(a_stage("progressive", epochs=1), BATCH)
    assert order._class_shares(N, 0) == pytest.approx(N / N.sum())


def test_an_epoch_by_samples_draws_each_once_and_one_by_classes_as_many() -> None:
    feed = feed_of(counts=COUNTS)
    for sampler in ("instance", "class_balanced", "square_root", "progressive", "class_unique"):
        entries = drawn(feed.order(a_stage(sampler), 4))
        assert entries.size == sum(COUNTS)
        assert (len(np.unique(entries)) == entries.size) == (sampler == "instance")


@pytest.mark.parametrize("batch_size", [3, 4])
def test_a_step_of_unique_classes_repeats_none_and_takes_the_larger_more_often(batch_size: int) -> None:
    feed = feed_of(counts=COUNTS)
    order = feed.order(a_stage("class_unique"), batch_size)
    for epoch in range(3):
        names = feed.store.labels["class_name"][drawn(order, epoch)]
        assert all(len(set(step)) == batch_size for step in names)
    found = shares("class_unique", range(5), batch_size)
    if batch_size == 4:
        assert found == pytest.approx(np.full(4, 1 / 4))
    else:
        assert found[0] > found[3]
        assert found.max() <= 1 / 3


def test_every_worker_has_like_shares_of_the_classes_of_a_step() -> None:
    feed = feed_of(counts=COUNTS)
    order = feed.order(a_stage("class_unique"), 4)
    first = np.concatenate([next(PrepareSteps(None, order, Part(0, 2), 0)._micro_batches(step))[0] for step in range(400)])
    names = feed.store.labels["class_name"][first]
    assert [(names == label).mean() for label in LABELS] == pytest.approx([0.25] * 4, abs=0.05)  # of all four each step has one


def test_more_photos_in_a_step_than_classes_are_refused_with_the_number() -> None:
    with pytest.raises(ConfigError, match=r"loop\.batch_size = 5 is more than the 4 classes of which a step may show none twice; lower it to 4"):
        feed_of(counts=COUNTS).order(a_stage("class_unique"), 5)


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "square_root", "progressive", "class_unique"])
def test_two_workers_draw_disjoint_halves_of_what_one_draws_and_again_the_same(sampler: str) -> None:
    size = 4 if sampler == "class_unique" else BATCH
    order, again = (feed_of(counts=COUNTS).order(a_stage(sampler), size) for _ in range(2))
    for step in range(order.steps_per_epoch * 2):
        entries, seeds = again.step(step)
        halves = [next(PrepareSteps(None, order, Part(rank, 2), 0)._micro_batches(step)) for rank in range(2)]
        assert np.array_equal(np.concatenate([half[0] for half in halves]), entries)
        assert np.array_equal(np.concatenate([half[1] for half in halves]), seeds)
        assert not set(halves[0][1]) & set(halves[1][1]), "a photo drawn twice is seen with two augmentations"
        if sampler in ("instance", "class_unique"):
            assert not set(halves[0][0]) & set(halves[1][0])


def test_a_stage_draws_from_its_classes_and_its_part_alone() -> None:
    feed = feed_of(counts=COUNTS)
    names, people = feed.store.labels["class_name"], feed.store.labels["participant_id"]
    some = drawn(feed.order(a_stage("class_balanced", classes=("cake", "bread")), BATCH)).ravel()
    assert set(names[some]) == {"bread", "cake"}
    most, rest = (drawn(feed.order(a_stage("instance", part=part), 1)).ravel() for part in ("most", "rest"))
    assert sorted([*most, *rest]) == feed.pool.entries("train").tolist()
    assert not set(people[most]) & set(people[rest])
    assert 0.12 < len(rest) / sum(COUNTS) < 0.28


def test_who_is_set_aside_is_told_by_the_name_alone() -> None:
    people = np.array([f"person {index}" for index in range(2_000)], dtype=object)
    whole = set_aside(people)
    assert whole.mean() == pytest.approx(0.2, abs=0.03)
    assert np.array_equal(set_aside(people[::-3]), whole[::-3])
    assert np.array_equal(set_aside(np.repeat(people, 3)), np.repeat(whole, 3))


def test_samplers_of_classes_leave_out_samples_without_one_and_instance_does_not() -> None:
    feed = feed_of(counts=COUNTS, unknown=40)
    names = feed.store.labels["class_name"]
    for sampler, there in (("instance", True), ("class_balanced", False), ("class_unique", False), ("progressive", False)):
        assert (None in names[drawn(feed.order(a_stage(sampler), 4))]) == there


@pytest.mark.parametrize("settings", [{"classes": ("pizza",)}, {"classes": ("dumpling",), "part": "rest"}])
def test_a_stage_without_a_sample_is_named_with_what_it_wanted(settings: dict[str, Any]) -> None:
    feed = feed_of(counts=(4, 4, 4, 1))
    assert not set_aside(feed.store.labels["participant_id"][12:13]).any()
    with pytest.raises(ConfigError, match=rf"stage 'rare' has no training sample \(part {settings.get('part', 'all')}, 1 classes\)"):
        feed.order(a_stage("instance", name="rare", **settings), 4)
