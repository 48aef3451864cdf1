"""What readers of hostile bytes have in common."""

from __future__ import annotations

import json
import tempfile
import warnings
from abc import ABC, abstractmethod
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable
from harvest_assets_tests.files.sealed import sealed

_LONGEST_SENTENCE = 2000


def scratch_folder() -> Path:
    """A folder of its own, in memory where there is such a place."""
    shared = Path("/dev", "shm")
    return Path(tempfile.mkdtemp(prefix="hostile-", dir=shared if shared.is_dir() else None))


def put(path: Path, content: bytes) -> Path:
    """A new file: one that is mapped somewhere must not change."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def put_sealed(path: Path, content: bytes) -> None:
    """The bytes as a file, its digest made to fit where they are a mapping that has one."""
    try:
        value = json.loads(content)
        if "digest" in value:
            content = json.dumps(sealed(value)).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    put(path, content)


class Reader(ABC):
    """Reads hostile bytes.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """What the product's own writers write."""

    @abstractmethod
    def read(self, content: bytes) -> None:
        """Read, and look at what was read."""

    def __call__(self, content: bytes) -> bool:
        """Were the bytes taken? They were refused if not; any other error is passed on."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(content)
        except HarvestError as error:
            sentence = presentable(str(error))
            assert sentence.strip(), "no sentence"
            assert len(sentence) < _LONGEST_SENTENCE, "a sentence nobody reads"
            sentence.encode()
            return False
        return True
