"""Kill, count, and print the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harvest_assets_tests.faults.kills import Killer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="harvest-faults-") as folder:
        tally = Killer(Path(folder), given.seed).run(given.kills, given.seconds)
    sys.stdout.write(f"{tally.table()}\n\n")
    sys.stdout.write(
        f"seed {given.seed}, {tally.rounds} reruns, {tally.over_old} kills over an older result\n"
    )
    for loss in tally.losses:
        sys.stdout.write(f"LOST {loss}\n")
    sys.exit(1 if tally.losses else 0)


if __name__ == "__main__":
    main()
