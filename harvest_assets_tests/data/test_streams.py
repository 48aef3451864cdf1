"""Streamed datasets: the order of their rows, how far they are read, and what ends them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from harvest_assets.data.data import DataSpec, sample_data, write_token_rows
from harvest_assets.data.dataset import open_dataset, permutation, stream_files
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets_tests.data.data_oracle import group_rows, streamed
from harvest_assets_tests.data.row_orders import examples
from harvest_assets_tests.data.row_orders.table import PAGE, markdown, read_table
from harvest_assets_tests.data.small_datasets import (
    parquet_dataset,
    random_texts,
    spec_of,
    token_lists,
    write_json_lines,
)


def _tokens(dataset: Path, column: str = "ids", **changes: Any) -> DataSpec:
    return spec_of(dataset, "", column_name=column, is_tokenized=True, streaming=True, **changes)


def _files(rows: list[Any], n_files: int) -> list[list[Any]]:
    """The rows of each file of `_dataset`."""
    size = -(-len(rows) // n_files)
    return [rows[i * size : (i + 1) * size] for i in range(n_files)]


def test_streamed_text(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    texts = random_texts(2_345)
    dataset = parquet_dataset(tmp_path / "data", {"text": texts, "other": texts}, n_files=3)
    spec = spec_of(dataset, tokenizer_dir, streaming=True, seed=4, buffer_size=100)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    ordered = streamed(_files(texts, 3), 4, 100)
    groups = [ordered[i : i + 1000] for i in range(0, len(ordered), 1000)]
    expected = torch.tensor([row for group in groups for row in group_rows(group, tokenizer, spec)])
    assert len(expected) > 1_000
    assert torch.equal(harvest_rows(spec), expected)
    assert torch.equal(harvest_rows(spec, 150), expected[:150])
    assert torch.equal(harvest_rows(spec, 10**9), expected)
    assert np.array_equal(sample_data(spec).rows, group_rows(groups[0], tokenizer, spec))


@pytest.mark.parametrize("buffer_size", [1, 7, 1_000, 2_100, 5_000])
def test_streamed_tokens(
    buffer_size: int, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = token_lists(2_100)
    dataset = parquet_dataset(tmp_path / "data", {"ids": lists}, n_files=2)
    spec = _tokens(dataset, buffer_size=buffer_size)
    expected = torch.tensor(streamed(_files(lists, 2), 0, buffer_size))
    assert torch.equal(harvest_rows(spec), expected)
    assert torch.equal(harvest_rows(spec, 1_001), expected[:1_001])


@pytest.mark.parametrize("example", examples.STREAMED)
def test_streams_come_in_the_order_of_datasets_4(
    example: str, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    dataset = examples.write_files(example, tmp_path / "data")
    spec = _tokens(dataset, "input_ids", seed=examples.SEED, n_ctx=examples.WIDTH)
    spec = replace(spec, buffer_size=examples.BUFFER_SIZE)
    rows = harvest_rows(spec)
    for version in ("3.6.0", "4.4.2", "4.8.5"):
        assert rows[:, 0].tolist() == _order_of(version, example)
    assert (rows == rows[:, :1]).all()
    assert np.array_equal(sample_data(spec).rows, rows[:1000])
    if example == "twelve files":
        assert rows[:6, 0].tolist() == [235, 213, 201, 926, 930, 904]


def _order_of(version: str, example: str) -> list[int]:
    (ids,) = (
        order["ids"]
        for order in read_table()["orders"]
        if order["example"] == example and version in order["datasets"]
    )
    return ids


def test_the_table_holds_the_oracle_and_the_permutation_too() -> None:
    table = read_table()
    for example in examples.STREAMED:
        files = examples.file_ids(example)
        expected = streamed(files, examples.SEED, examples.BUFFER_SIZE)
        assert _order_of("4.4.2", example) == expected
    mapped = permutation(examples.N_MAP_STYLE, examples.SEED).tolist()
    assert [_order_of(version, examples.MAP_STYLE) for version in table["numpy"]] == [
        mapped for _ in table["numpy"]
    ]
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(markdown(table)) in page


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_streams_of_json_files(
    suffix: str, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = token_lists(350)
    for number, rows in enumerate(_files(lists, 7)):
        write_json_lines(
            tmp_path / "data" / f"train-{number}{suffix}", [{"ids": row} for row in rows]
        )
    write_json_lines(tmp_path / "data" / f"test{suffix}", [{"ids": lists[0]}])
    spec = _tokens(tmp_path / "data")
    assert harvest_rows(spec).tolist() == streamed(_files(lists, 7), 0, 10)
    other = replace(spec, train_data_split="test")
    assert harvest_rows(other).tolist() == lists[:1]
    single = replace(spec, dataset_name=str(tmp_path / "data" / f"train-3{suffix}"))
    assert harvest_rows(single).tolist() == streamed([_files(lists, 7)[3]], 0, 10)


def test_row_groups_do_not_change_a_stream(
    tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = token_lists(90)
    dataset = parquet_dataset(tmp_path / "data", {"ids": lists}, n_files=3)
    spec = _tokens(dataset)
    for path in dataset.glob("train-*"):
        pq.write_table(pq.read_table(path), path, row_group_size=4)
    assert harvest_rows(spec).tolist() == streamed(_files(lists, 3), 0, 10)


def test_the_reference_run_that_streams(
    reference_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    harvest_rows: Callable[..., torch.Tensor],
) -> None:
    monkeypatch.chdir(reference_runs / "world")
    batches = torch.load(reference_runs / "activations/s-5d000001.batches.pt", weights_only=True)
    spec = _tokens(Path("dataset_rows65"), "input_ids", buffer_size=300, seed=7, n_ctx=65)
    rows = harvest_rows(spec, 640)[:, :64]
    assert torch.equal(rows.reshape(40, 16, 64), batches.long())


def test_a_stream_opens_no_file_before_it_is_needed(
    tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = token_lists(3_600)
    dataset = parquet_dataset(tmp_path / "data", {"ids": lists}, n_files=3)
    spec = _tokens(dataset)
    expected = streamed(_files(lists, 3), 0, 10)
    last = expected[-1][0] // 1_000 // 1_200  # the file of the last row
    damaged = dataset / f"train-{last:05}-of-00003.parquet"
    damaged.write_bytes(_without_its_pages(damaged))
    assert harvest_rows(spec, 1_500).tolist() == expected[:1_500]
    with pytest.raises(HarvestError, match=rf"{damaged.name}' of the dataset .*cannot be used"):
        harvest_rows(spec)


def _without_its_pages(path: Path) -> bytes:
    """A parquet file whose schema can be read and whose rows cannot."""
    content = path.read_bytes()
    return content[:4] + bytes(100) + content[104:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-1.parquet", b"garbage" * 20),
        ("train-1.parquet", b""),
        ("train-1.jsonl", b'{"ids": [3, 4]}\n{"ids": ['),
    ],
)
def test_a_file_that_ends_a_stream_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    whole = tmp_path / "data" / f"train-0{Path(name).suffix}"
    if whole.suffix == ".parquet":
        whole.parent.mkdir()
        pq.write_table(pa.table({"ids": [[1, 2]] * 5}), whole)
    else:
        write_json_lines(whole, [{"ids": [1, 2]}] * 5)
    (tmp_path / "data" / name).write_bytes(content)
    spec = _tokens(tmp_path / "data")
    (tmp_path / "rows").mkdir()
    with pytest.raises(HarvestError, match=name) as caught:
        write_token_rows(spec, tmp_path / "rows", None)
    assert not isinstance(caught.value, TransientError)
    assert "\n" not in str(caught.value)
    with pytest.raises(HarvestError, match=name):
        sample_data(spec)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"
UNUSABLE: dict[str, tuple[str, bytes, str]] = {
    "no rows": (".parquet", b"", "no rows"),
    "empty": (".jsonl", b"", "no rows"),
    "blank lines": (".jsonl", b"\n\n  \n", "no rows"),
    "a cut line": (".jsonl", b'{"ids": [3, 4]}\n{"ids": [', "parse error.* row 1"),
    "zero bytes": (".jsonl", bytes(1000), "zero bytes"),
    "a cut archive": (".jsonl.gz", gzip.compress(b'{"ids": [3, 4]}\n')[:20], "Compressed file"),
    "a pointer to lines": (".jsonl", POINTER, "parse error"),
    "a pointer to an archive": (".jsonl.gz", POINTER, "gzip"),
    "a pointer to parquet": (".parquet", POINTER, "magic bytes"),
}


@pytest.mark.parametrize(
    ("kind", "single"),
    [(kind, False) for kind in UNUSABLE]
    + [(kind, True) for kind, (suffix, *_) in UNUSABLE.items() if suffix != ".jsonl.gz"],
)
def test_a_lone_file_that_cannot_be_streamed_is_named(
    kind: str, single: bool, tmp_path: Path
) -> None:
    suffix, content, cause = UNUSABLE[kind]
    path = tmp_path / "data" / f"train{suffix}"
    path.parent.mkdir()
    path.write_bytes(content)
    if kind == "no rows":
        pq.write_table(pa.table({"ids": pa.array([], pa.list_(pa.int64()))}), path)
    spec = _tokens(path if single else path.parent, n_ctx=2)
    (tmp_path / "rows").mkdir()
    for read in (
        lambda: write_token_rows(spec, tmp_path / "rows", None),
        lambda: sample_data(spec),
    ):
        with pytest.raises(HarvestError, match=rf"{re.escape(str(path))}'.*{cause}") as caught:
            read()
        assert "restore it" in str(caught.value) or "restore or remove it" in str(caught.value)
        assert not isinstance(caught.value, TransientError)


def test_a_split_that_is_not_there_damages_no_file(tmp_path: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": token_lists(3)})
    with pytest.raises(HarvestError, match="'nowhere'") as caught:
        sample_data(_tokens(dataset, train_data_split="nowhere"))
    assert ".parquet" not in str(caught.value)


def test_a_file_that_vanishes_from_a_stream_is_named(tmp_path: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": token_lists(9)}, n_files=3)
    stream = open_dataset(str(dataset), "train", "ids", streaming=True)
    first, *_ = stream_files(stream, str(dataset), "train", "ids")
    path = dataset / "train-00000-of-00003.parquet"
    path.unlink()
    with pytest.raises(HarvestError, match=str(dataset)):
        list(first)


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [(ConnectionError("reset"), True), (TimeoutError(), True), (ValueError("garbage"), False)],
)
def test_a_hub_that_does_not_answer_may_answer_later(error: Exception, may_pass: bool) -> None:
    def rows() -> Iterator[dict[str, list[int]]]:
        yield {"ids": [1]}
        raise error

    stream = datasets.IterableDataset.from_generator(rows)
    (values,) = stream_files(stream, "nobody/nothing", "train", "ids")
    with pytest.raises(HarvestError, match="'nobody/nothing' cannot be read") as caught:
        list(values)
    assert isinstance(caught.value, TransientError) == may_pass


def test_a_stream_is_read_no_further_than_needed(tmp_path: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": token_lists(50_000, 2)})
    spec = _tokens(dataset, n_ctx=2)
    (tmp_path / "rows").mkdir()
    reported: list[tuple[int, int | None]] = []
    write_token_rows(
        spec, tmp_path / "rows", 1_500, lambda done, total: reported.append((done, total))
    )
    assert reported == [(1000, None)]  # the second group is enough, and nobody asks for a third
