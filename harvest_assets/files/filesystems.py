"""Which kind of file system a path is on."""

from __future__ import annotations

from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
# Reading a hole of a mapped file takes memory there: the file grows, or the reader is killed.
_IN_MEMORY = ("ramfs", "tmpfs")
# Their locks are not what SQLite takes them for.
_NETWORK = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.cephfs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "gfs2",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "orangefs",
    "panfs",
    "smb3",
    "wekafs",
)


def network_filesystem(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of network file system that a path is on; None where it is on a disk of ours.

    Args:
        path: need not be there yet.
        mounts: the system's table of what is mounted where.
    """
    kind = _filesystem(path, mounts)
    return kind if kind in _NETWORK else None


def keeps_holes(path: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether the holes of a file still take no room when they were read through a mapping.

    Args:
        path: need not be there yet.
        mounts: the system's table of what is mounted where.
    """
    return _filesystem(path, mounts) not in _IN_MEMORY


def _filesystem(path: Path, mounts: Path) -> str:
    """The kind of file system that a path is on; empty where nobody knows."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    resolved = path.resolve()
    kind, deepest = "", -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004
            continue
        # Blanks in the table are written as their octal number.
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t"))
        # What was mounted later covers what was there before.
        if resolved.is_relative_to(point) and len(point.parts) >= deepest:
            kind, deepest = fields[2], len(point.parts)
    return kind
