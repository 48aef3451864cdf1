"""What a target model returns, and how long its rows may be."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harvest_assets.errors import HarvestError


def logits_of(output: Any, attribute: str | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Logits [B, S, vocab] out of the target's output: itself, by index, or by attribute.

    Args:
        output: what the target returned.
        attribute: None for the output itself, `idx_<n>`, or the name of an attribute.
        shape: of the tokens, [B, S].

    Raises:
        HarvestError: there are no logits at that place.
    """
    logits: Any = output
    if attribute is not None:
        try:
            is_index = attribute.startswith("idx_")
            logits = output[int(attribute[4:])] if is_index else getattr(output, attribute)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            logits = None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape[:-1]) != shape:
        spelled = "null" if attribute is None else repr(attribute)
        raise HarvestError(
            f"pretrained_model_output_attr {spelled} does not take logits [batch, pos, vocab] "
            f"from the target's output, which is a {type(output).__name__}; it must be null, "
            "idx_<n> or the name of an attribute (output_extract: null, n or the name; in "
            "dictionaries.yaml the key is target.output_attr)."
        )
    return logits


def context_limit(target: nn.Module) -> int | None:
    """Tokens that a target reads at once; None if it names no limit."""
    config = getattr(target, "config", None)
    for owner, name in ((target, "max_context_length"), (config, "max_position_embeddings")):
        value = getattr(owner, name, None)
        if isinstance(value, int):
            return value
    return None
