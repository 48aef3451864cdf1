"""How interpretable components are by themselves, without a label."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.orchestration.interpretation import (
    BASELINE_CONFIG,
    CONFIG,
    interpreted,
    on_request,
)
from harvest_assets.orchestration.partitions import registration
from harvest_assets.stages import Asset

if TYPE_CHECKING:
    from harvest_assets.autointerp.task import Report, Watch


@on_request(Asset.ACTIVATION_CONTEXTS, config=CONFIG | BASELINE_CONFIG)
def component_scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any] | None:
    """Intruder scores: by tokens and embeddings (`baseline`), by a model with an endpoint."""
    paths = registration(context.partition_key).layout

    def work(choice: ComponentChoice, settings: ModelSettings, watch: "Watch") -> "list[Report]":
        from harvest_assets.autointerp.baseline_task import run_baseline
        from harvest_assets.autointerp.task import run_all
        from harvest_assets.autointerp.trials import Method

        baseline = context.op_execution_context.op_config["baseline"]
        reports = [run_baseline(paths, choice, watch)] if baseline else []
        if settings.names_a_model:
            reports += run_all(paths, choice, settings, [Method.INTRUDER], watch)
        return reports

    return interpreted(context, work)
