"""Losses and rules for classes of very different size, as functions of the number of training samples of each class.

In: logits (B, C) and counts (C,). A class without a sample has a count of 0; it is never predicted (`NEVER`), whatever its weights say.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

NEVER = -1e4
"""A logit that stands for a probability of zero and is still a finite number."""
GATE_NEVER = -30.0
"""A log probability for what a hard gate has ruled out: small, and still of a size that a temperature can be fitted to."""


def log_prior(counts_C: Tensor) -> Tensor:
    """log(n_j / n), (C,); `NEVER` for a class without a sample."""
    share_C = counts_C.double() / counts_C.sum()
    return torch.where(counts_C > 0, share_C.clamp_min(1e-12).log(), NEVER).float()


def largest_margin(counts_C: Tensor, largest: float) -> Tensor:
    """Margins of LDAM (C,), proportional to n_j^(-1/4), that of the rarest class with a sample `largest` (Cao et al. 2019, equation 13)."""
    margin_C = torch.where(counts_C > 0, counts_C.clamp_min(1).double() ** -0.25, 0.0)
    return (margin_C * (largest / margin_C.max())).float()


def effective_weights(counts_C: Tensor, beta: float) -> Tensor:
    """Class weights (C,) proportional to (1 - beta) / (1 - beta^n_j), their mean over the classes with a sample 1 (Cui et al. 2019; the re-weighting
    of LDAM-DRW); 0 for a class without one."""
    weight_C = torch.where(counts_C > 0, (1 - beta) / (1 - beta ** counts_C.clamp_min(1).double()), 0.0)
    return (weight_C * ((counts_C > 0).sum() / weight_C.sum())).float()


COSINE_SCALE = 30.0
"""Length of the logits of a `CosineHead` (s of Cao et al. 2019)."""


class CosineHead(nn.Module):
    """A linear layer whose logits are `scale` times the cosine of feature and class weight: what LDAM's margins are made for."""

    def __init__(self, num_features: int, num_classes: int, *, scale: float = COSINE_SCALE) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform directions."""
        nn.init.normal_(self.weight)

    def forward(self, features_BD: Tensor) -> Tensor:
        """`logits_BC`, between -scale and scale."""
        return self.scale * linear(normalize(features_BD, dim=1), normalize(self.weight, dim=1))
