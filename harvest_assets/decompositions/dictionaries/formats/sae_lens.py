"""SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and of older ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn

from harvest_assets.decompositions.dictionaries.activations import (
    Gated,
    JumpReLU,
    ReLU,
    RowTopK,
    TopK,
)
from harvest_assets.decompositions.dictionaries.encoder import (
    Encoder,
    Normalize,
    constant_norm,
    layer_norm,
)
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

_NORMALIZATIONS: dict[str, Normalize | None] = {
    "none": None,
    "layer_norm": layer_norm,
    "constant_norm_rescale": constant_norm,
}
_TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
_BATCHED = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES = ("standard", "gated", "jumprelu", "topk", *_BATCHED, *_TRANSCODERS)
_OLDER_NAMES = {"activation_fn_str": "activation_fn", "hook_point": "hook_name"}
# Hooks of TransformerLens whose vectors lose their mean where it centres weights.
_CENTERED_HOOKS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "_mlp_out", "_attn_out")


class _Config(FormatConfig):
    architecture: str = "standard"
    d_in: Width
    d_sae: Width
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    rescale_acts_by_decoder_norm: bool = False
    k: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    activation_fn: str = "relu"
    hook_name: str = ""
    model_from_pretrained_kwargs: dict[str, Any] = pydantic.Field(default_factory=dict)

    @property
    def is_centered(self) -> bool:
        """Whether training saw vectors without their mean."""
        centers = self.model_from_pretrained_kwargs.get("center_writing_weights") is True
        return centers and self.hook_name.endswith(_CENTERED_HOOKS)


def open_encoder(folder: Path, layer: int | None) -> Encoder:
    """Open a sparse autoencoder or transcoder.

    Raises:
        HarvestError: a file is damaged, does not fit, or is of a kind that is not supported.
    """
    path = folder / "cfg.json"
    require_layer(path, layer, is_cross_layer=False)
    config = validated(path, _current(read_config(path)), _Config)
    _check(path, config)
    weights = Weights(folder / "sae_weights.safetensors")
    latents = (config.d_sae,)
    offset = scale = bias = None
    if config.apply_b_dec_to_input and config.architecture not in _TRANSCODERS:
        offset = weights.tensor("b_dec", (config.d_in,))
    if config.architecture != "gated":
        bias = weights.tensor("b_enc", latents)
    if config.rescale_acts_by_decoder_norm:
        scale = weights.tensor("W_dec", (config.d_sae, config.d_in)).norm(dim=-1)
    return Encoder(
        weights.tensor("W_enc", (config.d_in, config.d_sae)),
        _activation(path, config, weights),
        config.architecture,
        bias=bias,
        offset=offset,
        scale=scale,
        normalize=_NORMALIZATIONS[config.normalize_activations],
        trained_centered=config.is_centered,
    )


def _current(raw: dict[str, Any]) -> dict[str, Any]:
    """The config as version 6 writes it."""
    metadata = raw.get("metadata")
    config = {_OLDER_NAMES.get(key, key): value for key, value in raw.items()}
    for key in ("hook_name", "model_from_pretrained_kwargs"):
        if isinstance(metadata, dict) and metadata.get(key) is not None:
            config[key] = metadata[key]
        if config.get(key) is None:
            config.pop(key, None)
    kwargs = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(kwargs, dict) and "k" in kwargs:
        config |= {"architecture": "topk", "k": kwargs["k"], "activation_fn": "relu"}
    normalization = config.get("normalize_activations")
    if normalization is None or isinstance(normalization, bool):
        config["normalize_activations"] = "expected_average_only_in" if normalization else "none"
    return config


def _check(path: Path, config: _Config) -> None:
    if config.architecture not in _ARCHITECTURES:
        raise HarvestError(
            f"{path}: the architecture {config.architecture!r} is not supported; expected one of "
            f"{', '.join(_ARCHITECTURES)}."
        )
    if config.normalize_activations not in _NORMALIZATIONS:
        raise HarvestError(
            f"{path}: normalize_activations is {config.normalize_activations!r}, which needs "
            f"statistics that the file lacks; fold it into the weights with SAELens, or use one of "
            f"{', '.join(_NORMALIZATIONS)}."
        )
    if config.hook_name.endswith("hook_normalized"):
        raise HarvestError(
            f"{path}: hook_name is {config.hook_name[:100]!r}: training read activations before "
            "the gain of their norm, but modules give them after it. Fold the gain and bias of the "
            "norm into the weights, and remove hook_name."
        )
    if config.activation_fn != "relu":
        raise HarvestError(
            f"{path}: activation_fn is {config.activation_fn!r}; expected relu or topk."
        )


def _activation(path: Path, config: _Config, weights: Weights) -> nn.Module:
    latents = (config.d_sae,)
    if config.architecture == "gated":
        return Gated(*(weights.tensor(name, latents) for name in ("b_gate", "r_mag", "b_mag")))
    if config.architecture.startswith("jumprelu"):
        return JumpReLU(weights.tensor("threshold", latents))
    if config.architecture != "topk" and config.architecture not in _BATCHED:
        return ReLU()
    if config.k is None:
        raise HarvestError(f"{path} lacks k, which a {config.architecture} needs.")
    require_at_most(path, "k", config.k, config.d_sae)
    if config.architecture == "topk":
        if not config.k.is_integer():
            raise HarvestError(f"{path}: k is {config.k}; expected a whole number.")
        return TopK(int(config.k))
    trained = _trained_threshold(weights, latents)
    return RowTopK(config.k) if trained is None else JumpReLU(trained)


def _trained_threshold(weights: Weights, latents: tuple[int]) -> torch.Tensor | None:
    """The threshold of a BatchTopK dictionary; None where training has not set it."""
    if "threshold" in weights:
        return weights.tensor("threshold", latents)
    if "topk_threshold" in weights:
        threshold = weights.tensor("topk_threshold", ())
        return threshold if threshold > 0 else None
    return None
