from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.storage import CorrelationStorage, TokenStatsStorage


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
    with pytest.raises(HarvestError, match="not there"):
        CorrelationStorage.load(path)
