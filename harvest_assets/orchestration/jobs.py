"""The three stages of a harvest as Dagster jobs, and the keys of their assets."""

from __future__ import annotations

import dagster as dg

from harvest_assets.orchestration.harvest_config import STORED_CONFIG
from harvest_assets.stages import Asset, Stage


def asset_key(asset: Asset) -> dg.AssetKey:
    """The key of an asset in Dagster."""
    return dg.AssetKey(asset.value)


def _keys(stage: Stage) -> list[dg.AssetKey]:
    return [asset_key(asset) for asset in stage.assets]


prepare = dg.define_asset_job(
    Stage.PREPARE.value,
    selection=_keys(Stage.PREPARE),
    config=STORED_CONFIG,
    description=(
        "Open the run, fix the settings, tokenize the data. Choose a run in the launchpad to see "
        "the settings of its plan and to change them."
    ),
)
harvest = dg.define_asset_job(
    Stage.HARVEST.value,
    selection=_keys(Stage.HARVEST),
    description="Harvest one shard.",
)
merge = dg.define_asset_job(
    Stage.MERGE.value,
    selection=_keys(Stage.MERGE),
    description="Sum the shards, write the result files, compact the shards into one state.",
)
