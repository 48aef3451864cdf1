"""The run's dataset, as the `datasets` library gives it, and what identifies its content."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.data.datasets_cache import choose_datasets_cache
from harvest_assets.data.folder_faults import folder_fault
from harvest_assets.data.saved_dataset import is_saved, open_saved, saved_digest
from harvest_assets.data.stored_dataset import changed, damage_of, data_files, open_stored
from harvest_assets.data.token_types import check_token_types
from harvest_assets.errors import HarvestError, TransientError, cause_of
from harvest_assets.files.unwritable import advice

choose_datasets_cache()

_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_READ_AT_ONCE = 1000  # rows
_WRONG_CONTENT = (ValueError, TypeError, LookupError)  # raised by parsers, not by connections
# Fields of a builder's config that name the data; `sep` follows from the ending of a file.
_NOT_READING = {"name", "version", "data_dir", "data_files", "description", "sep"}


def open_dataset(
    name: str,
    split: str,
    column: str,
    *,
    streaming: bool,
    digest: str | None = None,
    is_tokenized: bool = False,
) -> Any:
    """One split of a dataset that has this column.

    Args:
        name: of the hub, a local folder, also one of `save_to_disk`, or one local file of parquet
            or JSON.
        split: of the dataset.
        column: that must be there.
        streaming: read it as it comes instead of storing it first.
        digest: what `dataset_digest` returned for the content that is wanted; None takes the
            content as it is. A streamed dataset is not compared with it.
        is_tokenized: the column must hold lists of integers in each data file of local data.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` where it is streamed.

    Raises:
        HarvestError: the dataset, the split or the column is not there, or a data file is damaged
            or holds something else than token ids.
        TransientError: the content is not the one wanted, or it changed while it was read.
    """
    what = f"The split {split!r} of the dataset {name!r}"
    if _loaded(what, lambda: is_saved(name)):
        dataset = _loaded(what, lambda: open_saved(name, split))
        if digest not in {None, dataset_digest(name, split)}:
            raise changed(name)
        _check_column(name, column, dataset.column_names)
        return dataset.to_iterable_dataset() if streaming else dataset
    builder = _local_builder(name, what)
    if is_tokenized and builder is not None:
        check_token_types(name, builder, [file for _, file in _split_files(builder, split)], column)
    if streaming:
        dataset, there = _loaded(what, lambda: _stream(name, split, column))
    else:
        dataset = _loaded(what, lambda: _stored(name, split, digest))
        there = dataset.column_names
    _check_column(name, column, there)
    return dataset


def _check_column(name: str, column: str, there: Sequence[str]) -> None:
    if column not in there:
        raise HarvestError(
            f"The dataset {name!r} has no column {column!r}, but {', '.join(there)}."
        )


def dataset_digest(name: str, split: str) -> str:
    """What changes when the content of a dataset changes.

    For a local folder the SHA-256 of the data files of the split and of how the dataset card says
    they are to be read, for a local file its own; for a dataset of the hub, the hash of its
    `datasets` builder, which is its revision.

    Raises:
        HarvestError: there is no such dataset.
    """
    what = f"The dataset {name!r}"
    if _loaded(what, lambda: is_saved(name)):
        digest: str = _loaded(what, lambda: saved_digest(name, split))
        return digest
    builder = _local_builder(name, what) or _loaded(what, lambda: _builder(name))
    return _digest(builder, name, split)


def _local_builder(name: str, what: str) -> Any | None:
    """The builder of a local folder or file; None for a dataset of the hub.

    Raises:
        HarvestError: it cannot be loaded, or a data file of a folder is not in it.
    """
    if not _loaded(what, lambda: Path(name).exists()):
        return None
    builder = _loaded(what, lambda: _builder(name))
    if Path(name).is_dir():
        _check_inside(name, builder)
    return builder


def _builder(name: str, cache_dir: str | None = None) -> Any:
    """The library's builder of a dataset.

    Raises:
        HarvestError: the card or an archive of a local folder cannot be read.
        Exception: whatever else the library raises.
    """
    import datasets

    try:
        return datasets.load_dataset_builder(**_source(name), cache_dir=cache_dir)
    except Exception as error:  # readers of many formats: each raises what it likes
        fault = folder_fault(name)
        if fault is None:
            raise
        raise fault from error


def _stored(name: str, split: str, digest: str | None) -> Any:
    return open_stored(
        name,
        split,
        lambda folder: _builder(name, folder),
        lambda builder: _digest(builder, name, split),
        digest,
    )


def _stream(name: str, split: str, column: str) -> tuple[Any, list[str]]:
    """A streamed dataset and its columns."""
    import datasets

    try:
        stream = datasets.load_dataset(**_source(name), split=split, streaming=True)
        columns = stream.column_names
        if columns is None:  # a stream that has no features before it has rows
            columns = list(next(iter(stream), {} if Path(name).exists() else {column: None}))
        if not columns and Path(name).exists():
            raise ValueError("it has no rows")
    except Exception as error:  # readers of many formats: each raises what it likes
        _raise_damage(name, split, error)
        raise
    return stream, columns


def _raise_damage(
    name: str, split: str, error: Exception, file: int | None = None, n_files: int = 0
) -> None:
    """Raise the error that names the damaged file of a local dataset, if there is one.

    Args:
        name: of the dataset.
        split: of the dataset.
        error: what reading it raised.
        file: the only file of the split that can be the cause; None: any.
        n_files: that the stream has; others than the split's cannot be distinguished by number.
    """
    if not Path(name).exists() or is_saved(name):
        return
    builder = _loaded(name, lambda: _builder(name))
    files = data_files(builder, split)
    if file is not None and len(files) == n_files:
        files = files[file : file + 1]
    explained = damage_of(name, builder, files, error) if files else None
    if explained is not None:
        raise explained from error


def _digest(builder: Any, name: str, split: str) -> str:
    if not Path(name).exists():
        return f"{builder.config.name} {builder.hash}"
    digest = hashlib.sha256()
    for key, file in _split_files(builder, split):
        with Path(file).open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{key}\0{os.path.relpath(file, name)}\0{content}\0".encode())
    for option in _reading_options(builder.config):
        digest.update(f"{option}\0".encode())
    return digest.hexdigest()


def _split_files(builder: Any, split: str) -> list[tuple[str, str]]:
    """The name of a split and the path of a data file, for each that `split` may take rows of."""
    of_splits = builder.config.data_files or {}
    named = [key for key in of_splits if str(key) in split and split != "all"]
    keys = sorted(named or of_splits, key=str)
    return [(str(key), str(file)) for key in keys for file in of_splits[key]]


def _reading_options(config: Any) -> list[str]:
    """What a dataset card says about reading the files: a JSON field, columns, filters."""
    return [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in _NOT_READING and getattr(config, field.name) != field.default
    ]


def _check_inside(name: str, builder: Any) -> None:
    """Check that the data files of a local folder are in it, whatever its README names.

    Raises:
        HarvestError: one is elsewhere, or the folder is not a dataset.
    """
    root = os.path.abspath(name)  # noqa: PTH100 - a link in the folder is its owner's choice
    for file in data_files(builder):
        if not os.path.normpath(file).startswith(root + os.sep):
            raise HarvestError(f"The dataset {name!r} refers to {file!r}, which is outside of it.")


def _source(name: str) -> dict[str, str]:
    """What `datasets` is asked for: a folder or a name of the hub, or a file and its format."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if not Path(name).is_file():
        if name in _PACKAGED_DATASETS_MODULES and not Path(name).is_dir():
            raise ValueError(
                "it is the name of a format, which would read whatever is in this folder"
            )
        if Path(name).exists() and not Path(name).is_dir():
            raise ValueError("it is neither a file nor a folder")
        return {"path": name}
    if Path(name).suffix not in _FORMATS:
        raise ValueError(f"it is a file, and of those only {', '.join(_FORMATS)} are read")
    return {"path": _FORMATS[Path(name).suffix], "data_files": name}


def stream_files(stream: Any, name: str, split: str, column: str) -> list[Iterator[Any]]:
    """The values of one column of a streamed dataset, data file by data file.

    Args:
        stream: what `open_dataset` returned for a streamed dataset.
        name: of the dataset.
        split: of the dataset.
        column: whose values are wanted.

    Returns:
        One iterator a file, in the order of the dataset; a file is opened when its first value is
        asked for. Iterating raises a HarvestError that names the file that cannot be read; of a
        dataset of the hub a TransientError, unless what the file holds is wrong.
    """
    n_files = stream.n_shards
    return [_file_values(stream, name, split, column, file, n_files) for file in range(n_files)]


def _file_values(
    stream: Any, name: str, split: str, column: str, file: int, n_files: int
) -> Iterator[Any]:
    from datasets.distributed import split_dataset_by_node

    try:
        rows = split_dataset_by_node(stream, rank=file, world_size=n_files)
        for batch in rows.select_columns([column]).iter(batch_size=_READ_AT_ONCE):
            yield from batch[column]
    except Exception as error:  # readers of many formats: each raises what it likes
        _raise_damage(name, split, error, file, n_files)
        what = f"{_file_name(name, split, file, n_files)} of the dataset {name!r}"
        msg = f"{what[:1000]} cannot be read: {cause_of(error)}."
        final = Path(name).exists() or isinstance(error, _WRONG_CONTENT)
        raise (HarvestError if final else TransientError)(msg) from error


def _file_name(name: str, split: str, file: int, n_files: int) -> str:
    """A data file of a split, for an error message: its path, or its number if that is unknown."""
    try:
        builder = _loaded(name, lambda: _builder(name))
    except HarvestError:
        return f"Data file {file + 1}"
    files = data_files(builder, split)
    return f"{files[file]!r}" if len(files) == n_files else f"Data file {file + 1}"


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Int64 [n]: which row `Dataset.shuffle(seed)` puts at each place."""
    import datasets

    places = datasets.Dataset.from_dict({"place": np.arange(n)})
    shuffled = places.shuffle(seed=seed, keep_in_memory=True).with_format("numpy")
    return np.asarray(shuffled[:]["place"], dtype=np.int64)


def _loaded(what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except HarvestError:
        raise
    except Exception as error:  # readers of many formats: each raises what it likes
        raise HarvestError(
            f"{what[:500]} cannot be loaded: {cause_of(error)}.{advice(error)}"
        ) from error
