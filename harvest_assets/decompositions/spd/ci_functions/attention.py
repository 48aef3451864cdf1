"""Attention between all positions of a row, and the norms, of global CI functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from harvest_assets.decompositions.spd.ci_functions.linear_maps import Shapes

_EPSILON = 1.1920929e-07
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def rms(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """X / sqrt(mean(x^2) + e), times the weight if there is one; over the last dimension."""
    return rms_norm(x, x.shape[-1:], weight, _EPSILON)


class RowAttention:
    """Bidirectional softmax attention with rotary positions: [B, S, width] -> the same.

    Heads are consecutive blocks of the width. Queries and keys of position p are rotated by
    p * inv_freq[i], feature i of a head's first half against feature i of its second.

    Args:
        prefix: of its weights' names.
        n_heads: heads.
        weights: of the CI function, by name.
    """

    def __init__(self, prefix: str, n_heads: int, weights: Mapping[str, torch.Tensor]) -> None:
        self._q, self._k, self._v, self._out = (
            weights[f"{prefix}{name}.weight"] for name in _PROJECTIONS
        )
        self._inv_freq = weights[f"{prefix}rope.inv_freq"]
        self._n_heads = n_heads

    @staticmethod
    def shapes(prefix: str, width: int, n_heads: int) -> Shapes:
        """The shape of each weight, by name."""
        shapes: Shapes = {f"{prefix}{name}.weight": (width, width) for name in _PROJECTIONS}
        return shapes | {f"{prefix}rope.inv_freq": (width // n_heads // 2,)}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        heads = (*x.shape[:2], self._n_heads, -1)
        q, k, v = ((x @ w.T).view(heads).transpose(1, 2) for w in (self._q, self._k, self._v))
        positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angles = torch.outer(positions, self._inv_freq)
        cos, sin = angles.cos(), angles.sin()  # float32 under autocast too
        attended = scaled_dot_product_attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        return attended.transpose(1, 2).reshape(x.shape) @ self._out.T


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
