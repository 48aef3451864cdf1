from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harvest_assets.data.data import (
    DataSpec,
    TokenRows,
    fingerprint,
    sample_data,
    write_token_rows,
)
from harvest_assets.decompositions.spd.run_config import RunConfig, load_run_config
from harvest_assets.errors import HarvestError
from harvest_assets_tests.data.conftest import UNKNOWN
from harvest_assets_tests.data.data_oracle import (
    permuted,
    text_rows,
    through_loader,
)
from harvest_assets_tests.data.small_datasets import (
    N_CTX,
    parquet_dataset,
    random_texts,
    spec_of,
    token_lists,
    write_json_lines,
)
from harvest_assets_tests.files.sealed import sealed


@pytest.mark.parametrize(
    ("n_texts", "changes"),
    [
        (3, {"n_ctx": 4}),
        (23, {}),
        (127, {"seed": 5}),
        (127, {"shuffle_each_epoch": False}),
        (127, {"n_ctx": 7, "seed": 2**31}),
        (10_053, {}),
    ],
)
@pytest.mark.parametrize("folder", ["plain", "mini-SimpleStories"])
def test_text_is_what_training_saw(
    n_texts: int,
    changes: dict[str, Any],
    folder: str,
    tmp_path: Path,
    tokenizer_dir: Path,
    harvest_rows: Callable[..., torch.Tensor],
) -> None:
    texts = random_texts(n_texts)
    dataset = parquet_dataset(tmp_path / folder, {"id": range(n_texts), "text": texts}, n_files=2)
    spec = spec_of(dataset, tokenizer_dir, **changes)
    rows = text_rows(permuted(texts, spec.seed), spec)
    assert len(rows) > 1
    assert torch.equal(harvest_rows(spec), through_loader(rows, spec))


def test_the_name_decides_whether_eos_gets_its_case_back(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    columns = {"text": ["one [eos] two"] * 400}
    plain = harvest_rows(spec_of(parquet_dataset(tmp_path / "plain", columns), tokenizer_dir))
    named = harvest_rows(
        spec_of(parquet_dataset(tmp_path / "aSimpleStories", columns), tokenizer_dir)
    )
    assert (named == 1).sum() > (plain == 1).sum()


def test_texts_without_a_character_still_give_rows(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": [""] * 5}), tokenizer_dir, n_ctx=4)
    tokens = harvest_rows(spec)  # 5 parts of one empty text: 20 empty pieces, an EOS each
    assert tokens.shape == (25, 4)
    assert (tokens == 1).all()


def test_too_little_text_gives_no_row(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": ["a"]}), tokenizer_dir, n_ctx=64)
    assert harvest_rows(spec).shape == (0, 64)


def test_the_reference_run(
    reference_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    harvest_rows: Callable[..., torch.Tensor],
) -> None:
    world = reference_runs / "world"
    monkeypatch.chdir(world)
    config = load_run_config(world / "spd_out/runs/spd-s-0ddd38e5/final_config.yaml")
    path = reference_runs / "activations" / "s-0ddd38e5.batches.pt"
    batches = torch.load(path, weights_only=True)
    rows = harvest_rows(config.data_spec(None))[:640]
    assert torch.equal(rows.reshape(40, 16, 64), batches)


@pytest.mark.parametrize("kind", ["folder", ".jsonl", ".json", ".parquet", "nested folder"])
def test_json_and_parquet_files_and_folders_are_the_same_data(
    kind: str, tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    texts = random_texts(90)
    if kind == ".parquet":
        dataset = tmp_path / "texts.parquet"
        pq.write_table(pa.table({"text": texts, "id": range(90)}), dataset)
    elif kind.startswith("."):
        dataset = write_json_lines(tmp_path / f"texts{kind}", [{"text": text} for text in texts])
    else:
        folder = tmp_path / "data" / "data" if "nested" in kind else tmp_path / "data"
        folder.mkdir(parents=True)
        for i, part in enumerate((texts[:50], texts[50:])):
            write_json_lines(folder / f"train-{i}.jsonl", [{"text": text} for text in part])
        write_json_lines(folder / "test.jsonl", [{"text": "other"}])
        dataset = tmp_path / "data"
    spec = spec_of(dataset, tokenizer_dir)
    rows = text_rows(permuted(texts, spec.seed), spec)
    assert torch.equal(harvest_rows(spec), through_loader(rows, spec))
    assert len(harvest_rows(replace(spec, streaming=True))) > 1


def test_a_file_of_another_kind_is_reported(
    tmp_path: Path, tokenizer_dir: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    (tmp_path / "texts.docx").write_text("a")
    with pytest.raises(HarvestError, match=r"texts\.docx' cannot be loaded: it is a file, and of"):
        harvest_rows(spec_of(tmp_path / "texts.docx", tokenizer_dir))


def test_the_fingerprint_of_a_file_follows_its_content(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    spec = spec_of(path, tokenizer_dir)
    before = fingerprint(spec, None)
    os.utime(path, (1, 1))
    assert fingerprint(spec, None) == before
    write_json_lines(path, [{"text": "b"}])
    assert fingerprint(spec, None) != before


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.list_(pa.int32()),
        pa.large_list(pa.int64()),
        pa.list_(pa.uint16(), N_CTX),
    ],
)
def test_tokenized_data_are_only_indexed(
    kind: pa.DataType,
    shuffled: bool,
    tmp_path: Path,
    harvest_rows: Callable[..., torch.Tensor],
) -> None:
    lists = [[token % 60_000 for token in row] for row in token_lists(57)]
    columns = {"ids": pa.array(lists, type=kind), "other": pa.array(["x"] * 57)}
    spec = spec_of(
        parquet_dataset(tmp_path / "data", columns, n_files=3),
        "no tokenizer is needed",
        column_name="ids",
        is_tokenized=True,
        seed=3,
        shuffle_each_epoch=shuffled,
    )
    assert torch.equal(harvest_rows(spec), through_loader(permuted(lists, 3), spec))
    assert not (tmp_path / "rows-0" / "tokens.arrow").exists()


def test_a_part_of_a_split_is_copied(
    tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = token_lists(40)
    spec = spec_of(
        parquet_dataset(tmp_path / "data", {"ids": lists}),
        "",
        column_name="ids",
        is_tokenized=True,
        train_data_split="train[50%:]+train[:50%]",
    )
    swapped = lists[20:] + lists[:20]
    assert torch.equal(harvest_rows(spec), through_loader(permuted(swapped, 0), spec))


@pytest.mark.parametrize(
    ("split", "streaming"), [("train", False), ("train", True), ("train[:9]", False)]
)
def test_rows_that_are_too_short_are_one_clear_error(
    split: str, streaming: bool, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    lists = [*token_lists(9), [1, 2, 3]][:: -1 if split != "train" else 1]
    spec = spec_of(
        parquet_dataset(tmp_path / "data", {"ids": lists}),
        "",
        column_name="ids",
        is_tokenized=True,
        streaming=streaming,
        train_data_split=split,
    )
    with pytest.raises(HarvestError, match=r"'ids' of .* a row is 3 tokens long.* 16 "):
        harvest_rows(spec)


@pytest.mark.parametrize("split", ["streamed", "train", "train[:9]"])
@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (pa.list_(pa.float64()), 7.0),
        (pa.list_(pa.float32(), 2), 7.0),
        (pa.large_list(pa.float32()), 7.0),
        (pa.list_(pa.bool_()), True),
        (pa.list_(pa.string()), "7"),
        (pa.list_(pa.decimal128(3, 0)), Decimal(7)),
        (pa.int64(), 7),
    ],
    ids=str,
)
def test_values_that_are_no_integers_are_no_tokens(
    kind: pa.DataType, first: Any, split: str, tmp_path: Path
) -> None:
    row = first if pa.types.is_integer(kind) else [first, first]
    dataset = parquet_dataset(tmp_path / "data", {"ids": pa.array([row] * 20, type=kind)})
    spec = spec_of(dataset, "", column_name="ids", is_tokenized=True, n_ctx=2)
    changes = {"streaming": True} if split == "streamed" else {"train_data_split": split}
    (tmp_path / "rows").mkdir()
    with pytest.raises(HarvestError, match=rf"'ids' of the dataset '{dataset}'"):
        write_token_rows(replace(spec, **changes), tmp_path / "rows", None)
    with pytest.raises(HarvestError, match=rf"'ids' of the dataset '{dataset}'"):
        sample_data(replace(spec, **changes))


@pytest.mark.parametrize("split", ["streamed", "train", "train[:9]"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.list_(pa.uint16()),
        pa.list_(pa.int32(), 2),
        pa.large_list(pa.uint8()),
        pa.large_list(pa.uint32()),
    ],
    ids=str,
)
def test_lists_of_any_integers_are_tokens(
    kind: pa.DataType, split: str, tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]
) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": pa.array([[255, 0]] * 9, type=kind)})
    spec = spec_of(dataset, "", column_name="ids", is_tokenized=True, n_ctx=2)
    changes = {"streaming": True} if split == "streamed" else {"train_data_split": split}
    assert harvest_rows(replace(spec, **changes)).tolist() == [[255, 0]] * 9


@pytest.mark.parametrize("token", [2**31, 2**63])
def test_a_streamed_id_that_is_too_large(token: int, tmp_path: Path) -> None:
    ids = pa.array([[token, 1]], type=pa.list_(pa.uint64()))
    dataset = parquet_dataset(tmp_path / "data", {"ids": ids})
    spec = spec_of(dataset, "", column_name="ids", is_tokenized=True, streaming=True, n_ctx=2)
    (tmp_path / "rows").mkdir()
    with pytest.raises(HarvestError, match="'ids' of the dataset"):
        write_token_rows(spec, tmp_path / "rows", None)


def test_text_said_to_be_tokens(tmp_path: Path, harvest_rows: Callable[..., torch.Tensor]) -> None:
    for streaming in (False, True):
        spec = spec_of(
            parquet_dataset(tmp_path / "data", {"text": ["a", "b"]}), "", is_tokenized=True
        )
        with pytest.raises(HarvestError, match="hold tokens"):
            harvest_rows(replace(spec, streaming=streaming))


def test_progress_ends_at_the_last_row(tmp_path: Path, tokenizer_dir: Path) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": random_texts(23)}), tokenizer_dir)
    (tmp_path / "rows").mkdir()
    reported: list[tuple[int, int | None]] = []
    write_token_rows(
        spec, tmp_path / "rows", None, lambda done, total: reported.append((done, total))
    )
    assert reported[-1] == (23, 23)
    assert reported == sorted(reported)


def test_rows_in_any_order(tmp_path: Path, tokenizer_dir: Path) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": random_texts(300)}), tokenizer_dir)
    (tmp_path / "rows").mkdir()
    write_token_rows(spec, tmp_path / "rows", None, None)
    rows = TokenRows.open(tmp_path / "rows")
    whole = rows.rows(0, rows.n_rows)
    for start in (rows.n_rows - 1, 0, 7, rows.n_rows):
        stop = min(start + 9, rows.n_rows)
        assert torch.equal(rows.rows(start, stop), whole[start:stop])
    for start, stop in ((-1, 2), (3, 2), (0, rows.n_rows + 1)):
        with pytest.raises(IndexError):
            rows.rows(start, stop)


def test_what_is_missing_is_reported(tmp_path: Path, tokenizer_dir: Path) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": ["a", "b"]}), tokenizer_dir)
    (tmp_path / "no-eos").mkdir()
    plain = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path / "no-eos")
    (tmp_path / "empty").mkdir()
    wrong = {
        "The split 'train' of the dataset 'no/such'": {"dataset_name": "no/such"},
        "The split 'train' of the dataset '.*empty'": {"dataset_name": str(tmp_path / "empty")},
        "The split 'valid'": {"train_data_split": "valid"},
        "has no column 'story', but text": {"column_name": "story"},
        "The tokenizer 'no/such' cannot be loaded": {"tokenizer_name": "no/such"},
        "has no EOS token": {"tokenizer_name": str(tmp_path / "no-eos")},
    }
    for streaming in (False, True):
        for message, change in wrong.items():
            directory = tmp_path / f"rows-{streaming}-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            with pytest.raises(HarvestError, match=message) as caught:
                write_token_rows(replace(spec, streaming=streaming, **change), directory, None)
            assert "\n" not in str(caught.value)
            assert not (directory / "rows.json").exists()


def test_a_row_without_text(tmp_path: Path, tokenizer_dir: Path) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": ["a", None]}), tokenizer_dir)
    (tmp_path / "rows").mkdir()
    with pytest.raises(HarvestError, match="holds a row that is not a string"):
        write_token_rows(spec, tmp_path / "rows", None)


def test_damage_is_reported_by_file(tmp_path: Path, tokenizer_dir: Path) -> None:
    spec = spec_of(parquet_dataset(tmp_path / "data", {"text": random_texts(60)}), tokenizer_dir)
    directory = tmp_path / "rows"
    directory.mkdir()
    write_token_rows(spec, directory, None)
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert set(contents) == {"rows.json", "order.npy", "tokens.arrow"}
    written = json.loads(contents["rows.json"])
    newer = json.dumps(sealed({**written, "format_version": 99})).encode()
    fewer = json.dumps(sealed({**written, "n_rows": 3})).encode()
    outside = np.frombuffer(contents["order.npy"][-8:], np.int64) + 10**9
    damages = [(name, data) for name in contents for data in (None, b"", contents[name][:-9])]
    damages += [("rows.json", newer), ("rows.json", fewer), ("rows.json", b"[]")]
    damages += [("order.npy", contents["order.npy"][:-8] + outside.tobytes())]
    damages += [("tokens.arrow", bytes(len(contents["tokens.arrow"])))]
    for name, data in damages:
        (directory / name).unlink()
        if data is not None:
            (directory / name).write_bytes(data)
        with pytest.raises(HarvestError, match=rf"{name} is (not|missing|damaged)"):
            TokenRows.open(directory)
        (directory / name).write_bytes(contents[name])
    assert TokenRows.open(directory).n_rows > 0


def test_indexed_files_that_went_away(tmp_path: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": token_lists(5)})
    spec = spec_of(dataset, "", column_name="ids", is_tokenized=True)
    (tmp_path / "rows").mkdir()
    write_token_rows(spec, tmp_path / "rows", None)
    (indexed,) = json.loads((tmp_path / "rows" / "rows.json").read_text())["files"]
    os.truncate(indexed["path"], 100)
    with pytest.raises(HarvestError, match="its size is not"):
        TokenRows.open(tmp_path / "rows")
    Path(indexed["path"]).unlink()
    with pytest.raises(HarvestError, match="is missing"):
        TokenRows.open(tmp_path / "rows")


def test_the_spec_of_a_run() -> None:
    config = RunConfig.model_validate(
        {
            "seed": 7,
            "module_info": [{"module_pattern": "h.*", "C": 2}],
            "pretrained_model_class": "transformers.GPT2LMHeadModel",
            "pretrained_model_name": "x",
            "tokenizer_name": "t",
            "task_config": {"task_name": "lm"},
        }
    )
    spec = config.data_spec(None)
    assert spec == DataSpec(
        dataset_name="lennart-finke/SimpleStories",
        train_data_split="train",
        column_name="story",
        is_tokenized=False,
        streaming=False,
        buffer_size=1000,
        shuffle_each_epoch=True,
        seed=7,
        tokenizer_name="t",
        n_ctx=512,
    )
    assert config.data_spec(64) == replace(spec, n_ctx=64)
    with pytest.raises(HarvestError, match="context_length is 0"):
        config.data_spec(0)


def test_opening_rows_loads_no_dataset_library(tmp_path: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"ids": token_lists(5)})
    (tmp_path / "rows").mkdir()
    spec = spec_of(dataset, "", column_name="ids", is_tokenized=True)
    write_token_rows(spec, tmp_path / "rows", None)
    code = (
        "import sys; from pathlib import Path;"
        "from harvest_assets.data.token_rows import TokenRows;"
        "TokenRows.open(Path(sys.argv[1])).rows(0, 5);"
        "print([m for m in ('datasets', 'transformers', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows")], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "[]"
