"""Which of a dataset's files is damaged, where `datasets` only says that one is."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.errors import HarvestError, cause_of, innermost

_BLANK_BYTES = 512  # the header of an archive; the library takes a blank one for an empty archive
_NO_ROWS = "it has no rows"


def check_not_blank(name: str, files: Iterable[str]) -> None:
    """Check that no file begins with zero bytes, as one does that was never fully written.

    The library would take it for an empty archive and leave its rows out.

    Raises:
        HarvestError: one does.
    """
    for file in files:
        with Path(file).open("rb") as opened:
            start = opened.read(_BLANK_BYTES)
        if start and not any(start):
            raise _unreadable(name, file, "it begins with zero bytes")


def damage(
    name: str, file_format: str, files: list[str], scratch: Path, error: Exception
) -> HarvestError | None:
    """Find the file because of which a dataset could not be converted, by converting each alone.

    Args:
        name: of the dataset.
        file_format: the library's name of it, such as `parquet`.
        files: of the dataset.
        scratch: a folder that can be written to.
        error: what the library raised for all files together.

    Returns:
        The error to raise; None if every file can be converted by itself, or if the operating
        system refused something, which has nothing to do with the content of a file.
    """
    if _is_refusal(error):
        return None
    empty = None
    for file in files:
        reason = _reason(file_format, file, scratch)
        if reason == _NO_ROWS:
            empty = empty or file  # may be allowed, so another file may be the cause
        elif reason:
            return _unreadable(name, file, reason)
    if empty:
        return _unreadable(name, empty, _NO_ROWS)
    odd = _other_columns(file_format, files)
    return _unreadable(name, *odd) if odd else None


def _unreadable(name: str, file: str, reason: str) -> HarvestError:
    single = Path(name).is_file()
    of = "" if single else f" of the dataset {name!r}"
    todo = "restore it" if single else "restore or remove it"
    return HarvestError(f"The data file {file!r}{of} cannot be used: {reason}; {todo}.")


def _is_refusal(error: Exception) -> bool:
    """Whether an error came from the operating system."""
    cause = innermost(error)
    return isinstance(cause, OSError) and cause.errno is not None


def _reason(file_format: str, file: str, scratch: Path) -> str | None:
    """Why one file cannot be converted by itself; None if it can."""
    import datasets

    place = scratch / "alone"
    if file_format == "parquet" and _is_empty_parquet(file):
        return _NO_ROWS
    if file_format == "json" and not Path(file).stat().st_size:  # datasets 5 says so too
        return _NO_ROWS
    try:
        builder = datasets.load_dataset_builder(
            file_format, data_files=file, cache_dir=str(scratch / "cache")
        )
        builder.download_and_prepare(output_dir=str(place))
    except StopIteration:  # the library looks for the first row to infer the columns
        return _NO_ROWS
    except Exception as error:  # noqa: BLE001 - readers of many formats: each raises what it likes
        return None if _is_refusal(error) else cause_of(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return None if any(info.num_examples for info in builder.info.splits.values()) else _NO_ROWS


def _is_empty_parquet(file: str) -> bool:
    try:
        n_rows: int = pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException):
        return False
    return n_rows == 0


def _other_columns(file_format: str, files: list[str]) -> tuple[str, str] | None:
    """The first Parquet file that has other columns than those before it, and how they differ."""
    if file_format != "parquet":
        return None
    columns: list[tuple[str, Any]] = [(file, pq.read_schema(file).names) for file in files]
    first, expected = columns[0]
    for file, names in columns:
        if set(names) != set(expected):
            reason = f"its columns are {', '.join(names)}, those of {first!r} {', '.join(expected)}"
            return file, reason
    return None
