"""What components mean, in the words of a language model."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.orchestration.interpretation import interpreted, on_request
from harvest_assets.orchestration.partitions import registration
from harvest_assets.stages import Asset

if TYPE_CHECKING:
    from harvest_assets.autointerp.task import Report, Watch


@on_request(Asset.ACTIVATION_CONTEXTS)
def component_labels(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any] | None:
    """A label, a confidence and a reason for each chosen component; only with an endpoint."""
    paths = registration(context.partition_key).layout

    def work(choice: ComponentChoice, settings: ModelSettings, watch: "Watch") -> "list[Report]":
        from harvest_assets.autointerp.task import run_all

        return run_all(paths, choice, settings, [None], watch) if settings.names_a_model else []

    return interpreted(context, work)
