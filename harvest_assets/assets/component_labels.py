"""What components mean, in the words of a language model."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.interpretation import (
    CONFIG,
    ON_REQUEST_TAGS,
    interpreted,
    only_if_asked,
)
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.stages import Asset

if TYPE_CHECKING:
    from harvest_assets.autointerp.task import Report, Watch


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=ON_REQUEST_TAGS,
    partitions_def=runs,
    kinds={"parquet"},
    code_version="1",
    config_schema=CONFIG,
    output_required=False,
    deps=[asset_key(Asset.ACTIVATION_CONTEXTS)],
)
@only_if_asked
@refuses_bad_input
def component_labels(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any] | None:
    """A label, a confidence and a reason for each chosen component; only with an endpoint."""
    paths = registration(context.partition_key).layout

    def work(choice: ComponentChoice, settings: ModelSettings, watch: "Watch") -> "list[Report]":
        from harvest_assets.autointerp.task import run_all

        return run_all(paths, choice, settings, [None], watch) if settings.names_a_model else []

    return interpreted(context, work)
