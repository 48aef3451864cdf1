"""What of a finished harvest is shared: its results, its plan, its run and its tokenizer.

States, leases, logs and rows of tokens stay where they are: results are read without them. What is
received may come from anybody, so only these names, of these sizes and digests, are ever written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout, is_folder_name
from harvest_assets.files.manifest import disagreements, read
from harvest_assets.files.records import FileDigest, Record
from harvest_assets.files.untrusted import MAX_BYTES
from harvest_assets.store.imported import results_digest, source_of
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import check_name

# Called with an activity, the bytes done, and the bytes that there are to do.
Watch = Callable[[str, int, int], None]

CONTENTS = "contents.json"
_MAX_FILES = 100
_MAX_TOKENIZER_BYTES = 200_000_000
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DESCRIPTIONS = ("manifest.json", "plan.json", "run_checkpoint.json", "harvest_name.json")
_RESULTS = ("activation_contexts", "correlations")
_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Contents:
    """The files of a shared harvest; `contents.json` lists them where they are shared.

    Args:
        name: the folder below `harvest/`.
        files: size and digest by path below that folder.
    """

    name: str
    files: dict[str, FileDigest]

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def encoded(self) -> bytes:
        """The bytes of `contents.json`."""
        return _RECORD.encode(self)

    @classmethod
    def parse(cls, encoded: bytes) -> Contents:
        """Read `contents.json`, which may come from anybody.

        Raises:
            ValueError: it is damaged, or lists what is not shared.
        """
        contents = _RECORD.parse(encoded)
        if not is_folder_name(contents.name):
            raise ValueError(f"{contents.name[:200]!r} is not a name of a folder")
        if len(contents.files) > _MAX_FILES:
            raise ValueError(f"it lists {len(contents.files):,} files; a harvest has fewer")
        for name, file in contents.files.items():
            _check_entry(name, file)
        return contents


_RECORD = Record(Contents, "a list of the files of a harvest", max_bytes=1 << 20)
MAX_ENCODED_BYTES = _RECORD.max_bytes


def contents_of(paths: HarvestLayout, watch: Watch) -> Contents:
    """The files of a harvest as they are on disk, all of them read.

    Raises:
        HarvestError: the harvest is not finished, or its files do not belong together.
    """
    if not paths.manifest.exists():
        raise HarvestError(f"{paths.root} is not a finished harvest: it has no manifest.json.")
    found = {path.relative_to(paths.root).as_posix(): path for path in _shared_files(paths)}
    sizes = {name: path.stat().st_size for name, path in found.items()}
    done, files = 0, {}
    for name, path in found.items():
        watch("checking", done, sum(sizes.values()))
        files[name] = FileDigest.of(path)
        try:
            _check_entry(name, files[name])
        except ValueError as error:
            raise HarvestError(f"{path} cannot be shared: {error}.") from None
        done += sizes[name]
    contents = Contents(paths.root.name, files)
    check_complete(paths, contents)
    return contents


def check_complete(paths: HarvestLayout, contents: Contents) -> None:
    """Check that files with these digests are one finished harvest.

    Raises:
        HarvestError: they are not.
    """
    problems = disagreements(paths)
    entries = read(paths)
    for name in entries.keys() | {it for it in contents.files if it.startswith(_RESULTS)}:
        entry = entries.get(name)
        if entry is None or contents.files.get(name) != FileDigest(entry.size, entry.sha256):
            problems.append(f"{name} in {paths.root} is not the file that manifest.json names.")
    if {entry.plan for entry in entries.values()} != {results_digest(paths)}:
        problems.append(f"The results in {paths.root} are not those of its plan; harvest it again.")
    if source_of(paths) is None:
        plan = HarvestPlan.open(paths.root)
        check_name(paths, plan.run)
        if paths.run_checkpoint.exists() and open_decomposition(paths.root).run != plan.run:
            problems.append(f"{paths.run_checkpoint} is of another run than {paths.plan.name}.")
    if problems:
        raise HarvestError("\n       ".join(dict.fromkeys(problems)))


def first_difference(paths: HarvestLayout, contents: Contents) -> str | None:
    """The first file of `contents` that a harvest lacks or has otherwise; None if it has all."""
    for name, file in contents.files.items():
        path = paths.root / name
        if not path.is_file() or path.stat().st_size != file.size:
            return name
    for name, file in contents.files.items():
        if FileDigest.of(paths.root / name) != file:
            return name
    return None


def _shared_files(paths: HarvestLayout) -> Iterator[Path]:
    for name in (*_DESCRIPTIONS, *sorted(read(paths))):
        if (paths.root / name).is_file():
            yield paths.root / name
    if paths.tokenizer.is_dir():
        for path in sorted(paths.tokenizer.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                yield path


def _check_entry(name: str, file: FileDigest) -> None:
    folder, _, plain = name.rpartition("/")
    if not _PLAIN.fullmatch(plain) or not (
        name in _DESCRIPTIONS or folder in (*_RESULTS, _TOKENIZER)
    ):
        raise ValueError(f"{name[:200]!r} is not a file of a harvest")
    if file.size < 0 or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"the size or the digest of {name} is malformed")
    limit = MAX_BYTES if not folder else _MAX_TOKENIZER_BYTES if folder == _TOKENIZER else None
    if limit is not None and file.size > limit:
        raise ValueError(
            f"{name} has {decimal(file.size)}; such a file has at most {decimal(limit)}"
        )
