"""The whole command with all its processes, killed while shards are at work, then started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from harvest_assets_tests.tiny_run import write_world


def start(run: Path, out: Path, home: Path) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "harvest_assets", str(run), "--n-shards", "2", "--batch-size", "8"],
        env={**kept, "HOME": str(home), "SPD_OUT_DIR": str(out)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> None:
    try:
        _, stderr = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_command_is_started_again(tmp_path: Path):
    run = write_world(tmp_path / "world")
    for wanted in ("leases/shard-00.json", "shards/00/current.json", "leases/merge.json"):
        out = tmp_path / "out"
        process = start(run, out, tmp_path)
        deadline = time.monotonic() + 120
        while not list(out.glob(f"harvest/*/{wanted}")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finished(start(run, tmp_path / "out", tmp_path))
    finished(start(run, tmp_path / "whole", tmp_path))
    results = []
    for out in ("out", "whole"):
        (folder,) = (tmp_path / out / "harvest").iterdir()
        counts = torch.load(folder / "correlations/component_correlations.pt", weights_only=True)
        lines = (folder / "activation_contexts/components.jsonl").read_bytes()
        results.append((lines, counts["count_ij"].tolist()))
        assert not list(folder.rglob("*.tmp"))
    assert results[0] == results[1]
