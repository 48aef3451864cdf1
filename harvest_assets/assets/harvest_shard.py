"""One shard's share of the rows, run through the model and accumulated: the GPU work."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import check_held
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, shard_metadata, stage_tags
from harvest_assets.orchestration.conditions import HARVEST
from harvest_assets.orchestration.failures import RETRIES, one_owner
from harvest_assets.orchestration.gpu_lease import lease_device
from harvest_assets.orchestration.harvest_config import NO_CONFIG
from harvest_assets.orchestration.partitions import registration, run_shards, shard_of, shard_work
from harvest_assets.orchestration.progress import ProgressWriter
from harvest_assets.orchestration.unplanned_shards import not_in_plan
from harvest_assets.stages import Stage
from harvest_assets.store.one_go import require_one_go
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.preflight import require_disk, require_memory
from harvest_assets.store.resource_estimate import estimate_resources
from harvest_assets.store.shards import ShardResult, Work
from harvest_assets.store.shared_rows import SharedTokenRows

if TYPE_CHECKING:
    import torch

# Changes when states of before can neither be added up nor continued: with another version, Dagster
# shows shards and all that was made of them as out of date, though automation leaves them as they
# are. A new format that reads the older ones (`state.FORMAT_VERSION`) is no reason.
STATE_VERSION = "2"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.HARVEST, "gpu"),
    partitions_def=run_shards,
    kinds={"torch"},
    code_version=STATE_VERSION,
    automation_condition=HARVEST,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
    pool="gpu",
    output_required=False,
)
@one_owner(shard_work)
def harvest_shard(
    context: dg.AssetExecutionContext,
    harvest_plan: HarvestPlan,
    run_checkpoint: Decomposition,
    token_rows: SharedTokenRows,
) -> dg.MaterializeResult[Any] | dg.AssetMaterialization:
    """The statistics of one shard's share; nothing is made of a shard beyond those of the plan.

    A share that was harvested for the same plan and is undamaged is not harvested again; one that
    was interrupted continues after what was saved.
    """
    started = time.monotonic()
    shard = shard_of(context.partition_key)
    if not harvest_plan.has_shard(shard):
        return not_in_plan(harvest_plan, context.partition_key)
    paths = registration(context.partition_key).layout
    checkpoint = run_checkpoint.restricted(harvest_plan.layers)
    work = Work.of(paths, harvest_plan)
    share = ShardResult(
        harvest_plan.digest, work.compatibility_digest, shard, work.share(shard), None
    )
    stored = work.reusable(paths, harvest_plan, shard) if share.rows else None
    if stored is not None:
        share = dataclasses.replace(share, state=stored.open(), is_stored=True)
    elif share.rows:
        require_one_go(checkpoint, paths)
        needs = estimate_resources(harvest_plan, checkpoint, token_rows.n_rows)
        require_disk(paths.root, needs, 1)
        share = harvest_share(harvest_plan, checkpoint, token_rows, share, paths, context.log.info)
    return dg.MaterializeResult(
        value=share,
        metadata={
            **_metadata(share, time.monotonic() - started),
            "path": dg.MetadataValue.path(str(paths.shard(shard))),
        },
    )


def harvest_share(
    plan: HarvestPlan,
    checkpoint: Decomposition,
    shared_rows: SharedTokenRows,
    share: ShardResult,
    paths: HarvestLayout,
    log: Callable[[str], None],
) -> ShardResult:
    """Harvest a share on a GPU that no other process uses, or on the CPU if there is no GPU.

    Rows that an earlier attempt saved are not harvested again; the shard's lease must be held.
    """
    with lease_device(log) as device:
        return _harvest_share_on(device, plan, checkpoint, shared_rows, share, paths, log)


def _harvest_share_on(
    device: "torch.device",
    plan: HarvestPlan,
    checkpoint: Decomposition,
    shared_rows: SharedTokenRows,
    share: ShardResult,
    paths: HarvestLayout,
    log: Callable[[str], None],
) -> ShardResult:
    from harvest_assets.harvester import Harvester
    from harvest_assets.store.harvester_settings import harvester_settings
    from harvest_assets.store.keeping import recorder_of
    from harvest_assets.store.resume import harvest_saving, resume_or_begin

    needs = estimate_resources(plan, checkpoint, len(share.rows), on_gpu=device.type == "cuda")
    require_memory(device, plan, needs)

    def begin() -> Harvester:
        return Harvester.from_settings(harvester_settings(plan, checkpoint), device)

    saved = paths.shard_saved(share.shard)
    lease = paths.shard_lease(share.shard)
    recorder = recorder_of(plan, share, paths)
    harvester, done = resume_or_begin(saved, share, begin, device, log, recorder)
    harvest_saving(
        harvester,
        checkpoint.open_model(device, ci_noise=plan.ci_noise, bf16=plan.bf16),
        shared_rows.rows(),
        share,
        saved,
        done=done,
        batch_size=plan.batch_size,
        rows_per_forward=plan.rows_per_forward(checkpoint.tokens_per_forward),
        on_progress=ProgressWriter(
            paths.shard_progress(share.shard), len(share.rows), plan.context_length, log, done
        ),
        may_write=lambda: check_held(lease),
        recorder=recorder,
    )
    firings = None if recorder is None else recorder.blocks()
    return dataclasses.replace(share, state=harvester.build_results(), firings=firings)


def _metadata(share: ShardResult, seconds: float) -> dict[str, Any]:
    if share.state is None:
        return {"share": "empty: nothing is left for this shard"}
    rows = f"rows {share.rows.start:,} to {share.rows.stop:,}"
    if share.is_stored:
        counted = shard_metadata(share.state, seconds)
        del counted["tokens per second"]  # nothing was computed
        return {"share": f"{rows}, harvested before", **counted}
    return {"share": rows, **shard_metadata(share.state, seconds)}
