"""`global_shared_transformer`: a small transformer over a row, from all layers' inputs to all CI.

1. Each layer's input is divided by its root mean square; they are put side by side in the string
   order of the layers' paths: z [B, S, D].
2. x = z W_in + b_in.
3. Each block adds attention over the whole row (`RowAttention`), then an MLP, each of rms(x).
4. Raw values are x W_out + b_out, in the same order of layers; there is no final norm.

A token's causal importance so depends on the whole row, and on its length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_config import GlobalCI
from harvest_assets.decompositions.spd.ci_functions.attention import RowAttention, rms
from harvest_assets.decompositions.spd.ci_functions.global_function import (
    GlobalCIFunction,
    cuts,
    in_string_order,
    total_width,
)
from harvest_assets.decompositions.spd.ci_functions.linear_maps import LinearMaps, Shapes
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer


def open_global_transformer(
    layers: Sequence[DecomposedLayer],
    config: GlobalCI,
    checkpoint: Checkpoint,
    device: torch.device,
) -> GlobalCIFunction:
    """The transformer with its trained weights.

    Raises:
        HarvestError: the config lacks its sizes, or weights are missing, superfluous, or of other
            shapes.
    """
    sizes = config.required("simple_transformer_ci_cfg")
    ordered = in_string_order(layers)
    width, n_heads = sizes.d_model, sizes.attn_config.n_heads
    mlp_widths = [width, *sizes.hidden, width]
    shapes: Shapes = {
        "_input_projector.W": (total_width(ordered), width),
        "_input_projector.b": (width,),
        "_output_head.W": (width, sum(layer.C for layer in ordered)),
        "_output_head.b": (sum(layer.C for layer in ordered),),
    }
    for n in range(sizes.n_blocks):
        shapes |= RowAttention.shapes(f"_blocks.{n}.attn.", width, n_heads)
        shapes |= LinearMaps.shapes(f"_blocks.{n}.mlp.", mlp_widths)
    weights = checkpoint.global_ci_weights(shapes, device)
    blocks = [
        (
            RowAttention(f"_blocks.{n}.attn.", n_heads, weights),
            LinearMaps(f"_blocks.{n}.mlp.", mlp_widths, weights),
        )
        for n in range(sizes.n_blocks)
    ]
    inputs = cuts([layer.input_width for layer in ordered])

    def raw_ci(given: torch.Tensor) -> torch.Tensor:
        for columns in inputs:
            given[..., columns] = rms(given[..., columns])
        x = given @ weights["_input_projector.W"] + weights["_input_projector.b"]
        for attention, mlp in blocks:
            x = x + attention(rms(x))
            x = x + mlp(rms(x))
        return x @ weights["_output_head.W"] + weights["_output_head.b"]

    return GlobalCIFunction(ordered, raw_ci, sizes.attn_config.max_len)
