"""The target with components times a mask in its decomposed layers, with or without the rest.

The weight of a decomposed layer is W = D + sum_c V_c U_c, with D the rest that no component
explains. With a mask m the layer computes, in place of x W + b,

    x D + sum_c m_c (x V_c) U_c + b    with the rest
          sum_c m_c (x V_c) U_c + b    without

Taking out components T is the first with m = 0 for those of T and 1 for the others. D is never
formed: with the rest, sum_c (m_c - 1) (x V_c) U_c is added to what the target's layer computes, so
a mask of ones changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding

from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer, by_position
from harvest_assets.errors import HarvestError


@dataclass(frozen=True)
class MaskedLayer:
    """A decomposed layer whose components are masked.

    Args:
        found: the layer.
        columns: its components among those of the mask.
        V: float32 [d_in, C].
        U: float32 [C, d_out].
    """

    found: DecomposedLayer
    columns: slice
    V: torch.Tensor
    U: torch.Tensor

    def output(
        self, given: torch.Tensor, output: torch.Tensor, mask: torch.Tensor, *, with_rest: bool
    ) -> torch.Tensor:
        """What the layer computes with a mask [B, S, C].

        Args:
            given: its input.
            output: what the target's own layer computes from it.
            mask: of its components.
            with_rest: whether the rest takes part.
        """
        x = by_position(given, self.found, tuple(mask.shape[:2]))
        inner = embedding(x, self.V) if self.found.reads_tokens else x @ self.V
        if with_rest:
            change = (inner * (mask - 1)) @ self.U
            # A target that looks positions up once for all rows gets them for each row.
            return output + (change.view_as(output) if change.numel() == output.numel() else change)
        pieces = (inner * mask) @ self.U
        bias = getattr(self.found.module, "bias", None)
        if bias is not None:
            pieces = pieces + bias
        return pieces.view_as(output) if pieces.numel() == output.numel() else pieces


@contextmanager
def masked_layers(
    layers: Sequence[MaskedLayer], mask: torch.Tensor, *, with_rest: bool
) -> Iterator[None]:
    """While the target runs, its decomposed layers compute with a mask [B, S, C_total]."""

    def hook(layer: MaskedLayer) -> Callable[..., torch.Tensor]:
        def replace(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
        ) -> torch.Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            return layer.output(given, output, mask[..., layer.columns], with_rest=with_rest)

        return replace

    handles = [
        layer.found.module.register_forward_hook(hook(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def full_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A mask [C] or [B, S, C] as [B, S, C].

    Args:
        mask: numbers or booleans.
        shape: [B, S, C].

    Raises:
        HarvestError: it has another shape, or holds a NaN or an infinity.
    """
    if tuple(mask.shape) not in (shape, shape[-1:]):
        raise HarvestError(
            f"The mask has the shape {list(mask.shape)}; expected {list(shape[-1:])} or "
            f"{list(shape)}."
        )
    mask = mask.float()
    if not mask.isfinite().all():
        raise HarvestError("The mask holds a NaN or an infinity.")
    return mask.expand(shape)
