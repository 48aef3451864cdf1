"""The settings of a harvest as people type them: in the launchpad, in the environment, as options.

One list for all three: a deployment's `HARVEST_<OPTION>` changes the default of the launchpad, of
the command and of everything unattended alike. The command gives every setting; Dagster's config
may give some, and the others stay as in the stored plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, get_args

import dagster as dg
from pydantic import BaseModel, Field

from harvest_assets.errors import HarvestError

_SOURCES = {int: dg.IntSource, bool: dg.BoolSource}  # a value, or the variable that holds it
_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _default(option: str, value: Any, kind: type[int | float] = int) -> Any:
    """The deployment's default of an option, else `value`."""
    variable = f"HARVEST_{option.upper()}"
    text = os.environ.get(variable, "").strip()
    if not text:
        return value
    if isinstance(value, bool):
        if text.lower() not in _YES_OR_NO:
            msg = f"{variable} is {text!r}; it must be one of {', '.join(_YES_OR_NO)}."
            raise HarvestError(msg)
        return _YES_OR_NO[text.lower()]
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        msg = f"{variable} is {text!r}; it must be {what}."
        raise HarvestError(msg) from error


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


def _fields(settings: type[BaseModel]) -> dict[str, dg.Field]:
    """The settings as the config of an asset.

    None of them has a default there: `harvest_plan` must see which were given.
    """
    fields = {}
    for name, field in settings.model_fields.items():
        kind, *none = get_args(field.annotation) or (field.annotation,)
        kind = _SOURCES.get(kind, kind)
        # What "omitted" means to the command is a null here.
        description = str(field.description).replace("omitted:", "null:")
        if field.default is not None:
            description += f" A new plan has {field.default}."
        fields[name] = dg.Field(
            dg.Noneable(kind) if none else kind, is_required=False, description=description
        )
    return fields


PLAN_CONFIG = _fields(HarvestConfig)
CHECKPOINT_CONFIG = {
    "step": dg.Field(
        dg.Noneable(dg.IntSource),
        is_required=False,
        description=(
            "Training step of the checkpoint; null: the newest. Omitted: that of the stored plan, "
            "unless the run was trained on since; of a new run the newest."
        ),
    )
}
# Without a schema Dagster ignores whatever config an asset is given.
NO_CONFIG: dict[str, dg.Field] = {}


def prepare_config(settings: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    """The run config that prepares a harvest.

    Args:
        settings: of `HarvestConfig`; what is omitted stays as in the stored plan.
        step: of the checkpoint; None is the newest, or without settings the one harvested before.
    """
    checkpoint = {"step": step} if settings or step is not None else {}
    return {
        "ops": {
            "harvest_plan": {"config": dict(settings)},
            "run_checkpoint": {"config": checkpoint},
        }
    }
