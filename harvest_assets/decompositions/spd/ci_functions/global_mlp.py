"""`global_shared_mlp`: one MLP from the inputs of all layers to the components of all layers.

Inputs are side by side in the string order of the layers' paths, and so are the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_config import GlobalCI
from harvest_assets.decompositions.spd.ci_functions.global_function import (
    GlobalCIFunction,
    in_string_order,
    total_width,
)
from harvest_assets.decompositions.spd.ci_functions.linear_maps import LinearMaps
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer


def open_global_mlp(
    layers: Sequence[DecomposedLayer],
    config: GlobalCI,
    checkpoint: Checkpoint,
    device: torch.device,
) -> GlobalCIFunction:
    """Linear maps `layers.<2n>` with exact GELU between them; no hidden size: one map.

    Raises:
        HarvestError: the config lacks the hidden sizes, or weights are missing, superfluous, or of
            other shapes.
    """
    ordered = in_string_order(layers)
    hidden = config.required("hidden_dims")
    widths = [total_width(ordered), *hidden, sum(it.C for it in ordered)]
    shapes = LinearMaps.shapes("layers.", widths)
    maps = LinearMaps("layers.", widths, checkpoint.global_ci_weights(shapes, device))
    return GlobalCIFunction(ordered, maps)
