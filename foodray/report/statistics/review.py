"""Which photos are worth a dietitian's look: those whose coding is likely to move the most energy.

In: one row an item of a run. Out: of each photo the kcal that coding it may move, with the reason, the most first.

    worth of an item = (doubt of portion + (1 - class_prob) * energy) * (1 + 0.5 for each flag),    summed over the items of a photo

The doubt of portion, in kcal, is half the width of the interval where there is one, else the spread of the energies that the top-k classes would
give (standard deviation by their probabilities), else nothing. A class that is wrong puts the whole energy in doubt. An item of unknown energy
is worth the mean energy of the others, in full. A heuristic: it orders photos, it is no estimate of an error.

Photos taken from the top of this list are chosen, not drawn: a mean from their truths is biased, and the prediction-powered mean with
them too. `draw_chances` turns the worths into chances above zero instead, under which both stay valid (selection "probability").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PER_FLAG = 0.5
"""What each flag adds to an item's worth, as a share of it."""
METHOD = (
    "sum over a photo's items of (half the interval, else the spread of the top-k energies, + (1 - class_prob) x energy) x (1 + 0.5 per flag), in kcal; "
    "photos taken from its top are chosen, not drawn: no mean may be taken from them alone"
)
"""How the ranking is made."""


@dataclass(frozen=True, kw_only=True)
class ReviewRanking:
    """Photos by what their review is worth; one entry a photo in every array, the most worth first, ties by photo."""

    image_id: NDArray[Any]
    """Photos with an item."""
    worth_kcal: Floats
    """Energy that coding may move."""
    portion_kcal: Floats
    """Part of it that is doubt of portion."""
    class_kcal: Floats
    """Part of it that is doubt of class."""
    energy_kcal: Floats
    """Energy of the photo's items as far as it is known."""
    num_items: NDArray[np.int64]
    """Its items."""
    reason: NDArray[Any]
    """What weighs most: portion, class or energy_unknown, and the flags of its items behind it."""


def review_ranking(
    image_id: NDArray[Any],
    energy_kcal: NDArray[Any],
    *,
    low_kcal: NDArray[Any] | None = None,
    high_kcal: NDArray[Any] | None = None,
    class_prob: NDArray[Any] | None = None,
    topk_energy_kcal: NDArray[Any] | None = None,
    topk_prob: NDArray[Any] | None = None,
    flags: Sequence[Sequence[str]] | None = None,
) -> ReviewRanking:
    """The ranking, from items (N,): the photo, the energy (nan: unknown), its interval (nan: none), the probability of its class (nan: unknown, taken as 0),
    the energies (N, K) that the top-k classes would give with their probabilities (N, K) (nan: no such class), and the flags."""
    energy = np.asarray(energy_kcal, dtype=np.float64)
    names, of_photo = np.unique(np.asarray(image_id).astype(str), return_inverse=True)
    known = np.isfinite(energy)
    usual = float(np.abs(energy[known]).mean()) if known.any() else 1.0
    portion = _portion(len(energy), low_kcal, high_kcal, topk_energy_kcal, topk_prob)
    doubt = 1 - (np.ones(len(energy)) if class_prob is None else np.clip(np.nan_to_num(np.asarray(class_prob, dtype=np.float64)), 0, 1))
    raised = 1 + PER_FLAG * np.array([len(words) for words in flags] if flags is not None else np.zeros(len(energy)))
    parts = {
        "portion": np.where(known, portion, 0.0) * raised,
        "class": np.where(known, doubt * np.abs(energy), 0.0) * raised,
        "energy_unknown": np.where(known, 0.0, usual) * raised,
    }
    sums: dict[str, Floats] = {name: np.bincount(of_photo, values, minlength=len(names)).astype(np.float64) for name, values in parts.items()}
    worth: Floats = np.sum(list(sums.values()), axis=0)
    order = np.lexsort((names, -worth))
    return ReviewRanking(
        image_id=names[order],
        worth_kcal=worth[order],
        portion_kcal=sums["portion"][order],
        class_kcal=sums["class"][order],
        energy_kcal=np.bincount(of_photo, np.where(known, energy, 0.0), minlength=len(names)).astype(np.float64)[order],
        num_items=np.bincount(of_photo, minlength=len(names))[order],
        reason=_reasons(sums, of_photo, flags)[order],
    )


def draw_chances(worth: NDArray[Any], num: int, *, floor: float = 0.1) -> Floats:
    """Chances (N,) with which to draw `num` photos in expectation: in proportion to worth, mixed with a share `floor` of equal chances, at most 1.

    A chance above zero for all keeps means from the drawn photos valid; a floor keeps weights from growing without bound. Raises `ValueError` for
    `num` outside 1 to N or a floor outside 0 to 1.
    """
    worth = np.maximum(np.nan_to_num(np.asarray(worth, dtype=np.float64)), 0.0)
    if not 1 <= num <= len(worth) or not 0 < floor <= 1:
        raise ValueError(f"{num} photos of {len(worth)} with floor {floor}: draw 1 to {len(worth)}, with a floor above 0 to 1")
    total = worth.sum()
    share = floor / len(worth) + (1 - floor) * (worth / total if total > 0 else np.full(len(worth), 1 / len(worth)))
    chance = np.zeros(len(worth))
    for _ in range(len(worth)):  # what is cut at 1 goes to the others; each round fills at least one more
        free = chance < 1
        left = num - np.count_nonzero(~free)
        chance[free] = left * share[free] / share[free].sum() if free.any() else 1.0
        if not (chance > 1).any():
            break
        chance = np.minimum(chance, 1.0)
    return chance


def _portion(num: int, low: NDArray[Any] | None, high: NDArray[Any] | None, topk: NDArray[Any] | None, prob: NDArray[Any] | None) -> Floats:
    """Doubt of portion (N,) in kcal."""
    spread = np.zeros(num)
    if topk is not None and prob is not None:
        values, weight = np.asarray(topk, dtype=np.float64), np.asarray(prob, dtype=np.float64)
        weight = np.where(np.isfinite(values) & (weight > 0), weight, 0.0)
        total = np.maximum(weight.sum(axis=1), 1e-12)
        values = np.nan_to_num(values)
        mean = (weight * values).sum(axis=1) / total
        spread = np.sqrt((weight * (values - mean[:, None]) ** 2).sum(axis=1) / total)
    if low is None or high is None:
        return spread
    half = (np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64)) / 2
    return np.where(np.isfinite(half), np.maximum(half, 0.0), spread)


def _reasons(sums: dict[str, Floats], of_photo: NDArray[np.int64], flags: Sequence[Sequence[str]] | None) -> NDArray[Any]:
    most = np.array(list(sums))[np.argmax(np.stack(list(sums.values())), axis=0)]
    words: list[set[str]] = [set() for _ in most]
    for photo, found in zip(of_photo, flags or (), strict=False):
        words[photo].update(found)
    return np.array([", ".join([name, *sorted(found)]) for name, found in zip(most, words, strict=True)], dtype=object)
