"""Small JSON files of ours: typed, versioned, checksummed, bounded, and written atomically.

A file holds the fields of a dataclass, the version of their format and, under the key `digest`, a
SHA-256 of both. Version 0.1 wrote some of these files without a version or a digest; a `Record`
says of its kind which form that was, and reads it too.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import write_json
from harvest_assets.files.untrusted import MAX_BYTES, as_record, parse_json, read_json

T = TypeVar("T")

_DIGEST = "digest"
_ZEROS = bytes(1 << 20)


class _OtherVersionError(ValueError):
    """A version that this program does not read."""


@dataclass(frozen=True)
class Older:
    """The form in which version 0.1 wrote a kind of file.

    Args:
        version: of the format; 0 where the file has no version key.
        has_digest: whether it carries a digest.
        upgrade: turns what it holds into today's fields.
    """

    version: int = 0
    has_digest: bool = False
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict


@dataclass(frozen=True)
class Record(Generic[T]):
    """One kind of small JSON file.

    Args:
        kind: the class whose fields the file holds; each must have exactly its type.
        name: of the file in error messages, such as `a harvest plan`.
        version: of the format that is written.
        version_key: the key that holds it.
        remedy: what to do about a damaged file, such as `download it again`.
        max_bytes: a longer file is refused.
        digest_of: for values that have a digest of their own; else it is the SHA-256 of the other
            keys, as JSON with sorted keys.
        older: the form that version 0.1 wrote, if it was another one.
        ignore_unknown: accept keys that the dataclass lacks.
        fields_of: a value's fields, as JSON values.
    """

    kind: type[T]
    name: str
    version: int = 1
    version_key: str = "format_version"
    remedy: str = ""
    max_bytes: int = MAX_BYTES
    digest_of: Callable[[T], str] | None = None
    older: Older | None = None
    ignore_unknown: bool = False
    fields_of: Callable[[T], dict[str, Any]] = dataclasses.asdict  # type: ignore[assignment]

    def content(self, value: T) -> dict[str, Any]:
        """All keys of the file that holds a value, the digest last."""
        content = {self.version_key: self.version, **self.fields_of(value)}
        return {**content, _DIGEST: self._digest(content, value)}

    def encode(self, value: T) -> bytes:
        """The bytes of a file that holds a value, for places other than a disk."""
        return json.dumps(self.content(value), indent=2).encode()

    def parse(self, encoded: bytes) -> T:
        """Read what `encode` returned.

        Raises:
            ValueError: it is damaged, too long, or of another version.
        """
        if len(encoded) > self.max_bytes:
            raise ValueError(f"it is longer than {self.max_bytes:,} bytes")
        return self._value(parse_json(encoded))

    def write(self, path: Path, value: T) -> None:
        """Write a value atomically."""
        write_json(path, self.content(value))

    def read(self, path: Path) -> T:
        """Read what `write`, or version 0.1, wrote.

        Raises:
            HarvestError: the file is missing, damaged, or of another version.
        """
        remedy = f"; {self.remedy}" if self.remedy else ""
        try:
            return self._value(read_json(path, self.max_bytes))
        except FileNotFoundError as error:
            raise HarvestError(f"{path} is missing{remedy}.") from error
        except (OSError, ValueError, RecursionError, HarvestError) as error:
            raise HarvestError(f"{path} is not {self.name}: {reason_of(error)}{remedy}.") from error

    def is_damaged(self, path: Path) -> bool:
        """Whether a file can be read, and is neither what `write` wrote nor of another version."""
        try:
            content = read_json(path, self.max_bytes)
            if isinstance(content, dict):
                self._older_form(content)
        except OSError:
            return False
        except (ValueError, RecursionError, HarvestError) as error:
            return not isinstance(error, _OtherVersionError)
        try:
            self._value(content)
        except (ValueError, RecursionError, HarvestError):
            return True
        return False

    def _value(self, content: Any) -> T:
        if not isinstance(content, dict):
            raise ValueError("it does not hold a mapping")
        older = self._older_form(content)
        fields = {k: v for k, v in content.items() if k not in (self.version_key, _DIGEST)}
        value = as_record(
            older.upgrade(fields) if older else fields,
            self.kind,
            ignore_unknown=self.ignore_unknown,
        )
        if _DIGEST in content:
            rest = {key: part for key, part in content.items() if key != _DIGEST}
            if content[_DIGEST] != self._digest(rest, value):
                raise ValueError("it does not match its digest")
        elif older is None or older.has_digest:
            raise ValueError("it has no digest")
        return value

    def _older_form(self, content: Mapping[str, Any]) -> Older | None:
        """The older form, if the file has it; None if it has today's."""
        version = content.get(self.version_key, 0)
        if type(version) is int and version == self.version:
            return None
        if type(version) is int and self.older is not None and version == self.older.version:
            return self.older
        raise _OtherVersionError(
            f"its {self.version_key} is {str(version)[:100]}; this program reads {self.version}"
        )

    def _digest(self, content: Mapping[str, Any], value: T) -> str:
        if self.digest_of is not None:
            return self.digest_of(value)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FileDigest:
    """What a file must be.

    Args:
        size: in bytes.
        sha256: of its bytes, in hexadecimal digits.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Of a file as it is."""
        return cls(path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of the bytes that are in a file when it is read, in hexadecimal digits."""
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:  # as the files of /proc
            return hashlib.file_digest(file, "sha256").hexdigest()
        return _digest_without_holes(file, status.st_size)


def _digest_without_holes(file: io.FileIO, size: int) -> str:
    """Holes are not read: that takes three times as long as to digest zeros, and the page cache."""
    digest, buffer, position = hashlib.sha256(), memoryview(bytearray(len(_ZEROS))), 0
    for start, stop in _extents(file.fileno(), size):
        _add_zeros(digest, start - position)
        file.seek(start)
        position = start
        while position < stop:
            n = file.readinto(buffer[: stop - position])
            if not n:  # it was cut off in the meantime
                return digest.hexdigest()
            digest.update(buffer[:n])
            position += n
    _add_zeros(digest, min(size, os.fstat(file.fileno()).st_size) - position)
    return digest.hexdigest()


def _add_zeros(digest: hashlib._Hash, n: int) -> None:
    for start in range(0, n, len(_ZEROS)):
        digest.update(_ZEROS[: n - start])


def _extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the data of a file begin and end; in between and after it are holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            start, end = end, size  # a file system that has no holes
        yield start, min(end, size)


def damage(directory: Path, files: Mapping[str, FileDigest]) -> list[str]:
    """What is wrong with files whose digests were recorded, in sentences."""
    problems = []
    for name, recorded in files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path} is missing.")
        elif (size := path.stat().st_size) != recorded.size:
            problems.append(f"{path} has {size} bytes instead of {recorded.size}.")
        elif sha256_of(path) != recorded.sha256:
            problems.append(f"{path} is damaged: it does not match its recorded digest.")
    return problems
