"""A dataset that is not streamed: the Arrow files into which `datasets` converts it, once.

The library names what it converts after the path and the modification time of the data files, and
what it decompresses after the path alone; a replaced file may share both. Local data are therefore
converted in a scratch folder, whose result is named after their content.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvest_assets.data.damaged_files import check_not_blank, damage
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files.atomic import fsync_path, remove, sweep, temporary_beside
from harvest_assets.files.records import Older, Record

_FOLDER = "harvest_assets"  # in the library's own cache
_SIZES = "sizes.json"


@dataclass(frozen=True)
class _Sizes:
    """Bytes of each converted file."""

    files: dict[str, int]


# Version 0.1 wrote the mapping itself.
_RECORD = Record(
    _Sizes, "the sizes of converted files", older=Older(upgrade=lambda sizes: {"files": sizes})
)


def open_stored(
    name: str,
    split: str,
    open_builder: Callable[[str | None], Any],
    digest_of: Callable[[Any], str],
    digest: str | None,
) -> Any:
    """One split of a dataset, read from what has this digest.

    Args:
        name: of the dataset.
        split: of the dataset.
        open_builder: opens the dataset's builder on a cache folder; None is the library's own.
        digest_of: the digest of a builder's data files as they are at the time of the call.
        digest: that the content must have; None takes the content as it is.

    Returns:
        A `datasets.Dataset`, memory-mapped.

    Raises:
        HarvestError: a data file is damaged or changed while it was read, the split has no rows, or
            the dataset card counts other rows than there are.
        Exception: whatever else the library raises.
    """
    if not Path(name).exists():
        builder = open_builder(None)
        if digest not in {None, digest_of(builder)}:
            raise changed(name)
        expected = dict(builder.info.splits or {})
        builder.download_and_prepare(verification_mode="no_checks")
        return _checked(name, split, builder, expected)
    with _scratch_folder() as scratch:
        builder = open_builder(str(scratch))
        expected = dict(builder.info.splits or {})
        _check_counts(name, expected)
        content = digest or digest_of(builder)
        place = scratch.parent / _key(builder, content)
        if not _is_whole(place):
            arrow_files = _converted(name, builder, scratch)
            if digest_of(builder) != content:
                raise changed(name)
            _commit(arrow_files, place)
        builder.download_and_prepare(output_dir=str(place))  # only opens it
        return _checked(name, split, builder, expected)


def changed(name: str) -> TransientError:
    """The error for data that are not the ones that were fingerprinted."""
    return TransientError(
        f"The data files of {name!r} changed while they were being read; start the harvest again "
        "once they are complete."
    )


def data_files(builder: Any, split: str | None = None) -> list[str]:
    """The data files of one split of a local dataset, or of all splits."""
    of_splits = builder.config.data_files or {}
    wanted = of_splits.values() if split is None else [of_splits.get(split, ())]
    return [str(file) for files in wanted for file in files]


def damage_of(name: str, builder: Any, files: list[str], error: Exception) -> HarvestError | None:
    """The error that names the damaged one of some files of a local dataset; None if none is.

    Args:
        name: of the dataset.
        builder: of the dataset.
        files: that may be damaged.
        error: what the library raised when it read them.

    Raises:
        HarvestError: a file begins with zero bytes.
    """
    try:
        check_not_blank(name, files)
        with _scratch_folder() as scratch:
            return damage(name, builder.name, files, scratch, error)
    except OSError:  # a file is gone, or the library's cache cannot be written
        return None


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    import datasets

    root = Path(datasets.config.HF_DATASETS_CACHE) / _FOLDER
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    scratch = temporary_beside(root / "conversion")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _key(builder: Any, digest: str) -> str:
    """Equal where the same Arrow files would result, under the same names."""
    import datasets

    # Older major versions of the library cannot read what newer ones wrote.
    major = datasets.__version__.partition(".")[0]
    parts = (digest, builder.dataset_name, repr(builder.info.features), major)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _converted(name: str, builder: Any, scratch: Path) -> Path:
    files = data_files(builder)
    check_not_blank(name, files)
    place = scratch / "converted"
    try:
        builder.download_and_prepare(output_dir=str(place), verification_mode="no_checks")
    except Exception as error:  # readers of many formats: each raises what it likes
        explained = damage(name, builder.name, files, scratch, error)
        if explained is None:
            raise
        raise explained from error
    return place


def _is_whole(place: Path) -> bool:
    """Whether the files that were converted are all there, with their sizes."""
    try:
        sizes = _RECORD.read(place / _SIZES).files
        return all((place / name).stat().st_size == size for name, size in sizes.items())
    except (HarvestError, OSError):
        return False


def _commit(arrow_files: Path, place: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in arrow_files.iterdir()}
    for name in sizes:
        fsync_path(arrow_files / name)
    _RECORD.write(arrow_files / _SIZES, _Sizes(sizes))
    if not _is_whole(place):
        remove(place)
    try:
        arrow_files.rename(place)
    except OSError:  # another process was faster; its files are the same
        if not _is_whole(place):
            raise
    fsync_path(place.parent)


def _check_counts(name: str, expected: dict[str, Any]) -> None:
    """Check that what a dataset card counts are numbers, which the library takes on trust."""
    card = str(Path(name, "README.md"))
    for key, info in expected.items():
        if type(info.num_examples) is not int:
            raise HarvestError(
                f"The dataset card {card!r} says that the split {key!r} has "
                f"{info.num_examples!r} rows (num_examples); correct it to their number, or remove "
                "it."
            )


def _checked(name: str, split: str, builder: Any, expected: dict[str, Any]) -> Any:
    """The split, if the dataset card counts the rows that are there, and there are any."""
    found = {key: info.num_examples for key, info in builder.info.splits.items()}
    for key, info in expected.items():
        if info.num_examples != found.get(key, 0):
            raise HarvestError(
                f"The dataset card (README.md) of {name!r} counts {info.num_examples:,} rows in "
                f"the split {key!r}, but its data files hold {found.get(key, 0):,}; correct the "
                "card's dataset_info, or restore the missing files."
            )
    if found.get(split) == 0:
        files = ", ".join(data_files(builder, split))
        raise HarvestError(
            f"The split {split!r} of the dataset {name!r} has no rows; its files are {files}."
        )
    return builder.as_dataset(split=split)
