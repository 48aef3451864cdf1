"""The rows of tokens, in the order in which they are harvested."""

from typing import Any

import dagster as dg

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags
from harvest_assets.orchestration.conditions import FOLLOW
from harvest_assets.orchestration.failures import RETRIES, refuses_bad_input
from harvest_assets.orchestration.harvest_config import NO_CONFIG
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.orchestration.progress import tokenizing
from harvest_assets.stages import Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.system.stopping import signals_held


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.PREPARE, "cpu"),
    partitions_def=runs,
    kinds={"huggingface", "arrow"},
    code_version="1",
    automation_condition=FOLLOW,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
)
@refuses_bad_input
def token_rows(
    context: dg.AssetExecutionContext, harvest_plan: HarvestPlan, run_checkpoint: Decomposition
) -> dg.MaterializeResult[Any]:
    """The run's training data as rows of tokens, tokenized once for all harvests of equal data."""
    spec = run_checkpoint.data_spec(harvest_plan.context_length)
    path = registration(context.partition_key).layout.tokenizing_progress
    with signals_held():  # a step that was interrupted is tried again in this process
        import datasets  # noqa: F401
    with tokenizing(path, context.log.info) as report:
        rows = SharedTokenRows.prepare(spec, harvest_plan.n_rows_wanted, report)
    batches = harvest_plan.require_batches(rows.n_rows, rows.n_ctx, spec.dataset_name)
    if harvest_plan.n_batches is not None and batches < harvest_plan.n_batches:
        context.log.warning(
            "%s ends after %d batches; %d were requested.",
            spec.dataset_name,
            batches,
            harvest_plan.n_batches,
        )
    return dg.MaterializeResult(
        value=rows,
        data_version=dg.DataVersion(rows.fingerprint),
        metadata={
            "rows": rows.n_rows,
            "tokens": rows.n_rows * rows.n_ctx,
            "batches to harvest": batches,
            "dataset": spec.dataset_name,
            "tokenizer": spec.tokenizer_name,
            "path": dg.MetadataValue.path(str(rows.directory)),
        },
    )
