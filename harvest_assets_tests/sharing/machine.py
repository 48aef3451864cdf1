"""Commands in processes of their own, as a user of one machine gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "harvest_assets"]
NAME = "x-aaaaaaaa"  # of the harvest that is shared
LAST = "correlations/token_stats.pt"  # of its files


@dataclass
class Machine:
    """A machine of a user.

    Args:
        out_dir: its `SPD_OUT_DIR`.
        variables: with which it reaches only the servers of a test.
    """

    out_dir: Path
    variables: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables, "SPD_OUT_DIR": str(self.out_dir)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self, *arguments: str) -> str:
        ended = self.run(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def refused(self, *arguments: str) -> str:
        ended = self.run(*arguments)
        assert ended.returncode == 1, ended.stdout + ended.stderr
        return ended.stderr

    def killed(self, begun: threading.Event, *arguments: str) -> None:
        """Kill a command once it has begun something."""
        process = subprocess.Popen(
            [*COMMAND, *arguments], env=self.environment, stderr=subprocess.DEVNULL
        )
        assert begun.wait(60)
        process.kill()
        process.wait()

    def files(self, name: str) -> dict[str, bytes]:
        root = self.out_dir / "harvest" / name
        found = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
