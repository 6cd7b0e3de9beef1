"""Calibration of what is reported: probabilities by temperature, portions by conformal intervals, participants kept whole.

In: outputs of a network on a split it was not trained on, with truth and participant. Out: a `Calibration`, small plain numbers
that travel in the bundle. Items of one person resemble each other, so the split-conformal quantile is the one for data
grouped in people: each participant counts once, and the next participant is a new one (hierarchical conformal prediction,
Lee, Barber and Willett 2023). With few participants no honest interval exists at a high level; then there is none.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

ECE_BINS = 15
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted, on how much, and how well it fits there."""

    level: float | None = None
    """Nominal coverage of the intervals; None where there are none."""
    num_items: int
    """Items of the calibration side with a known truth."""
    num_participants: int
    """Participants of the calibration side."""
    temperature: float = 1.0
    """Divisor of the logits (Guo et al. 2017)."""
    nll_before: float | None = None
    """Mean negative log likelihood of the class with temperature 1."""
    nll_after: float | None = None
    """The same with the fitted temperature."""
    ece_before: float | None = None
    """Expected calibration error of the top class, 15 bins of equal width, with temperature 1."""
    ece_after: float | None = None
    """The same with the fitted temperature."""
    portion_halfwidth: float | None = None
    """Half width of an item's interval in network units; None where there are too few participants for the level."""
    day_halfwidth: float | None = None
    """Half width of a day total's interval in log1p units; None where there are too few participants with study days."""
    num_days: int = 0
    """Participant days that it rests on."""


def fit_temperature(logits_NC: Tensor, class_N: Tensor) -> float:
    """The temperature with the least negative log likelihood; 1 where there is nothing to fit on."""
    if not len(class_N):
        return 1.0
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(lambda log_t: float(nll(logits_NC, class_N, float(np.exp(log_t)))), bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def nll(logits_NC: Tensor, class_N: Tensor, temperature: float) -> float:
    """Mean negative log likelihood of the true classes."""
    return float(cross_entropy(logits_NC.double() / temperature, class_N))


def ece(logits_NC: Tensor, class_N: Tensor, temperature: float) -> float:
    """Expected calibration error of the top class (L1, 15 bins of equal width)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs_NC = (logits_NC.double() / temperature).softmax(1)
    return float(multiclass_calibration_error(probs_NC, class_N, num_classes=logits_NC.shape[1], n_bins=ECE_BINS, norm="l1"))


def group_quantile(score_N: np.ndarray, group_N: np.ndarray, level: float) -> float | None:
    """The score that a sample of a new group stays below with probability `level`, each group weighing the same.

    With K groups the next one has weight 1 / (K + 1) at infinity: None when `level` > K / (K + 1), for there is no finite answer.
    """
    groups, index_N, count_K = np.unique(group_N.astype(str), return_inverse=True, return_counts=True)
    if not len(groups) or level > len(groups) / (len(groups) + 1):
        return None
    order = np.argsort(score_N, kind="stable")
    weight_N = 1.0 / (count_K[index_N] * (len(groups) + 1))
    reached = np.cumsum(weight_N[order]) >= level - 1e-12
    return float(score_N[order][reached][0]) if reached.any() else None


def day_totals(value_N: np.ndarray, weight_N: np.ndarray, day_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days (D,) in order and the weighted sum of their items (D,), at least 0; items without a day are left out.

    Weights are those of `foodray.corpus.intake`: plus for what was served, minus for what was left.
    """
    has_day = np.array([bool(day) for day in day_N], bool)
    days, index = np.unique(day_N[has_day].astype(str), return_inverse=True)
    return days, np.maximum(np.bincount(index, value_N[has_day] * weight_N[has_day], len(days)), 0.0)


def day_scores(predicted_N: np.ndarray, truth_N: np.ndarray, weight_N: np.ndarray, day_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days (D,) of which every item's truth is known, and |log1p(predicted total) - log1p(true total)| (D,)."""
    known = np.isfinite(truth_N)
    broken = {day for day, here in zip(day_N, known, strict=True) if not here}
    whole = np.array([bool(day) and day not in broken for day in day_N], bool)
    days, predicted_D = day_totals(predicted_N[whole], weight_N[whole], day_N[whole])
    _, truth_D = day_totals(truth_N[whole], weight_N[whole], day_N[whole])
    return days, np.abs(np.log1p(predicted_D) - np.log1p(truth_D))


def top_class_ece(prob_N: np.ndarray, right_N: np.ndarray) -> float | None:
    """Expected calibration error of top-class probabilities (N,) whose class was right or not (N,); None without any."""
    from torchmetrics.functional.classification import binary_calibration_error

    if not len(prob_N):
        return None
    return float(binary_calibration_error(torch.from_numpy(prob_N.astype(np.float64)), torch.from_numpy(right_N.astype(np.int64)), n_bins=ECE_BINS, norm="l1"))


def coverage(inside_N: np.ndarray, people_N: np.ndarray) -> dict[str, float | int | None]:
    """Share of intervals that hold the truth: over items, and as the mean and least over participants, who weigh the same."""
    if not len(inside_N):
        return {"coverage": None, "coverage_participants": None, "coverage_least": None, "num_items": 0}
    _, index, counts = np.unique(people_N.astype(str), return_inverse=True, return_counts=True)
    share = np.bincount(index, inside_N) / counts
    return {"coverage": float(inside_N.mean()), "coverage_participants": float(share.mean()), "coverage_least": float(share.min()), "num_items": len(inside_N)}
