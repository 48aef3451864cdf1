"""From pre-activations [B, S, n] to activations of latents: zero where a latent does not fire.

Each is a function of one row of tokens, so that the result of a harvest does not depend on which
rows are computed together. Among equal values, those at lower positions, then of lower latents,
are taken.
"""

from __future__ import annotations

import torch
from torch import nn


class ReLU(nn.Module):
    """Pre-activations above zero."""

    rule = "positive"

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return pre.relu()


class JumpReLU(nn.Module):
    """Pre-activations above the threshold of their latent, and above zero.

    Args:
        threshold: float [n], or [] for one that all latents share.
    """

    threshold: torch.Tensor
    rule = "above the trained threshold"

    def __init__(self, threshold: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return pre.relu() * (pre > self.threshold)


class Gated(nn.Module):
    """Magnitudes of the latents whose gate is open.

    Args:
        b_gate: float [n], bias of the gate.
        r_mag: float [n], logarithm of a latent's magnitude scale.
        b_mag: float [n], bias of the magnitude.
    """

    b_gate: torch.Tensor
    scale: torch.Tensor
    b_mag: torch.Tensor
    rule = "gate open"

    def __init__(self, b_gate: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("b_gate", b_gate)
        self.register_buffer("scale", r_mag.exp())
        self.register_buffer("b_mag", b_mag)

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[..., n], without a bias, -> [..., n]."""
        magnitude = (pre * self.scale + self.b_mag).relu()
        return magnitude * (pre + self.b_gate > 0)


class TopK(nn.Module):
    """The k largest positive pre-activations of each position."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.rule = f"the {k} largest of each position"

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return largest(pre.relu(), self.k)


class RowTopK(nn.Module):
    """The k x S largest positive pre-activations of each row of S positions."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self.rule = f"the {k:g} x S largest of each row of S tokens"

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[B, S, n] -> [B, S, n]."""
        k = int(self.k * pre.shape[1])
        return largest(pre.relu().flatten(1), k).view_as(pre)


class GroupMax(nn.Module):
    """The largest positive pre-activation of each of k groups of neighbouring latents."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.rule = f"the largest of each of {k} groups of latents"

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]; k divides n."""
        return largest(pre.relu().view(*pre.shape[:-1], self.k, -1), 1).flatten(-2)


def largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest along the last dimension, zero elsewhere.

    Args:
        values: float [..., n], none negative.
        k: from 0 on; n at most counts.
    """
    k = min(k, values.shape[-1])
    if k == 0:
        return torch.zeros_like(values)
    smallest = values.topk(k, dim=-1).values[..., -1:]
    above, equal = values > smallest, (values == smallest) & (smallest > 0)
    room = k - above.sum(-1, keepdim=True)
    if (equal.sum(-1, keepdim=True) > room).any():
        equal &= equal.cumsum(-1, dtype=torch.int32) <= room
    return values * (above | equal)
