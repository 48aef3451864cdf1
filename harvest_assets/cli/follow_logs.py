"""With --verbose, what the stages of harvests log appears on stderr while they work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harvest_assets.files.layout import HarvestLayout

_SECONDS = 0.5
_MAX_BYTES = 1 << 20  # of a file at a time
_MARK_BYTES = 256
# Written by the processes of stages, and by SLURM's jobs.
_PATTERNS = ("*.log", "jobs/*.out", "jobs/*.err")


@contextmanager
def following_logs(
    harvests: Sequence[HarvestLayout], show: Callable[[str], None]
) -> Iterator[None]:
    """While the block runs, show each line that is added to the logs of harvests.

    Args:
        harvests: whose logs.
        show: takes a line; called by another thread.
    """
    logs = _Logs([it.log("any").parent for it in harvests])
    logs.skip()  # the lines of earlier commands
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_SECONDS):
            for line in logs.new_lines():
                show(line)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        while lines := logs.new_lines():
            for line in lines:
                show(line)


class _Logs:
    """The files in folders of logs, each read from where the last reading ended.

    Args:
        folders: that exist or will.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._read: dict[Path, _Place] = {}

    def skip(self) -> None:
        """Pass over what is in the files."""
        for file in self._files():
            with suppress(OSError), file.open("rb") as log:  # it may be removed meanwhile
                self._read[file] = _Place.at(log, os.fstat(log.fileno()).st_size)

    def new_lines(self) -> list[str]:
        """Whole lines that were added since the last call, of a file 1 MiB at most."""
        return [line for file in self._files() for line in self._lines_of(file)]

    def _files(self) -> Iterator[Path]:
        for folder in self._folders:
            for pattern in _PATTERNS:
                yield from sorted(folder.glob(pattern))

    def _lines_of(self, file: Path) -> list[str]:
        try:
            with file.open("rb") as log:
                place = self._read.get(file)
                begin = place.offset if place is not None and place.is_in(log) else 0
                log.seek(begin)
                chunk = log.read(_MAX_BYTES)
                end = chunk.rfind(b"\n") + 1
                if not end and len(chunk) == _MAX_BYTES:
                    end = _MAX_BYTES  # a longer line is shown in parts
                self._read[file] = _Place.at(log, begin + end)
        except OSError:  # removed meanwhile
            return []
        return chunk[:end].decode(errors="replace").splitlines()


@dataclass(frozen=True)
class _Place:
    """How far a file was read.

    Args:
        inode: of the file.
        offset: of the first byte that was not read.
        before: the last bytes before it; a file that was begun again has others, even where the
            file system gave it the inode of the old one.
    """

    inode: int
    offset: int
    before: bytes

    @classmethod
    def at(cls, log: BinaryIO, offset: int) -> _Place:
        """The place at an offset of an open file."""
        begin = max(0, offset - _MARK_BYTES)
        log.seek(begin)
        return cls(os.fstat(log.fileno()).st_ino, offset, log.read(offset - begin))

    def is_in(self, log: BinaryIO) -> bool:
        """Whether an open file is the one that was read, and not begun again."""
        return self == _Place.at(log, self.offset)
