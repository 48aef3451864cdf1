"""What the keys of a config say about the age of the program that wrote it.

A config is a full dump with all defaults, so the presence of a key dates it: `ci_config` from
2026-01-14 on, `transition_hidden_dim` 2026-02-04, `autocast_bf16` 2026-02-07, `dataset_seed`
2026-02-23; `output_extract`, or sections, March 2026. Since 2026-02-05 text is tokenized without
the tokenizer's special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SINCE_FEBRUARY_7 = ("autocast_bf16", "output_extract")


def is_recent(config: Mapping[str, Any], *, is_nested: bool) -> bool:
    """Whether a config was surely written on 2026-02-07 or later.

    Args:
        config: a run's settings, flat.
        is_nested: whether they were in sections.
    """
    task = config.get("task_config")
    has_seed = isinstance(task, dict) and "dataset_seed" in task
    return is_nested or has_seed or any(key in config for key in _SINCE_FEBRUARY_7)


def notes_on_age(config: Mapping[str, Any], *, recent: bool) -> list[str]:
    """Sentences on what the age does not decide.

    Args:
        config: a run's settings under their present names.
        recent: of `is_recent`.
    """
    task = config.get("task_config")
    ci_config = config.get("ci_config")
    if recent or not isinstance(ci_config, dict):
        return []
    notes = []
    # A global function without the key is older than February.
    undecided = ci_config.get("mode") != "global" or "transition_hidden_dim" in ci_config
    if undecided and isinstance(task, dict) and not task.get("is_tokenized"):
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
