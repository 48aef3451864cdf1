"""The MLP of two families: a tanh-GELU between two matrices."""

from __future__ import annotations

import torch
from torch import nn


class GeluMLP(nn.Module):
    """`down_proj(gelu(c_fc(x)))`, GELU by its tanh approximation.

    Args:
        width: of what goes in and out.
        n_intermediate: width inside.
        bias: both matrices have one.
    """

    def __init__(self, width: int, n_intermediate: int, *, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, n_intermediate, bias=bias)
        self.gelu = nn.GELU(approximate="tanh")
        self.down_proj = nn.Linear(n_intermediate, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        return self.down_proj(self.gelu(self.c_fc(x)))  # type: ignore[no-any-return]
