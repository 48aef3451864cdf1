from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest


def faults(*options: str) -> str:
    command = [sys.executable, "-m", "harvest_assets_tests.faults", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def nothing_lost(kills: int, *victims: str) -> None:
    """The short form; docs/reliability.md has the long ones."""
    table = faults("--kills", str(kills), "--seed", "0", "--of", *victims)
    assert table.count(f"| all | {kills} | {kills} | 0 |") == len(victims)


def test_a_killed_writer_of_interpretations_loses_nothing():
    nothing_lost(1, "interpretations")


@pytest.mark.slow
def test_kills_lose_nothing():
    nothing_lost(20, "harvest")
    nothing_lost(3, "extended", "answers", "sharing")


@pytest.mark.rehearsal
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("victim", "kills"),
    [
        *((name, 20) for name in ("dictionary", "interpretations", "answers", "sharing", "viewer")),
        ("live", 10),
        ("dictionary-command", 4),
        ("upgrade-command", 4),
    ],
)
def test_kills_of_all_kinds_lose_nothing(victim: str, kills: int):
    nothing_lost(kills, victim)


@pytest.mark.slow
def test_writes_that_fail_lose_nothing():
    """The short form; the long one: python -m harvest_assets_tests.faults --writes 1."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    counts = re.match(r"(\d+) writes failed, (\d+) of them ended", faults("--writes", "7"))
    assert int(counts[1]) >= int(counts[2]) > 3
