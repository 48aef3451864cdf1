"""With --verbose, what the stages of harvests log appears on stderr while they work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harvest_assets.files.layout import HarvestLayout

_SECONDS = 0.5
_MAX_BYTES = 1 << 20  # of a file at a time
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
    logs.new_lines()  # those of earlier commands
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
        for line in logs.new_lines():
            show(line)


class _Logs:
    """The files in folders of logs, each read from where the last reading ended.

    Args:
        folders: that exist or will.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._read: dict[Path, int] = {}

    def new_lines(self) -> list[str]:
        """Whole lines that were added since the last call."""
        lines: list[str] = []
        for folder in self._folders:
            for pattern in _PATTERNS:
                for file in sorted(folder.glob(pattern)):
                    lines += self._lines_of(file)
        return lines

    def _lines_of(self, file: Path) -> list[str]:
        try:
            with file.open("rb") as log:
                begin = self._read.get(file, 0)
                if file.stat().st_size < begin:  # a stage begins its log again
                    begin = 0
                log.seek(begin)
                whole, newline, _ = log.read(_MAX_BYTES).rpartition(b"\n")
        except OSError:  # removed meanwhile
            return []
        self._read[file] = begin + len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines() if newline else []
