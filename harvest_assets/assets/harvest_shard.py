"""One shard's share of the rows, run through the model and accumulated: the GPU work."""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.decomposition.run_checkpoint import RunCheckpoint
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.partitions import registration, run_shards, shard_of
from harvest_assets.orchestration.progress import ProgressWriter
from harvest_assets.plan import HarvestPlan
from harvest_assets.shards import ShardResult
from harvest_assets.shared_rows import SharedTokenRows

if TYPE_CHECKING:
    from harvest_assets.harvester import HarvesterState

# Of the state's format on disk and of what is counted in it.
STATE_VERSION = "1"


@dg.asset(
    group_name="harvest",
    partitions_def=run_shards,
    kinds={"torch"},
    code_version=STATE_VERSION,
    pool="gpu",
)
@refuses_bad_input
def harvest_shard(
    context: dg.AssetExecutionContext,
    harvest_plan: HarvestPlan,
    run_checkpoint: RunCheckpoint,
    token_rows: SharedTokenRows,
) -> dg.MaterializeResult[Any]:
    """The statistics of one shard's share; a shard beyond the plan's has nothing to do."""
    started = time.monotonic()
    shard = shard_of(context.partition_key)
    rows = harvest_plan.share(int(shard), token_rows.n_rows)
    paths = registration(context.partition_key).layout
    state = None
    if int(shard) < harvest_plan.n_shards:
        progress = ProgressWriter(
            paths.shard_progress(shard),
            len(rows),
            harvest_plan.context_length,
            context.log.info,
        )
        state = harvest_share(harvest_plan, run_checkpoint, token_rows, rows, progress)
    return dg.MaterializeResult(
        value=ShardResult(harvest_plan.digest, shard, rows, state),
        metadata={
            **_metadata(state, rows, time.monotonic() - started),
            "path": dg.MetadataValue.path(str(paths.shard(shard))),
        },
    )


def harvest_share(
    plan: HarvestPlan,
    checkpoint: RunCheckpoint,
    shared_rows: SharedTokenRows,
    rows: range,
    progress: ProgressWriter,
) -> "HarvesterState":
    """Harvest rows on this process's GPU, or on the CPU where there is none."""
    import torch

    from harvest_assets.harvester import Harvester
    from harvest_assets.harvester.stream import harvest_rows

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    harvester = Harvester(
        checkpoint.layers,
        checkpoint.vocab_size,
        plan.ci_threshold,
        plan.activation_examples_per_component,
        plan.activation_context_tokens_per_side,
        plan.seed,
        device,
    )
    if rows:
        harvest_rows(
            harvester,
            checkpoint.open_model(device),
            shared_rows.rows(),
            rows,
            batch_size=plan.batch_size,
            rows_per_forward=plan.rows_per_forward,
            on_progress=progress,
        )
    return harvester.build_results()


def _metadata(state: "HarvesterState | None", rows: range, seconds: float) -> dict[str, Any]:
    if state is None:
        return {"share": "empty: the plan has fewer shards"}
    tokens = state.total_tokens_processed
    firings = state.firing_counts
    return {
        "share": f"rows {rows.start:,} to {rows.stop:,}",
        "tokens": tokens,
        "components alive": int((firings > 0).sum()),
        "L0": round(int(firings.sum()) / max(1, tokens), 3),
        "seconds": round(seconds, 2),
        "tokens per second": round(tokens / seconds),
    }
