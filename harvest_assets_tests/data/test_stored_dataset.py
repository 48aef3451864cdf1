"""Rows come from the content that was fingerprinted, whatever path and time its files have."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from harvest_assets.data.data import DataSpec
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets_tests.tiny_run import text, write_tokenizer

N_CTX = 16
KINDS = {
    "a parquet file": "train.parquet",
    "a folder of parquet": "data/train.parquet",
    "a JSON-lines file": "train.jsonl",
    "a JSON file": "train.json",
    "a folder of JSON lines": "data/train.jsonl",
    "a folder of compressed JSON lines": "data/train.jsonl.gz",
}

pytestmark = pytest.mark.usefixtures("out_dir")


def _write(path: Path, column: str, value: Any, mtime: int = 1_000_000_000) -> Path:
    """Sixty equal rows in a file with this modification time."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: [value] * 60}), path)
    else:
        shown = json.dumps(value).replace(" 7", "  7").replace("[7", "[ 7")  # as long as of 50
        lines = f'{{"{column}": {shown}}}\n' * 60
        content = lines.encode()
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    os.utime(path, (mtime, mtime))
    return path


def _tokens(path: Path, token: int, mtime: int = 1_000_000_000) -> Path:
    return _write(path, "ids", [token] * N_CTX, mtime)


def _spec(path: Path, **changes: Any) -> DataSpec:
    spec = DataSpec(
        dataset_name=str(path if path.parent.name != "data" else path.parent),
        train_data_split="train",
        column_name="ids",
        is_tokenized=True,
        streaming=False,
        buffer_size=10,
        shuffle_each_epoch=True,
        seed=0,
        tokenizer_name="",
        n_ctx=N_CTX,
    )
    return replace(spec, **changes)


def _found(rows: SharedTokenRows) -> set[int]:
    return set(rows.rows().rows(0, rows.n_rows).flatten().tolist())


@pytest.mark.parametrize(
    ("kind", "split"),
    [*((kind, "train") for kind in KINDS), ("a folder of parquet", "train[:50]")],
)
def test_a_file_replaced_under_the_same_time(kind: str, split: str, tmp_path: Path) -> None:
    path = tmp_path / KINDS[kind]
    spec = _spec(path, train_data_split=split)
    _tokens(path, 7)
    size = path.stat().st_size
    first = SharedTokenRows.prepare(spec, None)
    _tokens(path, 50)
    assert path.suffix == ".gz" or path.stat().st_size == size
    second = SharedTokenRows.prepare(spec, None)
    assert (_found(first), _found(second)) == ({7}, {50})
    assert first.fingerprint != second.fingerprint
    _tokens(path, 7, mtime=2_000_000_000)
    assert SharedTokenRows.prepare(spec, None) == first


@pytest.mark.parametrize("kind", ["a folder of parquet", "a JSON-lines file"])
def test_text_replaced_under_the_same_time(kind: str, tmp_path: Path) -> None:
    words = random.Random(0)
    write_tokenizer(tmp_path / "tokenizer", [text(words) for _ in range(100)])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    path = tmp_path / KINDS[kind]
    spec = _spec(
        path, column_name="text", is_tokenized=False, tokenizer_name=str(tmp_path / "tokenizer")
    )
    for word in ("shard", "token"):
        _write(path, "text", f"{word} " * 10)
        decoded = tokenizer.decode(sorted(_found(SharedTokenRows.prepare(spec, None))))
        assert word in decoded.replace(" ", "")
        assert {"shard": "token", "token": "shard"}[word] not in decoded.replace(" ", "")


def test_how_a_card_has_files_read_is_content(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    parts = {key: [{"ids": [token] * N_CTX}] * 9 for key, token in {"old": 7, "new": 50}.items()}
    (folder / "rows.json").write_text(json.dumps(parts))
    found = []
    for field in parts:
        card = f"---\nconfigs:\n- config_name: default\n  data_files: rows.json\n  field: {field}\n"
        (folder / "README.md").write_text(f"{card}---\n")
        found.append(_found(SharedTokenRows.prepare(_spec(folder / "rows.json"), None)))
    assert found == [{7}, {50}]


def test_equal_content_is_converted_once(tmp_path: Path) -> None:
    path = _tokens(tmp_path / "train.parquet", 7)
    converted = set()
    for seed, mtime in enumerate((1_000_000_000, 2_000_000_000)):
        os.utime(path, (mtime, mtime))
        rows = SharedTokenRows.prepare(_spec(path, seed=seed), None)
        (file,) = json.loads((rows.directory / "rows.json").read_text())["files"]
        converted.add(file["path"])
    assert len(converted) == 1


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 100)])
def test_a_converted_file_that_was_damaged_is_made_again(
    damage: Callable[[str], None], tmp_path: Path
) -> None:
    path = _tokens(tmp_path / "train.parquet", 9)
    first = SharedTokenRows.prepare(_spec(path), None)
    (file,) = json.loads((first.directory / "rows.json").read_text())["files"]
    damage(file["path"])
    assert _found(SharedTokenRows.prepare(_spec(path, seed=1), None)) == {9}
    assert _found(first) == {9}


@pytest.mark.parametrize("lost", ["order.npy", "rows.json", "converted"])
def test_rows_that_lost_a_file_are_prepared_again(lost: str, tmp_path: Path) -> None:
    spec = _spec(_tokens(tmp_path / "train.parquet", 9))
    first = SharedTokenRows.prepare(spec, None)
    (file,) = json.loads((first.directory / "rows.json").read_text())["files"]
    if lost == "converted":  # as where somebody emptied the library's cache
        shutil.rmtree(Path(file["path"]).parents[1])
    else:
        os.truncate(first.directory / lost, 10)
    with pytest.raises(HarvestError, match=r"materialize token_rows again"):
        first.rows()
    assert SharedTokenRows.prepare(spec, None) == first
    assert _found(first) == {9}


@pytest.mark.parametrize("when", ["before it is converted", "while it is converted"])
def test_a_file_that_changes_before_it_was_read(
    when: str, tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _tokens(tmp_path / "train.parquet", 11 if "before" in when else 12)
    convert = datasets.DatasetBuilder.download_and_prepare

    def while_it_changes(self: Any, *args: Any, **kwargs: Any) -> None:
        if "before" in when:
            _tokens(path, 60)
        convert(self, *args, **kwargs)
        _tokens(path, 60)

    with monkeypatch.context() as patched:
        patched.setattr(datasets.DatasetBuilder, "download_and_prepare", while_it_changes)
        with pytest.raises(TransientError, match=r"train\.parquet' changed"):
            SharedTokenRows.prepare(_spec(path), None)
    assert not list((out_dir / "data").iterdir())
    _tokens(path, 11 if "before" in when else 12)
    assert _found(SharedTokenRows.prepare(_spec(path), None)) == {11 if "before" in when else 12}


@pytest.mark.parametrize("streaming", [True, False])
def test_a_file_that_changes_while_its_rows_are_taken(
    streaming: bool, tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    path = _tokens(tmp_path / "train.parquet", 7)
    spec = _spec(path, streaming=streaming, train_data_split="train" if streaming else "train[:9]")

    def replaced(_done: int, _total: int | None) -> None:
        _tokens(path, 50)

    if streaming:
        with pytest.raises(TransientError, match=r"train\.parquet' changed"):
            SharedTokenRows.prepare(spec, None, replaced)
        assert not list((out_dir / "data").iterdir())
    else:  # what was converted no longer depends on the file
        assert _found(SharedTokenRows.prepare(spec, None, replaced)) == {7}
