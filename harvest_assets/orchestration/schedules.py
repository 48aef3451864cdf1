"""The schedule that catches up on registered runs whose harvest is missing."""

from __future__ import annotations

import dagster as dg

from harvest_assets.errors import counted
from harvest_assets.orchestration.backfills import submit
from harvest_assets.orchestration.conditions import harvest_automation
from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.failures import presentable_errors
from harvest_assets.orchestration.harvests import unharvested
from harvest_assets.orchestration.instance import sensor_is_active
from harvest_assets.orchestration.jobs import prepare

BY_SCHEDULE = "Harvests that were missing"


@dg.schedule(
    job=prepare,
    description=(
        "Submits one backfill of all registered runs whose harvest is missing and has not been "
        "started. It has nothing to do while harvest_automation is on."
    ),
    cron_schedule=UnattendedSettings.from_environment().backfill_cron,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
@presentable_errors()
def backfill_new_runs(context: dg.ScheduleEvaluationContext) -> dg.SkipReason:
    """Submits one backfill of all registered runs whose harvest is missing.

    Runs that are queued, in progress or failed are excluded; while `harvest_automation` is on, or
    still starting runs, nothing is submitted. `HARVEST_BACKFILL_CRON` sets the time; with
    `HARVEST_BACKFILL_CHANGED=1` runs whose plan or checkpoint has changed are harvested again.
    """
    instance, settings = context.instance, UnattendedSettings.from_environment()
    of_automation = dg.SkipReason("harvest_automation is on, or still starting runs.")
    if _automation_is_active(instance, settings):
        return of_automation
    graph = context.repository_def.asset_graph
    keys = unharvested(instance, graph, include_changed=settings.backfill_changed)
    if not keys:
        return dg.SkipReason("No registered run is waiting to be harvested.")
    if _automation_is_active(instance, settings):  # switched on in the meantime
        return of_automation
    tags = {"dagster/schedule_name": backfill_new_runs.name}
    backfill = submit(instance, graph, keys, title=BY_SCHEDULE, tags=tags)
    runs = ", ".join(keys)
    return dg.SkipReason(f"Backfill {backfill} harvests {counted(len(keys), 'run')}: {runs}.")


def _automation_is_active(instance: dg.DagsterInstance, settings: UnattendedSettings) -> bool:
    return sensor_is_active(instance, harvest_automation.name, default=settings.automation)
