"""What the keys of a config say about the age of the program that wrote it.

A config is a full dump with all defaults, so the presence of a key dates it: `ci_config` from
2026-01-14 on, `transition_hidden_dim` 2026-02-04, `autocast_bf16` 2026-02-07; `output_extract`, or
sections, March 2026. Since 2026-02-05 text is tokenized without the tokenizer's special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def has_special_tokens(config: Mapping[str, Any], *, is_nested: bool) -> bool:
    """Whether the tokenizer's own special tokens are part of the run's text."""
    return not (is_nested or "autocast_bf16" in config or "output_extract" in config)


def notes_on_age(config: Mapping[str, Any], *, special_tokens: bool) -> list[str]:
    """Sentences on what the age does not decide.

    Args:
        config: a run's settings under their present names.
        special_tokens: of `has_special_tokens`.
    """
    task = config.get("task_config")
    ci_config = config.get("ci_config")
    if not special_tokens or not isinstance(ci_config, dict):
        return []
    notes = []
    if isinstance(task, dict) and not task.get("is_tokenized"):
        notes.append(
            "The run's config has ci_config but not autocast_bf16, so it was written between "
            "2026-01-14 and 2026-02-07; its text is tokenized with the tokenizer's special tokens, "
            "which training left out from 2026-02-05 on."
        )
    if ci_config.get("fn_type") == "global_shared_transformer":
        notes.append(
            "The run's config has no autocast_bf16, so it is older than 2026-02-07; its CI "
            "function may have been trained without the norm of its inputs, which is applied."
        )
    return notes
