"""Attacks on tokenizers and datasets."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harvest_assets.data.dataset import dataset_digest, open_dataset
from harvest_assets.data.tokenization import load_tokenizer
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets_tests.hostile.attacks.payloads import evil_code
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused


@attack("tokenizer", "code beside it")
def _(folder: Path) -> bool:
    (folder / "evil.py").write_text(evil_code(folder))
    code = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil"}))
    return refused(lambda: load_tokenizer(str(folder)))


@attack("tokenizer", "a name of 100,000 characters")
def _(_folder: Path) -> bool:
    names = ("x" * 100_000, "a/" * 50_000, "a\0b", "\ud800")
    return all(
        refused(lambda n=name: load_tokenizer(n)) and refused(lambda n=name: Vocabulary.open(n))
        for name in names
    )


byte_attacks(
    "tokenizer",
    "tokenizer",
    {
        "nothing": b"",
        "another JSON": b'{"a": 1}',
        "an id of 10^12": lambda good: good.replace(b'"ab":3', b'"ab":1000000000000'),
        "a negative id": lambda good: good.replace(b'"ab":3', b'"ab":-3'),
        "a merge of what is unknown": lambda good: good.replace(b'["a","b"]', b'["a","z"]'),
        "nested 10^5 deep": b"[" * 10**5,
        "no UTF-8": b'{"version": "\xff"}',
        "an unknown model": lambda good: good.replace(b'"BPE"', b'"Pickle"'),
    },
)


def _dataset(folder: Path, readme: str | None = None) -> str:
    place = folder / "data"
    place.mkdir()
    (folder / "secret.jsonl").write_text('{"text": "secret"}\n')
    if readme is not None:
        split = f"  - split: train\n    path: {readme}\n"
        metadata = f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}---\n"
        (place / "README.md").write_text(metadata)
    return str(place)


def _dataset_refused(name: str) -> bool:
    return refused(lambda: open_dataset(name, "train", "text", streaming=False)) and refused(
        lambda: dataset_digest(name, "train")
    )


@attack("dataset", "a loading script")
def _(folder: Path) -> bool:
    name = _dataset(folder)
    (Path(name) / "data.py").write_text(evil_code(folder))
    (Path(name) / "train.jsonl").write_text('{"text": "a"}\n')
    return _dataset_refused(name)


@attack("dataset", "a pickle")
def _(folder: Path) -> bool:
    name = _dataset(folder)
    (Path(name) / "train.pkl").write_bytes(b"cos\nmkdir\n(S'executed'\ntR.")
    return _dataset_refused(name)


@attack("dataset", "a README that names a file above")
def _(folder: Path) -> bool:
    return _dataset_refused(_dataset(folder, "../secret.jsonl"))


@attack("dataset", "a README that names an absolute path")
def _(folder: Path) -> bool:
    return _dataset_refused(_dataset(folder, str(folder / "secret.jsonl")))


@attack("dataset", "the name of a format, which reads the current folder")
def _(folder: Path) -> bool:
    (folder / "train.jsonl").write_text('{"text": "secret"}\n')
    with contextlib.chdir(folder):
        return all(_dataset_refused(name) for name in ("json", "text", "csv", "pandas", "parquet"))


@attack("dataset", "a name that is no path")
def _(_folder: Path) -> bool:
    return all(map(_dataset_refused, ("a\0b", "x" * 5000, "/dev/zero", "\ud800")))
