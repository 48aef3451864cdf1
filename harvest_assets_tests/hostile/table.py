"""Try all hand-made attacks and print a table: `python -m harvest_assets_tests.hostile.table`."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter

from harvest_assets_tests.hostile.attacks import ATTACKS, CRASHED, LET_IN, outcome
from harvest_assets_tests.hostile.readers.reader import scratch_folder


def rows(outcomes: dict[str, Counter[str]]) -> list[str]:
    """The table in Markdown, a kind of input a line."""
    lines = ["| input | attacks | crashed | let in |", "|---|---:|---:|---:|"]
    everything: Counter[str] = sum(outcomes.values(), Counter())
    for kind, found in [*outcomes.items(), ("**all**", everything)]:
        lines.append(f"| {kind} | {found.total()} | {found[CRASHED]} | {found[LET_IN]} |")
    return lines


def main() -> int:
    """Answers 1 if one was not refused."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    outcomes: dict[str, Counter[str]] = {}
    for attack in ATTACKS:
        folder = scratch_folder()
        try:
            found, seen = outcome(attack, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        outcomes.setdefault(attack.kind, Counter())[found] += 1
        if seen:
            print(f"{attack}: {found}: {seen}", file=sys.stderr)
    print("\n".join(rows(outcomes)))
    return int(any(found[CRASHED] + found[LET_IN] for found in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
