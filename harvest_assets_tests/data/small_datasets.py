"""Small local datasets, and what says how to read them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.data.data import DataSpec
from harvest_assets_tests.data.conftest import WORDS

N_CTX = 16


def random_texts(n: int, n_words: int = 12) -> list[str]:
    """Texts of fewer than `n_words` words."""
    draw = random.Random(n)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(n_words))) for _ in range(n)]


def parquet_dataset(folder: Path, columns: dict[str, Any], n_files: int = 1) -> Path:
    """A local dataset of parquet files, `train` cut into `n_files`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    size = -(-len(table) // n_files)
    for i in range(n_files):
        path = folder / f"train-{i:05}-of-{n_files:05}.parquet"
        pq.write_table(table.slice(i * size, size), path)
    pq.write_table(table.slice(0, 1), folder / "test-00000-of-00001.parquet")
    return folder


def spec_of(dataset: Path, tokenizer: Path | str, **changes: Any) -> DataSpec:
    """The column `text` of `train`, in rows of `N_CTX` tokens; `changes` are other fields."""
    spec = DataSpec(
        dataset_name=str(dataset),
        train_data_split="train",
        column_name="text",
        is_tokenized=False,
        streaming=False,
        buffer_size=10,
        shuffle_each_epoch=True,
        seed=0,
        tokenizer_name=str(tokenizer),
        n_ctx=N_CTX,
    )
    return replace(spec, **changes)


def token_lists(n: int, n_ctx: int = N_CTX) -> list[list[int]]:
    """Rows of token ids, all different."""
    return [[1000 * i + j for j in range(n_ctx)] for i in range(n)]


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file with one JSON object a line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
