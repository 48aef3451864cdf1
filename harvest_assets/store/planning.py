"""The plan that follows from a run, the settings given, and the plan stored before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harvest_assets.decompositions.protocol import Decomposition, is_repeatable
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.settings import DEFAULT_CI_THRESHOLD, HarvestSettings
from harvest_assets.store.plan import HarvestPlan, default_n_shards


def settings_over_stored(
    paths: HarvestLayout, given: Mapping[str, Any]
) -> tuple[HarvestPlan | None, HarvestSettings]:
    """The stored plan, if any, and its settings updated with the ones given.

    Raises:
        HarvestError: the stored plan is needed and cannot be read.
    """
    stored = None
    if paths.plan.exists():
        try:
            stored = HarvestPlan.open(paths.root)
        except HarvestError as error:
            if set(HarvestSettings.model_fields) - set(given):
                raise HarvestError(
                    f"{paths.plan} cannot be read, so its settings cannot be kept; give all "
                    "settings of harvest_plan, or remove the file to begin with the defaults."
                ) from error
    if stored is None:
        return None, HarvestSettings.over_defaults(given)
    kept = stored.model_dump(include=set(HarvestSettings.model_fields))
    return stored, HarvestSettings(**{**kept, **given})


def make_plan(checkpoint: Decomposition, config: HarvestSettings) -> HarvestPlan:
    """Resolve the settings that depend on the run and on the machine.

    Raises:
        HarvestError: a setting is out of its range, or the context is longer than the model's.
    """
    context_length = config.context_length
    if context_length is None:
        context_length = checkpoint.default_context_length
    limit = checkpoint.max_context_length
    if limit is not None and context_length > limit:
        raise HarvestError(
            f"context_length is {context_length}, but the target model reads at most {limit} "
            "tokens; give a smaller --context_length."
        )
    n_shards = _shards(checkpoint, config)
    checkpoint.restricted(config.layers)  # each pattern matches a layer
    options = checkpoint.options()
    threshold = config.ci_threshold
    if threshold == DEFAULT_CI_THRESHOLD:
        threshold = checkpoint.default_ci_threshold
    resolved = {
        "run": checkpoint.run,
        "checkpoint_sha256": checkpoint.sha256,
        "context_length": context_length,
        "ci_threshold": threshold,
        "n_shards": n_shards,
        "ci_noise": config.ci_noise and "ci_noise" in options,
        "bf16": config.bf16 and "bf16" in options,
    }
    return HarvestPlan(**{**config.model_dump(), **resolved})


def _shards(checkpoint: Decomposition, config: HarvestSettings) -> int:
    if is_repeatable(checkpoint):
        return default_n_shards() if config.n_shards is None else config.n_shards
    if config.n_shards not in (None, 1):
        raise HarvestError(
            f"n_shards is {config.n_shards}, but {checkpoint.config_path} has no identity=, so its "
            "harvest cannot be divided into shards; give it an identity, or leave out --n_shards."
        )
    return 1
