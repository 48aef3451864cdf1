"""One state of the whole harvest, from which it can be extended; the shards are removed."""

from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import check_held
from harvest_assets.files.manifest import disagreements, read
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags
from harvest_assets.orchestration.conditions import MERGE
from harvest_assets.orchestration.failures import RETRIES, one_owner
from harvest_assets.orchestration.harvest_config import NO_CONFIG
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import merge_work, registration, runs
from harvest_assets.settings import StorageSettings
from harvest_assets.stages import Asset, Stage
from harvest_assets.store.plan import HarvestPlan


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.MERGE, "disk"),
    partitions_def=runs,
    kinds={"torch"},
    code_version="1",
    automation_condition=MERGE,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
    deps=[
        asset_key(Asset.COMPONENT_CORRELATIONS),
        asset_key(Asset.TOKEN_STATS),
        asset_key(Asset.ACTIVATION_CONTEXTS),
    ],
    output_required=False,
)
@one_owner(merge_work)
def merged_state(
    context: dg.AssetExecutionContext, harvest_plan: HarvestPlan
) -> dg.MaterializeResult[Any]:
    """The shards of a verified harvest as one state; `HARVEST_KEEP` decides what is kept."""
    from harvest_assets.store.compaction import compact

    paths = registration(context.partition_key).layout
    keep = StorageSettings.from_environment().keep
    problems = disagreements(paths)
    if any(entry.plan != harvest_plan.digest for entry in read(paths).values()):
        problems.append(f"The results in {paths.root} are of another plan; merge first.")
    if problems:
        raise HarvestError(" ".join(problems))
    check_held(paths.merge_lease)
    written = compact(paths, harvest_plan, keep)
    return dg.MaterializeResult(
        metadata={
            "kept": keep,
            "bytes": written,
            "path": dg.MetadataValue.path(str(paths.merged)),
        }
    )
