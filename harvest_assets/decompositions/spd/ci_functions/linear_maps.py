"""Linear maps with exact GELU between them, as several kinds of CI functions have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch.nn.functional import gelu

Shapes = dict[str, tuple[int, ...]]


class LinearMaps:
    """`x W + b` for each pair of widths, GELU between: [..., widths[0]] -> [..., widths[-1]].

    Weights are named `<prefix><2n>.W` [in, out] and `<prefix><2n>.b` [out].

    Args:
        prefix: before the numbers of the maps.
        widths: of the input, between the maps, and of the output.
        weights: of the CI function, by name.
    """

    def __init__(
        self, prefix: str, widths: Sequence[int], weights: Mapping[str, torch.Tensor]
    ) -> None:
        names = [f"{prefix}{2 * n}" for n in range(len(widths) - 1)]
        self._maps = [(weights[f"{name}.W"], weights[f"{name}.b"]) for name in names]

    @staticmethod
    def shapes(prefix: str, widths: Sequence[int]) -> Shapes:
        """The shape of each weight, by name."""
        shapes: Shapes = {}
        for n, (d_in, d_out) in enumerate(pairwise(widths)):
            shapes[f"{prefix}{2 * n}.W"] = (d_in, d_out)
            shapes[f"{prefix}{2 * n}.b"] = (d_out,)
        return shapes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for n, (w, b) in enumerate(self._maps):
            x = (gelu(x) if n else x) @ w + b
        return x
