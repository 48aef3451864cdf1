"""The process that executes the stages of a harvest, one after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets_tests.tiny_run import write_world

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "dagster").mkdir()
    here = {"SPD_OUT_DIR": str(tmp_path / "out"), "DAGSTER_HOME": str(tmp_path / "dagster")}
    return {**os.environ, **here}


def test_it_executes_what_it_is_sent_until_its_stdin_ends(
    environment: dict[str, str], tmp_path: Path
):
    run = write_world(tmp_path / "world")
    registered = subprocess.run(
        [sys.executable, "-m", "harvest_assets", "register", str(run)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    key = registered.stdout.split()[0]
    worker = subprocess.Popen(
        [sys.executable, "-m", "harvest_assets.runners.worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        answers = []
        for n, partition in enumerate(("a/b/c", key)):
            request = {"stage": "prepare", "partition": partition, "run_config": {}}
            worker.stdin.write(json.dumps({**request, "log": str(tmp_path / f"{n}.log")}) + "\n")
            worker.stdin.flush()
            answers.append(json.loads(worker.stdout.readline()))
        assert "a/b/c" in answers[0]["error"]  # a stage that fails does not end it
        assert answers[1] == {"error": None, "traceback": ""}
        assert "a/b/c" in (tmp_path / "0.log").read_text()
        assert "a/b/c" not in (tmp_path / "1.log").read_text()
        (plan,) = (tmp_path / "out/harvest").glob("*/plan.json")
        assert json.loads(plan.read_text())["run"] == key
        worker.stdin.close()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
