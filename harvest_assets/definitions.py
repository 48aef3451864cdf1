"""Everything wired together.

```
run_checkpoint  [run]           files of the run, verified; data version = their digest
harvest_plan    [run]           the settings: the only place where they are set
token_rows      [run]           the rows in harvest order, shared by equal datasets
harvest_shard   [run x shard]   one state of statistics each; the GPU work
component_correlations, token_stats  [run]   merged counts
activation_contexts  [run]      components.jsonl, summary.json, config.json
merged_state    [run]           one state of all rows, which a longer harvest continues
component_scores, component_labels, label_scores  [run]   what components mean; on request
```

Importing this module loads no model code, because the webserver and the daemon stay in memory.
"""

from __future__ import annotations

import dagster as dg

from harvest_assets.assets.activation_contexts import activation_contexts
from harvest_assets.assets.component_correlations import component_correlations
from harvest_assets.assets.component_labels import component_labels
from harvest_assets.assets.component_scores import component_scores
from harvest_assets.assets.harvest_plan import harvest_plan
from harvest_assets.assets.harvest_shard import harvest_shard
from harvest_assets.assets.label_scores import label_scores
from harvest_assets.assets.merged_state import merged_state
from harvest_assets.assets.run_checkpoint import run_checkpoint
from harvest_assets.assets.token_rows import token_rows
from harvest_assets.assets.token_stats import token_stats
from harvest_assets.orchestration.checks import counts_are_consistent, files_agree
from harvest_assets.orchestration.conditions import harvest_automation
from harvest_assets.orchestration.io_manager import HarvestIOManager
from harvest_assets.orchestration.jobs import harvest, merge, prepare
from harvest_assets.orchestration.quality_checks import (
    components_are_alive,
    components_fired_often_enough,
    probabilities_sum_to_one,
    tokens_occurred_often_enough,
)
from harvest_assets.orchestration.schedules import backfill_new_runs
from harvest_assets.orchestration.sensors import new_wandb_runs
from harvest_assets.orchestration.slurm.watch import sensors as sensors_of_the_cluster
from harvest_assets.orchestration.telemetry import keep_telemetry_off

keep_telemetry_off()

defs = dg.Definitions(
    assets=[
        run_checkpoint,
        harvest_plan,
        token_rows,
        harvest_shard,
        component_correlations,
        token_stats,
        activation_contexts,
        merged_state,
        component_scores,
        component_labels,
        label_scores,
    ],
    asset_checks=[
        counts_are_consistent,
        files_agree,
        components_are_alive,
        components_fired_often_enough,
        tokens_occurred_often_enough,
        probabilities_sum_to_one,
    ],
    jobs=[prepare, harvest, merge],
    sensors=[new_wandb_runs, harvest_automation, *sensors_of_the_cluster()],
    schedules=[backfill_new_runs],
    resources={"io_manager": HarvestIOManager()},
    # A run is one stage of one partition; its steps do not need their own processes.
    executor=dg.in_process_executor,
)
