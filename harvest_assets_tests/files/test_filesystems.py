"""SQLite on a network file system is warned of; the tables of mounts are pretended."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvest_assets.files.filesystems import keeps_holes, network_filesystem
from harvest_assets.orchestration import instance

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/export/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb /home/local ext4 rw 0 0
mds@tcp:/scratch /scratch lustre rw,flock 0 0
gpfs0 /big\\040data gpfs rw 0 0
tmpfs /run tmpfs rw 0 0
broken
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ada/dagster", "nfs4"),
        ("/home/local/dagster", None),
        ("/homestead/dagster", None),
        ("/scratch/spd", "lustre"),
        ("/big data/dagster", "gpfs"),
        ("/var/lib/dagster", None),
    ],
)
def test_the_deepest_mount_decides(mounts: Path, path: str, kind: str | None):
    assert network_filesystem(Path(path), mounts) == kind


def test_holes_take_room_in_memory(mounts: Path):
    assert not keeps_holes(Path("/run/spd/file"), mounts)
    assert keeps_holes(Path("/runs/file"), mounts)


def test_without_a_mount_table_nothing_is_known(tmp_path: Path):
    assert network_filesystem(tmp_path, tmp_path / "nothing") is None
    assert keeps_holes(tmp_path, tmp_path / "nothing")


def test_only_sqlite_is_warned_of(mounts: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        instance, "network_filesystem", lambda path: network_filesystem(path, mounts)
    )
    warning = instance.database_warning(Path("/home/ada/dagster"), "SqliteRunStorage")
    assert warning is not None
    assert "/home/ada/dagster is on nfs4" in warning
    assert "docs/production.md" in warning
    assert instance.database_warning(Path("/home/ada"), "PostgresRunStorage") is None
    assert instance.database_warning(Path("/var/dagster"), "SqliteRunStorage") is None
