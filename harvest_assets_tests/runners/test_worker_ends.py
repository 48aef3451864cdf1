"""No worker's output, and no child that outlives it, keeps a command waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.runners.local import execute_here
from harvest_assets.runners.staged import StageRun
from harvest_assets.runners.warm import warm_worker
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration
from harvest_assets.wandb_client.run_name import RunName, RunReference

pytestmark = pytest.mark.timeout(60)

# The answer of a stage whose traceback has a megabyte.
ANSWER = json.dumps({"error": "It broke.", "traceback": "\u00e9" * 1_000_000})

Program = Callable[[str], None]


@pytest.fixture
def registration(out_dir: Path) -> Registration:  # noqa: ARG001
    return Registration(RunReference(RunName.from_key("a/b/aaaaaaaa"), Path("/runs")), "aaaaaaaa")


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script, which finds ANSWER in a file, in the place of the worker's program."""

    def install(script: str) -> None:
        program, answer = tmp_path / "program", tmp_path / "answer"
        answer.write_text(ANSWER + "\n")
        program.write_text(f"#!/bin/bash\nanswer={answer}\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))

    return install


def nothing() -> None: ...


def test_a_long_traceback_is_reported_by_the_warm_worker(
    registration: Registration, worker: Program
):
    worker('while read -r; do cat "$answer"; done')
    with warm_worker() as warm:
        for _ in range(2):
            with pytest.raises(HarvestError, match="It broke") as caught:
                warm.execute(registration, StageRun(Stage.PREPARE, "a/b/c"), nothing)
            assert caught.value.__notes__[0].count("\u00e9") == 1_000_000


@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_long_traceback_of_a_shard_is_reported(
    registration: Registration, worker: Program, n_shards: int
):
    worker('cat "$answer"; exit 1')
    runs = [StageRun(Stage.HARVEST, f"a/b/c|0{shard}") for shard in range(n_shards)]
    with pytest.raises(HarvestError, match="It broke") as caught:
        execute_here(registration, runs, nothing)
    assert caught.value.__notes__[0].count("\u00e9") == 1_000_000


def test_a_worker_that_is_stopped_while_it_answers_ends(
    registration: Registration, worker: Program
):
    worker('read -r; sleep 1; cat "$answer"')

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), warm_worker() as warm:
        warm.execute(registration, StageRun(Stage.PREPARE, "a/b/c"), interrupt)


@pytest.mark.parametrize("written", [":", "head -c 9 $answer"], ids=["nothing", "half an answer"])
def test_a_killed_worker_whose_child_has_the_pipe_open_is_reported(
    registration: Registration, worker: Program, tmp_path: Path, written: str
):
    worker(f"read -r; sleep 300 & echo $! > $answer.child; {written}; kill -9 $$")
    try:
        with pytest.raises(HarvestError, match=r"a/b/c .* -9"), warm_worker() as warm:
            warm.execute(registration, StageRun(Stage.PREPARE, "a/b/c"), nothing)
    finally:
        subprocess.run(["kill", (tmp_path / "answer.child").read_text().strip()], check=True)


@pytest.mark.slow
def test_the_real_worker_ends_if_nobody_reads_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", "harvest_assets.runners.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdin
        assert process.stdout
        request = {"stage": "prepare", "partition": "a/b/c", "run_config": {}, "log": str(log)}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        process.stdout.close()
        assert process.wait(50) == 0
    finally:
        process.kill()
    assert "BrokenPipeError" not in log.read_text()
