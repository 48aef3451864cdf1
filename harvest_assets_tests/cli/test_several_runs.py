"""Several runs with one command: here, or by the daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harvest_assets_tests.dagster_dev import dagster_dev
from harvest_assets_tests.tiny_run import write_world

OPTIONS = ["--n_batches", "4", "--batch-size", "8", "--n_shards", "1"]
SPD_HARVEST = [
    sys.executable,
    "-c",
    "from harvest_assets.cli.start import spd_harvest; spd_harvest()",
]
HARVEST_ASSETS = [sys.executable, "-m", "harvest_assets"]
SOUND, BROKEN, OTHER = (f"local/tiny/s-0000000{n}" for n in range(3))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which three runs are in the run cache, one of them damaged."""
    run = write_world(tmp_path / "world")
    for key in (SOUND, BROKEN, OTHER):
        shutil.copytree(run, tmp_path / f"out/runs/tiny-{key.rpartition('/')[2]}")
    damaged = tmp_path / f"out/runs/tiny-{BROKEN.rpartition('/')[2]}/model_100.pth"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    return {**kept, "HOME": str(tmp_path), "SPD_OUT_DIR": str(tmp_path / "out")}


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=400, check=False
    )


def lines(home: dict[str, str], key: str) -> Path:
    folder = Path(home["SPD_OUT_DIR"]) / "harvest" / key.rpartition("/")[2]
    return folder / "activation_contexts/components.jsonl"


@pytest.mark.slow
def test_one_that_fails_stops_no_other(home: dict[str, str]):
    done = run([*SPD_HARVEST, BROKEN, SOUND, *OPTIONS], home)
    assert done.returncode == 1
    assert "on this machine" in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert BROKEN in message
    assert "model_100.pth" in message
    assert lines(home, SOUND).exists()
    assert not lines(home, BROKEN).exists()

    assert run([*HARVEST_ASSETS, "register", OTHER], home).returncode == 0
    listed = run([*HARVEST_ASSETS, "backfill", "--dry-run"], home)
    assert f"{SOUND}: harvested" in listed.stdout
    assert f"{BROKEN}: failed" in listed.stdout
    assert f"{OTHER}: to be harvested" in listed.stdout
    assert "1 run would be harvested" in listed.stdout
    few = {"HARVEST_N_BATCHES": "4", "HARVEST_BATCH_SIZE": "8"}
    caught_up = run([*HARVEST_ASSETS, "backfill"], home | few)
    assert caught_up.returncode == 0, caught_up.stderr
    assert lines(home, OTHER).exists()
    assert "No registered run" in run([*HARVEST_ASSETS, "backfill"], home | few).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_live_daemon_gets_a_backfill_that_is_followed(home: dict[str, str], tmp_path: Path):
    with dagster_dev(home, tmp_path) as address:
        # The daemon sends its first heartbeat when it begins; give it a moment.
        deadline = time.monotonic() + 120
        tried = [*SPD_HARVEST, SOUND, *OPTIONS, "--dry-run"]
        while "by the Dagster daemon" not in run(tried, home).stderr:
            assert time.monotonic() < deadline
        second_daemon = run([*HARVEST_ASSETS, "ui", "--port", "0"], home)
        assert second_daemon.returncode == 1
        assert address in second_daemon.stderr
        done = run([*SPD_HARVEST, SOUND, BROKEN, *OPTIONS], home)
        assert done.returncode == 1, done.stderr
        assert "backfill" in done.stderr
        assert "1 of 2 runs harvested" in done.stderr
        assert f"{SOUND} is harvested" in done.stdout
        (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert BROKEN in message
        assert "model_100.pth" in message
        assert lines(home, SOUND).exists()

        with subprocess.Popen(
            [*SPD_HARVEST, OTHER, *OPTIONS], env=home, stderr=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stderr is not None
            line = ""
            while "This is backfill" not in line:
                line = watching.stderr.readline()
                assert line
            time.sleep(3)
            second = run([*SPD_HARVEST, OTHER, *OPTIONS], home)
            assert second.returncode == 1
            assert f"{OTHER} is queued or in progress already" in second.stderr
            watching.send_signal(signal.SIGINT)
            rest = watching.stderr.read()
            assert watching.wait(60) == 130
        assert "daemon continues with backfill" in rest
        deadline = time.monotonic() + 300
        while not lines(home, OTHER).exists():
            assert time.monotonic() < deadline, (tmp_path / "ui.log").read_text()[-5000:]
            time.sleep(2)
