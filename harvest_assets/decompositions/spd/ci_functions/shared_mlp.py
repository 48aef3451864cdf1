"""`shared_mlp`: one MLP for all components of a layer, d_in -> hidden... -> C."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import gelu

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer

if TYPE_CHECKING:
    from harvest_assets.decompositions.spd.ci_functions import CIFunction


def open_shared_mlp(
    layer: DecomposedLayer,
    hidden_dims: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
) -> CIFunction:
    """Linear maps `layers.<2n>` with exact GELU between them; W is [in, out] and b [out].

    Raises:
        HarvestError: weights are missing, superfluous, or of other shapes, or the layer is an
            embedding.
    """
    layer.require_vectors("shared_mlp")
    widths = list(pairwise([layer.d_in, *hidden_dims, layer.C]))
    shapes: dict[str, tuple[int, ...]] = {}
    for n, (d_in, d_out) in enumerate(widths):
        shapes[f"layers.{2 * n}.W"] = (d_in, d_out)
        shapes[f"layers.{2 * n}.b"] = (d_out,)
    weights = {
        name: weight.to(device, torch.float32)
        for name, weight in checkpoint.ci_weights(layer.path, shapes).items()
    }
    maps = [
        (weights[f"layers.{2 * n}.W"], weights[f"layers.{2 * n}.b"]) for n in range(len(widths))
    ]

    def raw_ci(layer_input: torch.Tensor, _inner: torch.Tensor) -> torch.Tensor:
        x = layer_input
        for n, (w, b) in enumerate(maps):
            x = (gelu(x) if n else x) @ w + b
        return x

    return raw_ci
