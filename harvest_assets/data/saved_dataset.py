"""A folder that `save_to_disk` of a `Dataset` or a `DatasetDict` wrote: Arrow files as they are.

Nothing is converted or copied; rows are mapped from the folder itself. Its files are read in full
once, for the digest, and again only where their stamps have changed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError
from harvest_assets.files.records import sha256_of
from harvest_assets.files.stamps import Stamp, stamps_of

_MAX_KNOWN = 1 << 16  # files


def is_saved(name: str) -> bool:
    """Whether a dataset's name is such a folder."""
    import datasets

    names = (
        datasets.config.DATASET_STATE_JSON_FILENAME,
        datasets.config.DATASETDICT_JSON_FILENAME,
    )
    return any(Path(name, file).is_file() for file in names)


def open_saved(name: str, split: str) -> Any:
    """One split of a saved dataset, a `datasets.Dataset`.

    Raises:
        HarvestError: the folder has no such split.
        Exception: whatever the library raises about damaged files.
    """
    import datasets

    saved = datasets.load_from_disk(name)
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise HarvestError(
                f"The dataset {name!r} has no split {split!r}, but {', '.join(map(str, saved))}."
            )
        saved = saved[split]
    elif saved.split is not None and _whole(str(saved.split)) != split:
        raise HarvestError(
            f"The dataset {name!r} is of the split {str(saved.split)!r}; {split!r} was asked for."
        )
    if len(saved) == 0:
        raise HarvestError(f"The split {split!r} of the dataset {name!r} has no rows.")
    return saved.with_format(None)  # whatever format it was saved with


def _whole(split: str) -> str:
    """The split of which a slice such as `train[:5]` was saved."""
    return split.partition("[")[0]


def saved_digest(name: str, split: str) -> str:
    """SHA-256 of the Arrow files of a split, and of their order.

    Raises:
        HarvestError: the folder has no such split.
        Exception: whatever the library raises about damaged files.
    """
    digest = hashlib.sha256()
    for file in open_saved(name, split).cache_files:
        digest.update(f"{_content(Path(file['filename']))}\0".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    stamps = stamps_of([path])
    return sha256_of(path) if stamps is None else _content_at(path, stamps[0])


@lru_cache(_MAX_KNOWN)
def _content_at(path: Path, _stamp: Stamp) -> str:
    """SHA-256 of a file while it has this stamp."""
    return sha256_of(path)
