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

from harvest_assets.decomposition.checkpoint import Checkpoint
from harvest_assets.decomposition.decomposed_layers import DecomposedLayer

if TYPE_CHECKING:
    from harvest_assets.decomposition.ci_functions import CIFunction

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
    maps = _maps(layer, [1, *hidden_dims, 1], checkpoint, device)

    def raw_ci(_layer_input: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        x = inner.flatten(0, -2)
        raw = torch.empty_like(x)
        for part in _parts(maps, len(x)):
            (w, b), *others = [(w[part], b[part]) for w, b in maps]
            raw[:, part] = _rest(others, x[:, part, None] * w[:, 0] + b)
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
    maps = _maps(layer, [layer.d_in, *hidden_dims, 1], checkpoint, device)
    # One matrix product for all components, [d_in, C * out], instead of one for each.
    first = maps[0][0].transpose(0, 1).contiguous()

    def raw_ci(layer_input: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        x = layer_input.flatten(0, -2)
        raw = x.new_empty((len(x), layer.C))
        for part in _parts(maps, len(x)):
            (_, b), *others = [(w[part], b[part]) for w, b in maps]
            hidden = x @ first[:, part].flatten(1)
            raw[:, part] = _rest(others, hidden.view(len(x), *b.shape) + b)
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


def _parts(maps: _Maps, n_positions: int) -> list[slice]:
    """Components that are computed together."""
    n_components = len(maps[0][0])
    widest = max(w.shape[2] for w, _ in maps)
    size = max(1, _VALUES_AT_ONCE // max(1, n_positions * widest))
    return [slice(first, first + size) for first in range(0, n_components, size)]


def _rest(maps: _Maps, x: torch.Tensor) -> torch.Tensor:
    """All linear maps but the first, on what that one gave: [N, C, out] -> [N, C]."""
    for w, b in maps:
        x = torch.einsum("nci,cio->nco", gelu(x), w) + b
    return x[..., 0]
