"""`shared_mlp`: one MLP for all components of a layer, d_in -> hidden... -> C."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from harvest_assets.decomposition.checkpoint import Checkpoint
from harvest_assets.decomposition.decomposed_layers import DecomposedLayer
from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.decomposition.ci_functions import CIFunction


def open_shared_mlp(
    layer: DecomposedLayer,
    hidden_dims: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
) -> CIFunction:
    """Linear maps `layers.<2n>` with exact GELU between them; W is [in, out].

    Raises:
        HarvestError: weights are missing, superfluous, or of other shapes.
    """
    widths = list(pairwise([layer.d_in, *hidden_dims, layer.C]))
    weights = checkpoint.ci_weights(layer.path)
    wanted = {f"layers.{2 * n}.{name}" for n in range(len(widths)) for name in ("W", "b")}
    if set(weights) != wanted:
        odd = ", ".join(sorted(set(weights) ^ wanted))
        msg = (
            f"{checkpoint.path}: the CI function of {layer.path} does not have the layers of "
            f"ci_fn_hidden_dims {list(hidden_dims)} ({odd})."
        )
        raise HarvestError(msg)
    maps = []
    for n, (d_in, d_out) in enumerate(widths):
        w, b = weights[f"layers.{2 * n}.W"], weights[f"layers.{2 * n}.b"]
        checkpoint.check_shape(
            f"layers.{2 * n}.W of the CI function of {layer.path}", w, (d_in, d_out)
        )
        checkpoint.check_shape(f"layers.{2 * n}.b of the CI function of {layer.path}", b, (d_out,))
        maps.append((w.to(device, torch.float32), b.to(device, torch.float32)))

    def raw_ci(layer_input: torch.Tensor, _inner: torch.Tensor) -> torch.Tensor:
        x = layer_input
        for n, (w, b) in enumerate(maps):
            x = (torch.nn.functional.gelu(x) if n else x) @ w + b
        return x

    return raw_ci
