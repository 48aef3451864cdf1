"""Three small datasets and the orders in which the installed `datasets` shuffles their rows.

Run as a script it prints them as JSON; it needs `datasets` and NumPy alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

BUFFER_SIZE = 100
SEED = 0
WIDTH = 4  # each row holds its id so many times


def file_ids(example: str) -> list[list[int]]:
    """The ids of the rows of each data file of a streamed example."""
    if example == "twelve files":
        return [[file * 100 + row for row in range(50)] for file in range(12)]
    return [list(range({"one file": 2_500, "less than the buffer": 60}[example]))]


STREAMED = ("twelve files", "one file", "less than the buffer")
MAP_STYLE = "map-style"
N_MAP_STYLE = 100


def write_files(example: str, folder: Path) -> Path:
    """Write the parquet files of a streamed example."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    files = file_ids(example)
    for number, ids in enumerate(files):
        table = pa.table({"input_ids": [[row] * WIDTH for row in ids]})
        pq.write_table(table, folder / f"train-{number:05}-of-{len(files):05}.parquet")
    return folder


def library_orders(folder: Path) -> dict[str, list[int]]:
    """The ids in the order of the installed `datasets`, by example."""
    import datasets

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    orders = {}
    for number, example in enumerate(STREAMED):
        source = write_files(example, folder / str(number))
        stream = datasets.load_dataset(str(source), split="train", streaming=True)
        shuffled = stream.shuffle(seed=SEED, buffer_size=BUFFER_SIZE)
        orders[example] = [row["input_ids"][0] for row in shuffled]
    rows = datasets.Dataset.from_dict({"id": list(range(N_MAP_STYLE))})
    orders[MAP_STYLE] = list(rows.shuffle(seed=SEED)["id"])
    return orders


def main() -> None:
    import datasets
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        orders = library_orders(Path(folder))
    versions = {"datasets": datasets.__version__, "numpy": np.__version__}
    json.dump({**versions, "orders": orders}, sys.stdout)


if __name__ == "__main__":
    main()
