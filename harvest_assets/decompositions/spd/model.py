"""A decomposed model: from tokens to next-token probabilities, CI and component activations.

The target runs unmodified. What enters each decomposed layer is caught on the way, and from that
input a the layer's causal importances and component activations `(V[:, c] . a) * |U[c, :]|` follow.
The input of an embedding is a token, so there V[:, c] . a is V[token, c].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import embedding

from harvest_assets.decompositions.directions import Directions
from harvest_assets.decompositions.protocol import (
    TOKENS_PER_FORWARD,
    check_row_length,
    tokens_that_fit,
)
from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_functions import (
    CIFunction,
    open_ci_function,
    open_global_ci_function,
)
from harvest_assets.decompositions.spd.ci_functions.global_function import GlobalCIFunction
from harvest_assets.decompositions.spd.decomposed_layers import (
    DecomposedLayer,
    by_position,
    find_layers,
)
from harvest_assets.decompositions.spd.identity_layers import insert_identities
from harvest_assets.decompositions.spd.masked_forward import (
    MaskedLayer,
    full_mask,
    masked_layers,
)
from harvest_assets.decompositions.spd.noise import noisy, row_noise
from harvest_assets.decompositions.spd.residual_stream import directions_of
from harvest_assets.decompositions.spd.run_config import RunConfig
from harvest_assets.decompositions.spd.sigmoids import LOWER_LEAKY
from harvest_assets.decompositions.spd.target_outputs import context_limit, logits_of
from harvest_assets.decompositions.spd.target_weights import load_target_weights
from harvest_assets.decompositions.spd.targets import build_target
from harvest_assets.errors import HarvestError


class ModelOutputs(NamedTuple):
    """What the model computes for tokens [B, S]."""

    output_probs: torch.Tensor  # float32 [B, S, vocab], of the next token
    ci: torch.Tensor  # float32 [B, S, C_total], lower-leaky causal importances
    component_acts: torch.Tensor  # float32 [B, S, C_total]

    @property
    def firing_strengths(self) -> torch.Tensor:
        """Of a component: its causal importance."""
        return self.ci

    @property
    def second_values(self) -> torch.Tensor:
        """Of a component: its activation."""
        return self.component_acts


@dataclass(frozen=True)
class _Layer:
    """A decomposed layer with its trained parts, on the device."""

    found: DecomposedLayer
    place: slice  # its components among those of all layers, in flat order
    columns: slice | None  # among those asked for; None: only a global CI function reads its input
    V: torch.Tensor  # float32 [d_in, C]
    U: torch.Tensor  # [C, d_out], as saved: mapped, on the CPU
    U_norm: torch.Tensor  # float32 [C]
    ci_function: CIFunction | None  # None where one function answers for all layers


@dataclass(frozen=True)
class _Answers:
    """What fills up while the target runs."""

    ci: torch.Tensor  # float32 [B, S, C_total]
    acts: torch.Tensor  # float32 [B, S, C_total]
    inputs: torch.Tensor  # float32 [B, S, all widths], for a global CI function, else [B, S, 0]

    @classmethod
    def empty(
        cls,
        tokens: torch.Tensor,
        layers: list[_Layer],
        global_ci: GlobalCIFunction | None,
        device: torch.device,
    ) -> _Answers:
        n_components = sum(layer.found.C for layer in layers if layer.columns is not None)
        width = global_ci.input_width if global_ci is not None else 0
        sizes = (n_components, n_components, width)
        return cls(*(torch.empty((*tokens.shape, n), device=device) for n in sizes))


class DecomposedModel:
    """A pure function of tokens, made by `open_model`.

    Attributes:
        layers: (layer, C) in flat order.
        vocab_size: width of the logits.
        tokens_per_forward: tokens to compute together; fewer where a global CI function needs the
            inputs of all layers at once, so that about 4 GiB hold what a group takes.
        extra_bytes_per_token: for the inputs of a global CI function and its raw values, twice.
        weight_bytes: of all weights.
        max_context_length: tokens of a row that target and CI function read; None: no limit.
        device: where it computes.

    Raises:
        HarvestError: the logits cannot be taken from what the target returns, or a decomposed
            layer takes no part in its computation.
    """

    def __init__(
        self,
        target: nn.Module,
        layers: list[_Layer],
        sigmoid: Callable[[torch.Tensor], torch.Tensor],
        output_attr: str | None,
        device: torch.device,
        global_ci: GlobalCIFunction | None = None,
        *,
        n_components: int,
        n_weights: int,
        ci_noise: bool,
        bf16: bool,
    ) -> None:
        self._target = target
        self._layers = layers
        self._sigmoid = sigmoid
        self._global_ci = global_ci
        self._output_attr = output_attr
        self._n_components = n_components  # of all layers, also of those not asked for
        self._ci_noise = ci_noise
        self._bf16 = bf16
        self.device = device
        self.weight_bytes = 4 * n_weights
        self._asked = [layer for layer in layers if layer.columns is not None]
        self.layers = [(layer.found.path, layer.found.C) for layer in self._asked]
        self.max_context_length = _max_context_length(target, global_ci)
        self.vocab_size = self(torch.zeros((1, 1), dtype=torch.int64)).output_probs.shape[-1]
        self.tokens_per_forward = self._tokens_per_forward()
        self.extra_bytes_per_token = 0
        if global_ci is not None:
            self.extra_bytes_per_token = 4 * (global_ci.input_width + 2 * n_components)

    def _tokens_per_forward(self) -> int:
        if self._global_ci is None:
            return TOKENS_PER_FORWARD
        values = 2 * self._global_ci.input_width + 3 * self._n_components + 2 * self.vocab_size
        return tokens_that_fit(values)

    def __call__(self, tokens: torch.Tensor) -> ModelOutputs:
        """Run the target and compute CI and activations from its decomposed layers' inputs.

        Args:
            tokens: int64 [B, S], below the vocabulary's size.

        Raises:
            HarvestError: the rows are longer than the target can read.
        """
        check_row_length(tokens, self.max_context_length)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)
        with torch.inference_mode(), autocast:
            answers = _Answers.empty(tokens, self._layers, self._global_ci, self.device)
            noise = None
            if self._ci_noise:
                noise = row_noise(tokens, self._n_components, self.device)
            with self._caught_inputs(answers, noise):
                output = self._target(tokens.to(self.device))
            logits = logits_of(output, self._output_attr, tuple(tokens.shape))
            probs = logits.float().softmax(dim=-1)
            del output, logits
            if self._global_ci is not None:
                self._fill_ci(self._global_ci, answers, noise)
            return ModelOutputs(probs, answers.ci, answers.acts)

    def masked(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, *, with_rest: bool
    ) -> torch.Tensor:
        """See `HasMaskedForward`; matrix products are in float32."""
        check_row_length(tokens, self.max_context_length)
        with torch.inference_mode(), ExitStack() as hooks:
            if mask is not None:
                shape = (*tokens.shape, sum(c for _, c in self.layers))
                mask = full_mask(mask.to(self.device), shape)
                hooks.enter_context(masked_layers(self._masked, mask, with_rest=with_rest))
            output = self._target(tokens.to(self.device))
            logits = logits_of(output, self._output_attr, tuple(tokens.shape))
            return logits.float().log_softmax(dim=-1)

    def directions(self) -> Directions:
        """See `HasDirections`."""
        return directions_of(self._target, self._masked)

    @cached_property
    def _masked(self) -> list[MaskedLayer]:
        return [
            MaskedLayer(it.found, it.columns, it.V, it.U.to(self.device, torch.float32))
            for it in self._asked
            if it.columns is not None
        ]

    def _fill_ci(
        self, function: GlobalCIFunction, answers: _Answers, noise: torch.Tensor | None
    ) -> None:
        """Causal importances of all layers, from the inputs that were caught of all."""
        raw_ci = function.raw_ci(answers.inputs).float()
        outputs = function.outputs
        for layer in self._asked:
            self._set_ci(layer, raw_ci[..., outputs[layer.found.path]], answers, noise)

    def _set_ci(
        self, layer: _Layer, raw_ci: torch.Tensor, answers: _Answers, noise: torch.Tensor | None
    ) -> None:
        if noise is not None:
            raw_ci = noisy(raw_ci, noise[..., layer.place])
        answers.ci[..., layer.columns] = self._sigmoid(raw_ci)

    @contextmanager
    def _caught_inputs(self, answers: _Answers, noise: torch.Tensor | None) -> Iterator[None]:
        """While the target runs, each layer's input fills its columns."""
        ran: list[str] = []
        handles = [
            layer.found.module.register_forward_pre_hook(
                self._hook(layer, answers, noise, ran), with_kwargs=True
            )
            for layer in self._layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for path in (layer.found.path for layer in self._layers):
            if ran.count(path) != 1:
                raise HarvestError(
                    f"{path} runs {ran.count(path)} times when the target model does; its "
                    "components can be harvested only if it runs once."
                )

    def _hook(
        self,
        layer: _Layer,
        answers: _Answers,
        noise: torch.Tensor | None,
        ran: list[str],
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def fill(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ran.append(layer.found.path)
            given = args[0] if args else next(iter(kwargs.values()))
            layer_input = by_position(given, layer.found, tuple(answers.ci.shape[:2]))
            inner = None
            if layer.found.reads_tokens:
                inner = embedding(layer_input, layer.V)
            elif layer.columns is not None:
                inner = layer_input @ layer.V
            if self._global_ci is not None:
                read = layer_input if inner is None or not layer.found.reads_tokens else inner
                answers.inputs[..., self._global_ci.inputs[layer.found.path]] = read
            if layer.columns is None or inner is None:
                return
            if layer.ci_function is not None:
                raw_ci = layer.ci_function(layer_input, inner).float()
                self._set_ci(layer, raw_ci, answers, noise)
            torch.mul(inner, layer.U_norm, out=answers.acts[..., layer.columns])

        return fill


def open_model(
    config: RunConfig,
    checkpoint: Path,
    device: str | torch.device,
    *,
    only: Collection[str] | None = None,
    ci_noise: bool = False,
    bf16: bool = False,
) -> DecomposedModel:
    """Open a run's checkpoint as a model.

    Args:
        config: the run's; relative paths in it are taken from the current directory.
        checkpoint: the state dict; it stays mapped while the model is used on the CPU.
        device: where to compute.
        only: the layers whose components are asked for; None: all.
        ci_noise: add the noise with which a run of `sampling: binomial` was trained to its CI.
        bf16: compute the target, the CI functions and the component activations under torch's
            autocast to bfloat16, as the original's harvest does; sigmoids and the softmax stay in
            float32. The target's products are rounded too, so where a CI function is steep, a
            causal importance may be 0.1 away from float32.

    Raises:
        HarvestError: config, target and checkpoint do not fit together, or name what is unknown.
    """
    device = torch.device(device)
    opened = Checkpoint.open(checkpoint)
    target = build_target(config.pretrained_model_class, config.target_name)
    insert_identities(target, config.identity_module_info or ())
    found = find_layers(target, config.decomposed_modules)
    opened.check_layers([layer.path for layer in found])
    load_target_weights(target, opened, device)
    layers = _open_layers(found, config, opened, device, only)
    global_ci = None
    if config.global_ci is not None:
        global_ci = open_global_ci_function(config.global_ci, found, opened, device)
    return DecomposedModel(
        target,
        layers,
        LOWER_LEAKY[config.sigmoid_type],
        config.pretrained_model_output_attr,
        device,
        global_ci,
        n_components=sum(layer.C for layer in found),
        n_weights=opened.n_weights,
        ci_noise=ci_noise and config.sampling == "binomial",
        bf16=bf16,
    )


def _open_layers(
    found: list[DecomposedLayer],
    config: RunConfig,
    checkpoint: Checkpoint,
    device: torch.device,
    only: Collection[str] | None,
) -> list[_Layer]:
    """The layers whose inputs are needed: those asked for, or all for a global CI function."""
    is_global = config.global_ci is not None
    layers = []
    first = asked = 0
    for layer in found:
        place = slice(first, first + layer.C)
        first += layer.C
        columns = None
        if only is None or layer.path in only:
            columns = slice(asked, asked + layer.C)
            asked += layer.C
        elif not is_global:
            continue
        v, u = checkpoint.component_matrices(
            layer.path, d_in=layer.d_in, n_components=layer.C, d_out=layer.d_out
        )
        ci_function = None
        if not is_global:
            ci_function = open_ci_function(
                config.ci_fn_type, layer, config.ci_fn_hidden_dims, checkpoint, device
            )
        if columns is None and not layer.reads_tokens:
            v, u = v[:0], u[:0]  # nothing is read of them
        u_norm = u.to(device, torch.float32).norm(dim=1)
        v = v.to(device, torch.float32)
        layers.append(_Layer(layer, place, columns, v, u, u_norm, ci_function))
    return layers


def _max_context_length(target: nn.Module, global_ci: GlobalCIFunction | None) -> int | None:
    """Tokens that both the target and the CI function read at once."""
    limits = (context_limit(target), global_ci.max_context_length if global_ci else None)
    return min((limit for limit in limits if limit is not None), default=None)
