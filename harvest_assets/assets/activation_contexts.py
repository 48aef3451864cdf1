"""The results of each component: examples, PMI, summary; and how they were harvested."""

from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets import __version__
from harvest_assets.decompositions.protocol import Decomposition
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
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import merge_work, registration, runs
from harvest_assets.stages import Asset, Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import registration_of
from harvest_assets.store.shards import ShardResults
from harvest_assets.store.shared_rows import SharedTokenRows


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.MERGE, "cpu"),
    partitions_def=runs,
    kinds={"json", "parquet"},
    code_version="1",
    automation_condition=MERGE,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
    output_required=False,
    deps=[asset_key(Asset.COMPONENT_CORRELATIONS), asset_key(Asset.TOKEN_STATS)],
)
@one_owner(merge_work)
def activation_contexts(
    context: dg.AssetExecutionContext,
    run_checkpoint: Decomposition,
    harvest_plan: HarvestPlan,
    token_rows: SharedTokenRows,
    harvest_shard: ShardResults,
) -> dg.MaterializeResult[Any]:
    """`components.jsonl`, `summary.json`, `config.json`, and the Parquet tables beside them."""
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
            harvest_shard.firings(harvest_plan),
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
    checkpoint: Decomposition, plan: HarvestPlan, rows: SharedTokenRows, n_tokens: int
) -> dict[str, Any]:
    """What was harvested and how: the content of `config.json`."""
    data, notes = checkpoint.data_spec(plan.context_length), checkpoint.notes()
    settings = plan.flat()
    del settings["run"], settings["checkpoint_sha256"]
    # Keys keep their order: results of equal harvests are equal byte for byte.
    at_the_end = {name: settings.pop(name) for name in ("ci_noise", "bf16")}
    return {
        "wandb_path": registration_of(plan.run).reference.name.wandb_path,
        "n_batches": plan.n_batches,
        "n_batches_seen": plan.batches_seen(rows.n_rows),
        **settings,
        "n_tokens": n_tokens,
        **checkpoint.tokenizer.as_config(),
        "dataset_name": data.dataset_name,
        "dataset_split": data.train_data_split,
        "data_seed": data.seed,
        **checkpoint.as_config(),
        **at_the_end,
        "checkpoint": Path(checkpoint.checkpoint_path).name,
        "checkpoint_sha256": checkpoint.sha256,
        "plan": plan.digest,
        "harvest_assets_version": __version__,
        **({"notes": notes} if notes else {}),
    }
