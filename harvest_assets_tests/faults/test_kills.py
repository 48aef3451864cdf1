from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_forty_kills_lose_nothing():
    """The short form; the long one: python -m harvest_assets_tests.faults --kills 1000."""
    command = [sys.executable, "-m", "harvest_assets_tests.faults", "--kills", "40", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 40 | 40 | 0 |" in done.stdout
