"""From logits to tags: calibrated probabilities and the thresholds that are tuned on the validation side and travel in the bundle."""

from dataclasses import dataclass

import numpy as np

from foodray.tasks.calibration import top_class_ece

CANDIDATES = np.arange(1, 100) / 100


@dataclass(frozen=True, kw_only=True)
class TagCalibration:
    """What was fitted, on how much, and how well it fits there."""

    num_photos: int
    """Photos of the validation side."""
    slope: float = 1.0
    """Factor on the logits (Platt scaling over all tags together)."""
    shift: float = 0.0
    """What is added to them then; losses that weigh tags unequally need it."""
    one: float = 0.5
    """The common threshold."""
    per_tag: tuple[float, ...] = ()
    """One threshold a tag; the common one for tags too rare to have their own."""
    num_positives: tuple[int, ...] = ()
    """Photos of the validation side with each tag."""
    ece_before: float | None = None
    """Calibration error of all probabilities before the scaling, 15 bins of equal width."""
    ece_after: float | None = None
    """The same after it."""
    sample_f1_half: float | None = None
    """Sample-F1 on the validation side with thresholds of a half."""
    sample_f1_one: float | None = None
    """The same with the common threshold, which was chosen there."""
    sample_f1_per_tag: float | None = None
    """The same with one threshold a tag, which were chosen there."""


def sample_f1(given_NT: np.ndarray, truth_NT: np.ndarray) -> np.ndarray:
    """F1 of each photo, (N,): 2 |Y and Z| / (|Y| + |Z|); 1 where a photo neither has nor is given a tag."""
    both_N, sizes_N = (given_NT & truth_NT).sum(1), given_NT.sum(1) + truth_NT.sum(1)
    return np.where(sizes_N > 0, 2 * both_N / np.maximum(sizes_N, 1), 1.0)


def fit(logits_NT: np.ndarray, truth_NT: np.ndarray, *, min_positives: int) -> TagCalibration:
    """Scaling and thresholds for the logits and truth (bool) of photos that no weight was trained on."""
    slope, shift = _platt(logits_NT.ravel(), truth_NT.ravel())
    raw_NT, prob_NT = sigmoid(logits_NT), sigmoid(slope * logits_NT + shift)
    scores = [sample_f1(prob_NT >= threshold, truth_NT).mean() for threshold in CANDIDATES]
    one = _middle_of_best(np.array(scores))
    num_T = truth_NT.sum(0)
    per_tag = np.array([_best_for(prob_NT[:, tag], truth_NT[:, tag]) if num_T[tag] >= min_positives else one for tag in range(truth_NT.shape[1])])
    return TagCalibration(
        num_photos=len(logits_NT),
        slope=slope,
        shift=shift,
        one=one,
        per_tag=tuple(per_tag.tolist()),
        num_positives=tuple(int(num) for num in num_T),
        ece_before=top_class_ece(raw_NT.ravel(), truth_NT.ravel()),
        ece_after=top_class_ece(prob_NT.ravel(), truth_NT.ravel()),
        sample_f1_half=float(sample_f1(prob_NT >= 0.5, truth_NT).mean()),
        sample_f1_one=float(sample_f1(prob_NT >= one, truth_NT).mean()),
        sample_f1_per_tag=float(sample_f1(prob_NT >= per_tag, truth_NT).mean()),
    )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, whatever the size of the logits."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))


def _platt(logits_M: np.ndarray, truth_M: np.ndarray) -> tuple[float, float]:
    """Slope and shift with the least log loss; 1 and 0 where that would not rise with the logits, or nothing can be fitted."""
    from sklearn.linear_model import LogisticRegression

    if truth_M.all() or not truth_M.any() or not np.isfinite(logits_M).all():
        return 1.0, 0.0
    fitted = LogisticRegression(C=1e6).fit(logits_M.reshape(-1, 1).astype(np.float64), truth_M)
    slope = float(fitted.coef_[0, 0])
    return (slope, float(fitted.intercept_[0])) if slope > 0 else (1.0, 0.0)


def _best_for(prob_N: np.ndarray, truth_N: np.ndarray) -> float:
    """The threshold with the highest F1 of one tag."""
    given_KN = prob_N >= CANDIDATES[:, None]
    both_K = (given_KN & truth_N).sum(1)
    return _middle_of_best(2 * both_K / np.maximum(given_KN.sum(1) + truth_N.sum(), 1))


def _middle_of_best(scores_K: np.ndarray) -> float:
    """The candidate in the middle of the first stretch with the highest score."""
    best = np.flatnonzero(scores_K >= scores_K.max() - 1e-12)
    first = best[: 1 + int(np.argmax(np.append(np.diff(best), 2) > 1))]
    return float(CANDIDATES[first[(len(first) - 1) // 2]])
