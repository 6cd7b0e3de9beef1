"""Claims about order, shares and packing, without Ray: what a step sees is a function of seed, stage and step alone."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from foodray.training.data import Order, Part, PrepareSteps, _pack, _unpack


def order(count: int = 24, *, batch_size: int = 6, sampler: str = "instance", classes: np.ndarray | None = None, seed: int = 0, epochs: int = 5) -> Order:
    """Entries 1000, 1001 … so that an entry is not mistaken for a position."""
    classes = np.zeros(count, np.int64) if classes is None else classes
    return Order(1000 + np.arange(count), classes, sampler, batch_size, epochs=epochs, seed=(seed, 7))


def epoch_of(drawn: Order, epoch: int) -> np.ndarray:
    return np.concatenate([drawn.step(step)[0] for step in range(epoch * drawn.steps_per_epoch, (epoch + 1) * drawn.steps_per_epoch)])


class TestOrder:
    def test_an_epoch_draws_every_entry_exactly_once(self) -> None:
        for epoch in range(3):
            assert sorted(epoch_of(order(), epoch)) == list(range(1000, 1024))

    def test_an_epoch_that_does_not_divide_draws_no_entry_twice(self) -> None:
        drawn = epoch_of(order(26), 0)
        assert len(drawn) == len(set(drawn)) == 24

    def test_over_epochs_no_entry_is_left_out_for_ever(self) -> None:
        uneven = order(26)
        assert {entry for epoch in range(12) for entry in epoch_of(uneven, epoch)} == set(range(1000, 1026))

    def test_epochs_and_seeds_differ_and_the_same_seed_is_the_same_order(self) -> None:
        one, same, other = order(), order(), order(seed=1)
        assert np.array_equal(epoch_of(one, 5), epoch_of(same, 5))
        assert not np.array_equal(epoch_of(one, 0), epoch_of(one, 1))
        assert not np.array_equal(epoch_of(one, 0), epoch_of(other, 0))

    def test_a_step_can_be_asked_for_at_once_and_in_any_order(self) -> None:
        forward, backward = order(), order()
        steps = [forward.step(step) for step in range(12)]
        for step in reversed(range(12)):
            entries, seeds = backward.step(step)
            assert np.array_equal(entries, steps[step][0])
            assert np.array_equal(seeds, steps[step][1])

    def test_every_draw_has_an_augmentation_seed_of_its_own(self) -> None:
        drawn = order()
        seeds = np.concatenate([drawn.step(step)[1] for step in range(40)])
        assert len(np.unique(seeds)) == len(seeds) == 240

    def test_fewer_entries_than_a_batch_make_a_smaller_batch(self) -> None:
        few = order(4, batch_size=6)
        assert [len(few.step(step)[0]) for step in range(3)] == [4, 4, 4]

    @pytest.mark.parametrize(("sampler", "power"), [("class_balanced", 0.0), ("square_root", 0.5)])
    def test_classes_are_drawn_by_their_size_to_the_samplers_power(self, sampler: str, power: float) -> None:
        sizes = np.array([100, 25, 9, 1])
        classes = np.repeat(np.arange(4), sizes)
        drawn = order(len(classes), batch_size=15, sampler=sampler, classes=classes)
        positions = np.concatenate([epoch_of(drawn, epoch) for epoch in range(300)]) - 1000
        found = np.bincount(classes[positions], minlength=4) / len(positions)
        wanted = sizes**power / (sizes**power).sum()
        assert found == pytest.approx(wanted, abs=4 * 0.5 / np.sqrt(len(positions)))
        within = np.bincount(positions[classes[positions] == 1] - 100, minlength=25)
        assert within.min() > 0.75 * within.mean()  # uniform inside a class

    def test_balanced_epochs_differ_and_repeat_with_the_seed(self) -> None:
        classes = np.repeat(np.arange(3), [16, 6, 2])
        one, same = (order(sampler="class_balanced", classes=classes) for _ in range(2))
        assert np.array_equal(epoch_of(one, 3), epoch_of(same, 3))
        assert not np.array_equal(epoch_of(one, 0), epoch_of(one, 1))


class TestParts:
    @pytest.mark.parametrize("micro", [1, 2])
    @pytest.mark.parametrize("world", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [6, 7, 8])
    def test_the_shares_of_a_step_cover_it_exactly_once_and_in_order(self, world: int, micro: int, batch_size: int) -> None:
        drawn = order(40, batch_size=batch_size)
        for step in (0, 3, 5):
            shares = [pair for rank in range(world) for pair in micro_batches(drawn, Part(rank, world, micro), step)]
            entries, seeds = drawn.step(step)
            assert np.array_equal(np.concatenate([entry for entry, _ in shares]), entries)
            assert np.array_equal(np.concatenate([seed for _, seed in shares]), seeds)
            assert len(shares) == world * micro
            sizes = [len(entry) for entry, _ in shares]
            assert max(sizes) - min(sizes) <= 1 + (micro > 1)
            assert min(sizes) >= 1

    @pytest.mark.parametrize("count", [0, 1, 5, 64])
    def test_bounds_cover_any_count_and_differ_by_one_at_most(self, count: int) -> None:
        bounds = [Part(rank, 3).bounds(count) for rank in range(3)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == count
        assert all(left[1] == right[0] for left, right in pairwise(bounds))
        sizes = [stop - start for start, stop in bounds]
        assert max(sizes) - min(sizes) <= 1


def micro_batches(drawn: Order, part: Part, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return PrepareSteps(None, drawn, part, 0)._micro_batches(step)


BATCHES = {
    "images and labels": {"image": torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5).to(torch.uint8), "class_id": torch.tensor([3, -1])},
    "every width, at odd lengths": {
        "a": torch.tensor([True, False, True]),
        "b": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.float16),
        "c": torch.tensor([-7], dtype=torch.int16),
        "d": torch.randn(3, 7, dtype=torch.float64),
        "e": torch.tensor([[2**31 - 1]], dtype=torch.int32),
        "f": torch.randn(5),
    },
    "a scalar and nothing": {"none": torch.empty(0, 4), "one": torch.tensor(2.5), "after": torch.arange(3)},
    "not contiguous": {"turned": torch.arange(12.0).reshape(3, 4).t(), "stepped": torch.arange(10)[::3]},
}


class TestPacking:
    @pytest.mark.parametrize("kind", BATCHES)
    def test_a_batch_comes_back_with_its_names_types_shapes_and_bits(self, kind: str) -> None:
        batch = BATCHES[kind]
        data, layout = _pack(batch)
        (back,) = _unpack({"tensors": [data], "layout": [layout]})
        assert list(back) == list(batch)
        for name, tensor in batch.items():
            assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
            assert back[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()

    def test_a_block_of_ragged_batches_comes_back_in_order(self) -> None:
        batches = [{"x": torch.full((count, 2), float(count))} for count in (3, 1, 2)]
        packed = [_pack(batch) for batch in batches]
        back = list(_unpack({"tensors": [data for data, _ in packed], "layout": [layout for _, layout in packed]}))
        assert [batch["x"].tolist() for batch in back] == [batch["x"].tolist() for batch in batches]

    def test_an_unpacked_batch_may_be_written_to(self) -> None:
        data, layout = _pack({"x": torch.zeros(4)})
        (back,) = _unpack({"tensors": [data], "layout": [layout]})
        back["x"] += 1
        assert back["x"].tolist() == [1.0] * 4
