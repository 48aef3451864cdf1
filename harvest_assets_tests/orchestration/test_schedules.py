"""The schedule submits nothing that the automation is about to start."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus

from harvest_assets.definitions import defs
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.schedules import backfill_new_runs
from harvest_assets_tests.orchestration.test_failing_sensors import sensor, ticks

KEY = "ent/proj/s-00000000"


@pytest.mark.parametrize(
    ("status", "tick", "ago", "submits"),
    [
        (InstigatorStatus.RUNNING, TickStatus.SKIPPED, 5, False),
        # Switched off while a tick was starting runs
        (InstigatorStatus.STOPPED, TickStatus.STARTED, 5, False),
        (InstigatorStatus.STOPPED, TickStatus.SKIPPED, 5, True),
        # The daemon was killed during a tick
        (InstigatorStatus.STOPPED, TickStatus.STARTED, 7200, True),
    ],
)
def test_nothing_is_submitted_beside_the_automation(
    out_dir: Path,  # noqa: ARG001
    tmp_path: Path,
    status: InstigatorStatus,
    tick: TickStatus,
    ago: float,
    submits: bool,
):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        add_run(instance, KEY)
        sensor(instance, "harvest_automation", status)
        ticks(instance, "harvest_automation", TickStatus.SKIPPED, tick, ago=ago)
        with dg.build_schedule_context(
            instance, repository_def=defs.get_repository_def()
        ) as context:
            reason = backfill_new_runs(context).skip_message
        assert (KEY in reason) == submits, reason
        assert len(instance.get_backfills()) == submits
