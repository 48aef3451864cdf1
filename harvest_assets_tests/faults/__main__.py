"""Machines that die, tried on small things: what was tried, survived and lost.

kills: processes killed from outside at random moments. writes: writes that fail, one at a time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from harvest_assets_tests.faults.kills import Killer, Tally

# Each is imported where it is wanted: some need libraries of their own.
VICTIMS = {
    "harvest": "harvest.HarvestVictim",
    "extended": "harvest.ExtendedVictim",
    "dictionary": "harvest.DictionaryVictim",
    "interpretations": "interpretations.InterpretationsVictim",
    "answers": "answers.AnswersVictim",
    "live": "live.LiveVictim",
    "viewer": "viewer.ViewerVictim",
    "sharing": "sharing.SharingVictim",
    "dictionary-command": "commands.DictionaryCommand",
    "upgrade-command": "commands.UpgradeCommand",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="of each")
    parser.add_argument(
        "--of",
        nargs="+",
        choices=VICTIMS,
        default=["harvest"],
        metavar="WHAT",
        help=f"what is killed, of {', '.join(VICTIMS)}",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each, at most")
    parser.add_argument(
        "--writes", type=int, metavar="STEP", help="let each STEP-th write fail; kill nothing"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="harvest-faults-") as name:
        if given.writes:
            losses = _fail_writes(Path(name), given.writes)
        else:
            losses = _kill(Path(name), given)
    for loss in losses:
        sys.stdout.write(f"LOST {loss}\n")
    sys.exit(1 if losses else 0)


def _fail_writes(folder: Path, step: int) -> list[str]:
    from harvest_assets_tests.faults.failing_writes import fail_writes

    done = fail_writes(folder, step)
    sys.stdout.write(f"{done.tried} writes failed, {done.ended_badly} of them ended the harvest\n")
    return done.losses


def _kill(folder: Path, given: argparse.Namespace) -> list[str]:
    sys.stdout.write("| killed during | tried | survived | lost |\n|---|---|---|---|\n")
    tallies = [
        kill(name, folder / name, given.seed, given.kills, given.seconds) for name in given.of
    ]
    kills, rounds = sum(it.kills for it in tallies), sum(it.rounds for it in tallies)
    sys.stdout.write(f"\nseed {given.seed}: {kills} kills, {rounds} reruns\n")
    return [loss for tally in tallies for loss in tally.losses]


def kill(name: str, folder: Path, seed: int, kills: int, seconds: float = float("inf")) -> Tally:
    """Kill one of the victims, and print its rows of the table."""
    module, _, kind = VICTIMS[name].partition(".")
    made = getattr(import_module(f"harvest_assets_tests.faults.victims.{module}"), kind)
    folder.mkdir()
    tally = Killer(made(folder), name, seed).run(kills, seconds)
    sys.stdout.write("\n".join(tally.rows()) + "\n")
    sys.stdout.flush()
    return tally


if __name__ == "__main__":
    main()
