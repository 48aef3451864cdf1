"""The settings of a harvest, which are set nowhere else."""

from typing import Any

import dagster as dg

from harvest_assets.data.data import DataSpec, fingerprint
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import plain_text
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags, table
from harvest_assets.orchestration.conditions import FOLLOW
from harvest_assets.orchestration.failures import RETRIES, refuses_bad_input
from harvest_assets.orchestration.harvest_config import (
    CHECK_MACHINE,
    MACHINE_CONFIG,
    PLAN_CONFIG,
)
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.orchestration.plan_changes import CHANGES
from harvest_assets.orchestration.unplanned_shards import report_unplanned_shards
from harvest_assets.stages import Stage
from harvest_assets.store.one_go import require_one_go
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.plan_change import change_of_plan, shares_left
from harvest_assets.store.planning import make_plan, settings_over_stored
from harvest_assets.store.preflight import require_memory_here
from harvest_assets.store.shared_rows import SharedTokenRows


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.PREPARE, "none"),
    partitions_def=runs,
    kinds={"json"},
    code_version="1",
    automation_condition=FOLLOW,
    retry_policy=RETRIES,
    config_schema=PLAN_CONFIG | MACHINE_CONFIG,
)
@refuses_bad_input
def harvest_plan(
    context: dg.AssetExecutionContext, run_checkpoint: Decomposition
) -> dg.MaterializeResult[Any]:
    """What is to be harvested and how; every shard and every merge reads it from here.

    Settings that the config omits stay as in the stored plan; without one they are the defaults.
    The launchpad of the job `prepare` is filled in with them when a run is chosen.
    """
    paths = registration(context.partition_key).layout
    given = dict(context.op_execution_context.op_config)
    check_machine = given.pop(CHECK_MACHINE, False)
    stored, config = settings_over_stored(paths, given)
    plan = make_plan(run_checkpoint, config)
    spec, notes = run_checkpoint.data_spec(plan.context_length), run_checkpoint.notes()
    if check_machine and stored != plan:  # what is stored may be harvested already
        shares = shares_left(paths, stored, plan, None, streaming=spec.streaming)
        require_memory_here(plan, run_checkpoint.restricted(plan.layers), shares)
    if stored is not None:
        _check_rows(paths, plan, spec)
        if stored != plan:
            require_one_go(run_checkpoint, paths)
    changes = {}
    if stored is not None and stored != plan:
        changes = {CHANGES: change_of_plan(paths, stored, plan, streaming=spec.streaming)}
        context.log.warning(changes[CHANGES])
    for warning in run_checkpoint.warnings(plan.ci_threshold, plan.context_length):
        context.log.warning(warning)
    report_unplanned_shards(context.instance, plan, context.partition_key)
    values = plan.model_dump()
    settings = [(name, plain_text(str(v))) for name, v in values.items()]
    return dg.MaterializeResult(
        value=plan,
        data_version=dg.DataVersion(plan.digest),
        metadata={
            "settings": table(("setting", "value"), settings),
            "plan": dg.MetadataValue.json(values),
            "shards": plan.n_shards,
            **({"notes": "\n\n".join(notes)} if notes else {}),
            **changes,
        },
    )


def _check_rows(paths: HarvestLayout, plan: HarvestPlan, spec: DataSpec) -> None:
    """Refuse a plan without a whole batch before it replaces the stored one.

    Raises:
        HarvestError: the rows that were harvested before, of the same data, are too few for it.
    """
    try:
        rows = SharedTokenRows.open(paths.root)
    except HarvestError:
        return
    n_wanted = plan.n_rows_wanted
    if plan.batches_seen(rows.n_rows) == 0 and rows.fingerprint == fingerprint(spec, n_wanted):
        plan.require_batches(rows.n_rows, rows.n_ctx, spec.dataset_name)
