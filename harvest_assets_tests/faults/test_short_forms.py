from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest


def faults(*options: str) -> str:
    command = [sys.executable, "-m", "harvest_assets_tests.faults", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_kills_lose_nothing():
    """The short form; the long one: python -m harvest_assets_tests.faults --kills 1000."""
    assert "| all | 24 | 24 | 0 |" in faults("--kills", "24", "--seed", "0")


@pytest.mark.slow
def test_writes_that_fail_lose_nothing():
    """The short form; the long one: python -m harvest_assets_tests.faults --writes 1."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    counts = re.match(r"(\d+) writes failed, (\d+) of them ended", faults("--writes", "7"))
    assert int(counts[1]) >= int(counts[2]) > 3
