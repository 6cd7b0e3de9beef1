"""Honest splits: participants (or dishes) stay on one side, near-duplicates follow each other, and a leak is an error.

In: the samples of a corpus. Out: a `Pool` of entries, each a sample, a split and an isometry. Balanced augmentation
(He et al. 2020, section 3.2) adds entries to the training side only, after the split. The paper's own order, augment
and then split, leaks copies of a photo into the test set (erratum 5); it exists under an explicit name, and warns.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from foodray.corpus.hashing import near_duplicate_pairs
from foodray.errors import ConfigError, SplitError

log = logging.getLogger(__name__)
NUM_ISOMETRIES = 6
SPLIT_NAMES = ("train", "val", "test")
_KEPT_TOGETHER = {"grouped": ("participant_id",), "manifest": ("participant_id",), "by_photo": (), "by_class": ("class_name",)}
_UNITS = {"grouped": "participants", "manifest": "participants", "by_photo": "photos", "by_class": "classes"}


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How samples are divided and balanced."""

    method: Literal["grouped", "manifest", "by_photo", "by_class", "augment_then_split_leaky"] = "grouped"
    """grouped: by participant, classes balanced as far as groups allow. manifest: the study's own `split` column, where it names no
    validation side one of the val_folds of its training groups. by_photo: each photo by itself, as tutorials do; participants fall on both
    sides. by_class: no class is on two sides, for dishes that were never seen; samples without a class are on none and counted.
    augment_then_split_leaky: the paper's protocol, for reproduction only; its test numbers are optimistic."""
    test_folds: int = 5
    """The test side is one of this many folds of the groups (5: a fifth)."""
    fold: int = 0
    """Which of the folds is the test side, from 0; running all of them tests every participant once."""
    val_folds: int = 5
    """The validation side is one of this many folds of what is left."""
    near_duplicate_bits: int = 20
    """Photos whose 256-bit perceptual hashes differ in at most this many bits count as the same scene: their participants
    are kept on one side. -1 looks at identical files only."""
    balance_to: int = 0
    """Balanced augmentation: training samples per class to reach with quarter turns and mirrors (the paper: about 100); 0 for none."""
    seed: int = 0
    """Seed of the division and the balancing."""

    def __post_init__(self) -> None:
        if self.test_folds < 2 or self.val_folds < 2 or not 0 <= self.fold < self.test_folds:
            raise ConfigError(f"split: test_folds = {self.test_folds} and val_folds = {self.val_folds} must be >= 2, and 0 <= fold = {self.fold} < test_folds")
        if not -1 <= self.near_duplicate_bits <= 64 or self.balance_to < 0:
            raise ConfigError(f"split: near_duplicate_bits = {self.near_duplicate_bits} must be in -1..64 and balance_to = {self.balance_to} >= 0")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What may be drawn: entries of equal length arrays."""

    sample: np.ndarray
    """Index into the samples, int64."""
    split: np.ndarray
    """train, val or test."""
    isometry: np.ndarray
    """Code of the operation applied to the sample's square (0 none), int8."""
    num_merged: int = 0
    """Groups that were joined to another because their photos are near-duplicates."""

    def entries(self, split: str) -> np.ndarray:
        """Indices of the entries of a split, in order."""
        return np.flatnonzero(self.split == split)


def make_pool(samples: Mapping[str, np.ndarray], config: SplitConfig) -> Pool:
    """Divide and balance samples; raises `SplitError` when groups are too few or a fixed split leaks."""
    count = len(samples["sample_id"])
    if config.method == "augment_then_split_leaky":
        log.warning("split 'augment_then_split_leaky': copies of one photo fall on both sides, as in the paper; its numbers are optimistic and not comparable")
        everything = np.arange(count)
        extra, isometry = balance(samples["class_name"], everything, config.balance_to, config.seed)
        entries = np.concatenate([everything, extra])
        split = _random_split(len(entries), config)
        return Pool(sample=entries, split=split, isometry=np.concatenate([np.zeros(count, np.int8), isometry]))
    split, num_merged = (_manifest_split if config.method == "manifest" else _grouped_split)(samples, config)
    used = np.flatnonzero((split != "none") | (config.method == "manifest"))
    check_leaks({name: values[used] for name, values in samples.items()}, split[used], config)
    extra, isometry = balance(samples["class_name"], np.flatnonzero(split == "train"), config.balance_to, config.seed)
    return Pool(
        sample=np.concatenate([np.arange(count), extra]),
        split=np.concatenate([split, np.full(len(extra), "train", dtype=split.dtype)]),
        isometry=np.concatenate([np.zeros(count, np.int8), isometry]),
        num_merged=num_merged,
    )


def merged_groups(samples: Mapping[str, np.ndarray], near_duplicate_bits: int, method: str = "grouped") -> tuple[np.ndarray, int]:
    """A group number per sample: participants (by_photo: photos, by_class: classes), joined where they share a file or a near-duplicate; and how
    many were joined."""
    column = {"by_photo": "image_id", "by_class": "class_name"}.get(method, "participant_id")
    _, group = np.unique(samples[column].astype(str), return_inverse=True)
    num_groups = int(group.max()) + 1
    pairs = _same_scene(samples, near_duplicate_bits)
    left, right = group[pairs[:, 0]], group[pairs[:, 1]]
    links = coo_array((np.ones(len(left)), (left, right)), shape=(num_groups, num_groups))
    num_merged_groups, merged = connected_components(links, directed=False)
    if num_merged_groups < num_groups:
        log.warning(
            "%d of %d %s share near-duplicate photos with another one and are kept on the same side", num_groups - num_merged_groups, num_groups, _UNITS[method]
        )
    return merged[group], num_groups - num_merged_groups


def _strata(samples: Mapping[str, np.ndarray], method: str) -> np.ndarray:
    """What the sides should have like shares of: the rarest tag of each photo, or the class."""
    tags = samples.get("tags", [None] * len(samples["class_name"]))
    counts = Counter(tag for found in tags for tag in found or ())
    if counts:
        return np.array([min(found or ("",), key=lambda tag: (counts[tag], tag)) for found in tags])
    return np.full(len(tags), "") if method == "by_class" else samples["class_name"].astype(str)


def _same_scene(samples: Mapping[str, np.ndarray], near_duplicate_bits: int) -> np.ndarray:
    """Pairs of samples (P, 2) whose photos are the same file or near-duplicates; components as those of all such pairs."""
    order = np.argsort(samples["image_sha256"].astype(str), kind="stable")
    ordered = samples["image_sha256"].astype(str)[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    pairs = np.stack([order[same], order[same + 1]], axis=1)
    if near_duplicate_bits < 0:
        return pairs
    return np.concatenate([pairs, near_duplicate_pairs(samples["phash"], near_duplicate_bits)])


def _grouped_split(samples: Mapping[str, np.ndarray], config: SplitConfig) -> tuple[np.ndarray, int]:
    """The side of each sample, "none" for one that has no group, and how many groups were joined to another."""
    grouped = np.array([config.method != "by_class" or name is not None for name in samples["class_name"]])
    if not grouped.all():
        log.warning("split 'by_class': %d of %d samples have no class and are left out, or a class might be on two sides", (~grouped).sum(), len(grouped))
    if not grouped.any():
        raise SplitError("split 'by_class' keeps classes apart, but no sample has one; fill class_name (foodray import tags --dishes), or split by_photo")
    split = np.full(len(grouped), "none", dtype="<U5")
    split[grouped], num_merged = _divided({name: values[grouped] for name, values in samples.items()}, config)
    return split, num_merged


def _divided(samples: Mapping[str, np.ndarray], config: SplitConfig) -> tuple[np.ndarray, int]:
    groups, num_merged = merged_groups(samples, config.near_duplicate_bits, config.method)
    classes = _strata(samples, config.method)
    needed = max(config.test_folds, config.val_folds + 1)
    num_groups = len(np.unique(groups))
    if num_groups < needed:
        raise SplitError(
            f"the corpus has {num_groups} separate groups of {_UNITS[config.method]}, the split needs {needed}; "
            f"lower test_folds and val_folds, or add {_UNITS[config.method]}"
        )
    split = np.full(len(classes), "train", dtype="<U5")
    rest, test = _folds(classes, groups, config.test_folds, config.seed)[config.fold]
    split[test] = "test"
    _, val = _folds(classes[rest], groups[rest], config.val_folds, config.seed)[0]
    split[rest[val]] = "val"
    return _with_spared(split, classes, groups), num_merged


def _with_spared(split: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The split without groups on the validation side that training cannot spare; raises `SplitError` when none is left."""
    # A class that only validation would show is of more use in training: its groups go back.
    unseen = np.isin(classes, np.setdiff1d(classes[split == "val"], classes[split == "train"]))
    split[np.isin(groups, groups[unseen]) & (split == "val")] = "train"
    if not (split == "val").any():
        raise SplitError("no group can be spared for validation without losing a class; lower split.val_folds, or add participants")
    return split


def _folds(classes: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of whole groups with like shares of each class: the best of 20 draws at keeping no class to a single fold."""
    if (num_groups := len(np.unique(groups))) < folds:
        raise SplitError(f"{num_groups} separate groups are left for {folds} folds; lower val_folds, or add photos of others")
    labels = classes
    if np.unique(classes, return_counts=True)[1].max() < folds:
        labels = np.zeros(len(classes), np.int64)  # every class is too rare to be balanced, and sklearn would refuse

    def confined(division: list[tuple[np.ndarray, np.ndarray]]) -> int:
        return sum(len(np.setdiff1d(classes[test], classes[train])) for train, test in division)

    with warnings.catch_warnings():  # of classes with fewer samples than folds; the run reports the counts by class
        warnings.simplefilter("ignore", UserWarning)
        draws = (StratifiedGroupKFold(folds, shuffle=True, random_state=seed * 20 + draw) for draw in range(20))
        return min((list(splitter.split(labels, labels, groups)) for splitter in draws), key=confined)


def _random_split(count: int, config: SplitConfig) -> np.ndarray:
    order = np.random.default_rng(config.seed).permutation(count)
    num_test = count // config.test_folds
    num_val = (count - num_test) // config.val_folds
    split = np.full(count, "train", dtype="<U5")
    split[order[:num_test]] = "test"
    split[order[num_test : num_test + num_val]] = "val"
    return split


def _manifest_split(samples: Mapping[str, np.ndarray], config: SplitConfig) -> tuple[np.ndarray, int]:
    named = samples["split"].astype(str)
    split = np.where(np.isin(named, SPLIT_NAMES), named, "none").astype("<U5")
    for name in ("train", "test"):
        if not (split == name).any():
            raise SplitError(f"split 'manifest': no sample has split = {name!r} in the images table; fill the column, or use split.method = 'grouped'")
    if (split == "val").any():
        return split, 0
    groups, num_merged = merged_groups(samples, config.near_duplicate_bits)
    classes, train = _strata(samples, config.method), np.flatnonzero(split == "train")
    _, val = _folds(classes[train], groups[train], config.val_folds, config.seed)[0]
    split[train[val]] = "val"
    log.info("split 'manifest': the images table names no validation side, so %d of %d training samples, whole groups, are it", len(val), len(train))
    return _with_spared(split, classes, groups), num_merged


def check_leaks(samples: Mapping[str, np.ndarray], split: np.ndarray, config: SplitConfig) -> None:
    """Raise `SplitError` when a sample id, photo, file, near-duplicate or what the method keeps together is on two sides of the split."""
    for column in ("sample_id", "image_id", "image_sha256", *_KEPT_TOGETHER[config.method]):
        sides: dict[str, str] = {}
        for value, side in zip(samples[column].tolist(), split.tolist(), strict=True):
            if value is not None and sides.setdefault(value, side) != side:
                raise SplitError(f"{column} {value!r} is in both {sides[value]!r} and {side!r}; correct the split column so that each {column} has one side")
    pairs = _same_scene(samples, config.near_duplicate_bits)
    leaks = pairs[split[pairs[:, 0]] != split[pairs[:, 1]]]
    if len(leaks):
        left, right = leaks[0]
        bits = config.near_duplicate_bits
        raise SplitError(
            f"{len(leaks)} pairs of near-duplicate photos cross the split, first {samples['image_id'][left]!r} ({split[left]}) and "
            f"{samples['image_id'][right]!r} ({split[right]}); give their participants one side, or lower split.near_duplicate_bits ({bits})"
        )


def balance(class_names: np.ndarray, entries: np.ndarray, target: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Extra entries and their isometry codes so that each class comes near `target` (spec f.3).

    A class of n originals gets max(0, min(target, 6 n) - n) extras, drawn without replacement over (sample, operation).
    """
    rng = np.random.default_rng(seed)
    extra, codes = [np.empty(0, np.int64)], [np.empty(0, np.int8)]
    names = class_names[entries].astype(str)
    for name in np.unique(names) if target else []:
        originals = entries[names == name]
        count = max(0, min(target, NUM_ISOMETRIES * len(originals)) - len(originals))
        drawn = rng.choice(len(originals) * (NUM_ISOMETRIES - 1), size=count, replace=False)
        extra.append(originals[drawn // (NUM_ISOMETRIES - 1)])
        codes.append((drawn % (NUM_ISOMETRIES - 1) + 1).astype(np.int8))
    return np.concatenate(extra), np.concatenate(codes)
