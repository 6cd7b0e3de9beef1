"""Metrics of the multi-task paper that the field's library does not have, as torchmetrics metrics.

Their states are sums and counts in float64 that add up over ranks, so a value does not depend on the number of workers.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

PAPER_CONSTANT = 4.19
"""The constant with which equation 9 reproduces the printed MCCR of Table 1; the paper states C = 1 (erratum 1)."""


class CorrectPortionError(Metric):
    """MAE over correctly classified samples, and MCCR (He et al. 2020, equation 9).

    MCCR = C * sum_{i in I} |w_i - t_i| / |I|^2 with I the correctly classified. It shrinks as the test set grows, so C,
    |I| and N are always reported with it and values of different test sets are never compared; `mae_per_accuracy` =
    MAE_correct / (|I| / N) is its companion that does not depend on N. All are nan when I is empty.
    """

    full_state_update = False
    absolute: Tensor
    correct: Tensor
    total: Tensor

    def __init__(self, *, constant: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.constant = constant
        for name in ("absolute", "correct", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, portion_B: Tensor, truth_B: Tensor, is_correct_B: Tensor) -> None:
        """Add predicted and true portions (B,) in reported units, and whether each class was right (B,) bool."""
        self.absolute += ((portion_B - truth_B).abs().double() * is_correct_B).sum()
        self.correct += is_correct_B.sum()
        self.total += truth_B.numel()

    def compute(self) -> dict[str, Tensor]:
        """mae_correct, mccr, mccr_constant, num_correct, num_both and mae_per_accuracy."""
        nan = torch.full_like(self.absolute, torch.nan)
        mae = torch.where(self.correct > 0, self.absolute / self.correct, nan)
        return {
            "mae_correct": mae,
            "mccr": self.constant * mae / self.correct,
            "mccr_constant": torch.full_like(mae, self.constant),
            "num_correct": self.correct,
            "num_both": self.total,
            "mae_per_accuracy": mae * self.total / self.correct,
        }


class MeanError(Metric):
    """Mean of prediction minus truth: the bias, in reported units."""

    full_state_update = False
    error: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, portion_B: Tensor, truth_B: Tensor) -> None:
        """Add predicted and true portions (B,)."""
        self.error += (portion_B - truth_B).double().sum()
        self.total += truth_B.numel()

    def compute(self) -> Tensor:
        """The bias."""
        return self.error / self.total
