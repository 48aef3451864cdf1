"""The kinds of CI functions: from a layer's input to one raw value per component.

To add a kind, write a file with a function `(layer, hidden_dims, checkpoint, device) ->
CIFunction` and add one line to `CI_FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_functions.parallel_mlp import open_mlp, open_vector_mlp
from harvest_assets.decompositions.spd.ci_functions.shared_mlp import open_shared_mlp
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer
from harvest_assets.errors import HarvestError

# From the layer's input [..., d_in] (of an embedding: token ids [...]) and the inner activations
# [..., C] to raw values [..., C].
CIFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Opener = Callable[[DecomposedLayer, Sequence[int], Checkpoint, torch.device], CIFunction]

# ci_fn_type -> opener
CI_FUNCTIONS: dict[str, Opener] = {
    "mlp": open_mlp,
    "vector_mlp": open_vector_mlp,
    "shared_mlp": open_shared_mlp,
}


def open_ci_function(
    kind: str,
    layer: DecomposedLayer,
    hidden_dims: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
) -> CIFunction:
    """The CI function of a layer, with its trained weights.

    Raises:
        HarvestError: the kind is unknown or cannot read the layer's input, or the checkpoint lacks
            weights or has other shapes.
    """
    if kind not in CI_FUNCTIONS:
        raise HarvestError(f"ci_fn_type {kind!r} is unknown; known are {', '.join(CI_FUNCTIONS)}.")
    return CI_FUNCTIONS[kind](layer, hidden_dims, checkpoint, device)
