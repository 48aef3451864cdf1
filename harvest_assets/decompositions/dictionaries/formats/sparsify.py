"""EleutherAI's sparse coders (`eai-sparsify`): `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic
from torch import nn

from harvest_assets.decompositions.dictionaries.activations import GroupMax, TopK
from harvest_assets.decompositions.dictionaries.encoder import Encoder
from harvest_assets.decompositions.dictionaries.formats.common import (
    FormatConfig,
    Width,
    read_config,
    require_at_most,
    require_layer,
)
from harvest_assets.decompositions.dictionaries.weights import Weights
from harvest_assets.errors import HarvestError
from harvest_assets.files.yaml_file import validated

# Of older versions and forks: each makes another encoder of the same tensors.
_UNSUPPORTED = (
    *("signed", "normalize_io", "batch_topk", "sample_topk"),
    *("input_unit_norm", "matching_pursuit"),
)
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip")


class _Config(FormatConfig):
    d_in: Width
    activation: Literal["topk", "groupmax"] = "topk"
    expansion_factor: Width = 32
    num_latents: int = pydantic.Field(default=0, ge=0, le=1 << 24)
    k: Width = 32
    transcode: bool = False

    @property
    def n_latents(self) -> int:
        return self.num_latents or self.d_in * self.expansion_factor


def open_encoder(folder: Path, layer: int | None) -> Encoder:
    """Open a sparse coder, an autoencoder or a transcoder.

    Raises:
        HarvestError: a file is damaged, or the two do not fit together.
    """
    path = folder / "cfg.json"
    require_layer(path, layer, is_cross_layer=False)
    raw = read_config(path)
    for key in _UNSUPPORTED:
        if raw.get(key):
            raise HarvestError(f"{path}: {key} is {str(raw[key])[:100]}, which is not supported.")
    config = validated(path, raw, _Config)
    n = config.n_latents
    require_at_most(path, "k", config.k, n)
    activation: nn.Module = TopK(config.k)
    if config.activation == "groupmax":
        if n % config.k:
            raise HarvestError(f"{path}: k is {config.k}, which does not divide {n} latents.")
        activation = GroupMax(config.k)
    weights = Weights(folder / "sae.safetensors")
    weights.require_known(_TENSORS)
    return Encoder(
        weights.tensor("encoder.weight", (n, config.d_in)).T.contiguous(),
        activation,
        config.activation,
        bias=weights.tensor("encoder.bias", (n,)),
        offset=None if config.transcode else weights.tensor("b_dec", (config.d_in,)),
    )
