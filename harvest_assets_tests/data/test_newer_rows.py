"""Rows as runs of 2026 saw them: long rows cut, ids of any integer type, no special tokens."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harvest_assets.data import data, dataset, saved_dataset
from harvest_assets.data.data import DataSpec, fingerprint
from harvest_assets.data.token_rows import chunk_rows
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files import stamps
from harvest_assets.files.records import sha256_of
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets_tests.data.conftest import EOS, WORDS
from harvest_assets_tests.data.data_oracle import permuted, streamed, text_rows, through_loader

N_CTX = 6
SEED = 5


def spec_of(folder: Path, **changes: object) -> DataSpec:
    plain = {
        "dataset_name": str(folder),
        "train_data_split": "train",
        "column_name": "ids",
        "is_tokenized": True,
        "streaming": False,
        "buffer_size": 7,
        "shuffle_each_epoch": True,
        "seed": SEED,
        "tokenizer_name": "",
        "n_ctx": N_CTX,
    }
    return DataSpec(**{**plain, **changes})


def write(folder: Path, rows: list[list[int]], kind: pa.DataType, n_files: int = 1) -> Path:
    folder.mkdir()
    size = -(-len(rows) // n_files)
    for n in range(n_files):
        table = pa.table({"ids": pa.array(rows[n * size : (n + 1) * size], kind)})
        pq.write_table(table, folder / f"train-{n:05d}-of-{n_files:05d}.parquet")
    return folder


def rows_of(lengths: list[int]) -> list[list[int]]:
    generator = random.Random(1)
    return [[generator.randrange(300) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "lengths", [[9] * 40, [6] * 40, [6, 7, 9] * 13], ids=["longer", "equal", "of several lengths"]
)
def test_rows_are_cut_to_their_first_tokens(
    lengths: list[int],
    streaming: bool,
    tmp_path: Path,
    harvest_rows: Callable[..., torch.Tensor],
):
    rows = rows_of(lengths)
    spec = spec_of(write(tmp_path / "data", rows, pa.list_(pa.int64())), streaming=streaming)
    cut = [row[:N_CTX] for row in rows]
    expected = (
        torch.tensor(streamed([cut], SEED, 7))
        if streaming
        else through_loader(permuted(cut, SEED), spec)
    )
    assert torch.equal(harvest_rows(spec), expected)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int32()),
        pa.list_(pa.uint16()),
        pa.large_list(pa.int64()),
        pa.large_list(pa.uint16()),
        pa.list_(pa.int64(), 9),
        pa.list_(pa.uint16(), 9),
    ],
    ids=str,
)
def test_lists_of_any_integer_type(
    kind: pa.DataType,
    streaming: bool,
    tmp_path: Path,
    harvest_rows: Callable[..., torch.Tensor],
):
    rows = rows_of([9] * 30)
    spec = spec_of(write(tmp_path / "data", rows, kind), streaming=streaming)
    cut = [row[:N_CTX] for row in rows]
    expected = (
        torch.tensor(streamed([cut], SEED, 7))
        if streaming
        else through_loader(permuted(cut, SEED), spec)
    )
    assert torch.equal(harvest_rows(spec), expected)


def test_a_stream_of_several_files(tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]):
    rows = rows_of([8] * 40)
    spec = spec_of(write(tmp_path / "data", rows, pa.list_(pa.uint16()), 4), streaming=True)
    files = [[row[:N_CTX] for row in rows[n : n + 10]] for n in range(0, 40, 10)]
    assert torch.equal(harvest_rows(spec), torch.tensor(streamed(files, SEED, 7)))


def test_text_without_special_tokens(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
):
    generator = random.Random(2)
    texts = [" ".join(generator.choices(WORDS, k=12)) for _ in range(60)]
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "train.parquet")
    spec = spec_of(
        folder,
        column_name="text",
        is_tokenized=False,
        tokenizer_name=str(tokenizer_dir),
        special_tokens=False,
    )
    rows = harvest_rows(spec)
    expected = through_loader(text_rows(permuted(texts, SEED), spec, special_tokens=False), spec)
    assert torch.equal(rows, expected)
    with_them = harvest_rows(spec_of(**{**vars(spec), "folder": folder, "special_tokens": True}))
    assert len(with_them) > len(rows), f"each piece ends with {EOS}"
    assert fingerprint(spec, None) != fingerprint(
        spec_of(**{**vars(spec), "folder": folder, "special_tokens": True}), None
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("n_files", [1, 3])
def test_a_folder_of_save_to_disk(
    n_files: int,
    streaming: bool,
    as_dict: bool,
    tmp_path: Path,
    harvest_rows: Callable[..., torch.Tensor],
):
    rows = rows_of([8] * 50)
    saved = datasets.Dataset.from_dict({"ids": rows}, split=datasets.Split.TRAIN)
    folder = tmp_path / "saved"
    if as_dict:
        datasets.DatasetDict(train=saved).save_to_disk(folder, num_shards={"train": n_files})
    else:
        saved.save_to_disk(folder, num_shards=n_files)
    spec = spec_of(folder, streaming=streaming)
    cut = [row[:N_CTX] for row in rows]
    expected = (
        torch.tensor(streamed([cut], SEED, 7))
        if streaming
        else through_loader(permuted(cut, SEED), spec)
    )
    before = fingerprint(spec, None)
    assert torch.equal(harvest_rows(spec), expected)
    with pytest.raises(HarvestError, match="test"):
        harvest_rows(spec_of(folder, train_data_split="test"))
    with pytest.raises(HarvestError, match="nothing"):
        harvest_rows(spec_of(folder, column_name="nothing"))
    shutil.rmtree(folder)
    other = datasets.Dataset.from_dict({"ids": [[1] * 8] * 50}, split=datasets.Split.TRAIN)
    (datasets.DatasetDict(train=other) if as_dict else other).save_to_disk(folder)
    assert fingerprint(spec, None) != before


def save(folder: Path, rows: list[list[int]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    datasets.Dataset.from_dict({"ids": rows}, split=datasets.Split.TRAIN).save_to_disk(folder)


@pytest.mark.usefixtures("out_dir")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_folder_is_read_in_full_once(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stamps, "_MIN_AGE_NS", 0)
    save(tmp_path / "saved", rows_of([8] * 50))
    read: list[Path] = []
    monkeypatch.setattr(
        saved_dataset, "sha256_of", lambda path: (read.append(path), sha256_of(path))[1]
    )
    spec = spec_of(tmp_path / "saved", streaming=streaming)
    prepared = SharedTokenRows.prepare(spec, None)
    assert len(read) == 1
    save(tmp_path / "saved", rows_of([8] * 49 + [9]))
    assert SharedTokenRows.prepare(spec, None).fingerprint != prepared.fingerprint


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_saved_folder_that_changes_is_not_harvested(
    when: str, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = rows_of([8] * 50)
    save(tmp_path / "saved", rows)
    spec = spec_of(tmp_path / "saved", streaming=streaming)
    place = data if when == "before" else dataset
    name = "open_dataset" if when == "before" else "open_saved"
    opened = getattr(place, name)

    def replaced(*given: object, **named: object) -> object:
        if when == "before":
            save(tmp_path / "saved", rows[::-1])
        found = opened(*given, **named)
        if when == "while":
            save(tmp_path / "saved", rows[::-1])
        return found

    digest = dataset.dataset_digest(spec.dataset_name, "train")
    monkeypatch.setattr(place, name, replaced)
    (tmp_path / "rows").mkdir()
    with pytest.raises(TransientError, match="saved"):
        data.write_token_rows(spec, tmp_path / "rows", None, digest=digest)


@pytest.mark.usefixtures("out_dir")
def test_rows_of_a_saved_folder_that_was_replaced_are_not_read(tmp_path: Path):
    rows = rows_of([8] * 50)
    save(tmp_path / "saved", rows)
    prepared = SharedTokenRows.prepare(spec_of(tmp_path / "saved"), None)
    save(tmp_path / "saved", rows[::-1])  # of the same size
    with pytest.raises(HarvestError, match=r"saved.*materialize token_rows again"):
        prepared.rows()
    save(tmp_path / "saved", rows)
    again = SharedTokenRows.prepare(spec_of(tmp_path / "saved"), None)
    assert again == prepared
    assert again.rows().n_rows == 50


def test_a_damaged_folder_of_save_to_disk_is_named(
    tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
):
    saved = datasets.Dataset.from_dict({"ids": rows_of([8] * 50)}, split=datasets.Split.TRAIN)
    saved.save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(HarvestError, match="saved"):
        harvest_rows(spec_of(tmp_path / "saved"))


@pytest.mark.parametrize("streaming", [False, True])
def test_how_it_was_saved_does_not_matter(
    streaming: bool, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
):
    rows = rows_of([6, 7, 9] * 12)
    plain = datasets.Dataset.from_dict(
        {"ids": rows, "z": [0] * len(rows)}, split=datasets.Split.TRAIN
    )
    slices = datasets.Dataset.from_dict(
        {"ids": rows, "z": [0] * len(rows)}, split=datasets.NamedSplit("train[:36]")
    )
    found = []
    for n, saved in enumerate(
        (plain, plain.with_format("torch"), plain.with_format("torch", columns=["z"]), slices)
    ):
        saved.save_to_disk(tmp_path / f"saved{n}")
        found.append(harvest_rows(spec_of(tmp_path / f"saved{n}", streaming=streaming)))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_saved_dataset_without_rows_is_named(
    tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
):
    datasets.Dataset.from_dict({"ids": []}, split=datasets.Split.TRAIN).save_to_disk(
        tmp_path / "saved"
    )
    with pytest.raises(HarvestError, match="saved"):
        harvest_rows(spec_of(tmp_path / "saved"))


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.list_(pa.int32(), 8)], ids=str)
def test_no_rows_are_no_rows(kind: pa.DataType):
    assert chunk_rows(pa.array([], kind), N_CTX).shape == (0, N_CTX)
