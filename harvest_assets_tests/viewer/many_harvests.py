"""How long people wait where there are many harvests.

`python -m harvest_assets_tests.viewer.many_harvests FOLDER [NUMBER]` makes one tiny harvest in a
new or empty folder, and so many others out of hard links, and measures what lists them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks.report import step_line
from benchmarks.sizes import NAME
from benchmarks.watched import Steps

COMMAND = ("-m", "harvest_assets")


def main(folder: Path, n: int) -> None:
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; give a new folder.")
    environment = {**os.environ, "SPD_OUT_DIR": str(folder), "HOME": str(folder / "home")}
    environment.pop("DAGSTER_HOME", None)
    steps = Steps(environment, 8 << 30, lambda step: print(step_line(step), step.note, flush=True))
    for what in ("write tiny", "merge tiny"):
        steps.run(what, "-m", "benchmarks.sizes", *what.split())
    harvests = folder / "harvest"
    for number in range(1, n):
        target = harvests / f"x-{number:08d}"
        shutil.copytree(harvests / NAME, target, copy_function=os.link)
    steps.run("list", *COMMAND, "list")
    steps.run("status", *COMMAND, "status", NAME)
    steps.run("verify", *COMMAND, "verify", NAME)
    with steps.server(*COMMAND, "view", NAME, "--no-browser", "--port", "0") as ask:
        ask("view: from the command to the first answer", f"/run/{NAME}")
        for _ in range(3):
            ask("view: all harvests", "/harvests")
        ask("view: all harvests as JSON", "/api/harvests")
        ask("view: another harvest", "/run/x-00000001")
        ask("view: that harvest again", "/run/x-00000001")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
