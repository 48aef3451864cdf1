"""New runs on W&B become partitions: the real client talks to a server on the loopback address."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import wandb
import yaml

from harvest_assets.definitions import defs
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import watched_path
from harvest_assets.orchestration import sensors
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.orchestration.sensors import new_wandb_runs
from harvest_assets.orchestration.wandb import subprocess_client
from harvest_assets.orchestration.wandb import watch as wandb_watch
from harvest_assets.orchestration.wandb.project import harvestable_runs
from harvest_assets.orchestration.wandb.retrained import newer_step
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.wandb.quick_start import start_quickly

PROJECT = "ent/proj"
CONFIG = yaml.safe_dump(
    {
        "module_info": [{"module_pattern": "h.*", "C": 4}],
        "pretrained_model_class": "transformers.GPT2LMHeadModel",
        "pretrained_model_name": "gpt2",
        "tokenizer_name": "gpt2",
        "task_config": {"task_name": "lm"},
    }
).encode()
FILES = {"final_config.yaml": CONFIG, "model_100.pth": b"weights"}
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackWandb]:
    with LoopbackWandb() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HARVEST_WANDB_PROJECTS", PROJECT)
        yield server
        wandb.teardown()  # the client keeps the server's address


class Ticks:
    """The sensor as the daemon calls it: its requests are carried out, its cursor is kept."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.requested: list[str] = []
        self.events: list = []

    def __call__(self) -> str:
        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            result = new_wandb_runs(context)
        for request in result.dynamic_partitions_requests or ():
            self.requested += request.partition_keys
            self.instance.add_dynamic_partitions(RUN_DIMENSION, list(request.partition_keys))
        self.events += result.asset_events
        self.cursor = result.cursor
        return result.skip_reason.skip_message

    @property
    def registered(self) -> set[str]:
        """The partitions; none was requested twice."""
        assert len(self.requested) == len(set(self.requested))
        return set(self.instance.get_dynamic_partitions(RUN_DIMENSION))


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


def add(server: LoopbackWandb, n: int, files=FILES, *, days_ago: float = 100, **details):
    """Run number `n`, created `days_ago` days ago, finished an hour later."""
    created = NOW - timedelta(days=days_ago)
    times = {
        "created_at": created.isoformat(),
        "heartbeat_at": (created + timedelta(hours=1)).isoformat(),
    }
    return server.add_run(key(n), files, **{**times, **details})


def just_ended(**time: float) -> str:
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


def key(n: int) -> str:
    return f"{PROJECT}/s-{n:08d}"


def inspected(server: LoopbackWandb) -> list[str]:
    return [variables["name"] for name, variables in server.operations if name == "RunFiles"]


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
