"""How well the labels of components say where, and on which tokens, they fire."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.orchestration.interpretation import interpreted, on_request
from harvest_assets.orchestration.partitions import registration
from harvest_assets.stages import Asset

if TYPE_CHECKING:
    from harvest_assets.autointerp.task import Report, Watch


@on_request(Asset.ACTIVATION_CONTEXTS, Asset.COMPONENT_LABELS)
def label_scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any] | None:
    """Detection and fuzzing of the labels of the chosen components; only with an endpoint."""
    paths = registration(context.partition_key).layout

    def work(choice: ComponentChoice, settings: ModelSettings, watch: "Watch") -> "list[Report]":
        if not settings.names_a_model:
            return []
        from harvest_assets.autointerp.task import run_all
        from harvest_assets.autointerp.trials import Method

        return run_all(paths, choice, settings, [Method.DETECTION, Method.FUZZING], watch)

    return interpreted(context, work)
