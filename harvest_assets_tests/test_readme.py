"""The commands and the Python of the README and of `docs/` do what is said there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets_tests.tiny_run import write_world

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# In the order in which a reader would type their commands.
PAGES = (README, ROOT / "docs" / "viewer.md", ROOT / "docs" / "using.md")
# Installation is tried by whoever runs this; the UI, which does not end, by a browser elsewhere;
# what needs a hub, W&B or the viewer, in `sharing/` and `viewer/`.
NOT_HERE = (
    "pip install",
    "curl ",
    "--tokenizer EleutherAI/",
    *(f"harvest-assets {command}" for command in ("ui", "view", "push", "pull")),
)


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_its_code_blocks_work(tmp_path: Path):
    run = write_world(tmp_path / "world", n_texts=400)
    out = tmp_path / "out"
    shutil.copytree(run, out / "runs" / "spd-s-d2ec3bfe")  # as if it had been downloaded
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "SPD_OUT_DIR": str(out), "PATH": tools}
    environment.pop("DAGSTER_HOME", None)
    blocks = [block for page in PAGES for block in _blocks(page, "bash")]
    lines = [line for block in blocks for line in block.splitlines()]
    script = "\n".join(line for line in lines if not any(part in line for part in NOT_HERE))
    for command in ("", "verify ", "register "):
        assert f"harvest-assets {command}goodfire/spd/s-d2ec3bfe" in script
    assert "harvest-assets clean" in script
    done = _run(["bash", "-ec", script], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (python,) = _blocks(README, "python")
    shown = python + "\nprint(len(frame), component.key, len(neighbours))\n"
    done = _run([sys.executable, "-c", shown], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].split()[0] == "33"


def _run(
    command: list[str], environment: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=480, check=False
    )


def test_its_make_targets_exist():
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    target_name = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
    pages = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    named = {name for page in pages for name in target_name.findall(page.read_text("utf-8"))}
    assert {"demo", "test", "check"} <= named
    for target in named:
        assert f"\n{target}:" in makefile, target
