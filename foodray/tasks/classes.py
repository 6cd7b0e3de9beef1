"""What families that name one class a sample share: ids and names, prediction columns, and the calibration of probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foodray.tasks.calibration import ece, fit_temperature, nll


def class_ids(names_N: np.ndarray, labels: Sequence[str]) -> Tensor:
    """Place of each name among the labels, int64 (N,); -1 for one that is none of them."""
    ids = {name: index for index, name in enumerate(labels)}
    return torch.tensor([ids.get(name, -1) for name in names_N], dtype=torch.int64)


def class_columns(logits_BC: Tensor, labels: Sequence[str], temperature: float) -> dict[str, np.ndarray]:
    """class_id, class_name, class_prob, and the five likeliest: topk_class_name and topk_prob (N, 5 or C)."""
    top = (logits_BC.float() / temperature).softmax(1).topk(min(5, len(labels)), dim=1)
    ids_BK, probs_BK = top.indices.cpu().numpy(), top.values.cpu().numpy()
    names_BK = np.array(labels, dtype=object)[ids_BK]
    columns = {"class_id": ids_BK[:, 0].astype(np.int32), "class_name": names_BK[:, 0], "class_prob": probs_BK[:, 0]}
    return {**columns, "topk_class_name": names_BK, "topk_prob": probs_BK}


def calibrated_classes(logits_NC: Tensor, class_N: Tensor) -> dict[str, Any]:
    """The fields of `Calibration` about classes: temperature, and log likelihood and calibration error before and after; -1 is no class."""
    logits_NC, class_N = logits_NC[class_N >= 0].double(), class_N[class_N >= 0]
    temperature = fit_temperature(logits_NC, class_N)
    fitted: dict[str, Any] = {"temperature": temperature}
    if len(class_N):
        fitted |= {f"{name}_before": measure(logits_NC, class_N, 1.0) for name, measure in (("nll", nll), ("ece", ece))}
        fitted |= {f"{name}_after": measure(logits_NC, class_N, temperature) for name, measure in (("nll", nll), ("ece", ece))}
    return fitted


def most_frequent(train_N: np.ndarray, test_N: np.ndarray) -> tuple[str, np.ndarray]:
    """The most frequent class of the training names, and which of the test names that are known it is right for."""
    known = [names[names != None] for names in (train_N, test_N)]  # noqa: E711
    names, counts = np.unique(known[0].astype(str), return_counts=True)
    return str(names[counts.argmax()]), known[1] == names[counts.argmax()]
