"""Hashes of photos: one that finds the same file, one that finds the same picture, and the search for near-duplicates.

In: encoded bytes or decoded pixels. Out: a SHA-256 in hex, a 64-bit perceptual hash, and the pairs of photos whose
perceptual hashes differ in few bits. The search is exact and needs seconds for 100,000 photos.
"""

import hashlib
from itertools import pairwise

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pairs = NDArray[np.int64]
"""Indices (P, 2), the smaller one first."""
NUM_BITS = 64
SMALL = 32
"""Buckets up to this size are searched together, larger ones one by one."""
TILE = 512
"""Hashes compared at a time with as many others: the tables stay in the cache (1.2 ns a pair; 8 ns at 2,048)."""


def sha256_hex(data: bytes) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def perceptual_hash(rgb_HW3: NDArray[np.uint8]) -> int:
    """The 64-bit pHash of a photo, unsigned: which of its 8 x 8 lowest cosine frequencies lie above their median.

    It hardly changes with size, compression or brightness, so a reduced decode will do; the pixels must be upright. The
    hash works on 32 x 32 px: decode with `cover=64` or more, and the same value for all photos that are compared.
    """
    return int(str(imagehash.phash(Image.fromarray(rgb_HW3))), 16)


def near_duplicate_pairs(hashes: NDArray[np.uint64], max_distance: int) -> Pairs:
    """Pairs (P, 2) of indices i < j whose connected components equal those of all pairs within `max_distance` bits.

    Identical hashes are paired with the first of them, and only that one is paired further, so that a thousand black photos
    give a thousand pairs and not half a million; among different hashes every pair within the distance is there. Exact, by
    the pigeonhole principle: hashes that differ in d bits agree in at least one of d + 1 bands of bits. Sorted, without
    repetitions. Raises `ValueError` for a distance outside 0..64.
    """
    if not 0 <= max_distance <= NUM_BITS:
        raise ValueError(f"max_distance = {max_distance} must be between 0 and {NUM_BITS} bits")
    values, first, which = np.unique(np.asarray(hashes, np.uint64), return_index=True, return_inverse=True)
    original = first[which]
    repeats = np.flatnonzero(original != np.arange(len(original)))
    found = [np.stack([original[repeats], repeats], axis=1)]
    found += [np.sort(first[_pairs_of_band(values, low, high, max_distance)], axis=1) for low, high in _bands(max_distance)]
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def _bands(max_distance: int) -> list[tuple[int, int]]:
    """First and last-but-one bit of each band; a single empty band, which all hashes share, where banding would not pay."""
    num_bands = max_distance + 1
    if num_bands >= 2 ** (NUM_BITS // num_bands):
        return [(0, 0)]
    edges = [NUM_BITS * band // num_bands for band in range(num_bands + 1)]
    return list(pairwise(edges))


def _pairs_of_band(values: NDArray[np.uint64], low: int, high: int, max_distance: int) -> Pairs:
    """Index pairs of values that agree in the bits low..high-1 and differ in at most `max_distance` bits."""
    keys = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) if high > low else np.zeros(len(values), np.uint64)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
    ends = np.append(starts[1:], len(values))
    small = ends - starts <= SMALL
    found = [_pairs_of_small(values[order], starts[small], ends[small], max_distance)]
    found += [_pairs_of_large(values[order], start, end, max_distance) for start, end in zip(starts[~small], ends[~small], strict=True)]
    return np.asarray(order[np.concatenate(found)], np.int64)


def _pairs_of_small(values: NDArray[np.uint64], starts: Pairs, ends: Pairs, max_distance: int) -> Pairs:
    """All small buckets at once: every value against the one `step` places on, as long as that is in the same bucket."""
    left = np.concatenate([np.arange(0), *map(np.arange, starts, ends)])
    end = np.repeat(ends, ends - starts)
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, SMALL):
        inside = left + step < end
        left, end = left[inside], end[inside]
        near = left[np.bitwise_count(values[left] ^ values[left + step]) <= max_distance]
        found.append(np.stack([near, near + step], axis=1))
    return np.concatenate(found)


def _pairs_of_large(values: NDArray[np.uint64], start: int, end: int, max_distance: int) -> Pairs:
    """One large bucket, tile against tile."""
    found = [np.empty((0, 2), np.int64)]
    for row in range(start, end, TILE):
        for column in range(row, end, TILE):
            rows, columns = values[row : min(row + TILE, end)], values[column : min(column + TILE, end)]
            near = np.argwhere(np.bitwise_count(rows[:, None] ^ columns) <= max_distance) + np.array((row, column))
            found.append(near[near[:, 0] < near[:, 1]])
    return np.concatenate(found)
