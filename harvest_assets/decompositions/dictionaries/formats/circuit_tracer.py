"""Cross-layer transcoders of circuit-tracer: `W_enc_<layer>.safetensors` for each layer."""

from __future__ import annotations

from pathlib import Path

from harvest_assets.decompositions.dictionaries.activations import JumpReLU, ReLU
from harvest_assets.decompositions.dictionaries.encoder import Encoder
from harvest_assets.decompositions.dictionaries.weights import Weights


def open_encoder(folder: Path, layer: int | None) -> Encoder:
    """Open the encoder of one layer: a JumpReLU where it has thresholds, else a ReLU.

    Raises:
        HarvestError: the file is damaged, or its tensors do not fit together.
    """
    weights = Weights(folder / f"W_enc_{layer}.safetensors")
    n, d_in = weights.matrix_shape(f"W_enc_{layer}")
    has_threshold = f"threshold_{layer}" in weights
    activation = JumpReLU(weights.tensor(f"threshold_{layer}", (n,))) if has_threshold else ReLU()
    return Encoder(
        weights.tensor(f"W_enc_{layer}", (n, d_in)).T.contiguous(),
        activation,
        "cross-layer jumprelu" if has_threshold else "cross-layer relu",
        bias=weights.tensor(f"b_enc_{layer}", (n,)),
    )
