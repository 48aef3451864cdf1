"""A data file that cannot be used is named, with what is wrong with it."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvest_assets.data.dataset import open_dataset
from harvest_assets.errors import HarvestError

N_ROWS = 2_000


def _damaged_page(content: bytes) -> bytes:
    return content[:200] + bytes(200) + content[400:]


def _damaged_line(content: bytes) -> bytes:
    return content[:200] + b"\n" + content[201:]


PARQUET: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[: len(content) // 2], "magic bytes"),
    "damaged within": (_damaged_page, "snappy"),
    "empty": (lambda _: b"", "0 bytes"),
    "of zero bytes": (lambda content: bytes(len(content)), "zero bytes"),
    "of another format": (lambda _: b"hello", "5 bytes"),
}
JSON: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[: len(content) // 2 + 3], "parse error.* row"),
    "damaged within": (_damaged_line, "parse error.* row"),
    "of zero bytes": (lambda content: bytes(len(content)), "zero bytes"),
    "of another format": (lambda _: b"hello", "parse error"),
}
DAMAGES = [(".parquet", name, *damage) for name, damage in PARQUET.items()]
DAMAGES += [(".jsonl", name, *damage) for name, damage in JSON.items()]


def _write(path: Path, n_rows: int = N_ROWS, column: str = "text") -> None:
    texts = [f"text {i} of {path.name}" for i in range(n_rows)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: pa.array(texts, pa.string())}), path)
    else:
        path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))


def _refusal(name: Path) -> str:
    with pytest.raises(HarvestError) as caught:
        open_dataset(str(name), "train", "text", streaming=False)
    assert "\n" not in str(caught.value)
    assert "An error occurred" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "name", "damage", "cause"), DAMAGES)
def test_the_damaged_one_of_several_files_is_named(
    suffix: str, name: str, damage: Callable[[bytes], bytes], cause: str, tmp_path: Path
) -> None:
    for i in range(3):
        _write(tmp_path / f"train-{i}{suffix}")
    path = tmp_path / f"train-1{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    refusal = _refusal(tmp_path)
    assert str(path) in refusal, name
    assert f"train-0{suffix}" not in refusal
    assert re.search(cause, refusal)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_single_damaged_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"texts{suffix}"
    _write(path)
    path.write_bytes(path.read_bytes()[:500])
    assert str(path) in _refusal(path)


@pytest.mark.parametrize("content", [b"", b"[]", None])
def test_a_file_without_rows_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / ("texts.parquet" if content is None else "texts.json")
    _write(path, n_rows=0)
    if content is not None:
        path.write_bytes(content)
    refusal = _refusal(path)
    assert str(path) in refusal
    assert "no rows" in refusal


def test_a_parquet_file_without_rows_among_others_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train-0.parquet")
    _write(tmp_path / "train-1.parquet", n_rows=0)
    refusal = _refusal(tmp_path)
    assert str(tmp_path / "train-1.parquet") in refusal
    assert "no rows" in refusal


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train-0.parquet")
    _write(tmp_path / "train-1.parquet", column="story")
    refusal = _refusal(tmp_path)
    assert str(tmp_path / "train-1.parquet") in refusal
    assert "story" in refusal


@pytest.mark.parametrize(
    ("split", "counted", "there"), [("train", "90", "2,000"), ("valid", "90", "0")]
)
def test_a_card_that_counts_other_rows(
    split: str, counted: str, there: str, tmp_path: Path
) -> None:
    _write(tmp_path / "train.parquet")
    counts = {"train": N_ROWS, split: int(counted)}
    splits = "".join(f"  - name: {key}\n    num_examples: {n}\n" for key, n in counts.items())
    features = "  features:\n  - name: text\n    dtype: string\n"
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n{features}  splits:\n{splits}---\n")
    refusal = _refusal(tmp_path)
    assert "SplitInfo" not in refusal
    for named in (str(tmp_path), "README.md", f"{split!r}", counted, f"hold {there}"):
        assert named in refusal


_SPLIT = "dataset_info:\n  splits:\n  - name: train\n    num_examples: "
CARDS = {
    "a word as a count": (f"{_SPLIT}many", "'many'"),
    "a quoted count": (f"{_SPLIT}'2000'", "'2000'"),
    "no count": (f"{_SPLIT}null", "None"),
    "a list as a count": (f"{_SPLIT}[2000]", r"\[2000\]"),
    "a truth value as a count": (f"{_SPLIT}true", "True"),
    "splits that are a word": ("dataset_info:\n  splits: train", "str"),
    "features that are a word": ("dataset_info:\n  features: text", "text"),
    "configs that are a word": ("configs: text", "configs"),
    "broken YAML": ("a: [1\nb: }", "expected"),
    "a list": ("- a\n- b", "dict"),
    "bytes that are no text": (b"\xff\xfe: 1", "utf-8"),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    text, cause = CARDS[kind]
    _write(tmp_path / "train.parquet")
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "README.md").write_bytes(b"---\n" + content + b"\n---\n")
    refusal = _refusal(tmp_path)
    assert str(tmp_path / "README.md") in refusal
    assert re.search(cause, refusal)


@pytest.mark.parametrize("damage", ["another format", "cut", "damaged within"])
@pytest.mark.parametrize("streaming", [True, False])
def test_an_archive_that_cannot_be_read_is_named(
    damage: str, streaming: bool, tmp_path: Path
) -> None:
    path = tmp_path / "train.zip"
    lines = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(N_ROWS))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.jsonl", lines)
    content = path.read_bytes()
    damages = {
        "another format": b"junk" * 50,
        "cut": content[: len(content) // 2],
        "damaged within": content[:200] + bytes(200) + content[400:],
    }
    path.write_bytes(damages[damage])
    with pytest.raises(HarvestError, match=rf"{re.escape(str(path))}'.*restore or remove it"):
        open_dataset(str(tmp_path), "train", "text", streaming=streaming)


def test_a_folder_that_only_looks_like_one_of_save_to_disk(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet")
    (tmp_path / "state.json").write_text("{}")
    assert str(tmp_path) in _refusal(tmp_path)


def test_what_the_system_refuses_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    _write(tmp_path / "train.parquet", n_rows=3)
    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", full)
    refusal = _refusal(tmp_path)
    assert "No space left" in refusal
    assert "train.parquet" not in refusal
