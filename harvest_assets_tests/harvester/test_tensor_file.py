"""Tensors through safetensors files of ours, read by the library; holes; digests."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harvest_assets.errors import HarvestError
from harvest_assets.files import stamps
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.records import sha256_of
from harvest_assets.harvester import state
from harvest_assets.harvester.tensor_file import save_tensors
from harvest_assets_tests.harvester.rows import Setup, harvest, random_rows

TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64)


def mostly_zero(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    values = torch.zeros(shape, dtype=dtype)
    flat = values.view(-1)
    flat[:: max(1, len(flat) // 3)] = 7
    return values


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 100_003])
def test_what_is_saved_is_read(tmp_path: Path, n: int):
    tensors = {f"{dtype}"[6:]: mostly_zero(dtype, n) for dtype in TYPES}
    tensors["full"] = torch.arange(3 * n).reshape(3, n).T  # not contiguous
    tensors["empty"] = torch.zeros((0, 5), dtype=torch.int32)
    digest = save_tensors(tmp_path / "file", tensors)
    content = (tmp_path / "file").read_bytes()
    assert digest.size == len(content)
    assert digest.sha256 == hashlib.sha256(content).hexdigest()
    loaded = load_file(tmp_path / "file")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_rows_of_zeros_take_no_room(tmp_path: Path):
    rows = torch.zeros((100, 50_000), dtype=torch.float64)
    rows[::10] = torch.rand(50_000, dtype=torch.float64)
    save_tensors(tmp_path / "file", {"rows": rows, "zeros": torch.zeros(1 << 20)})
    stat = (tmp_path / "file").stat()
    assert stat.st_size > rows.nbytes + (4 << 20)
    if stat.st_blocks * 512 >= stat.st_size:
        pytest.skip("this file system has no holes")
    assert stat.st_blocks * 512 < 1.1 * rows.nbytes / 10
    assert torch.equal(load_file(tmp_path / "file")["rows"], rows)


@pytest.mark.parametrize("is_last_a_hole", [False, True])
def test_pieces_and_holes_in_any_order_are_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_last_a_hole: bool
):
    def no_holes(*_: int) -> int:
        raise OSError(errno.EINVAL, "this file system does not know holes")

    random, expected = np.random.default_rng(0), b""
    lengths = [10, 1 << 17, 3, 1 << 21, 70_000, (1 << 26) + 5, *([0] if is_last_a_hole else [9])]
    with HashedFile(tmp_path / "file") as file:
        for n in lengths:
            for piece in (bytes(n + 1), random.bytes(min(n, 300_000))):
                file.write(piece)
                expected += piece
                assert file.tell() == len(expected)
        if is_last_a_hole:
            file.write(bytes(100_000))
            expected += bytes(100_000)
    assert (tmp_path / "file").read_bytes() == expected
    assert file.digest.sha256 == hashlib.sha256(expected).hexdigest()
    assert sha256_of(tmp_path / "file") == file.digest.sha256
    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", no_holes)
        assert sha256_of(tmp_path / "file") == file.digest.sha256
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")


def test_bytes_are_compared_once_unless_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setup = Setup((("a", 5),), 7)
    harvest(setup, random_rows(np.random.default_rng(0), setup, 10, 9, 0.5)).save(tmp_path)
    read = []

    def reads_and_compares(directory: Path) -> list[str]:
        read.append(directory)
        return compare(directory)

    compare = state.state_damage
    monkeypatch.setattr(state, "state_damage", reads_and_compares)
    for _ in range(2):  # just written: another change could bear the same time
        state.HarvesterState.load(tmp_path)
    assert len(read) == 2
    monkeypatch.setattr(stamps, "_MIN_AGE_NS", 0)
    time.sleep(0.1)
    for _ in range(3):
        state.HarvesterState.load(tmp_path)
    assert len(read) == 3
    file = tmp_path / "statistics.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(HarvestError, match=r"statistics\.safetensors"):
            state.HarvesterState.load(tmp_path)
    assert len(read) == 5
