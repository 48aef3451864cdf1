"""What W&B refuses, and when it does not answer: nothing is lost, and runs are checked again."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.orchestration import sensors
from harvest_assets.orchestration.wandb import subprocess_client
from harvest_assets.orchestration.wandb.project import harvestable_runs
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.wandb.ticks import (
    FILES,
    PROJECT,
    Ticks,
    add,
    just_ended,
    key,
)


def test_a_run_that_is_deleted_between_two_requests(tick: Ticks, server: LoopbackWandb):
    add(server, 0)
    add(server, 1)

    def delete(operation: str) -> None:
        if operation == "Run":
            server.runs.pop(key(1), None)

    server.on_operation = delete
    message = tick()
    assert key(1) in message
    assert tick.registered == {key(0)}
    server.on_operation = lambda _operation: None

    # While its files are listed, and while they are downloaded.
    add(server, 2, days_ago=0, heartbeat_at=just_ended())
    add(server, 3, days_ago=0, heartbeat_at=just_ended())
    server.on_operation = lambda operation: (
        server.runs[key(2)].files.clear() if operation == "RunFiles" else None
    )
    server.runs[key(2)].files = dict(FILES)
    tick()
    assert key(2) not in tick.registered
    assert tick.registered == {key(0), key(3)}


def test_a_run_that_w_and_b_forbids(tick: Ticks, server: LoopbackWandb):
    """It is reported, and the runs listed after it are registered."""
    for n in range(2):
        add(server, n, days_ago=2 - n)
    forbid_first = iter([403, None] * 2)
    server.on_operation = lambda operation: next(forbid_first) if operation == "Run" else None
    with dg.DagsterInstance.ephemeral() as instance:
        found = dict(harvestable_runs(instance, PROJECT, ""))
    assert "403" in (found[key(0)] or "")
    assert found[key(1)] is None
    message = tick()
    assert tick.registered == {key(0)}
    assert key(1) in message
    assert "403" in message


@pytest.mark.parametrize(
    "trouble", ["away", "limited", pytest.param("slow", marks=pytest.mark.slow)]
)
def test_when_w_and_b_does_not_answer(
    tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    add(server, 0)
    tick()
    add(server, 1, days_ago=0, heartbeat_at=just_ended())
    monkeypatch.setattr(sensors, "SECONDS_FOR_WANDB", 5.0)
    if trouble == "away":
        server.go_away()
    elif trouble == "limited":
        server.status = 429
    else:
        server.delay = 30.0
    with pytest.raises(HarvestError, match="W&B"):
        tick()
    assert tick.registered == {key(0)}
    if trouble == "away":
        server.come()
    server.status, server.delay = 200, 0.0
    monkeypatch.setattr(sensors, "SECONDS_FOR_WANDB", 40.0)
    tick()
    assert tick.registered == {key(0), key(1)}


def test_nothing_is_left_when_time_is_up(
    server: LoopbackWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server.delay = 30.0
    with subprocess_client.WandbSubprocess(3.0) as wandb:
        with pytest.raises(TransientError, match="within 3 s"):
            wandb.list_runs(PROJECT, {}, "+created_at", 50)
        with pytest.raises(TransientError, match="within 3 s"):
            wandb.inspect_run(key(0))
        pid = wandb._process.pid
        assert list(tmp_path.iterdir())
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("server")
def test_a_process_that_dies_is_one_clear_error():
    with subprocess_client.WandbSubprocess(60.0) as wandb:
        os.kill(wandb._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(TransientError, match="ended"):
                wandb.inspect_run(key(0))


def test_an_invalid_api_key_ends_the_poll_and_loses_nothing(
    tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch
):
    add(server, 0)
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    with pytest.raises(HarvestError, match="API key") as failure:
        tick()
    assert "s3cret" not in str(failure.value)
    monkeypatch.setenv("WANDB_API_KEY", server.environment["WANDB_API_KEY"])
    tick()
    assert tick.registered == {key(0)}
