"""Files whose digest is taken while they are written, so that nothing is read back.

Long zeros are left out as holes: they take no room on a disk and read as zeros, whatever the
program that reads or maps the file. The rows of components that never fired are such. On a file
system in memory they are written: there a hole takes room once a program that maps it reads it.
"""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.files.filesystems import keeps_holes
from harvest_assets.files.records import FileDigest

# Less is hashed before another thread would have begun.
_MIN_BESIDE = 1 << 16
_PIECE = 1 << 26
# Zeros are looked for in steps of so many bytes.
_STEP = 1 << 13


class HashedFile(io.RawIOBase):
    """A new file, written from beginning to end; large pieces are hashed while they are written.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = path.open("wb", buffering=1 << 20)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._keeps_holes = keeps_holes(path)
        self._hasher = ThreadPoolExecutor(max_workers=1)

    @property
    def digest(self) -> FileDigest:
        """Size and digest of what has been written, also after the file was closed."""
        return FileDigest(self._size, self._sha256.hexdigest())

    def write(self, piece: Any) -> int:
        """Write all bytes of a buffer, and return their number.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        n = memoryview(piece).nbytes
        if n < _MIN_BESIDE:
            self._sha256.update(piece)
            self._file.write(piece)
        else:
            values = np.frombuffer(piece, np.uint8)
            for start in range(0, n, _PIECE):
                self._write_and_hash(values[start : start + _PIECE])
        self._size += n
        return n

    def _write_and_hash(self, values: NDArray[np.uint8]) -> None:
        hashed = self._hasher.submit(self._sha256.update, values.data)
        try:
            if self._keeps_holes:
                self._write_with_holes(values)
            else:
                self._file.write(values.data)
        finally:
            hashed.result()

    def _write_with_holes(self, values: NDArray[np.uint8]) -> None:
        steps = values[: len(values) // _STEP * _STEP].reshape(-1, _STEP)
        filled = np.asarray(steps.view(np.uint64).any(axis=1))
        changes = np.flatnonzero(filled[1:] != filled[:-1]) + 1
        for start, stop in pairwise([0, *changes.tolist(), len(steps)]):
            if start == stop or filled[start]:
                self._file.write(steps[start:stop].reshape(-1).data)
            else:
                self._file.seek((stop - start) * _STEP, os.SEEK_CUR)
        self._file.write(values[steps.size :].data)

    def tell(self) -> int:
        """The number of bytes written so far."""
        return self._size

    def writable(self) -> bool:
        """Whether the file can be written; yes."""
        return True

    def flush(self) -> None:
        """Hand buffered bytes to the operating system."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.closed:
            return
        try:
            super().close()
            # A hole at the end is part of the file too.
            self._file.truncate(self._size)
        finally:
            self._hasher.shutdown()
            self._file.close()
