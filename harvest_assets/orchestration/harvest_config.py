"""The settings of a harvest as Dagster's config.

The command gives every setting; Dagster's config may give some, and the others stay as in the
stored plan. The launchpad of the job `prepare` is filled in when a run is chosen; a schema has the
same defaults for all runs, so that of `harvest_plan` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.settings import HarvestSettings, Option, deployment_options
from harvest_assets.stages import Asset
from harvest_assets.store.planning import settings_over_stored

# A value, or the variable that holds it.
_SOURCES: dict[Any, Any] = {int: dg.IntSource, bool: dg.BoolSource, tuple: [str]}


def _field(option: Option) -> dg.Field:
    """A setting as config of `harvest_plan`, without a default: it must see what was omitted."""
    kind = _SOURCES.get(option.kind, option.kind)
    # What "omitted" means to the command is a null here.
    description = option.description.replace("omitted:", "null:")
    if bounds := _bounds(option.name):
        description += f" {bounds}"
    if option.default is not None:
        description += f" A new plan has {option.default}."
    return dg.Field(
        dg.Noneable(kind) if option.optional else kind, is_required=False, description=description
    )


def _bounds(name: str) -> str:
    """The values that a setting may have, as a sentence; empty for those without bounds."""
    schema = HarvestSettings.model_json_schema()["properties"][name]
    numbers = next(iter(schema.get("anyOf", [])), schema)
    lowest, highest = numbers.get("minimum"), numbers.get("maximum")
    if lowest is None:
        return ""
    return f"At least {lowest}." if highest is None else f"From {lowest} to {highest}."


PLAN_CONFIG = {option.name: _field(option) for option in deployment_options()}
CHECK_MACHINE = "check_machine"
MACHINE_CONFIG = {
    CHECK_MACHINE: dg.Field(
        dg.BoolSource,
        default_value=False,
        description=(
            "Refuse a new plan that needs more memory than this machine has, before rows are "
            "prepared: for shards that work on this machine. Each shard checks in any case."
        ),
    )
}
CHECKPOINT_CONFIG = {
    "step": dg.Field(
        dg.Noneable(dg.IntSource),
        is_required=False,
        description=(
            "Training step of the checkpoint; null: the newest. Omitted: that of the stored plan, "
            "unless the run was trained further since; for a new run the newest."
        ),
    )
}
# Without a schema Dagster ignores whatever config an asset is given.
NO_CONFIG: dict[str, dg.Field] = {}


def prepare_config(
    settings: Mapping[str, Any], step: int | None, *, check_machine: bool = False
) -> dict[str, Any]:
    """The run config that prepares a harvest.

    Args:
        settings: of `HarvestSettings`; what is omitted stays as in the stored plan.
        step: of the checkpoint; None is the newest, or without settings the one harvested before.
        check_machine: whether a plan is refused that this machine has no memory for.
    """
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if check_machine:
        given[CHECK_MACHINE] = True
    checkpoint = {"step": step} if settings or step is not None else {}
    return {
        "ops": {
            Asset.HARVEST_PLAN.value: {"config": given},
            Asset.RUN_CHECKPOINT.value: {"config": checkpoint},
        }
    }


def _stored_config(key: str) -> dict[str, Any]:
    """The run config that makes the stored plan of a run again, or a first one with the defaults.

    Where they cannot be read nothing is given, and the Dagster run reports why.
    """
    try:
        _, settings = settings_over_stored(registration(key).layout, {})
    except HarvestError:
        return prepare_config({}, None)
    config = prepare_config(settings.model_dump(), None)
    del config["ops"][Asset.RUN_CHECKPOINT.value]  # a step that is omitted stays, too
    return config


STORED_CONFIG = dg.PartitionedConfig(
    partitions_def=runs, run_config_for_partition_key_fn=_stored_config
)
