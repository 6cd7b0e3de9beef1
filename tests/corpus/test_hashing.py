"""Claims about hashes: near-duplicates are found, all of them, fast, and however many photos are the same."""

import hashlib
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foodray.corpus.hashing import near_duplicate_pairs, perceptual_hash, sha256_hex


def groups(pairs: NDArray[np.int64], num: int) -> NDArray[np.int32]:
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def all_pairs(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= max_distance
    return np.argwhere(np.triu(near, 1))


def clustered(num: int, seed: int = 0) -> NDArray[np.uint64]:
    """Hashes around a few centres, up to a dozen bits away, some of them identical."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, max(1, num // 5), dtype=np.uint64)
    hashes = centres[rng.integers(0, len(centres), num)]
    for _ in range(12):
        flip = rng.random(num) < rng.random(num) ** 2
        hashes = np.where(flip, hashes ^ (np.uint64(1) << rng.integers(0, 64, num, dtype=np.uint64)), hashes)
    return hashes


@pytest.mark.parametrize("max_distance", [0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 20, 64])
def test_different_hashes_are_paired_exactly_when_they_are_near(max_distance: int) -> None:
    hashes = np.unique(clustered(600))
    assert np.array_equal(near_duplicate_pairs(hashes, max_distance), all_pairs(hashes, max_distance))


@pytest.mark.parametrize("max_distance", [0, 2, 5, 10])
def test_groups_equal_those_of_all_pairs_when_hashes_repeat(max_distance: int) -> None:
    hashes = np.concatenate([clustered(300), clustered(300)[::3], np.zeros(50, np.uint64)])
    hashes = hashes[np.random.default_rng(1).permutation(len(hashes))]
    found = near_duplicate_pairs(hashes, max_distance)
    assert np.array_equal(groups(found, len(hashes)), groups(all_pairs(hashes, max_distance), len(hashes)))
    assert (found[:, 0] < found[:, 1]).all()


def test_large_buckets_are_searched_like_small_ones() -> None:
    rng = np.random.default_rng(2)
    hashes = np.unique(rng.integers(0, 2**16, 2_000, dtype=np.uint64) << np.uint64(20))
    assert np.array_equal(near_duplicate_pairs(hashes, 2), all_pairs(hashes, 2))


def test_identical_hashes_need_no_more_pairs_than_photos() -> None:
    pairs = near_duplicate_pairs(np.full(20_000, 7, np.uint64), 4)
    assert pairs.shape == (19_999, 2)
    assert (pairs[:, 0] == 0).all()


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(3).integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:50_010] = hashes[:10] ^ np.uint64(0b1011)
    hashes[60_000:90_000] = 0
    began = time.perf_counter()
    pairs = near_duplicate_pairs(hashes, 4)
    assert time.perf_counter() - began < 10
    assert {(i, 50_000 + i) for i in range(10)} <= set(map(tuple, pairs.tolist()))


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_hashes_have_no_pairs(num: int) -> None:
    for max_distance in (0, 4, 30):
        assert near_duplicate_pairs(np.zeros(num, np.uint64), max_distance).shape == (0, 2)


@pytest.mark.parametrize("max_distance", [-1, 65])
def test_an_impossible_distance_is_refused(max_distance: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 64"):
        near_duplicate_pairs(np.zeros(2, np.uint64), max_distance)


def test_a_perceptual_hash_survives_resizing_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    one, other = (Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((320, 240), Image.Resampling.BICUBIC) for _ in range(2))
    same = one.resize((160, 120))
    hashes = [perceptual_hash(np.asarray(image)) for image in (one, same, other)]
    assert all(0 <= value < 2**64 for value in hashes)
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ hashes[2]).bit_count() > 12


def test_the_file_hash_is_sha256_in_hex() -> None:
    assert sha256_hex(b"photo") == hashlib.sha256(b"photo").hexdigest()
