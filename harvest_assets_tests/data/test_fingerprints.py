"""Which data count as the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harvest_assets.data.data import fingerprint
from harvest_assets_tests.data.small_datasets import parquet_dataset, random_texts, spec_of


def test_the_fingerprint_follows_what_matters(tmp_path: Path, tokenizer_dir: Path) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"text": random_texts(20)})
    spec = spec_of(dataset, tokenizer_dir)
    print_ = fingerprint(spec, None)
    assert len(print_) == 32
    assert int(print_, 16) >= 0
    assert fingerprint(spec, 5) == print_
    assert fingerprint(replace(spec, buffer_size=7), None) == print_
    changes = {"seed": 1, "n_ctx": 8, "shuffle_each_epoch": False, "train_data_split": "test"}
    others = [fingerprint(replace(spec, **{key: value}), None) for key, value in changes.items()]
    streamed = replace(spec, streaming=True)
    others += [fingerprint(streamed, n_rows) for n_rows in (None, 5, 6)]
    others += [fingerprint(replace(streamed, buffer_size=7), None)]
    for path in (*dataset.iterdir(), dataset):
        os.utime(path, (1, 1))
    assert fingerprint(spec, None) == print_
    parquet_dataset(dataset, {"text": random_texts(21)})
    others.append(fingerprint(spec, None))
    assert len({print_, *others}) == len(others) + 1


def test_fingerprints_of_data_that_are_not_streamed_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"ids": [1, 2]}\n{"ids": [3, 4]}\n')
    spec = spec_of(Path("rows.jsonl"), "", column_name="ids", is_tokenized=True, seed=3, n_ctx=2)
    assert fingerprint(spec, None) == "dfa46463af1c6369d1bbd9f8f6da744c"
    # Rows of an unversioned stream order are other rows.
    assert fingerprint(replace(spec, streaming=True), None) != "5605d673916492d45339e195243b6884"


def test_the_fingerprint_follows_the_tokenizer_s_content(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    dataset = parquet_dataset(tmp_path / "data", {"text": ["a"], "ids": [[1, 2]]})
    copied = tmp_path / "tokenizer"
    copied.mkdir()
    for path in tokenizer_dir.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    spec = spec_of(dataset, copied)
    tokenized = replace(spec, is_tokenized=True, column_name="ids")
    before = fingerprint(spec, None), fingerprint(tokenized, None)
    stored = json.loads((copied / "tokenizer.json").read_text())
    stored["post_processor"] = None
    (copied / "tokenizer.json").write_text(json.dumps(stored))
    assert fingerprint(spec, None) != before[0]
    assert fingerprint(tokenized, None) == before[1]
