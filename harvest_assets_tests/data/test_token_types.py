"""Token ids are integers in each data file, whatever type the others have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harvest_assets.data.data import DataSpec, sample_data, write_token_rows
from harvest_assets.errors import HarvestError
from harvest_assets_tests.data.small_datasets import spec_of

GOOD = [[1, 2, 3]] * 4
WRONG: dict[str, list[Any]] = {
    "whole floats": [[5.0, 6.0, 7.0]] * 4,
    "strings": [["9", "8", "7"]] * 4,
    "truth values": [[True, False, True]] * 4,
    "a float in the second row": [[5, 6, 7], [5, 6.0, 7]],
    "no lists": [5, 6, 7],
}
SUFFIXES = [".parquet", ".jsonl", ".json", ".jsonl.gz"]
INTEGERS = [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()]
LISTS = [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)]
CARD = "---\ndataset_info:\n  features:\n  - name: ids\n    list: int32\n---\n"


def _write(path: Path, rows: list[Any], kind: pa.DataType | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"ids": pa.array(rows, kind)}), path)
        return
    objects = [{"ids": row} for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in objects)
    content = (json.dumps(objects) if path.suffix == ".json" else lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _tokens(dataset: Path, *, streaming: bool) -> DataSpec:
    return spec_of(dataset, "", column_name="ids", is_tokenized=True, streaming=streaming, n_ctx=3)


def _check_refused(spec: DataSpec, path: Path, out: Path) -> None:
    out.mkdir()
    for read in (lambda: write_token_rows(spec, out, None), lambda: sample_data(spec)):
        with pytest.raises(HarvestError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "'ids'" in str(caught.value)
    assert not list(out.iterdir())


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", WRONG)
def test_a_later_file_of_another_type_is_named(
    kind: str, suffix: str, streaming: bool, tmp_path: Path
) -> None:
    _write(tmp_path / "data" / f"train-0{suffix}", GOOD)
    path = tmp_path / "data" / f"train-1{suffix}"
    _write(path, WRONG[kind])
    spec = _tokens(path.parent, streaming=streaming)
    _check_refused(spec, path, tmp_path / "rows")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_card_does_not_make_floats_token_ids(
    suffix: str, streaming: bool, tmp_path: Path
) -> None:
    path = tmp_path / "data" / f"train{suffix}"
    _write(path, WRONG["whole floats"])
    (path.parent / "README.md").write_text(CARD)
    _check_refused(_tokens(path.parent, streaming=streaming), path, tmp_path / "rows")


@pytest.mark.parametrize("streaming", [True, False])
def test_another_split_may_hold_what_it_likes(
    streaming: bool, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    _write(tmp_path / "data" / "train.jsonl", GOOD)
    _write(tmp_path / "data" / "test.jsonl", WRONG["whole floats"])
    spec = _tokens(tmp_path / "data", streaming=streaming)
    assert harvest_rows(spec).tolist() == GOOD


@pytest.mark.parametrize("streaming", [True, False])
def test_lists_of_any_integers_are_token_ids(
    streaming: bool, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    kinds = [of(integer) for of in LISTS for integer in INTEGERS]
    for number, kind in enumerate(kinds):
        _write(tmp_path / "data" / f"train-{number:02}.parquet", [[number, 0, 1]], kind)
        rows = harvest_rows(
            _tokens(tmp_path / "data" / f"train-{number:02}.parquet", streaming=streaming)
        )
        assert rows.tolist() == [[number, 0, 1]]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_json_files_of_integers_are_token_ids(
    suffix: str, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    for number in range(2):
        _write(tmp_path / "data" / f"train-{number}{suffix}", GOOD)
    assert harvest_rows(_tokens(tmp_path / "data", streaming=False)).tolist() == GOOD * 2
