"""The settings of a harvest, with the defaults of a deployment.

One list for the launchpad, the environment and the command's options: a deployment's
`HARVEST_<OPTION>` changes the default of the launchpad, of the command and of everything unattended
alike.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, Field

from harvest_assets.errors import HarvestError

_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _default(option: str, value: Any, kind: type[int | float] = int) -> Any:
    """The deployment's default of an option, else `value`."""
    variable = f"HARVEST_{option.upper()}"
    text = os.environ.get(variable, "").strip()
    if not text:
        return value
    if isinstance(value, bool):
        if text.lower() not in _YES_OR_NO:
            raise HarvestError(
                f"{variable} is {text!r}; it must be one of {', '.join(_YES_OR_NO)}."
            )
        return _YES_OR_NO[text.lower()]
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise HarvestError(f"{variable} is {text!r}; it must be {what}.") from error


class HarvestConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of `harvest_plan`; shards and merges take everything from the plan."""

    n_batches: int | None = Field(
        default=_default("n_batches", None),
        description="Batches to look at; omitted: the whole dataset.",
    )
    batch_size: int = Field(default=_default("batch_size", 256), description="Rows of a batch.")
    context_length: int | None = Field(
        default=_default("context_length", None),
        description="Tokens of a row; omitted: as in the run's training.",
    )
    ci_threshold: float = Field(
        default=_default("ci_threshold", 1e-6, float),
        description="A component fires where its causal importance is strictly above.",
    )
    activation_examples_per_component: int = Field(
        default=_default("activation_examples_per_component", 1000),
        description="Firings kept of each component, a uniform sample of all.",
    )
    activation_context_tokens_per_side: int = Field(
        default=_default("activation_context_tokens_per_side", 10),
        description="Tokens kept left and right of a sampled firing.",
    )
    pmi_token_top_k: int = Field(
        default=_default("pmi_token_top_k", 40),
        description="Tokens in each list of highest and lowest PMI.",
    )
    n_shards: int | None = Field(
        default=_default("n_shards", None),
        description=(
            "Shards that share the work, at most 16; omitted: one for each visible GPU, else 1. "
            "The result does not depend on it."
        ),
    )
    seed: int = Field(
        default=_default("seed", 0),
        description="Of the sample alone; the data's order follows the run's config.",
    )
    ci_noise: bool = Field(
        default=_default("ci_noise", value=False),
        description=(
            "Of a run with sampling: binomial, add the noise of its training to causal importances."
        ),
    )
    bf16: bool = Field(
        default=_default("bf16", value=False),
        description=(
            "Compute the model's matrix products in bfloat16: faster on a GPU, less exact. What is "
            "counted stays exact."
        ),
    )
