"""`mlp` and `vector_mlp`: an MLP of its own for each component.

`mlp` reads the component's inner activation, 1 -> hidden... -> 1; `vector_mlp` reads the input of
the layer, d_in -> hidden... -> 1. Linear maps `layers.<2n>` have exact GELU between them; W is
[C, in, out] and b [C, out].
"""

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

# Hidden values computed at once: 128 MiB of float32. All of a wide layer would take gigabytes.
_VALUES_AT_ONCE = 2**25

_Maps = list[tuple[torch.Tensor, torch.Tensor]]


def open_mlp(
    layer: DecomposedLayer,
    hidden_dims: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
) -> CIFunction:
    """One MLP per component, on its inner activation.

    Raises:
        HarvestError: weights are missing, superfluous, or of other shapes.
    """
    (w, b), *others = _maps(layer, [1, *hidden_dims, 1], checkpoint, device)

    def raw_ci(_layer_input: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        x = inner.flatten(0, -2)
        raw = torch.empty_like(x, dtype=torch.float32)
        for part in _parts(layer.C, len(x) * max([1, *hidden_dims])):
            hidden = x[:, part, None] * w[part, 0] + b[part]
            raw[:, part] = _rest(others, part, hidden)
        return raw.view(inner.shape)

    return raw_ci


def open_vector_mlp(
    layer: DecomposedLayer,
    hidden_dims: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
) -> CIFunction:
    """One MLP per component, on the input of the layer.

    Raises:
        HarvestError: weights are missing, superfluous, or of other shapes, or the layer is an
            embedding.
    """
    layer.require_vectors("vector_mlp")
    (w, b), *others = _maps(layer, [layer.d_in, *hidden_dims, 1], checkpoint, device)
    # [d_in, C, out]: one matrix product for all components instead of one for each.
    w = w.transpose(0, 1).contiguous()

    def raw_ci(layer_input: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        x = layer_input.flatten(0, -2)
        raw = x.new_empty((len(x), layer.C), dtype=torch.float32)
        for part in _parts(layer.C, len(x) * max([1, *hidden_dims])):
            hidden = (x @ w[:, part].flatten(1)).view(len(x), -1, b.shape[1]) + b[part]
            raw[:, part] = _rest(others, part, hidden)
        return raw.view(inner.shape)

    return raw_ci


def _maps(
    layer: DecomposedLayer, widths: Sequence[int], checkpoint: Checkpoint, device: torch.device
) -> _Maps:
    """W [C, in, out] and b [C, out] of each linear map, float32."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n, (d_in, d_out) in enumerate(pairwise(widths)):
        shapes[f"layers.{2 * n}.W"] = (layer.C, d_in, d_out)
        shapes[f"layers.{2 * n}.b"] = (layer.C, d_out)
    weights = {
        name: weight.to(device, torch.float32)
        for name, weight in checkpoint.ci_weights(layer.path, shapes).items()
    }
    return [
        (weights[f"layers.{2 * n}.W"], weights[f"layers.{2 * n}.b"]) for n in range(len(widths) - 1)
    ]


def _parts(n_components: int, values_of_each: int) -> list[slice]:
    """Components that are computed together."""
    size = max(1, _VALUES_AT_ONCE // max(1, values_of_each))
    return [slice(first, first + size) for first in range(0, n_components, size)]


def _rest(maps: _Maps, part: slice, x: torch.Tensor) -> torch.Tensor:
    """All linear maps but the first, on what that one gave: [N, part, out] -> [N, part]."""
    for w, b in maps:
        x = torch.einsum("nci,cio->nco", gelu(x), w[part]) + b[part]
    return x[..., 0]
