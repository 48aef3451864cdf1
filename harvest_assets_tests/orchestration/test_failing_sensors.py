"""A sensor that fails is reported by the commands at which people look."""

from __future__ import annotations

import time

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from harvest_assets.cli.main import cli
from harvest_assets.orchestration.failing_sensors import failing_sensors

CAUSE = SerializableErrorInfo("HarvestError: no API key", [], "HarvestError")
ERROR = SerializableErrorInfo("SensorExecutionError: outer", [], "SensorExecutionError", CAUSE)


def sensor(instance: dg.DagsterInstance, name: str, status=InstigatorStatus.RUNNING) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), "m")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "r"), name)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, status))


def ticks(instance: dg.DagsterInstance, name: str, *statuses: TickStatus, ago: float = 600) -> None:
    """The last of them `ago` seconds ago."""
    (state,) = (it for it in instance.all_instigator_state() if it.name == name)
    for n, status in enumerate(statuses):
        instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name=name,
                instigator_type=InstigatorType.SENSOR,
                status=status,
                timestamp=time.time() - ago - (len(statuses) - 1 - n) * 60,
                error=ERROR if status == TickStatus.FAILURE else None,
                selector_id=state.selector_id,
            )
        )


FAILED, SKIPPED, STARTED = TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.STARTED


def test_only_a_sensor_that_fails_now_is_reported(tmp_path):
    instance = dg.DagsterInstance.local_temp(str(tmp_path))
    for name in ("new", "recovered", "stopped", "old", "quiet"):
        stopped = name == "stopped"
        sensor(instance, name, InstigatorStatus.STOPPED if stopped else InstigatorStatus.RUNNING)
    ticks(instance, "new", FAILED, SKIPPED, FAILED, FAILED, STARTED)
    ticks(instance, "recovered", FAILED, SKIPPED)
    ticks(instance, "stopped", FAILED)
    ticks(instance, "old", FAILED, ago=86_400)
    (sentence,) = failing_sensors(instance)
    assert "sensor new" in sentence
    assert "last 2 ticks" in sentence
    assert "no API key" in sentence
    assert "outer" not in sentence


def test_backfill_reports_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        sensor(instance, "new")
        ticks(instance, "new", FAILED)
    done = CliRunner().invoke(cli, ["backfill", "--dry-run"])
    assert done.exit_code == 0
    assert "no API key" in done.stderr
