"""Transcoders and cross-layer transcoders as `config.json` and `encoder.pt`.

A cross-layer transcoder has an encoder for each layer that it reads, `W_enc.<layer>` and so on;
its decoders, which write to several layers, are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from harvest_assets.decompositions.dictionaries.activations import JumpReLU, ReLU, RowTopK, TopK
from harvest_assets.decompositions.dictionaries.encoder import Encoder, layer_norm
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

_OF_CROSS_LAYER = ("W_enc", "b_enc", "W_dec", "b_dec", "jumprelu_log_thresholds")
_OF_ONE = (
    *("W_enc", "b_enc", "W_dec", "b_dec", "W_skip"),
    *("W_enc_mask", "W_dec_mask", "post_enc_scale", "jumprelu.log_threshold"),
)


class _Config(FormatConfig):
    input_size: Width
    output_size: Width
    dict_size: Width
    encoder_type: Literal["vanilla", "topk", "batchtopk", "jumprelu"]
    top_k: Width | None = None
    pre_enc_bias: bool = False
    input_unit_norm: bool = False
    num_output_layers: Width = 1

    @property
    def subtracts_decoder_bias(self) -> bool:
        """Whether the decoder's bias is subtracted from the input."""
        one_output = self.num_output_layers == 1 and self.input_size == self.output_size
        return self.pre_enc_bias and one_output


def open_encoder(folder: Path, layer: int | None) -> Encoder:
    """Open a transcoder, an autoencoder, or one layer of a cross-layer transcoder.

    Raises:
        HarvestError: a file is damaged, or the two do not fit together.
    """
    path = folder / "config.json"
    config = validated(path, read_config(path), _Config)
    weights = Weights(folder / "encoder.pt")
    is_cross_layer = "W_enc.0" in weights
    require_layer(path, layer, is_cross_layer=is_cross_layer)
    suffix = f".{layer}" if is_cross_layer else ""
    if is_cross_layer and config.input_unit_norm:
        raise HarvestError(
            f"{path}: input_unit_norm is true, which is not supported for a cross-layer transcoder."
        )
    known = _OF_CROSS_LAYER if is_cross_layer else _OF_ONE
    weights.require_known(known, is_cross_layer=is_cross_layer)
    shape = (config.input_size, config.dict_size)
    weight = weights.tensor(f"W_enc{suffix}", shape)
    if "W_enc_mask" in weights:
        weight = weight * weights.tensor("W_enc_mask", shape)
    offset = scale = None
    if config.subtracts_decoder_bias and not is_cross_layer:
        offset = weights.tensor("b_dec", (config.input_size,))
    if "post_enc_scale" in weights:
        scale = weights.tensor("post_enc_scale", (config.dict_size,))
    log_threshold = f"jumprelu_log_thresholds{suffix}" if suffix else "jumprelu.log_threshold"
    return Encoder(
        weight,
        _activation(path, config, weights, log_threshold),
        f"cross-layer {config.encoder_type}" if is_cross_layer else config.encoder_type,
        bias=weights.tensor(f"b_enc{suffix}", (config.dict_size,)),
        offset=offset,
        scale=scale,
        normalize=layer_norm if config.input_unit_norm else None,
    )


def _activation(path: Path, config: _Config, weights: Weights, log_threshold: str) -> nn.Module:
    if config.encoder_type == "vanilla":
        return ReLU()
    if config.encoder_type == "jumprelu":
        return JumpReLU(weights.tensor(log_threshold, (config.dict_size,)).exp())
    if config.top_k is None:
        raise HarvestError(f"{path} lacks top_k, which a {config.encoder_type} needs.")
    require_at_most(path, "top_k", config.top_k, config.dict_size)
    return TopK(config.top_k) if config.encoder_type == "topk" else RowTopK(config.top_k)
