"""A harvest as one file: a tar archive compressed with Zstandard (`tar --zstd -xf` opens it too).

The first member is `contents.json`; the others follow in its order. Of a file from anybody, exactly
these members are read: regular files with the names and sizes that it lists.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import atomic_path, remove, sweep
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.sharing.contents import (
    CONTENTS,
    MAX_ENCODED_BYTES,
    Contents,
    Watch,
    contents_of,
)
from harvest_assets.sharing.receive import Received, receive

SUFFIX = ".tar.zst"
_CHUNK = 1 << 20


def pack(paths: HarvestLayout, file: Path, watch: Watch) -> None:
    """Write a harvest into one file; equal harvests give equal bytes.

    Raises:
        HarvestError: the harvest is not finished or changes meanwhile, or the file exists.
    """
    import pyarrow as pa

    if file.exists():
        raise HarvestError(f"{file} exists, and was left as it is; name another file.")
    contents = contents_of(paths, watch)
    sweep(file.parent)  # packing that was killed has left gigabytes
    with (
        atomic_path(file) as temporary,
        pa.output_stream(temporary, compression="zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        _add(archive, CONTENTS, len(contents.encoded), io.BytesIO(contents.encoded))
        done = 0
        for name, recorded in contents.files.items():
            with (paths.root / name).open("rb") as content:
                hashed = _Hashed(content, lambda n: watch("packing", n, contents.n_bytes), done)
                _add(archive, name, recorded.size, hashed)
            if hashed.digest.hexdigest() != recorded.sha256:
                raise HarvestError(f"{paths.root / name} was replaced meanwhile; pack it again.")
            done += recorded.size


def unpack(file: Path, out_name: str | None, watch: Watch, layers: Sequence[str] = ()) -> Received:
    """Put the harvest in a file into its folder below `harvest/`.

    Args:
        file: written by `pack`, by anybody.
        out_name: the folder below `harvest/`; None for the name that it had.
        watch: is shown the progress.
        layers: patterns of the layers that are kept; without any all are.

    Raises:
        HarvestError: the file is damaged or holds anything else, or another harvest is in the
            folder.
    """
    import pyarrow as pa

    if not file.is_file():
        raise HarvestError(f"{file} is not a file; expected one that harvest-assets pack wrote.")
    with pa.input_stream(file, compression="zstd") as stream:
        reader = _Reader(stream, file)
        contents = reader.contents()

        def fill(folder: Path) -> None:
            try:
                reader.extract(contents, folder, watch)
            except BaseException:
                remove(folder)
                raise

        return receive(contents, out_name, str(file), fill, watch, layers, continues=False)


class _Hashed:
    """A file that is read once, with the digest of what was read.

    Args:
        file: to be read.
        advance: called with the bytes done so far.
        done: bytes done before this file.
    """

    def __init__(self, file: IO[bytes], advance: Callable[[int], None], done: int) -> None:
        self.digest = hashlib.sha256()
        self._file, self._advance, self._done = file, advance, done

    def read(self, n: int) -> bytes:
        """The next bytes."""
        content = self._file.read(n)
        self.digest.update(content)
        self._done += len(content)
        self._advance(self._done)
        return content


def _add(archive: tarfile.TarFile, name: str, size: int, content: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, content)


class _Reader:
    """The members of an archive, one after another.

    Only plain headers are understood: extended ones, whose length is up to the writer, are not
    needed for the names of a harvest.

    Args:
        stream: uncompressed.
        file: for messages.
    """

    def __init__(self, stream: Any, file: Path) -> None:
        self._stream, self._file = stream, file

    def contents(self) -> Contents:
        """The list of files, which is the first member.

        Raises:
            HarvestError: it is missing or malformed.
        """
        with self._faults_reported():
            member = self._header()
            if member.name != CONTENTS or member.size > MAX_ENCODED_BYTES:
                raise ValueError(f"it does not begin with {CONTENTS}")
            encoded = self._exactly(member.size)
            self._skip_padding(member.size)
            return Contents.parse(encoded)

    def extract(self, contents: Contents, folder: Path, watch: Watch) -> None:
        """Write the files into a folder.

        Raises:
            HarvestError: a member is not the next file of `contents`, or there are more.
        """
        done = 0
        for name, recorded in contents.files.items():
            with self._faults_reported():
                member = self._header()
                if (member.name, member.size) != (name, recorded.size):
                    raise ValueError(f"{member.name[:200]!r} is not the expected {name}")
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as out:
                for start in range(0, recorded.size, _CHUNK):
                    with self._faults_reported():
                        chunk = self._exactly(min(_CHUNK, recorded.size - start))
                    out.write(chunk)
                    watch("unpacking", done + start, contents.n_bytes)
            with self._faults_reported():
                self._skip_padding(recorded.size)
            done += recorded.size
        with self._faults_reported():
            if any(self._stream.read(tarfile.RECORDSIZE + 1)):
                raise ValueError("it has more members than it lists")

    def _header(self) -> tarfile.TarInfo:
        block = self._exactly(tarfile.BLOCKSIZE)
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        if member.type != tarfile.REGTYPE or member.size < 0:
            raise ValueError(f"{member.name[:200]!r} is not a plain file")
        return member

    def _exactly(self, n: int) -> bytes:
        parts = []
        while n:
            part = self._stream.read(n)
            if not part:
                raise ValueError("it ends early")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def _skip_padding(self, size: int) -> None:
        self._exactly(-size % tarfile.BLOCKSIZE)

    @contextmanager
    def _faults_reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, HarvestError, tarfile.TarError) as error:
            raise HarvestError(
                f"{self._file} is not a packed harvest: {reason_of(error)}."
            ) from error
