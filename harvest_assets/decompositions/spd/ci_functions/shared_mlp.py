"""`shared_mlp`: one MLP for all components of a layer, d_in -> hidden... -> C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_functions.linear_maps import LinearMaps
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
    widths = [layer.d_in, *hidden_dims, layer.C]
    weights = checkpoint.ci_weights(layer.path, LinearMaps.shapes("layers.", widths))
    on_device = {name: weight.to(device, torch.float32) for name, weight in weights.items()}
    maps = LinearMaps("layers.", widths, on_device)
    return lambda layer_input, _inner: maps(layer_input)
