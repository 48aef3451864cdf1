"""The kinds of CI functions: from layers' inputs to one raw value per component.

To add a kind that reads one layer, write a file with a function `(layer, hidden_dims, checkpoint,
device) -> CIFunction` and add one line to `CI_FUNCTIONS`; for one that reads all layers at once
`(layers, config, checkpoint, device) -> GlobalCIFunction` and one line to `GLOBAL_CI_FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_config import GlobalCI
from harvest_assets.decompositions.spd.ci_functions.global_function import GlobalCIFunction
from harvest_assets.decompositions.spd.ci_functions.global_mlp import open_global_mlp
from harvest_assets.decompositions.spd.ci_functions.global_transformer import (
    open_global_transformer,
)
from harvest_assets.decompositions.spd.ci_functions.parallel_mlp import open_mlp, open_vector_mlp
from harvest_assets.decompositions.spd.ci_functions.reverse_residual import open_reverse_residual
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

GlobalOpener = Callable[
    [Sequence[DecomposedLayer], GlobalCI, Checkpoint, torch.device], GlobalCIFunction
]
GLOBAL_CI_FUNCTIONS: dict[str, GlobalOpener] = {
    "global_shared_mlp": open_global_mlp,
    "global_shared_transformer": open_global_transformer,
    "global_reverse_residual": open_reverse_residual,
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


def open_global_ci_function(
    config: GlobalCI,
    layers: Sequence[DecomposedLayer],
    checkpoint: Checkpoint,
    device: torch.device,
) -> GlobalCIFunction:
    """The CI function of all layers, with its trained weights.

    Raises:
        HarvestError: the kind is unknown, the config lacks what it needs, or the checkpoint lacks
            weights or has other shapes.
    """
    if config.fn_type not in GLOBAL_CI_FUNCTIONS:
        raise HarvestError(
            f"ci_config: fn_type {config.fn_type!r} is unknown for all layers together; known are "
            f"{', '.join(GLOBAL_CI_FUNCTIONS)}."
        )
    return GLOBAL_CI_FUNCTIONS[config.fn_type](layers, config, checkpoint, device)
