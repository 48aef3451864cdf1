"""`spd-harvest` as a process of its own, what it leaves, and programs in the place of SLURM's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SPD_HARVEST = "from harvest_assets.cli.start import spd_harvest; spd_harvest()"
FILES = (
    "activation_contexts/components.jsonl",
    "activation_contexts/summary.json",
    "activation_contexts/config.json",
    "correlations/component_correlations.pt",
    "correlations/token_stats.pt",
)


class Place:
    """One `SPD_OUT_DIR` and one Dagster instance.

    Args:
        folder: of both.
        cwd: of the commands.
        env: further variables.
    """

    def __init__(self, folder: Path, cwd: Path, **env: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
        self.home = folder / "dagster"
        self.out = folder / "out"
        self.cwd = cwd
        self.env = {
            **kept,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "HOME": str(folder),
            "SPD_OUT_DIR": str(self.out),
            **env,
        }

    def start(self, *options: str) -> subprocess.Popen[str]:
        self.out.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", SPD_HARVEST, *options],
            env=self.env,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def harvest(self, *options: str) -> str:
        process = self.start(*options)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        return out

    @property
    def root(self) -> Path:
        """The folder of the one harvest."""
        (folder,) = (self.out / "harvest").iterdir()
        return folder

    def rows_done(self, shard: str) -> int:
        """How far a shard is, by its own word."""
        try:
            return json.loads((self.root / f"shards/{shard}/progress.json").read_text())[
                "rows_done"
            ]
        except (OSError, ValueError):
            return 0

    def files(self) -> dict[str, bytes]:
        return {name: (self.root / name).read_bytes() for name in FILES}


def wait_until(what: Callable[[], object], seconds: float, *, poll: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"waited {seconds} s"
        time.sleep(poll)


def process_of(job: str) -> int | None:
    """The process that works on a job: its own, not srun's."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().split(b"\0")
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        ours = b"submitit.core._submit" in command and b"srun" not in command.split(b"\0")[0]
        if ours and f"SLURM_JOB_ID={job}".encode() in environment:
            return int(path.parent.name)
    return None


def memory_of_tree(pid: int) -> int:
    """Bytes that a process and its descendants have for themselves (of shared pages a share)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:")) * 1024
    return total


def program(folder: Path, name: str, prints: str, status: int = 0) -> None:
    """A program that prints a text and notes its arguments in the file `asked`."""
    path = folder / name
    path.write_text(
        f"#!/bin/sh\necho \"$@\" >> {folder}/asked\ncat <<'END'\n{prints}\nEND\nexit {status}\n"
    )
    path.chmod(0o755)
