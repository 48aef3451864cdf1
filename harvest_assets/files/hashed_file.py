"""Files whose digest is taken while they are written, so that nothing is read back."""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harvest_assets.files.records import FileDigest

# Less is hashed before another thread would have begun.
_MIN_BESIDE = 1 << 16
_ZEROS = memoryview(bytes(1 << 20))


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
            hashed = self._hasher.submit(self._sha256.update, piece)
            try:
                self._file.write(piece)
            finally:
                hashed.result()
        self._size += n
        return n

    def write_zeros(self, n: int) -> None:
        """Leave a hole of n bytes, which takes no room on the disk where the file system can."""
        for start in range(0, n, len(_ZEROS)):
            self._sha256.update(_ZEROS[: n - start])
        self._file.seek(n, os.SEEK_CUR)
        self._size += n

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
