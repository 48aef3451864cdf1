"""The schedule submits nothing that the automation is about to start."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus

from harvest_assets.definitions import defs
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.schedules import backfill_new_runs
from harvest_assets_tests.orchestration.test_failing_sensors import sensor, ticks

AUTOMATION = "harvest_automation"


def submitted(instance: dg.DagsterInstance, n: int) -> bool:
    """Whether a tick of the schedule submits the n-th run, which is new."""
    key = f"ent/proj/s-{n:08d}"
    add_run(instance, key)
    before = len(instance.get_backfills())
    with dg.build_schedule_context(instance, repository_def=defs.get_repository_def()) as context:
        reason = backfill_new_runs(context).skip_message
    assert len(instance.get_backfills()) - before == (key in reason)
    return key in reason


def test_nothing_is_submitted_beside_the_automation(
    out_dir: Path,  # noqa: ARG001
    tmp_path: Path,
):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        sensor(instance, AUTOMATION, InstigatorStatus.STOPPED)
        ticks(instance, AUTOMATION, TickStatus.STARTED, ago=7200)
        assert submitted(instance, 0), "the daemon was killed during that tick"
        ticks(instance, AUTOMATION, TickStatus.STARTED, ago=5)
        assert not submitted(instance, 1), "it was switched off while it started runs"
        ticks(instance, AUTOMATION, TickStatus.SKIPPED, ago=1)
        assert submitted(instance, 1)
        (state,) = instance.all_instigator_state()
        instance.update_instigator_state(state.with_status(InstigatorStatus.RUNNING))
        assert not submitted(instance, 2)
