"""The real daemon beside a W&B server that grows new runs: all are harvested, nobody helps."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.files.manifest import disagreements
from harvest_assets.orchestration.harvests import HarvestStatus, unharvested
from harvest_assets.orchestration.partitions import registration
from harvest_assets_tests.dagster_dev import dagster_dev, graphql, worker_pid
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.soak.checks import (
    GRAPH,
    RUN_ASSETS,
    statuses,
    times_made,
)
from harvest_assets_tests.tiny_run import write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROJECT = "ent/proj"
LOCATION = "locations/harvest_assets.definitions"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def server() -> Iterator[LoopbackWandb]:
    with LoopbackWandb() as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = write_world(tmp_path_factory.mktemp("world"))
    return {file.name: file.read_bytes() for file in run.iterdir()}


@pytest.fixture
def environment(
    server: LoopbackWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    settings = {
        "N_BATCHES": "4",
        "BATCH_SIZE": "8",
        "N_SHARDS": "2",
        "WANDB_PROJECTS": PROJECT,
        "WANDB_SECONDS": "5",
        "RETRY_SECONDS": "5",
        "BACKFILL_CRON": "* * * * *",
    }
    home = tmp_path / ".local/share/harvest_assets/dagster"
    # What this process looks at is what the daemon writes.
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return {
        **kept,
        **server.environment,
        "HOME": str(tmp_path),
        "SPD_OUT_DIR": str(tmp_path / "out"),
        **{f"HARVEST_{name}": value for name, value in settings.items()},
    }


def key(n: int) -> str:
    return f"{PROJECT}/s-{n:08d}"


def add(server: LoopbackWandb, n: int, files: dict[str, bytes], **details) -> None:
    now = datetime.now(UTC)
    times = {"created_at": (now - timedelta(hours=1)).isoformat(), "heartbeat_at": now.isoformat()}
    server.add_run(key(n), files, **{**times, **details})


def wait_until(true: Callable[[], bool], what: str, folder: Path, seconds: float = 480) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, (what, (folder / "ui.log").read_text()[-8000:])
        time.sleep(2)


def harvested(*numbers: int) -> Callable[[], bool]:
    return lambda: all(statuses().get(key(n)) == HarvestStatus.HARVESTED for n in numbers)


def check_nothing_lost_nothing_twice(sound: list[int], broken: int, killed: str = "") -> None:
    """`killed` is the id of the Dagster run whose process was killed."""
    with dg.DagsterInstance.get() as instance:
        assert set(instance.get_dynamic_partitions("run")) == {key(n) for n in [*sound, broken]}
        for asset in RUN_ASSETS:
            made = times_made(instance, asset.value)
            assert {made[key(n)] for n in sound} == {1}, (asset, made)
        shards = times_made(instance, "harvest_shard")
        assert {shards[f"{key(n)}|{s:02d}"] for n in sound for s in range(16)} == {1}
        assert unharvested(instance, GRAPH) == []
        failures = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        others = [run for run in failures if run.run_id != killed]
        assert [run.tags.get("dagster/partition") for run in others] == [key(broken)]
        assert len(failures) == len(others) + bool(killed)
    for n in sound:
        assert disagreements(registration(key(n)).layout) == []
    assert statuses()[key(broken)] == HarvestStatus.FAILED


def shown(address: str, pages: dict[str, tuple[str, ...]]) -> None:
    """Open pages in a browser, check that texts are shown, keep screenshots if wanted."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    graphql(address, "mutation { setNuxSeen }")
    folder = os.environ.get("HARVEST_SCREENSHOTS")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        for where, texts in pages.items():
            page.goto(f"{address}/{where}")
            for text in texts:
                page.get_by_text(text).first.wait_for()
            page.wait_for_timeout(1500)
            if folder:
                name = where.partition("?")[0].strip("/").replace("/", "-")
                page.screenshot(path=str(Path(folder) / f"{name}.png"))
        browser.close()


def test_automation_harvests_what_comes(
    server: LoopbackWandb, files: dict[str, bytes], environment: dict[str, str], tmp_path: Path
):
    """Also what W&B, a broken run and a process that dies put in its way."""
    checkpoint = "model_100.pth"
    broken = {**files, checkpoint: files[checkpoint][:3000]}
    add(server, 0, files)
    add(server, 1, broken)
    add(server, 2, {"final_config.yaml": files["final_config.yaml"]})
    add(server, 3, {"output.log": b""})
    with dagster_dev({**environment, "HARVEST_AUTOMATION": "1"}, tmp_path) as address:
        wait_until(lambda: key(0) in statuses(), "the first run is registered", tmp_path)
        server.runs[key(2)].files[checkpoint] = files[checkpoint]  # it is checked after a minute
        killed = kill_a_shard(tmp_path)
        wait_until(lambda: key(2) in statuses(), "the late checkpoint is found", tmp_path)
        server.go_away()
        add(server, 4, files)
        time.sleep(30)
        server.come()
        sound = [0, 2, 4]
        wait_until(harvested(*sound), "all are harvested", tmp_path)
        wait_until(lambda: statuses()[key(1)] == HarvestStatus.FAILED, "one failed", tmp_path)
        time.sleep(40)  # whoever starts something twice does it now
        check_nothing_lost_nothing_twice(sound, 1, killed)
        shown(
            address,
            {
                f"{LOCATION}/sensors/new_wandb_runs": ("HARVEST_WANDB_PROJECTS", PROJECT),
                f"{LOCATION}/sensors/harvest_automation": ("materializations requested",),
                "assets/harvest_shard?view=partitions": (key(0), "Materialized (48)"),
                "assets/run_checkpoint?view=partitions": (key(0), "Failed (1)"),
            },
        )


def kill_a_shard(folder: Path) -> str:
    """Kill the process of a shard as soon as there is one; answers the id of its Dagster run."""
    deadline = time.monotonic() + 300
    with dg.DagsterInstance.get() as instance:
        while True:
            assert time.monotonic() < deadline, (folder / "ui.log").read_text()[-5000:]
            for run in instance.get_runs():
                if dg.AssetKey("harvest_shard") not in (run.asset_selection or ()):
                    continue
                pid = worker_pid(instance, run.run_id)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    return run.run_id
            time.sleep(0.3)


def has_backfills() -> bool:
    with dg.DagsterInstance.get() as instance:
        return bool(instance.get_backfills())


def test_the_schedule_harvests_what_comes(
    server: LoopbackWandb, files: dict[str, bytes], environment: dict[str, str], tmp_path: Path
):
    checkpoint = "model_100.pth"
    add(server, 0, files)
    add(server, 1, {**files, checkpoint: files[checkpoint][:3000]})
    repository = (
        'repositoryName: "__repository__", repositoryLocationName: "harvest_assets.definitions"'
    )
    with dagster_dev(environment, tmp_path) as address:
        for kind, name in (("Sensor", "new_wandb_runs"), ("Schedule", "backfill_new_runs")):
            selector = f'{kind.lower()}Selector: {{{repository}, {kind.lower()}Name: "{name}"}}'
            graphql(address, f"mutation {{ start{kind}({selector}) {{ __typename }} }}")
        # The run that is broken fails the backfill that it is in: the next one is without it.
        wait_until(lambda: {key(0), key(1)} <= statuses().keys(), "two are registered", tmp_path)
        wait_until(has_backfills, "the first backfill is submitted", tmp_path)
        server.go_away()
        add(server, 2, files)
        time.sleep(30)
        server.come()
        wait_until(harvested(0, 2), "all are harvested", tmp_path, 900)
        wait_until(lambda: statuses()[key(1)] == HarvestStatus.FAILED, "one failed", tmp_path)
        time.sleep(70)  # one more tick
        check_nothing_lost_nothing_twice([0, 2], 1)
        shown(
            address,
            {
                f"{LOCATION}/schedules/backfill_new_runs": ("Submits one backfill", "Every minute"),
                "runs?view=backfills": ("backfill_new_runs", "Success"),
            },
        )
