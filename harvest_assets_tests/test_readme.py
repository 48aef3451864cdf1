"""The commands and the Python of the README do what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets_tests.tiny_run import write_world

README = Path(__file__).parents[1] / "README.md"
# Installation is tried by whoever runs this; the UI, which does not end, by a browser elsewhere.
NOT_HERE = ("pip install", "harvest_assets ui", "harvest_assets view")


def _blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_its_code_blocks_work(tmp_path: Path):
    run = write_world(tmp_path / "world", n_texts=400)
    out = tmp_path / "out"
    shutil.copytree(run, out / "runs" / "spd-s-d2ec3bfe")  # as if it had been downloaded
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "SPD_OUT_DIR": str(out), "PATH": tools}
    environment.pop("DAGSTER_HOME", None)
    lines = [line for block in _blocks("bash") for line in block.splitlines()]
    script = "\n".join(line for line in lines if not any(part in line for part in NOT_HERE))
    assert "python -m harvest_assets goodfire/spd/s-d2ec3bfe" in script
    done = _run(["bash", "-ec", script], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (python,) = _blocks("python")
    shown = python + "\nprint(len(frame), component.component_key, len(neighbours))\n"
    done = _run([sys.executable, "-c", shown], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[0] == "33"


def _run(
    command: list[str], environment: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


def test_its_make_targets_are_there():
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", README.read_text(encoding="utf-8")):
        assert f"\n{target}:" in makefile
