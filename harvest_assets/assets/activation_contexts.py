"""What is told component by component: examples, PMI, summary, and how it was harvested."""

from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets import __version__
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.orchestration.asset_metadata import (
    GROUP,
    OWNERS,
    how_to_view,
    paths_of,
    stage_tags,
)
from harvest_assets.orchestration.conditions import MERGE
from harvest_assets.orchestration.failures import RETRIES, one_owner
from harvest_assets.orchestration.harvest_config import NO_CONFIG
from harvest_assets.orchestration.partitions import merge_work, registration, runs
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import registration_of
from harvest_assets.store.shards import ShardResults
from harvest_assets.store.shared_rows import SharedTokenRows


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags("merge", "cpu"),
    partitions_def=runs,
    kinds={"json", "parquet"},
    code_version="1",
    automation_condition=MERGE,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
    output_required=False,
    deps=["component_correlations", "token_stats"],
)
@one_owner(merge_work)
def activation_contexts(
    context: dg.AssetExecutionContext,
    run_checkpoint: RunCheckpoint,
    harvest_plan: HarvestPlan,
    token_rows: SharedTokenRows,
    harvest_shard: ShardResults,
) -> dg.MaterializeResult[Any]:
    """`components.jsonl`, `summary.json`, `config.json`, and the tables that stand beside them."""
    from harvest_assets.results.merge import MergedContexts, firing_overview

    total = harvest_shard.open(harvest_plan)
    overview = firing_overview(total)
    owner = registration(context.partition_key)
    return dg.MaterializeResult(
        value=MergedContexts(
            total,
            harvest_plan.digest,
            _harvest_config(run_checkpoint, harvest_plan, token_rows, overview.n_tokens),
            harvest_plan.pmi_token_top_k,
            run_checkpoint.tokenizer_vocab_size,
        ),
        metadata={
            "components": overview.n_components,
            "components alive": overview.n_alive,
            "examples": total.n_examples,
            "mean L0": round(overview.l0, 3),
            **how_to_view(owner),
            **paths_of(
                path=owner.layout.activation_contexts,
                lines=owner.layout.components,
                index=owner.layout.component_index,
                configuration=owner.layout.config,
            ),
        },
    )


def _harvest_config(
    checkpoint: RunCheckpoint, plan: HarvestPlan, rows: SharedTokenRows, n_tokens: int
) -> dict[str, Any]:
    """What was harvested and how: the content of `config.json`."""
    config = checkpoint.config()
    data = config.task_config
    return {
        "wandb_path": registration_of(plan.run).reference.name.wandb_path,
        "n_batches": plan.n_batches,
        "n_batches_seen": plan.batches_seen(rows.n_rows),
        "batch_size": plan.batch_size,
        "context_length": plan.context_length,
        "ci_threshold": plan.ci_threshold,
        "activation_examples_per_component": plan.activation_examples_per_component,
        "activation_context_tokens_per_side": plan.activation_context_tokens_per_side,
        "pmi_token_top_k": plan.pmi_token_top_k,
        "seed": plan.seed,
        "n_shards": plan.n_shards,
        "n_tokens": n_tokens,
        **checkpoint.tokenizer.as_config(),
        "dataset_name": data.dataset_name,
        "dataset_split": data.train_data_split,
        "data_seed": config.seed,
        "sigmoid_type": config.sigmoid_type,
        "sampling": config.sampling,
        "ci_noise": plan.ci_noise,
        "bf16": plan.bf16,
        "checkpoint": Path(checkpoint.checkpoint_path).name,
        "checkpoint_sha256": checkpoint.sha256,
        "plan": plan.digest,
        "harvest_assets_version": __version__,
        **({"notes": config.notes} if config.notes else {}),
    }
