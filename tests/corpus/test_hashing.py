"""Claims about hashes: near-duplicates are found, all of them, fast, and however many photos are the same."""

import hashlib
import io
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foodray.corpus.hashing import hash_words, near_duplicate_pairs, perceptual_hash, sha256_hex

Words = NDArray[np.uint64]
SAME_SCENE_BITS = 20
"""The default of `SplitConfig.near_duplicate_bits`."""


def words(num: int, seed: int) -> Words:
    return np.random.default_rng(seed).integers(0, 2**64, (num, 4), dtype=np.uint64)


def flipped(hashes_NW: Words, bits_N: NDArray[np.int64]) -> Words:
    """Each hash with one bit, 0..255, turned over."""
    masks_NW = np.zeros_like(hashes_NW)
    masks_NW[np.arange(len(bits_N)), bits_N // 64] = np.uint64(1) << (bits_N % 64).astype(np.uint64)
    return hashes_NW ^ masks_NW


def groups(pairs: NDArray[np.int64], num: int) -> NDArray[np.int32]:
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def all_pairs(hashes_NW: Words, max_distance: int) -> NDArray[np.int64]:
    distance_NN = np.bitwise_count(hashes_NW[:, None] ^ hashes_NW[None, :]).sum(-1, dtype=np.int64)
    return np.argwhere(np.triu(distance_NN <= max_distance, 1))


def clustered(num: int, seed: int = 0, most_flips: int = 40) -> Words:
    """Hashes around a few centres, up to `most_flips` bits away, some of them identical."""
    rng = np.random.default_rng(seed)
    centres_CW = words(max(1, num // 5), seed)
    hashes_NW = centres_CW[rng.integers(0, len(centres_CW), num)]
    flips_N = rng.integers(0, most_flips + 1, num)
    for turn in range(most_flips):
        hashes_NW = np.where((flips_N > turn)[:, None], flipped(hashes_NW, rng.integers(0, 256, num)), hashes_NW)
    return hashes_NW


@pytest.mark.parametrize("max_distance", [0, 1, 2, 3, 7, 8, 16, 20, 31, 64, 128, 256])
def test_different_hashes_are_paired_exactly_when_they_are_near(max_distance: int) -> None:
    hashes_NW = np.unique(clustered(600), axis=0)
    assert np.array_equal(near_duplicate_pairs(hashes_NW, max_distance), all_pairs(hashes_NW, max_distance))


@pytest.mark.parametrize("max_distance", [0, 2, 10, 20, 64])
def test_groups_equal_those_of_all_pairs_when_hashes_repeat(max_distance: int) -> None:
    hashes_NW = np.concatenate([clustered(300), clustered(300)[::3], np.zeros((50, 4), np.uint64)])
    hashes_NW = hashes_NW[np.random.default_rng(1).permutation(len(hashes_NW))]
    found = near_duplicate_pairs(hashes_NW, max_distance)
    assert np.array_equal(groups(found, len(hashes_NW)), groups(all_pairs(hashes_NW, max_distance), len(hashes_NW)))
    assert (found[:, 0] < found[:, 1]).all()
    assert len(np.unique(found, axis=0)) == len(found)


def test_large_buckets_are_searched_like_small_ones() -> None:
    hashes_NW = np.zeros((1_500, 4), np.uint64)  # alike in all bands but a few: every bucket there is large
    hashes_NW[:, 2] = np.random.default_rng(2).permutation(2**16)[:1_500].astype(np.uint64) << np.uint64(20)
    assert np.array_equal(near_duplicate_pairs(hashes_NW, 2), all_pairs(hashes_NW, 2))


def test_identical_hashes_need_no_more_pairs_than_photos() -> None:
    pairs = near_duplicate_pairs(np.full((20_000, 4), 7, np.uint64), SAME_SCENE_BITS)
    assert pairs.shape == (19_999, 2)
    assert (pairs[:, 0] == 0).all()


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    hashes_NW = words(100_000, seed=3)
    hashes_NW[50_000:50_010] = hashes_NW[:10]
    for bit in range(0, 40, 2):
        hashes_NW[50_000:50_010] = flipped(hashes_NW[50_000:50_010], np.full(10, bit))
    hashes_NW[60_000:90_000] = 0
    began = time.perf_counter()
    pairs = near_duplicate_pairs(hashes_NW, SAME_SCENE_BITS)
    assert time.perf_counter() - began < 15
    assert {(i, 50_000 + i) for i in range(10)} <= set(map(tuple, pairs.tolist()))
    assert len(pairs) == 10 + 29_999


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_hashes_have_no_pairs(num: int) -> None:
    for max_distance in (0, 4, 30, 256):
        assert near_duplicate_pairs(np.zeros((num, 4), np.uint64), max_distance).shape == (0, 2)


@pytest.mark.parametrize("max_distance", [-1, 257])
def test_an_impossible_distance_is_refused(max_distance: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 256"):
        near_duplicate_pairs(np.zeros((2, 4), np.uint64), max_distance)


def test_words_hold_every_bit_of_a_hash_and_no_hashes_make_none() -> None:
    hashes = [bytes(range(32)), bytes(32)]
    assert hash_words(hashes).tobytes() == b"".join(hashes)
    assert hash_words([]).shape == (0, 4)


def picture(seed: int) -> Image.Image:
    """A made-up photo, 640 x 480: soft shades, a few shapes, a little noise."""
    rng = np.random.default_rng(seed)
    shades = Image.fromarray(rng.integers(60, 200, (12, 16, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    pixels_HW3 = np.asarray(shades).astype(np.int16)
    rows, columns = np.mgrid[:480, :640]
    for _ in range(6):
        x, y, radius = rng.integers(60, 580), rng.integers(60, 420), rng.integers(20, 90)
        pixels_HW3[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = rng.integers(20, 230, 3)
    noisy_HW3 = np.clip(pixels_HW3 + rng.normal(0, 4, pixels_HW3.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy_HW3).filter(ImageFilter.GaussianBlur(0.7))


def saved(image: Image.Image, quality: int) -> Image.Image:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return Image.open(io.BytesIO(sink.getvalue()))


COPIES = {
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
    "saved at quality 40": lambda image: saved(image, 40),
    "brightened": lambda image: image.point([min(255, round(level * 1.15)) for level in range(256)] * 3),
}


def distance(one: Image.Image, other: Image.Image) -> int:
    left_W, right_W = hash_words([perceptual_hash(np.asarray(one)), perceptual_hash(np.asarray(other))])
    return int(np.bitwise_count(left_W ^ right_W).sum())


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_of_a_photo_is_within_20_bits_and_another_photo_is_not(change: str) -> None:
    photos = [picture(seed) for seed in range(6)]
    copies = [COPIES[change](photo) for photo in photos]
    assert max(distance(photo, copy) for photo, copy in zip(photos, copies, strict=True)) <= SAME_SCENE_BITS
    assert min(distance(photo, copy) for photo, copy in zip(photos, copies[1:], strict=False)) > 2 * SAME_SCENE_BITS


def test_the_perceptual_hash_has_32_bytes() -> None:
    assert len(perceptual_hash(np.asarray(picture(0)))) == 32


def test_the_file_hash_is_sha256_in_hex() -> None:
    assert sha256_hex(b"photo") == hashlib.sha256(b"photo").hexdigest()
