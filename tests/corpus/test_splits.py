"""Splits are honest: nothing that belongs together is on two sides, and balancing touches the training side only."""

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest

from foodray.corpus.hashing import NUM_WORDS
from foodray.corpus.splits import NUM_ISOMETRIES, SPLIT_NAMES, Pool, SplitConfig, balance, make_pool, merged_groups
from foodray.errors import SplitError

Samples = dict[str, np.ndarray]


def make_samples(participants: list[str], *, seed: int = 0, num_classes: int = 4, **columns: list[Any]) -> Samples:
    """Samples of these participants, one photo each, all photos different; `columns` replaces what a test is about."""
    rng = np.random.default_rng(seed)
    count = len(participants)
    made: dict[str, list[Any]] = {
        "sample_id": [f"sample{index}" for index in range(count)],
        "image_id": [f"image{index}" for index in range(count)],
        "participant_id": participants,
        "image_sha256": [f"{index:064x}" for index in range(count)],
        "split": [None] * count,
        "class_name": [f"class{number}" for number in rng.integers(0, num_classes, count)],
    }
    hashes = columns.pop("phash", rng.integers(0, 2**64, (count, NUM_WORDS), dtype=np.uint64))
    return {**{name: np.array(values, dtype=object) for name, values in {**made, **columns}.items()}, "phash": np.asarray(hashes)}


def flipped(hash_W: np.ndarray, num_bits: int) -> np.ndarray:
    """A hash that differs in so many bits."""
    bits = np.unpackbits(hash_W.copy().view(np.uint8))
    bits[:num_bits] ^= 1
    return np.packbits(bits).view(np.uint64)


def study(seed: int, *, num_participants: int = 20, **more: Any) -> Samples:
    """Participants with one to nine photos each, in mixed order."""
    rng = np.random.default_rng((7, seed))
    owners = np.repeat(np.arange(num_participants), rng.integers(1, 10, num_participants))
    return make_samples([f"p{owner}" for owner in rng.permutation(owners)], seed=seed, **more)


def sides(samples: Samples, pool: Pool, column: str) -> dict[Any, set[str]]:
    """The sides on which each value of a column is."""
    found: dict[Any, set[str]] = {}
    for value, side in zip(samples[column][pool.sample], pool.split, strict=True):
        found.setdefault(value, set()).add(str(side))
    return found


@pytest.mark.parametrize(("seed", "balance_to"), [(0, 0), (1, 40), (2, 40)])
def test_no_participant_photo_or_file_is_on_two_sides(seed: int, balance_to: int) -> None:
    samples = study(seed)
    pool = make_pool(samples, SplitConfig(seed=seed, balance_to=balance_to))
    for column in ("sample_id", "image_id", "participant_id", "image_sha256"):
        assert all(len(found) == 1 for found in sides(samples, pool, column).values()), column


@pytest.mark.parametrize("seed", range(3))
def test_every_sample_is_on_a_side_and_no_side_is_empty(seed: int) -> None:
    samples = study(seed)
    pool = make_pool(samples, SplitConfig(seed=seed))
    assert np.array_equal(pool.sample, np.arange(len(samples["sample_id"])))
    assert not pool.isometry.any()
    assert set(pool.split) == set(SPLIT_NAMES)
    assert sum(len(pool.entries(split)) for split in SPLIT_NAMES) == len(pool.sample)
    assert 0.1 < len(pool.entries("test")) / len(pool.sample) < 0.3


def test_participants_with_the_same_file_stay_together() -> None:
    samples = study(0)
    files = samples["image_sha256"]
    one, other = (int(np.flatnonzero(samples["participant_id"] == name)[0]) for name in ("p3", "p14"))
    files[other] = files[one]
    for fold in range(5):
        found = sides(samples, make_pool(samples, SplitConfig(fold=fold, near_duplicate_bits=-1)), "participant_id")
        assert found["p3"] == found["p14"]


@pytest.mark.parametrize(("num_bits", "together"), [(0, True), (8, True), (20, True), (21, False)])
def test_participants_with_near_duplicates_stay_together_and_are_counted(num_bits: int, together: bool, caplog: pytest.LogCaptureFixture) -> None:
    samples = study(1)
    one, other = (int(np.flatnonzero(samples["participant_id"] == name)[0]) for name in ("p3", "p14"))
    samples["phash"][other] = flipped(samples["phash"][one], num_bits)
    pools = [make_pool(samples, SplitConfig(fold=fold, test_folds=3, val_folds=2, near_duplicate_bits=20)) for fold in range(3)]
    found = [sides(samples, pool, "participant_id") for pool in pools]
    assert all(side["p3"] == side["p14"] for side in found) or not together
    assert {pool.num_merged for pool in pools} == {int(together)}
    assert ("1 of 20 participants share near-duplicate photos" in caplog.text) == together


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    samples = make_samples(["a", "b", "c", "d", "a"])
    samples["phash"][1] = flipped(samples["phash"][0], 15)
    samples["phash"][2] = flipped(samples["phash"][0], 30)
    groups, num_merged = merged_groups(samples, 20)
    assert num_merged == 2
    assert groups[0] == groups[1] == groups[2] == groups[4] != groups[3]


def test_all_folds_together_test_every_participant_exactly_once() -> None:
    samples = study(2)
    tested: Counter[str] = Counter()
    for fold in range(4):
        pool = make_pool(samples, SplitConfig(test_folds=4, fold=fold, seed=9))
        tested.update({str(name) for name in samples["participant_id"][pool.sample[pool.entries("test")]]})
    assert tested == Counter({str(name): 1 for name in set(samples["participant_id"])})


@pytest.mark.parametrize("seed", range(4))
def test_no_class_is_seen_in_validation_only(seed: int) -> None:
    samples = study(seed, num_classes=25)
    pool = make_pool(samples, SplitConfig(seed=seed))
    trained, validated = (set(samples["class_name"][pool.sample[pool.entries(split)]]) for split in ("train", "val"))
    assert validated <= trained


def test_the_same_seed_gives_the_same_pool_and_another_seed_another() -> None:
    samples = study(3)
    one, again, other = (make_pool(samples, SplitConfig(seed=seed, balance_to=30)) for seed in (5, 5, 6))
    for name in ("sample", "split", "isometry"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.split[: len(samples["sample_id"])], other.split[: len(samples["sample_id"])])


# Balanced augmentation (spec f.3)


@pytest.mark.parametrize("target", [1, 7, 30, 1_000])
def test_each_class_gets_as_many_extras_as_the_paper_says(target: int) -> None:
    samples = study(0, num_participants=30, num_classes=6)
    pool = make_pool(samples, SplitConfig(balance_to=target))
    train = pool.entries("train")
    classes = samples["class_name"][pool.sample]
    for name in set(samples["class_name"]):
        mine = train[classes[train] == name]
        originals, extras = mine[pool.isometry[mine] == 0], mine[pool.isometry[mine] > 0]
        assert len(extras) == max(0, min(target, 6 * len(originals)) - len(originals))
        drawn = list(zip(pool.sample[extras], pool.isometry[extras], strict=True))
        assert len(set(drawn)) == len(drawn)
        assert set(pool.isometry[extras]) <= set(range(1, NUM_ISOMETRIES))


def test_extras_are_copies_of_training_samples_only() -> None:
    samples = study(0)
    pool = make_pool(samples, SplitConfig(balance_to=60))
    count = len(samples["sample_id"])
    assert len(pool.sample) > count
    assert set(pool.split[count:]) == {"train"}
    assert set(pool.sample[count:]) <= set(pool.sample[:count][pool.split[:count] == "train"])
    assert not pool.isometry[:count].any()


def test_balancing_does_not_move_anyone() -> None:
    samples = study(0)
    plain, balanced = (make_pool(samples, SplitConfig(balance_to=target)) for target in (0, 60))
    assert np.array_equal(plain.split, balanced.split[: len(plain.split)])


def test_a_class_that_is_large_enough_gets_none_and_a_small_one_is_used_up() -> None:
    names = np.array(["large"] * 50 + ["small"] * 3, dtype=object)
    extra, codes = balance(names, np.arange(53), 40, seed=0)
    assert len(extra) == 3 * (NUM_ISOMETRIES - 1)
    assert sorted(zip(extra, codes, strict=True)) == [(index, code) for index in (50, 51, 52) for code in range(1, NUM_ISOMETRIES)]


# Fixed splits


def fixed(split_of: dict[str, str | None]) -> Samples:
    owners = [name for name in split_of for _ in range(2)]
    return make_samples(owners, split=[split_of[name] for name in owners])


FIXED: dict[str, str | None] = {"a": "train", "b": "train", "c": "val", "d": "test", "e": None, "f": "score"}


def test_a_fixed_split_is_kept_and_who_has_none_is_not_drawn() -> None:
    pool = make_pool(fixed(FIXED), SplitConfig(method="manifest", balance_to=20))
    assert [len(pool.entries(split)) for split in ("val", "test")] == [2, 2]
    assert set(pool.sample[pool.entries("train")]) == {0, 1, 2, 3}
    assert sorted(set(np.concatenate([pool.sample[pool.entries(split)] for split in SPLIT_NAMES]))) == list(range(8))


def test_a_fixed_split_that_divides_a_participant_is_refused_and_names_who() -> None:
    samples = fixed(FIXED)
    samples["split"][1] = "test"
    with pytest.raises(SplitError, match=r"participant_id 'a' is in both 'train' and 'test'"):
        make_pool(samples, SplitConfig(method="manifest"))


def test_a_fixed_split_with_one_file_on_two_sides_is_refused() -> None:
    samples = fixed(FIXED)
    samples["image_sha256"][7] = samples["image_sha256"][0]
    with pytest.raises(SplitError, match=r"image_sha256 '0{64}' is in both 'train' and 'test'"):
        make_pool(samples, SplitConfig(method="manifest"))


def test_a_fixed_split_with_near_duplicates_on_two_sides_is_refused_and_names_them() -> None:
    samples = fixed(FIXED)
    samples["phash"][7] = flipped(samples["phash"][0], 5)
    with pytest.raises(SplitError, match=r"1 pairs of near-duplicate photos cross the split, first 'image0' \(train\) and 'image7' \(test\)"):
        make_pool(samples, SplitConfig(method="manifest", near_duplicate_bits=5))
    make_pool(samples, SplitConfig(method="manifest", near_duplicate_bits=4))
    make_pool(samples, SplitConfig(method="manifest", near_duplicate_bits=-1))


def test_a_fixed_split_is_not_said_to_keep_near_duplicates_together(caplog: pytest.LogCaptureFixture) -> None:
    samples = fixed(FIXED)
    samples["phash"][2] = samples["phash"][0]
    pool = make_pool(samples, SplitConfig(method="manifest"))
    assert pool.num_merged == 0
    assert not caplog.text


@pytest.mark.parametrize("absent", ["train", "test"])
def test_a_fixed_split_without_a_side_is_refused(absent: str) -> None:
    with pytest.raises(SplitError, match=f"no sample has split = '{absent}'"):
        make_pool(fixed({name: side for name, side in FIXED.items() if side != absent}), SplitConfig(method="manifest"))


def test_a_fixed_split_without_validation_takes_whole_groups_from_its_training_side() -> None:
    owners = [f"p{index // 3}" for index in range(60)]
    split = ["test" if index >= 48 else "train" for index in range(60)]
    samples = make_samples(owners, split=split)
    samples["phash"][3] = samples["phash"][0]  # p0 and p1 show the same scene
    config = SplitConfig(method="manifest", val_folds=4)
    pool = make_pool(samples, config)
    assert pool.entries("test").tolist() == list(range(48, 60))
    val = set(pool.sample[pool.entries("val")])
    assert 6 <= len(val) <= 18
    assert len(val) + len(pool.entries("train")) == 48
    assert all({index - index % 3 + step for step in range(3)} <= val for index in val)
    assert ({0, 1, 2} <= val) == ({3, 4, 5} <= val)
    assert pool.num_merged == 1
    assert np.array_equal(make_pool(samples, config).split, pool.split)


# What cannot be split


@pytest.mark.parametrize(("num_participants", "config"), [(4, SplitConfig()), (5, SplitConfig()), (2, SplitConfig(test_folds=2, val_folds=2))])
def test_too_few_participants_are_refused(num_participants: int, config: SplitConfig) -> None:
    samples = make_samples([f"p{index % num_participants}" for index in range(60)])
    with pytest.raises(SplitError, match=rf"has {num_participants} separate groups of participants, the split needs"):
        make_pool(samples, config)


def test_participants_who_are_all_near_duplicates_are_too_few_groups() -> None:
    samples = make_samples([f"p{index}" for index in range(30)], phash=np.zeros((30, NUM_WORDS), np.uint64))
    with pytest.raises(SplitError, match="has 1 separate groups"):
        make_pool(samples, SplitConfig())


def test_a_study_of_many_rare_classes_is_split_by_groups_alone() -> None:
    samples = make_samples([f"p{index}" for index in range(12)], class_name=[f"class{index // 3}" for index in range(12)])
    pool = make_pool(samples, SplitConfig())
    assert set(pool.split) == set(SPLIT_NAMES)


def test_too_few_groups_for_validation_are_refused_in_our_words() -> None:
    owners = [name for name, count in {"a": 30, "b": 30, "c": 1, "d": 1, "e": 1, "f": 1}.items() for _ in range(count)]
    with pytest.raises(SplitError):
        make_pool(make_samples(owners, num_classes=1), SplitConfig(test_folds=2, val_folds=5))


# The paper's protocol


def test_the_paper_s_protocol_warns_and_does_leak(caplog: pytest.LogCaptureFixture) -> None:
    samples = study(0)
    with caplog.at_level(logging.WARNING):
        pool = make_pool(samples, SplitConfig(method="augment_then_split_leaky", balance_to=100))
    assert "leaky" in caplog.text
    assert "optimistic" in caplog.text
    trained, tested = (set(pool.sample[pool.entries(split)]) for split in ("train", "test"))
    assert len(trained & tested) > len(tested) / 2
    assert pool.isometry[pool.entries("test")].any()


def test_the_honest_splits_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make_pool(study(0), SplitConfig(balance_to=20))
    assert not caplog.text


def tagged(seed: int = 0) -> Samples:
    """Photos of thirty dishes, each with the tags of its dish, every tenth without a dish."""
    rng = np.random.default_rng(seed)
    dishes = [f"dish{number}" for number in rng.integers(0, 30, 400)]
    sets = [["carbs"], ["carbs", "meat"], ["soups"], ["meat"], []]
    tags = np.fromiter((sets[int(dish.removeprefix("dish")) % 5] for dish in dishes), dtype=object, count=400)
    made = make_samples([f"p{index % 20}" for index in range(400)], seed=seed, class_name=[dish if index % 10 else None for index, dish in enumerate(dishes)])
    return {**made, "tags": tags}


@pytest.mark.parametrize("fold", range(3))
def test_by_class_keeps_every_dish_on_one_side_and_leaves_out_what_has_none(fold: int) -> None:
    samples = tagged()
    pool = make_pool(samples, SplitConfig(method="by_class", fold=fold))
    found = sides(samples, pool, "class_name")
    assert found.pop(None) == {"none"}
    assert all(len(one) == 1 for one in found.values())
    assert set.union(*found.values()) == set(SPLIT_NAMES)
    assert not np.isin(pool.sample[np.concatenate([pool.entries(name) for name in SPLIT_NAMES])], np.flatnonzero(samples["class_name"] == None)).any()  # noqa: E711


def test_by_photo_lets_participants_cross_but_no_near_duplicate() -> None:
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**64, (400, NUM_WORDS), dtype=np.uint64)
    hashes[1::2] = [flipped(one, 5) for one in hashes[::2]]
    samples = {**tagged(), "phash": hashes}
    pool = make_pool(samples, SplitConfig(method="by_photo"))
    assert any(len(found) > 1 for found in sides(samples, pool, "participant_id").values())
    split = pool.split[np.argsort(pool.sample)]
    assert (split[::2] == split[1::2]).all()
    assert pool.num_merged == 200


def test_the_rarest_tag_has_its_share_of_every_side() -> None:
    samples = tagged()
    pool = make_pool(samples, SplitConfig(method="by_photo"))
    share = {name: np.mean(["soups" in tags for tags in samples["tags"][pool.sample[pool.entries(name)]]]) for name in SPLIT_NAMES}
    assert max(share.values()) - min(share.values()) < 0.03


def test_by_class_without_any_class_says_where_they_come_from() -> None:
    with pytest.raises(SplitError, match="no sample has one; fill class_name"):
        make_pool({**tagged(), "class_name": np.full(400, None, object)}, SplitConfig(method="by_class"))
