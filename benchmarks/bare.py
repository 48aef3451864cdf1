"""A whole harvest in this process, without Dagster: for GPU machines that lack it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.stages import StagesMeasured
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import verify
from harvest_assets.errors import HarvestError
from harvest_assets.files.commit import publish_files
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease
from harvest_assets.harvester import Harvester
from harvest_assets.results.merge import MergedContexts, MergedCorrelations, MergedTokenStats
from harvest_assets.settings import HarvestSettings
from harvest_assets.store.compaction import compact
from harvest_assets.store.harvester_settings import harvester_settings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.planning import make_plan
from harvest_assets.store.registry import register
from harvest_assets.store.resume import harvest_saving
from harvest_assets.store.shards import SHARD_KEYS, ShardResult, ShardResults, Work, commit_shard
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.store.verification import problems_of
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run


def measure_bare(run: Path, settings: dict[str, Any], device: str) -> StagesMeasured:
    """Harvest a run into `$SPD_OUT_DIR` with the functions that the assets call, shard by shard.

    Args:
        run: its folder.
        settings: of `HarvestSettings`.
        device: cpu or cuda.

    Raises:
        HarvestError: the run cannot be harvested, or its results do not agree.
    """
    registration = register(parse_run(str(run)))
    paths = registration.layout
    measured = StagesMeasured(f"{run}, without Dagster, on {device}")
    with measured.stage("run_checkpoint"):
        checkpoint = verify(fetch_run(registration.reference, None))
        publish_files(paths, checkpoint)
    with measured.stage("harvest_plan"):
        plan = make_plan(checkpoint, HarvestSettings(**settings))
        publish_files(paths, plan)
    with measured.stage("token_rows"):
        rows = SharedTokenRows.prepare(
            checkpoint.data_spec(plan.context_length), plan.n_rows_wanted
        )
        publish_files(paths, rows)
    work = Work.of(paths, plan)
    for shard, share in zip(SHARD_KEYS, work.shares, strict=False):
        empty = ShardResult(plan.digest, work.compatibility_digest, shard, share, None)
        _harvest_shard(paths, plan, checkpoint, rows, empty, torch.device(device), measured)
    _merge(paths, plan, checkpoint, measured)
    return measured


def _harvest_shard(
    paths: HarvestLayout,
    plan: HarvestPlan,
    checkpoint: Decomposition,
    rows: SharedTokenRows,
    share: ShardResult,
    device: torch.device,
    measured: StagesMeasured,
) -> None:
    with measured.stage("harvest_shard: opening the model"):
        model = checkpoint.open_model(device, ci_noise=plan.ci_noise, bf16=plan.bf16)
        harvester = Harvester.from_settings(harvester_settings(plan, checkpoint), device)
    with measured.stage("harvest_shard: the pass"):
        harvest_saving(
            harvester,
            model,
            rows.rows(),
            share,
            paths.shard_saved(share.shard),
            done=0,
            batch_size=plan.batch_size,
            rows_per_forward=plan.rows_per_forward(checkpoint.tokens_per_forward),
            on_progress=lambda _rows: None,
        )
        state = harvester.build_results()
    with measured.stage("harvest_shard: saving the state"):
        done = ShardResult(
            share.plan_digest, share.compatibility_digest, share.shard, share.rows, state
        )
        commit_shard(paths, done)


def _merge(
    paths: HarvestLayout, plan: HarvestPlan, checkpoint: Decomposition, measured: StagesMeasured
) -> None:
    shards = ShardResults(paths)
    with measured.stage("component_correlations"):
        publish_files(paths, MergedCorrelations(shards.open(plan), plan.digest))
    with measured.stage("token_stats"):
        publish_files(paths, MergedTokenStats(shards.open(plan), plan.digest))
    with measured.stage("activation_contexts"):
        total = shards.open(plan)
        config = {**plan.flat(), "n_tokens": total.total_tokens_processed}
        config |= checkpoint.tokenizer.as_config()
        contexts = MergedContexts(
            total, plan.digest, config, plan.pmi_token_top_k, checkpoint.tokenizer_vocab_size
        )
        publish_files(paths, contexts)
    with measured.stage("files_agree"):
        problems = problems_of(paths)
    if problems:
        raise HarvestError(" ".join(problems))
    with measured.stage("merged_state"), hold_lease(paths.merge_lease, "The merge"):
        compact(paths, plan, "merged")
