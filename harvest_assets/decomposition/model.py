"""A decomposed model: from tokens to next-token probabilities, CI and component activations.

The target runs unmodified. What enters each decomposed layer is caught on the way, and from that
input a the layer's causal importances and component activations `(V[:, c] . a) * |U[c, :]|` follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from harvest_assets.decomposition.checkpoint import Checkpoint
from harvest_assets.decomposition.ci_functions import CIFunction, open_ci_function
from harvest_assets.decomposition.decomposed_layers import DecomposedLayer, find_layers
from harvest_assets.decomposition.run_config import RunConfig
from harvest_assets.decomposition.sigmoids import LOWER_LEAKY
from harvest_assets.decomposition.targets import build_target
from harvest_assets.errors import HarvestError

# Masks and rotary tables that older versions of `transformers` saved beside the weights.
_SAVED_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


class ModelOutputs(NamedTuple):
    """What the model answers for tokens [B, S]."""

    output_probs: torch.Tensor  # float32 [B, S, vocab], of the next token
    ci: torch.Tensor  # float32 [B, S, C_total], lower-leaky causal importances
    component_acts: torch.Tensor  # float32 [B, S, C_total]


@dataclass(frozen=True)
class _Layer:
    """A decomposed layer with its trained parts, on the device."""

    found: DecomposedLayer
    columns: slice  # its components in the flat order
    V: torch.Tensor  # float32 [d_in, C]
    U_norm: torch.Tensor  # float32 [C]
    ci_function: CIFunction


class DecomposedModel:
    """Answers for tokens; a pure function of them. Made by `open_model`.

    Attributes:
        layers: (layer, C) in flat order.
        vocab_size: width of the logits.
        max_context_length: tokens that the target reads at once; None if it has no limit.
        device: where it computes.
    """

    def __init__(
        self,
        target: nn.Module,
        layers: list[_Layer],
        sigmoid: Callable[[torch.Tensor], torch.Tensor],
        logits_of: Callable[[Any], torch.Tensor],
        device: torch.device,
    ) -> None:
        self._target = target
        self._layers = layers
        self._sigmoid = sigmoid
        self._logits_of = logits_of
        self.device = device
        self.layers = [(layer.found.path, layer.found.C) for layer in layers]
        self.max_context_length = _max_context_length(target)
        with torch.inference_mode():
            one_token = torch.zeros((1, 1), dtype=torch.int64, device=device)
            self.vocab_size = logits_of(target(one_token)).shape[-1]

    def __call__(self, tokens: torch.Tensor) -> ModelOutputs:
        """Run the target and compute what its decomposed layers' inputs tell.

        Args:
            tokens: int64 [B, S], below the vocabulary's size.

        Raises:
            HarvestError: the rows are longer than the target can read.
        """
        limit = self.max_context_length
        if limit is not None and tokens.shape[1] > limit:
            msg = f"Rows of {tokens.shape[1]} tokens are longer than the target's {limit}."
            raise HarvestError(msg)
        with torch.inference_mode():
            shape = (*tokens.shape, sum(c for _, c in self.layers))
            ci = torch.empty(shape, device=self.device)
            acts = torch.empty(shape, device=self.device)
            with self._caught_inputs(ci, acts):
                logits = self._logits_of(self._target(tokens.to(self.device)))
            return ModelOutputs(logits.float().softmax(dim=-1), ci, acts)

    @contextmanager
    def _caught_inputs(self, ci: torch.Tensor, acts: torch.Tensor) -> Iterator[None]:
        """While the target runs, each layer's input fills its columns."""
        handles = [
            layer.found.module.register_forward_pre_hook(self._hook(layer, ci, acts))
            for layer in self._layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(
        self, layer: _Layer, ci: torch.Tensor, acts: torch.Tensor
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def fill(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            layer_input = inputs[0]
            inner = layer_input @ layer.V
            ci[..., layer.columns] = self._sigmoid(layer.ci_function(layer_input, inner))
            acts[..., layer.columns] = inner * layer.U_norm

        return fill


def open_model(config: RunConfig, checkpoint: Path, device: str | torch.device) -> DecomposedModel:
    """Open a run's checkpoint as a model.

    Raises:
        HarvestError: config, target and checkpoint do not fit together, or name what is unknown.
    """
    if config.identity_module_info:
        msg = "identity_module_info is set; identity layers cannot be harvested."
        raise HarvestError(msg)
    device = torch.device(device)
    opened = Checkpoint.open(checkpoint)
    target = build_target(config.pretrained_model_class, config.target_name)
    _load_weights(target, opened)
    target.to(device).requires_grad_(requires_grad=False)
    layers = []
    first = 0
    for found in find_layers(target, config.module_info):
        v, u = opened.component_matrices(found.path)
        opened.check_shape(f"V of {found.path}", v, (found.d_in, found.C))
        opened.check_shape(f"U of {found.path}", u, (found.C, found.d_out))
        ci_function = open_ci_function(
            config.ci_fn_type, found, config.ci_fn_hidden_dims, opened, device
        )
        layers.append(
            _Layer(
                found,
                slice(first, first + found.C),
                v.to(device, torch.float32),
                u.to(device, torch.float32).norm(dim=1),
                ci_function,
            )
        )
        first += found.C
    logits_of = _logits_getter(config.pretrained_model_output_attr)
    return DecomposedModel(target, layers, LOWER_LEAKY[config.sigmoid_type], logits_of, device)


def _load_weights(target: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's weights into the target; tied weights may stand there once or twice."""
    weights = checkpoint.target_weights()
    own = target.state_dict()
    weights = {n: w for n, w in weights.items() if n in own or not n.endswith(_SAVED_BUFFERS)}
    for name in sorted(set(weights) & set(own)):
        checkpoint.check_shape(f"target_model.{name}", weights[name], tuple(own[name].shape))
    given = {own[name].data_ptr() for name in weights if name in own}
    missing = [n for n, v in own.items() if n not in weights and v.data_ptr() not in given]
    unknown = sorted(set(weights) - set(own))
    for what, names in (("lacks", missing), ("has, unknown to the target,", unknown)):
        if names:
            msg = f"{checkpoint.path} {what} target_model.{names[0]}."
            raise HarvestError(msg)
    target.load_state_dict(weights, strict=False)


def _logits_getter(attribute: str | None) -> Callable[[Any], torch.Tensor]:
    """How logits are taken from the target's output: as it is, by index, or by attribute."""
    if attribute is None:
        return lambda output: output
    if attribute.startswith("idx_") and attribute[4:].isdecimal():
        index = int(attribute[4:])
        return lambda output: output[index]
    if attribute.isidentifier() and not attribute.startswith("_"):
        return lambda output: getattr(output, attribute)
    msg = f"pretrained_model_output_attr is {attribute!r}; it must be null, idx_<n> or a name."
    raise HarvestError(msg)


def _max_context_length(target: nn.Module) -> int | None:
    config = getattr(target, "config", None)
    for owner, name in ((target, "max_context_length"), (config, "max_position_embeddings")):
        value = getattr(owner, name, None)
        if isinstance(value, int):
            return value
    return None
