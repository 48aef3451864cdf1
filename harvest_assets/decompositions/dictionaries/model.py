"""From tokens to next-token probabilities and activations of latents.

The target runs unmodified. What enters or leaves each hooked module is encoded on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from harvest_assets.decompositions.dictionaries.config import Side
from harvest_assets.decompositions.dictionaries.encoder import Encoder
from harvest_assets.decompositions.protocol import check_row_length, tokens_that_fit
from harvest_assets.decompositions.spd.target_outputs import context_limit, logits_of
from harvest_assets.errors import HarvestError


class DictionaryOutputs(NamedTuple):
    """What the model computes for tokens [B, S]."""

    output_probs: torch.Tensor  # float32 [B, S, vocab], of the next token
    firing_strengths: torch.Tensor  # float32 [B, S, C_total], activations of latents
    second_values: None = None


@dataclass(frozen=True)
class HookedEncoder:
    """An encoder and where it reads.

    Args:
        hook: path of the module in the target.
        side: whether it reads what enters the module or what leaves it.
        encoder: on the device.
        center: whether the mean of each vector is subtracted first.
    """

    hook: str
    side: Side
    encoder: Encoder
    center: bool = False

    def encode(self, passed: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """Activations [B, S, n] from what passes the hook, for tokens of a shape [B, S]."""
        x = _vectors(passed, self, shape)
        return self.encoder(x - x.mean(-1, keepdim=True) if self.center else x)  # type: ignore[no-any-return]


class DictionaryModel:
    """A pure function of tokens.

    Args:
        target: on the device, in evaluation mode.
        encoders: in flat order.
        output_attr: as in `logits_of`.
        device: where it computes.
        n_target_weights: values of the target's weights.

    Attributes:
        vocab_size: width of the logits.
        max_context_length: tokens of a row that the target reads; None: no limit.
        tokens_per_forward: tokens to compute together, so that about 4 GiB hold a group.
        extra_bytes_per_token: for what the widest encoder computes on the way.
        weight_bytes: of all weights.

    Raises:
        HarvestError: a hook is not a module of the target, takes no part in its computation or
            passes no vectors of the encoder's width; or the output has no logits.
    """

    def __init__(
        self,
        target: nn.Module,
        encoders: Sequence[HookedEncoder],
        output_attr: str | None,
        device: torch.device,
        n_target_weights: int,
    ) -> None:
        self._target = target
        self._encoders = encoders
        self._output_attr = output_attr
        self._device = device
        self._modules = [_module(target, it.hook) for it in encoders]
        sizes = [it.encoder.n_latents for it in encoders]
        self._n_latents = sum(sizes)
        self.max_context_length = context_limit(target)
        self.vocab_size = self(torch.zeros((1, 1), dtype=torch.int64)).output_probs.shape[-1]
        widest = max(n + it.encoder.d_in for n, it in zip(sizes, encoders, strict=True))
        self.extra_bytes_per_token = 4 * 4 * widest
        self.tokens_per_forward = tokens_that_fit(
            4 * widest + self._n_latents + 2 * self.vocab_size
        )
        n_weights = n_target_weights + sum(it.encoder.n_weights for it in encoders)
        self.weight_bytes = 4 * n_weights

    def __call__(self, tokens: torch.Tensor) -> DictionaryOutputs:
        """Run the target and encode what passes its hooks.

        Args:
            tokens: int64 [B, S], below the vocabulary's size.

        Raises:
            HarvestError: the rows are longer than the target can read.
        """
        check_row_length(tokens, self.max_context_length)
        with torch.inference_mode():
            activations = torch.empty((*tokens.shape, self._n_latents), device=self._device)
            with self._encoding(activations):
                output = self._target(tokens.to(self._device))
            logits = logits_of(output, self._output_attr, tuple(tokens.shape))
            return DictionaryOutputs(logits.float().softmax(dim=-1), activations)

    @contextmanager
    def _encoding(self, activations: torch.Tensor) -> Iterator[None]:
        """While the target runs, each encoder fills its columns."""
        runs = [0] * len(self._encoders)
        handles = []
        first = 0
        for i, (it, module) in enumerate(zip(self._encoders, self._modules, strict=True)):
            columns = activations[..., first : first + it.encoder.n_latents]
            first += it.encoder.n_latents
            hook = _hook(it, columns, runs, i)
            if it.side == "input":
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_of_output(hook)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for it, n in zip(self._encoders, runs, strict=True):
            if n != 1:
                raise HarvestError(
                    f"{it.hook} runs {n} times when the target model does; a dictionary can be "
                    "harvested only if it runs once."
                )


_Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


def _hook(it: HookedEncoder, columns: torch.Tensor, runs: list[int], i: int) -> _Hook:
    def encode(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        runs[i] += 1
        passed = args[0] if args else kwargs.get("hidden_states")
        columns.copy_(it.encode(passed, tuple(columns.shape[:2])))

    return encode


def _of_output(hook: _Hook) -> Callable[[nn.Module, Any, Any], None]:
    def encode(module: nn.Module, _args: Any, output: Any) -> None:
        hook(module, output if isinstance(output, tuple) else (output,), {})

    return encode


def _module(target: nn.Module, hook: str) -> nn.Module:
    try:
        return target.get_submodule(hook)
    except AttributeError as error:
        raise HarvestError(f"The hook {hook!r} is not a module of the target model.") from error


def _vectors(passed: Any, it: HookedEncoder, shape: tuple[int, ...]) -> torch.Tensor:
    """What passes a hook, as [B, S, d_in]; some targets flatten batch and position."""
    width = it.encoder.d_in
    is_vectors = isinstance(passed, torch.Tensor) and passed.is_floating_point()
    if not is_vectors or tuple(passed.shape) not in (
        (*shape, width),
        (shape[0] * shape[1], width),
    ):
        found = list(passed.shape) if isinstance(passed, torch.Tensor) else type(passed).__name__
        raise HarvestError(
            f"The {it.side} of {it.hook} is {found} for tokens of shape {list(shape)}; its "
            f"dictionary reads vectors of width {width}."
        )
    vectors: torch.Tensor = passed.reshape(*shape, width)
    return vectors
