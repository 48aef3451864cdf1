"""The three stages of a harvest, each a run of its own: prepare, harvest shard by shard, merge."""

from __future__ import annotations

import dagster as dg

from harvest_assets.orchestration.partitions import run_shards, runs

prepare = dg.define_asset_job(
    "prepare",
    selection=["run_checkpoint", "harvest_plan", "token_rows"],
    partitions_def=runs,
    description="Open the run, fix the settings, tokenize the data.",
)
harvest = dg.define_asset_job(
    "harvest",
    selection=["harvest_shard"],
    partitions_def=run_shards,
    description="Harvest one shard.",
)
merge = dg.define_asset_job(
    "merge",
    selection=["component_correlations", "token_stats", "activation_contexts"],
    partitions_def=runs,
    description="Sum the shards and write the result files.",
)
