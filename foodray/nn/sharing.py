"""The soft-sharing distance of He et al. 2020, equation 2: sum over parameters of (p_c - p_r)^2."""

from typing import Any

import torch
from torch import Tensor, nn


class _SquaredDistance(torch.autograd.Function):
    """Sum of squared differences of two parameter lists with multi-tensor kernels, and its gradient 2 (a - b)."""

    @staticmethod
    def forward(ctx: Any, half: int, *parameters: Tensor) -> Tensor:
        differences = torch._foreach_sub(parameters[:half], parameters[half:])
        ctx.save_for_backward(*differences)
        return torch.stack(torch._foreach_norm(differences)).square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left = torch._foreach_mul(ctx.saved_tensors, 2 * gradient)
        return (None, *left, *torch._foreach_neg(left))


class SharingDistance(nn.Module):
    """Squared distance between the same parameters of two networks; `reduction` "sum" as published, or "mean" per parameter.

    One multi-tensor call whatever the number of parameters. It holds references, not copies, and adds nothing to the state.
    """

    def __init__(self, left: nn.Module, right: nn.Module, names: list[str], reduction: str) -> None:
        super().__init__()
        self._pairs = [(left.get_parameter(name), right.get_parameter(name)) for name in names]
        self._divisor = sum(a.numel() for a, _ in self._pairs) if reduction == "mean" else 1

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharingDistance":
        twin = SharingDistance.__new__(SharingDistance)
        nn.Module.__init__(twin)
        memo[id(self)] = twin
        twin._divisor = self._divisor
        twin._pairs = [(memo.get(id(a), a), memo.get(id(b), b)) for a, b in self._pairs]
        return twin

    def forward(self) -> Tensor:
        """The distance, a scalar."""
        left, right = zip(*self._pairs, strict=True)
        return _SquaredDistance.apply(len(left), *left, *right) / self._divisor  # type: ignore[no-any-return]
