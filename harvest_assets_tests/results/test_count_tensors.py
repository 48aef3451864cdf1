from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage


def correlations() -> CorrelationStorage:
    return CorrelationStorage(
        ["a:0", "a:1"], torch.tensor([3, 2]), torch.tensor([[3, 1], [1, 2]]), 2**40
    )


def token_stats() -> TokenStatsStorage:
    return TokenStatsStorage(
        component_keys=["a:0", "a:1"],
        vocab_size=3,
        n_tokens=5,
        input_counts=torch.tensor([[1, 2, 0], [0, 0, 2]]),
        input_totals=torch.tensor([1.0, 2, 2], dtype=torch.float64),
        output_counts=torch.rand(2, 3),
        output_totals=torch.rand(3, dtype=torch.float64),
        firing_counts=torch.tensor([3.0, 2], dtype=torch.float64),
    )


@pytest.mark.parametrize("storage", [correlations(), token_stats()])
def test_what_is_saved_is_loaded(storage, tmp_path: Path):
    path = tmp_path / "file.pt"
    storage.save(path)
    loaded = type(storage).load(path)
    plain = torch.load(path, weights_only=True, mmap=True)
    assert set(plain) == set(vars(storage))
    for name, value in vars(storage).items():
        for found in (getattr(loaded, name), plain[name]):
            same = torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
            assert same, name
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return (os.system, ("touch should_not_exist",))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    correlations().save(path)
    whole = path.read_bytes()
    good = vars(correlations())
    contents = {
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("hello"),
        "code": lambda: torch.save({"count_i": Evil()}, path),
        "list": lambda: torch.save([1, 2], path),
        "keys": lambda: torch.save({"count_i": torch.ones(2)}, path),
        "shape": lambda: torch.save({**good, "count_i": torch.ones(3).long()}, path),
        "dtype": lambda: torch.save({**good, "count_i": torch.ones(2)}, path),
        "number": lambda: torch.save({**good, "count_total": "x"}, path),
        "names": lambda: torch.save({**good, "component_keys": 3}, path),
    }
    for write in contents.values():
        write()
        with pytest.raises(HarvestError, match=r"file\.pt"):
            CorrelationStorage.load(path)
    assert not (tmp_path / "should_not_exist").exists()
    path.unlink()
    with pytest.raises(HarvestError, match="does not exist"):
        CorrelationStorage.load(path)


def test_older_files_are_read(tmp_path: Path):
    path = tmp_path / "file.pt"
    older = {
        name: value.float() if name in ("input_totals", "output_totals", "firing_counts") else value
        for name, value in vars(token_stats()).items()
    }
    torch.save(older, path)
    assert TokenStatsStorage.load(path).firing_counts.tolist() == [3.0, 2.0]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_spoiled_bytes_give_one_kind_of_error(tmp_path: Path):
    path = tmp_path / "file.pt"
    correlations().save(path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(500):
        spoiled = bytearray(whole)
        for place in random.integers(0, len(whole), 2):
            spoiled[place] ^= random.integers(1, 256)
        path.write_bytes(spoiled)
        with contextlib.suppress(HarvestError):
            CorrelationStorage.load(path)


def test_loaded_tensors_are_mapped_and_saved_from_there(tmp_path: Path):
    n = 2048
    keys = [f"a:{i}" for i in range(n)]
    with_file = torch.from_file(str(tmp_path / "m"), shared=True, size=n * n, dtype=torch.int64)
    CorrelationStorage(keys, torch.zeros(n).long(), with_file.view(n, n), 1).save(tmp_path / "a.pt")
    resident = _resident_bytes()
    loaded = CorrelationStorage.load(tmp_path / "a.pt")
    assert _resident_bytes() - resident < n * n
    assert loaded.count_ij.shape == (n, n)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_equal_contents_are_equal_bytes(tmp_path: Path):
    correlations().save(tmp_path / "first" / "a.pt")
    correlations().save(tmp_path / "second" / "a.pt")
    assert (tmp_path / "first/a.pt").read_bytes() == (tmp_path / "second/a.pt").read_bytes()
