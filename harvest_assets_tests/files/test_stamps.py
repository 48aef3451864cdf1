"""A file has a stamp once a further write would show in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harvest_assets.files.stamps import stamps_of


@pytest.mark.parametrize(("age", "is_trusted"), [(0.0, False), (1.1, False), (2.1, True)])
def test_no_stamp_is_trusted_within_the_tick_of_a_slow_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, is_trusted: bool
):
    old, young = tmp_path / "old", tmp_path / "young"
    for path in (old, young):
        path.write_bytes(b"12345")
    status = young.stat()
    monkeypatch.setattr(time, "time_ns", lambda: status.st_ctime_ns + int(age * 1e9))
    stamps = stamps_of([old, young])
    assert (stamps is not None) == is_trusted
    if stamps is not None:
        expected = (5, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        assert stamps[1] == expected


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="gone"):
        stamps_of([tmp_path / "gone"])
