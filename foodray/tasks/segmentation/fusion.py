"""Class-free masks give a semantic map their edges (FoodSAM, Lan et al. 2023, semantic enhancement).

In: what a segmenter says of every pixel, labels or probabilities, and mask proposals. Out: the map in which every
sufficiently pure mask is painted with the class its pixels vote for, and a record of every mask with the reason why it was
left out. Nothing is trained.

The hard vote is the published procedure, with its purity taken from counts of pixels: the published code rounds it to two
decimals first and so lets 0.495 pass 0.5. The soft vote and the uncertain map are interpretations of ours [I].

C classes, H by W pixels, M masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.proposals import MaskRecord

VOTES = ("hard", "soft")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How masks vote. The defaults of hard, top_k, area_thr and ratio_thr are FoodSAM's."""

    vote: Literal["hard", "soft"] = "hard"
    """"hard" counts the labels inside a mask; "soft" takes the mean of the probabilities inside it and needs probabilities."""
    top_k: int = 80
    """Only this many masks, the largest, are considered."""
    area_thr: float = 0.0
    """Masks that cover less than this share of the photo are left out."""
    ratio_thr: float = 0.5
    """Masks of lower purity (share of the mask's pixels that vote for its class; soft: mean probability of it) are left out."""
    confidence_thr: float = 0.5
    """A pixel of an impure mask is uncertain where its highest probability is below this."""

    def __post_init__(self) -> None:
        choose("vote", self.vote, VOTES)
        if self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k} must be at least 1")
        for name in ("area_thr", "ratio_thr", "confidence_thr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must lie in 0–1")


@dataclass(frozen=True, kw_only=True)
class FusedMask:
    """What became of one proposal; `index` is its place in the list that was given.

    `purity` and `area_share` lie in 0-1. `reason` is empty when it was kept, otherwise "beyond top_k", "area" or "purity".
    """

    index: int
    area_px: int
    category_id: int
    purity: float
    area_share: float
    kept: bool
    reason: Literal["", "beyond top_k", "area", "purity"]


@dataclass(frozen=True, eq=False)
class FusedMap:
    """The fused map: labels (H, W) int32, one record per proposal in painting order (largest first), and a bool map of the
    pixels nobody is sure of: in an impure mask, of low confidence, and not painted by a smaller mask. Their labels are unchanged."""

    label_HW: NDArray[np.int32]  # noqa: N815
    masks: list[FusedMask]
    uncertain_HW: NDArray[np.bool_]  # noqa: N815

    def kept(self, proposals: Sequence[MaskRecord]) -> list[MaskRecord]:
        """Of the proposals that were fused, those painted, in painting order."""
        return [proposals[mask.index] for mask in self.masks if mask.kept]

    def rows(self, names: Mapping[int, str] | Sequence[str]) -> list[dict[str, Any]]:
        """The records as plain dicts with `category_name`, for JSON or a table; a name may hold commas."""
        return [{**asdict(mask), "category_name": names[mask.category_id]} for mask in self.masks]


def fuse(scores: NDArray[Any], proposals: Sequence[MaskRecord], config: FusionConfig) -> FusedMap:
    """The map after every pure mask has painted its class, larger masks first, so that smaller ones win; 0 is painted like any class.

    `scores` is either a label map (H, W) of integers, any ids, or probabilities (C, H, W) of floats in 0-1 that sum to 1 over C;
    then the label is the most probable class, of equals the lowest. Without probabilities nothing is uncertain. A mask's class
    is that of most of its pixels, of equals the lowest id. Masks of equal area keep their order. No masks: the map unchanged.
    Raises `ConfigError` for a soft vote without probabilities, `ValueError` for shapes that do not fit.
    """
    prob_CHW = scores if scores.ndim == 3 else None
    label_HW = _labels(scores)
    _check_masks(proposals, label_HW.shape)
    if config.vote == "soft" and prob_CHW is None:
        raise ConfigError("vote = 'soft' needs probabilities (C, H, W), and a label map was given; give probabilities or set vote = 'hard'")
    low_HW = np.zeros(label_HW.shape, bool) if prob_CHW is None else prob_CHW.max(axis=0) < config.confidence_thr
    vote = _Soft(prob_CHW) if prob_CHW is not None and config.vote == "soft" else _Hard(label_HW)
    fused_HW, uncertain_HW, masks = label_HW.copy(), np.zeros(label_HW.shape, bool), []
    for place, index in enumerate(sorted(range(len(proposals)), key=lambda index: -proposals[index].area_px)):
        mask = _judge(index, place, proposals[index], vote, config)
        masks.append(mask)
        window, inside = window_of(proposals[index])
        if mask.kept:
            fused_HW[window][inside] = mask.category_id
            uncertain_HW[window][inside] = False
        elif mask.reason == "purity":
            uncertain_HW[window] |= inside & low_HW[window]
    return FusedMap(fused_HW, masks, uncertain_HW)


def at_least(part: int, whole: int, share: float) -> bool:
    """Whether part / whole >= share, in integers: 0.495 is not 0.5, and 55 of 100 is 0.55."""
    exact = Fraction(str(share))
    return part * exact.denominator >= exact.numerator * whole


class _Hard:
    """The class of most pixels."""

    def __init__(self, label_HW: NDArray[np.int32]) -> None:
        self.id_K, code_HW = np.unique(label_HW, return_inverse=True)
        self.code_HW = code_HW.reshape(label_HW.shape)

    def __call__(self, record: MaskRecord, least: float) -> tuple[int, float, bool]:
        """Class, purity, and whether the purity is enough."""
        window, inside = window_of(record)
        count_K = np.bincount(self.code_HW[window][inside], minlength=len(self.id_K))
        best, total = int(count_K.argmax()), int(count_K.sum())
        return int(self.id_K[best]), float(count_K[best] / total), at_least(int(count_K[best]), total, least)


class _Soft:
    """The class of the highest mean probability."""

    def __init__(self, prob_CHW: NDArray[Any]) -> None:
        self.prob_CHW = prob_CHW

    def __call__(self, record: MaskRecord, least: float) -> tuple[int, float, bool]:
        """Class, purity, and whether the purity is enough."""
        window, inside = window_of(record)
        mean_C = self.prob_CHW[:, *window][:, inside].mean(axis=1, dtype=np.float64)
        best = int(mean_C.argmax())
        return best, float(mean_C[best]), bool(mean_C[best] >= least)


def _judge(index: int, place: int, record: MaskRecord, vote: _Hard | _Soft, config: FusionConfig) -> FusedMask:
    category_id, purity, pure = vote(record, config.ratio_thr)
    num_pixels = record.mask_HW.size
    reason: Literal["", "beyond top_k", "area", "purity"] = ""
    if place >= config.top_k:
        reason = "beyond top_k"
    elif not at_least(record.area_px, num_pixels, config.area_thr):
        reason = "area"
    elif not pure:
        reason = "purity"
    share = record.area_px / num_pixels
    return FusedMask(index=index, area_px=record.area_px, category_id=category_id, purity=purity, area_share=share, kept=not reason, reason=reason)


def window_of(record: MaskRecord) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The rows and columns of a mask's box, and the mask inside it: what is outside need not be read."""
    left, top, width, height = record.box_xywh
    window = slice(top, top + height), slice(left, left + width)
    return window, record.mask_HW[window]


def _labels(scores: NDArray[Any]) -> NDArray[np.int32]:
    if scores.ndim == 3 and np.issubdtype(scores.dtype, np.floating):
        return np.asarray(scores.argmax(axis=0), np.int32)
    if scores.ndim == 2 and np.issubdtype(scores.dtype, np.integer):
        return np.asarray(scores, np.int32)
    raise ValueError(f"fusion needs labels (H, W) in integers or probabilities (C, H, W) in floats, not {scores.shape} in {scores.dtype}")


def _check_masks(proposals: Sequence[MaskRecord], shape: tuple[int, ...]) -> None:
    for index, record in enumerate(proposals):
        if record.mask_HW.shape != shape:
            raise ValueError(f"proposal {index} is {record.mask_HW.shape}, the map {shape}; propose and segment at the same size, or resize the masks first")
        if not record.area_px:
            raise ValueError(f"proposal {index} is empty; an empty mask is no proposal")
