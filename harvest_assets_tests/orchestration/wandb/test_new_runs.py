"""New runs on W&B become partitions: the real client talks to a server on the loopback address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import watched_path
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.wandb import watch as wandb_watch
from harvest_assets.orchestration.wandb.retrained import newer_step
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.wandb.ticks import (
    CONFIG,
    FILES,
    NOW,
    PROJECT,
    Ticks,
    add,
    inspected,
    just_ended,
    key,
)


def test_finished_runs_become_partitions_once(tick: Ticks, server: LoopbackWandb):
    for n in range(3):
        add(server, n)
    running = add(server, 3, state="running")
    message = tick()
    assert tick.registered == {key(n) for n in range(3)}
    assert "Registered 3 runs" in message
    assert "older" not in message
    n_requests = len(server.operations)
    assert tick() == "No new runs."
    assert len(server.operations) - n_requests <= 4
    running.state, running.heartbeat_at = "finished", just_ended()
    add(server, 4, days_ago=0, heartbeat_at=just_ended())
    tick()
    assert tick.registered == {key(n) for n in range(5)}
    assert len(inspected(server)) == 5


def test_the_first_tick_registers_the_newest_twenty_and_reports_the_others(
    tick: Ticks, server: LoopbackWandb, later, monkeypatch: pytest.MonkeyPatch
):
    for n in range(60):
        add(server, n, days_ago=100 - n)
    still_running = add(server, 60, days_ago=200, state="running")
    message = tick()
    assert tick.registered == {key(n) for n in range(40, 60)}
    assert "40 older finished runs" in message
    assert f"register --project {PROJECT}" in message
    assert "HARVEST_WANDB_SINCE" in message
    later(days=2)
    assert tick() == "No new runs."
    # Older, but it ended after the first tick.
    still_running.state, still_running.heartbeat_at = "finished", just_ended()
    tick()
    assert tick.registered == {key(n) for n in range(40, 61)}
    since = (NOW - timedelta(days=90.5)).date()
    monkeypatch.setenv("HARVEST_WANDB_SINCE", str(since))
    tick()
    assert tick.registered == {key(n) for n in range(9, 61)} or tick.registered == {
        key(n) for n in range(10, 61)
    }


def test_runs_that_cannot_be_harvested_are_skipped_with_the_reason(
    tick: Ticks, server: LoopbackWandb, later
):
    toy = CONFIG.replace(b"task_name: lm", b"task_name: tms")
    add(server, 0, {"output.log": b""})
    add(server, 1, {**FILES, "final_config.yaml": toy})
    add(server, 2, {**FILES, "final_config.yaml": b"a: ["})
    server.add_run(f"{PROJECT}/not-an-id", FILES)
    add(server, 3)
    message = tick()
    assert tick.registered == {key(3)}
    for words in ("no final_config.yaml", "'tms'", key(2), "'not-an-id'"):
        assert words in message
    n_requests = len(inspected(server))
    later(days=2)
    assert tick() == "No new runs."
    assert len(inspected(server)) == n_requests


def test_a_run_without_a_checkpoint_is_checked_again_but_not_forever(
    tick: Ticks, server: LoopbackWandb, later
):
    slow = add(server, 0, {"final_config.yaml": CONFIG})
    never = add(server, 1, {"final_config.yaml": CONFIG})
    assert "no checkpoint" in tick()
    assert tick() == "No new runs."
    slow.files = FILES
    later(minutes=2)
    tick()
    assert tick.registered == {key(0)}
    for _ in range(5):
        later(days=3)
        tick()
    run_ids = inspected(server)
    assert run_ids.count(slow.run_id) == 2
    assert run_ids.count(never.run_id) == len(wandb_watch._RETRY_DELAYS) + 1
    # Its training is resumed and ends again.
    never.files, never.heartbeat_at = FILES, just_ended(days=20)
    tick()
    assert tick.registered == {key(0), key(1)}


def test_filters(tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch):
    add(server, 0, tags=["keep", "x"])
    add(server, 1, tags=["other"])
    add(server, 2, state="crashed", tags=["keep"])
    add(server, 3, state="failed", tags=["keep"])
    server.add_run("ent/second/s-00000007", FILES, tags=["keep"])
    monkeypatch.setenv("HARVEST_WANDB_PROJECTS", f"{PROJECT}, https://wandb.ai/ent/second")
    monkeypatch.setenv("HARVEST_WANDB_TAGS", "keep")
    monkeypatch.setenv("HARVEST_WANDB_STATES", "finished,crashed")
    tick()
    assert tick.registered == {key(0), key(2), "ent/second/s-00000007"}
    monkeypatch.setenv("HARVEST_WANDB_TAGS", "")
    monkeypatch.setenv("HARVEST_WANDB_NAMES", "*3,s-*1")
    tick()
    assert tick.registered == {key(0), key(1), key(2), "ent/second/s-00000007"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HARVEST_WANDB_PROJECTS", "only-an-entity"),
        ("HARVEST_WANDB_SINCE", "yesterday"),
    ],
)
def test_invalid_settings_are_named(
    tick: Ticks, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Exception, match=value):
        tick()


def test_without_projects_nothing_is_requested(
    tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HARVEST_WANDB_PROJECTS")
    assert "HARVEST_WANDB_PROJECTS" in tick()
    assert server.operations == []


def test_thousands_are_paged_over_ticks(
    tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch
):
    """W&B fails in the middle of a long list, twice; every run is processed in the end."""
    monkeypatch.setattr(wandb_watch, "_LARGE_PAGE", 100)
    monkeypatch.setenv("HARVEST_WANDB_SINCE", "2000-01-01")
    for n in range(3000):
        files = FILES if n % 1000 == 0 else {}
        add(server, n, files, days_ago=3000 - n)
    # Those without files are remembered: inspecting three thousand runs would take too long.
    seen = {f"s-{n:08d}": server.runs[key(n)].heartbeat_at for n in range(3000) if n % 1000}
    write_json(
        watched_path("ent", "proj"),
        {run: {"heartbeat": time, "found": "no SPD run"} for run, time in seen.items()},
    )
    pages = 0

    def count(operation: str) -> int | None:
        nonlocal pages
        pages += operation == "Runs"
        return 404 if operation == "Runs" and pages in (8, 20) else None

    server.on_operation = count
    messages = [tick() for _ in range(3)]
    assert [("could not be listed" in text) for text in messages] == [True, True, False]
    assert tick.registered == {key(n) for n in range(0, 3000, 1000)}
    assert pages < 3000 / 100 * 1.5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_runs_come_between_two_ticks(
    tick: Ticks, server: LoopbackWandb, later: Callable[..., None]
):
    """Each is inspected; what one tick has no time for, a later one does."""
    add(server, 0)
    tick()
    for n in range(1, 201):
        add(server, n, heartbeat_at=just_ended(seconds=n / 1000))
    ticks = 0
    while len(tick.registered) < 201 and ticks < 50:
        tick()
        later(minutes=10)
        ticks += 1
    assert tick.registered == {key(n) for n in range(201)}
    assert set(inspected(server)) == {f"s-{n:08d}" for n in range(201)}
    # The end of its time may cut off the last inspection of a tick.
    assert len(inspected(server)) < 201 + ticks


def test_a_newer_checkpoint_is_reported_once(
    tick: Ticks, server: LoopbackWandb, tiny_run: Path, instance: dg.DagsterInstance
):
    files = {file.name: file.read_bytes() for file in tiny_run.iterdir()}
    run = add(server, 0, files)
    tick()
    prepare = defs.resolve_job_def("prepare")

    def open_run() -> str:
        made = prepare.execute_in_process(instance=instance, partition_key=key(0))
        metadata = made.asset_materializations_for_node("run_checkpoint")[0].metadata
        return metadata["checkpoint"].path

    assert open_run().endswith("model_100.pth")
    # It was resumed without a newer checkpoint; then with one.
    run.heartbeat_at = just_ended()
    assert tick() == "No new runs."
    run.files["model_200.pth"] = files["model_100.pth"]
    run.heartbeat_at = just_ended(seconds=60)
    assert f"{key(0)} was trained further, to step 200" in tick()
    (event,) = tick.events
    instance.report_runless_asset_event(event)
    assert tick() == "No new runs."
    assert open_run().endswith("model_200.pth"), (
        "the newer one is used even if an older one is cached"
    )
    assert newer_step(instance, key(0)) is None
    assert tick.registered == {key(0)}

    dense = f"{key(0)}@dense"
    add_run(instance, dense)
    config = prepare_config({}, 100)
    assert prepare.execute_in_process(
        instance=instance, partition_key=dense, run_config=config
    ).success
    run.heartbeat_at = just_ended(seconds=120)
    assert f"{dense} is of step 100" in tick()
    (_, event) = tick.events
    instance.report_runless_asset_event(event)
    assert newer_step(instance, dense) == 200
    assert newer_step(instance, key(0)) is None
