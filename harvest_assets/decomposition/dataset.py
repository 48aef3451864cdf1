"""The run's dataset, as the `datasets` library gives it, and what identifies its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.decomposition.datasets_cache import choose_datasets_cache
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.unwritable import advice

choose_datasets_cache()

_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}


def open_dataset(name: str, split: str, column: str, *, streaming: bool) -> Any:
    """One split of a dataset that has this column.

    Args:
        name: of the hub, a local folder, or one local file of parquet or JSON.
        split: of the dataset.
        column: that must be there.
        streaming: read it as it comes instead of storing it first.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` where it is streamed.

    Raises:
        HarvestError: the dataset, the split or the column is not there.
    """
    import datasets

    what = f"The split {split!r} of the dataset {name!r}"
    _check_inside(name, what)
    dataset = _loaded(
        what,
        lambda: datasets.load_dataset(**_source(name), split=split, streaming=streaming),
    )
    there = dataset.column_names
    if there is None:  # a stream that has no features before it has rows
        there = list(_loaded(f"The dataset {name!r}", lambda: next(iter(dataset), {column: None})))
    if column not in there:
        msg = f"The dataset {name!r} has no column {column!r}, but {', '.join(there)}."
        raise HarvestError(msg)
    return dataset


def dataset_digest(name: str, split: str) -> str:
    """What changes when the content of a dataset changes.

    For a local folder the SHA-256 of the data files of the split, for a local file its own; for a
    dataset of the hub, the hash of its `datasets` builder, which is its revision.

    Raises:
        HarvestError: there is no such dataset.
    """
    import datasets

    what = f"The dataset {name!r}"
    _check_inside(name, what)
    builder = _loaded(what, lambda: datasets.load_dataset_builder(**_source(name)))
    if not Path(name).exists():
        return f"{builder.config.name} {builder.hash}"
    of_splits = builder.config.data_files or {}
    wanted = [key for key in of_splits if str(key) in split] or list(of_splits)
    digest = hashlib.sha256()
    for key in sorted(wanted, key=str):
        for file in of_splits[key]:
            with Path(file).open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{key}\0{os.path.relpath(file, name)}\0{content}\0".encode())
    return digest.hexdigest()


def _check_inside(name: str, what: str) -> None:
    """See that the data files of a local folder lie in it, whatever its README tells.

    Raises:
        HarvestError: one lies elsewhere, or the folder is no dataset.
    """
    import datasets

    if not _loaded(what, lambda: Path(name).is_dir()):
        return
    builder = _loaded(what, lambda: datasets.load_dataset_builder(**_source(name)))
    root = os.path.abspath(name)  # noqa: PTH100 - a link in the folder is its owner's choice
    for files in (builder.config.data_files or {}).values():
        for file in files:
            path = os.path.normpath(str(file))
            if not path.startswith(root + os.sep):
                msg = f"The dataset {name!r} asks for {str(file)!r}, which lies outside of it."
                raise HarvestError(msg)


def _source(name: str) -> dict[str, str]:
    """What `datasets` is asked for: a folder or a name of the hub, or a file and its format."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if not Path(name).is_file():
        if name in _PACKAGED_DATASETS_MODULES and not Path(name).is_dir():
            msg = "it is the name of a format, which would read whatever lies in this folder"
            raise ValueError(msg)
        if Path(name).exists() and not Path(name).is_dir():
            msg = "it is neither a file nor a folder"
            raise ValueError(msg)
        return {"path": name}
    if Path(name).suffix not in _FORMATS:
        msg = f"it is a file, and of those only {', '.join(_FORMATS)} are read"
        raise ValueError(msg)
    return {"path": _FORMATS[Path(name).suffix], "data_files": name}


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Int64 [n]: which row `Dataset.shuffle(seed)` puts at each place."""
    import datasets

    places = datasets.Dataset.from_dict({"place": np.arange(n)})
    shuffled = places.shuffle(seed=seed, keep_in_memory=True).with_format("numpy")
    return np.asarray(shuffled[:]["place"], dtype=np.int64)


def _loaded(what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # readers of many formats: each raises what it likes
        msg = f"{what[:500]} cannot be loaded: {reason_of(error)}.{advice(error)}"
        raise HarvestError(msg) from error
