"""What all global CI functions are: from the inputs of all layers to the raw CI of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch

from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer


@dataclass(frozen=True)
class GlobalCIFunction:
    """A CI function that reads the inputs of all layers at once.

    Args:
        layers: in the order in which it reads and answers.
        raw_ci: inputs side by side [B, S, sum of the layers' `input_width`], which it may
            overwrite, to raw values side by side [B, S, sum of C].
        max_context_length: tokens of a row that it reads at most; None: no limit.
    """

    layers: Sequence[DecomposedLayer]
    raw_ci: Callable[[torch.Tensor], torch.Tensor]
    max_context_length: int | None = None

    @property
    def input_width(self) -> int:
        """Width of the inputs of all layers side by side."""
        return total_width(self.layers)

    @cached_property
    def inputs(self) -> dict[str, slice]:
        """Where the input of each layer is among all, by path."""
        widths = cuts([layer.input_width for layer in self.layers])
        return {layer.path: where for layer, where in zip(self.layers, widths, strict=True)}

    @cached_property
    def outputs(self) -> dict[str, slice]:
        """Where the raw values of each layer are among all, by path."""
        sizes = cuts([layer.C for layer in self.layers])
        return {layer.path: where for layer, where in zip(self.layers, sizes, strict=True)}


def in_string_order(layers: Sequence[DecomposedLayer]) -> list[DecomposedLayer]:
    """Sorted by the plain string order of the paths: `h.10.` before `h.2.`."""
    return sorted(layers, key=lambda layer: layer.path)


def total_width(layers: Sequence[DecomposedLayer]) -> int:
    """Width of the layers' inputs side by side."""
    return sum(layer.input_width for layer in layers)


def cuts(widths: Sequence[int]) -> list[slice]:
    """Where parts of these widths are, side by side."""
    return [slice(*ends) for ends in pairwise(accumulate(widths, initial=0))]
