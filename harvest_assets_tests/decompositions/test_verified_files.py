"""Verified files are read again only where something about them differs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from harvest_assets.decompositions import verified_files
from harvest_assets.decompositions.verified_files import check_unchanged, digest_of
from harvest_assets.errors import HarvestError
from harvest_assets.files import stamps as stamps_module
from harvest_assets.files.stamps import stamps_of


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(stamps_module, "_MIN_AGE_NS", 100_000_000)
    config, weights = tmp_path / "final_config.yaml", tmp_path / "model_3.pth"
    config.write_bytes(b"seed: 0")
    weights.write_bytes(bytes(1000))
    time.sleep(0.2)  # what was written just now has no stamp
    return config, weights


def test_the_digest_is_that_of_the_files_digests(paths: tuple[Path, Path]):
    parts = [hashlib.sha256(content).hexdigest() for content in (b"seed: 0", bytes(1000))]
    assert digest_of(paths) == hashlib.sha256("".join(parts).encode()).hexdigest()


def test_files_of_equal_stamps_are_not_read(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    stamps, digest = stamps_of(paths), digest_of(paths)
    assert stamps is not None
    read = []
    monkeypatch.setattr(verified_files, "digest_of", lambda files: read.append(files) or digest)
    check_unchanged(paths, digest, stamps)
    assert not read
    check_unchanged(paths, digest, None)
    assert read == [paths]


def test_a_copy_is_read_and_accepted(paths: tuple[Path, Path]):
    stamps, digest = stamps_of(paths), digest_of(paths)
    copy = paths[1].with_name("copy")
    copy.write_bytes(paths[1].read_bytes())
    copy.replace(paths[1])
    assert stamps_of(paths) is None
    check_unchanged(paths, digest, stamps)


@pytest.mark.parametrize("replaced", [False, True], ids=["overwritten", "replaced"])
@pytest.mark.parametrize("changed", [0, 1])
def test_a_change_that_keeps_size_and_time_is_refused_by_name(
    *, paths: tuple[Path, Path], changed: int, replaced: bool
):
    stamps, digest, path = stamps_of(paths), digest_of(paths), paths[changed]
    before = path.stat()
    content = b"X" + path.read_bytes()[1:]
    if replaced:
        path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(HarvestError, match=r"model_3\.pth"):
        check_unchanged(paths, digest, stamps)


def test_a_missing_file_is_named(paths: tuple[Path, Path]):
    stamps, digest = stamps_of(paths), digest_of(paths)
    paths[1].unlink()
    with pytest.raises(HarvestError, match=r"model_3\.pth"):
        check_unchanged(paths, digest, stamps)
