"""Ask released versions of `datasets` for their row orders and write the table: `make row-orders`.

Each version is installed into a virtual environment of its own, under a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from harvest_assets_tests.data.row_orders import examples
from harvest_assets_tests.data.row_orders.table import Table, markdown, write_table

REQUIREMENTS = (
    "datasets==3.6.0",
    "datasets==4.4.2",
    "datasets==4.8.5",
    "datasets==5.0.0",
    "datasets",
)


def answer_of(requirement: str, folder: Path) -> dict[str, Any]:
    """What `examples` prints in a new environment."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, requirement, "numpy"], check=True)
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [python, examples.__file__], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def table_of(answers: list[dict[str, Any]]) -> Table:
    """Versions that give the same order share a line."""
    table: Table = {"numpy": {a["datasets"]: a["numpy"] for a in answers}, "orders": []}
    for example in (*examples.STREAMED, examples.MAP_STYLE):
        versions: dict[tuple[int, ...], list[str]] = {}
        for answer in answers:
            same = versions.setdefault(tuple(answer["orders"][example]), [])
            if answer["datasets"] not in same:
                same.append(answer["datasets"])
        table["orders"] += [
            {"example": example, "datasets": names, "ids": list(ids)}
            for ids, names in versions.items()
        ]
    return table


def main() -> None:
    answers = []
    for requirement in REQUIREMENTS:
        print(f"Installing {requirement}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="row-orders-") as folder:
            answers.append(answer_of(requirement, Path(folder)))
    table = table_of(answers)
    write_table(table)
    print("\n".join(markdown(table)))


if __name__ == "__main__":
    main()
