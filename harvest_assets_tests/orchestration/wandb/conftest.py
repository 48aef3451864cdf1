"""The sensor of new runs beside a server on the loopback address, which the real client asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import dagster as dg
import pytest
import wandb

from harvest_assets.orchestration import sensors
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.wandb.quick_start import start_quickly
from harvest_assets_tests.orchestration.wandb.ticks import PROJECT, Ticks


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackWandb]:
    with LoopbackWandb() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HARVEST_WANDB_PROJECTS", PROJECT)
        yield server
        wandb.teardown()  # the client keeps the server's address


@pytest.fixture
def tick(
    out_dir,  # noqa: ARG001
    server,  # noqa: ARG001
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> Ticks:
    start_quickly(monkeypatch)
    return Ticks(instance)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets time pass, for the sensor."""
    passed = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + passed

    def pass_(**time: float) -> None:
        nonlocal passed
        passed += timedelta(**time)

    monkeypatch.setattr(sensors, "datetime", Clock)
    return pass_
