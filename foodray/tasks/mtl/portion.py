"""What is known of a portion without a network: the size of its box as an input, and the trivial predictors."""

import numpy as np

from foodray.tasks.base import Rows
from foodray.tasks.mtl.config import UNITS


def scale_features(extent_w_mm: np.ndarray, extent_h_mm: np.ndarray, size_mean: float) -> np.ndarray:
    """Size of the box as the network sees it, float32 (N, 3): log of its side in dm less `size_mean`, log of its elongation,
    known or not.

    Unchanged by quarter turns and mirrors, as the portion is. Zero, a box of mean size, where no marker gave the scale.
    """
    known = np.isfinite(extent_w_mm) & np.isfinite(extent_h_mm) & (extent_w_mm > 0) & (extent_h_mm > 0)
    width, height = np.where(known, extent_w_mm, 100.0), np.where(known, extent_h_mm, 100.0)
    side = np.where(known, np.log(np.sqrt(width * height) / 100.0) - size_mean, 0.0)
    return np.stack([side, np.abs(np.log(width / height)), known], axis=1).astype(np.float32)


def portion_baselines(train: Rows, test: Rows, predicted: Rows, target: str) -> dict[str, dict[str, float]]:
    """MAE and EP of predictors that know only the training portions; the class is the true one, or the predicted one."""
    unit = UNITS[target]
    known = np.isfinite(train[target])
    values, names = train[target][known], train["class_name"][known]
    medians = {name: float(np.median(values[names == name])) for name in set(names) - {None}}
    overall = float(np.median(values))

    def by_class(class_names: np.ndarray) -> np.ndarray:
        return np.array([medians.get(name, overall) for name in class_names])

    guesses = {
        "mean": np.full(len(test[target]), values.mean()),
        "median": np.full(len(test[target]), overall),
        "class median, true class given": by_class(test["class_name"]),
    }
    if "class_name" in predicted:
        guesses["class median of the predicted class"] = by_class(predicted["class_name"])
    scored = np.isfinite(test[target])
    truth = test[target][scored]
    return {
        name: {f"mae_{unit}": float(np.abs(guess[scored] - truth).mean()), "ep_item": float(np.abs(guess[scored] - truth).sum() / truth.sum())}
        for name, guess in guesses.items()
    }
