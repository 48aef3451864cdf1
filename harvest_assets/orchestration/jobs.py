"""The three stages of a harvest, each a run of its own: prepare, harvest shard by shard, merge."""

from __future__ import annotations

import dagster as dg

prepare = dg.define_asset_job(
    "prepare",
    selection=["run_checkpoint", "harvest_plan", "token_rows"],
    description="Open the run, fix the settings, tokenize the data.",
)
harvest = dg.define_asset_job(
    "harvest",
    selection=["harvest_shard"],
    description="Harvest one shard.",
)
merge = dg.define_asset_job(
    "merge",
    selection=["component_correlations", "token_stats", "activation_contexts", "merged_state"],
    description="Sum the shards, write the result files, compact the shards into one state.",
)
