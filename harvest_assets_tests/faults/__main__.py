"""Machines that die, tried on a small harvest: what was tried, survived and lost.

kills: processes killed from outside at random moments. writes: writes that fail, one at a time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harvest_assets_tests.faults.failing_writes import fail_writes
from harvest_assets_tests.faults.kills import Killer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument(
        "--writes", type=int, metavar="STEP", help="let each STEP-th write fail; kill nothing"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="harvest-faults-") as name:
        if given.writes:
            losses = _fail_writes(Path(name), given.writes)
        else:
            losses = _kill(Path(name), given.seed, given.kills, given.seconds)
    for loss in losses:
        sys.stdout.write(f"LOST {loss}\n")
    sys.exit(1 if losses else 0)


def _fail_writes(folder: Path, step: int) -> list[str]:
    done = fail_writes(folder, step)
    sys.stdout.write(f"{done.tried} writes failed, {done.ended_badly} of them ended the harvest\n")
    return done.losses


def _kill(folder: Path, seed: int, kills: int, seconds: float) -> list[str]:
    tally = Killer(folder, seed).run(kills, seconds)
    sys.stdout.write(f"{tally.table()}\n\n")
    sys.stdout.write(
        f"seed {seed}, {tally.rounds} reruns, {tally.over_old} kills over an older result\n"
    )
    return tally.losses


if __name__ == "__main__":
    main()
