"""The settings of a harvest as Dagster's config.

The command gives every setting; Dagster's config may give some, and the others stay as in the
stored plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import dagster as dg
from pydantic import BaseModel

from harvest_assets.stages import Asset
from harvest_assets.store.settings import HarvestConfig

_SOURCES = {int: dg.IntSource, bool: dg.BoolSource}  # a value, or the variable that holds it


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
            Asset.HARVEST_PLAN.value: {"config": dict(settings)},
            Asset.RUN_CHECKPOINT.value: {"config": checkpoint},
        }
    }
