"""The data of a run, as rows of tokens in the exact order in which its training saw them.

1. The dataset's rows are permuted with the run's seed.
2. Text is tokenized in that order (`tokenization`); data already tokenized stay where they are.
3. The rows of tokens are shuffled once more, as a torch `DataLoader` with that seed does.
4. A streaming dataset is shuffled through a buffer instead (`stream_order`): no steps 1 and 3.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvest_assets.data.dataset import (
    dataset_digest,
    open_dataset,
    permutation,
    stream_files,
)
from harvest_assets.data.saved_dataset import is_saved
from harvest_assets.data.stored_dataset import changed
from harvest_assets.data.stream_order import STREAM_ORDER_VERSION, stream_order
from harvest_assets.data.token_rows import (
    FORMAT_VERSION,
    ArrowRows,
    TokenRows,
    chunk_rows,
    list_lengths,
    write_manifest,
    write_tokens,
)
from harvest_assets.data.tokenization import (
    GROUP_SIZE,
    Tokenizer,
    group_bounds,
    tokenizer_digest,
)
from harvest_assets.errors import HarvestError

__all__ = [
    "DataSample",
    "DataSpec",
    "TokenRows",
    "fingerprint",
    "sample_data",
    "write_token_rows",
]

Progress = Callable[[int, int | None], None]

_LOWER_CASED = "SimpleStories"  # datasets so named lose the case of the EOS token
_WHOLE_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class DataSpec:
    """What determines the rows of a harvest and their order, apart from the data themselves."""

    dataset_name: str
    train_data_split: str
    column_name: str
    is_tokenized: bool
    streaming: bool
    buffer_size: int
    shuffle_each_epoch: bool
    seed: int
    tokenizer_name: str
    n_ctx: int
    special_tokens: bool = True  # text gets the special tokens that the tokenizer adds by itself


def fingerprint(spec: DataSpec, n_rows: int | None, digest: str | None = None) -> str:
    """A name for the rows: equal where spec, dataset content and tokenizer are equal.

    A local dataset counts by the content of its data files, one of the hub by the hash that
    `datasets` gives its revision; a tokenizer by its serialized content. What has no influence (the
    tokenizer of tokenized data, the buffer of a dataset that is not streamed) does not count.

    Args:
        spec: what to read and how.
        n_rows: rows wanted at most, None for all; counts for streaming datasets only, of the others
            all rows are kept.
        digest: of the dataset, by `dataset_digest`; None has it computed.

    Returns:
        32 hexadecimal digits.

    Raises:
        HarvestError: the dataset or the tokenizer does not exist.
    """
    described = asdict(spec)
    if spec.is_tokenized:
        del described["tokenizer_name"], described["special_tokens"]
    else:
        described["tokenizer"] = tokenizer_digest(spec.tokenizer_name)
    if spec.streaming:
        del described["shuffle_each_epoch"]
        described["n_rows"] = n_rows
        described["stream_order"] = STREAM_ORDER_VERSION
    else:
        del described["buffer_size"]
    if described.get("special_tokens"):
        del described["special_tokens"]  # rows made before the setting keep their name
    described["dataset"] = digest or dataset_digest(spec.dataset_name, spec.train_data_split)
    described["format_version"] = FORMAT_VERSION
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def write_token_rows(
    spec: DataSpec,
    directory: Path,
    n_rows: int | None,
    progress: Progress | None = None,
    digest: str | None = None,
) -> None:
    """Fill a directory that `TokenRows.open` opens, a group of texts at a time.

    Args:
        spec: what to read and how.
        directory: there, and empty.
        n_rows: rows wanted at most, None for all; ends the reading of a streaming dataset, without
            influence on others.
        progress: called with the rows of the dataset that are done, and with all (None: not known).
        digest: of the dataset that is wanted, by `dataset_digest`; None takes it as it is.

    Raises:
        HarvestError: the dataset, its split, its column or the tokenizer is not there, or a row
            that is already tokenized is shorter than `n_ctx`.
        TransientError: the dataset has another digest, or changed while it was read.
    """
    report = progress or (lambda _done, _total: None)
    dataset = open_dataset(
        spec.dataset_name,
        spec.train_data_split,
        spec.column_name,
        streaming=spec.streaming,
        digest=digest,
        is_tokenized=spec.is_tokenized,
    )
    files = None
    if spec.is_tokenized and not spec.streaming:
        files = _index(spec, dataset)
    if files is None:
        blocks = _blocks(spec, _groups(spec, dataset, report))
        limit = n_rows if spec.streaming else None
        files = [write_tokens(directory, blocks, spec.n_ctx, limit)]
    if digest is not None and (spec.streaming or is_saved(spec.dataset_name)):
        _check_unchanged(spec, digest)
    order = _order(spec, sum(file.n_rows for file in files))
    write_manifest(directory, files, order, spec.n_ctx, asdict(spec))


def _check_unchanged(spec: DataSpec, digest: str) -> None:
    """Check that local data are still those that were to be read; a revision cannot change."""
    name = spec.dataset_name
    if Path(name).exists() and dataset_digest(name, spec.train_data_split) != digest:
        raise changed(name)


@dataclass(frozen=True)
class DataSample:
    """The first rows that a dataset yields, apart from their last shuffling.

    Args:
        rows: int64 [n, n_ctx] of the first group of at most 1,000 dataset rows.
        group_size: dataset rows they were made of.
        n_dataset_rows: dataset rows there are; None for a stream.
        seconds: that reading and tokenizing them took, without opening the dataset.
    """

    rows: NDArray[np.int64]
    group_size: int
    n_dataset_rows: int | None
    seconds: float

    @property
    def n_rows(self) -> int | None:
        """Rows of tokens that the whole dataset yields, about; None for a stream."""
        if self.n_dataset_rows is None:
            return None
        return round(len(self.rows) * self.n_dataset_rows / max(1, self.group_size))

    def seconds_for(self, n_rows: int | None) -> float:
        """Seconds to prepare the rows of a harvest: of a stream those wanted, else all.

        Args:
            n_rows: rows wanted at most; None for all.
        """
        if self.n_dataset_rows is not None:
            return self.seconds * self.n_dataset_rows / max(1, self.group_size)
        return self.seconds * (n_rows or 0) / max(1, len(self.rows))


def sample_data(spec: DataSpec) -> DataSample:
    """Read and tokenize the first group of a dataset; nothing is written.

    Raises:
        HarvestError: as `write_token_rows`.
    """
    dataset = open_dataset(
        spec.dataset_name,
        spec.train_data_split,
        spec.column_name,
        streaming=spec.streaming,
        is_tokenized=spec.is_tokenized,
    )
    started = time.perf_counter()
    groups = list(islice(_groups(spec, dataset, lambda _done, _total: None), 1))
    block = next(_blocks(spec, groups), np.empty((0, spec.n_ctx)))
    n_dataset_rows = None if spec.streaming else len(dataset)
    seconds = time.perf_counter() - started
    return DataSample(block.astype(np.int64), sum(map(len, groups)), n_dataset_rows, seconds)


def _groups(spec: DataSpec, dataset: Any, report: Progress) -> Iterator[list[Any]]:
    """The column's values in the order in which they are stored, a group at a time."""
    if spec.streaming:
        yield from _streamed_groups(spec, dataset, report)
        return
    # Rows that are tokenized already keep the dataset's order, as they do where only indexed.
    ordered = dataset if spec.is_tokenized else dataset.shuffle(seed=spec.seed)
    ordered = ordered.select_columns([spec.column_name])
    for start, stop in group_bounds(len(dataset)):
        yield ordered[start:stop][spec.column_name]
        report(stop, len(dataset))


def _streamed_groups(spec: DataSpec, dataset: Any, report: Progress) -> Iterator[list[Any]]:
    """The column's values in stream order, a group at a time."""
    files = stream_files(dataset, spec.dataset_name, spec.train_data_split, spec.column_name)
    values = stream_order(files, spec.seed, spec.buffer_size)
    done = 0
    while group := list(islice(values, GROUP_SIZE)):
        yield group
        done += len(group)
        report(done, None)


def _blocks(spec: DataSpec, groups: Iterable[list[Any]]) -> Iterator[NDArray[Any]]:
    """The rows of tokens [n, n_ctx] of each group."""
    if spec.is_tokenized:
        for group in groups:
            yield _token_lists(spec, group)
        return
    tokenizer = Tokenizer(
        spec.tokenizer_name,
        restores_eos=_LOWER_CASED in spec.dataset_name,
        special_tokens=spec.special_tokens,
    )
    for group in groups:
        if not all(isinstance(text, str) for text in group):
            raise HarvestError(f"{_where(spec)} holds a row that is not a string.")
        yield tokenizer.rows(group, spec.n_ctx)


def _token_lists(spec: DataSpec, group: list[Any]) -> NDArray[Any]:
    try:
        lists = pa.array(group)
        chunk_rows(lists, spec.n_ctx)  # refuses 7.0 and True, which a cast would accept
        return chunk_rows(lists.cast(pa.list_(pa.int32())), spec.n_ctx)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise HarvestError(f"{_where(spec)} should hold tokens, but {error}.") from error


def _index(spec: DataSpec, dataset: Any) -> list[ArrowRows] | None:
    """The Arrow files that `datasets` keeps of these rows.

    None if they hold others too, or rows of several lengths, which cannot be mapped.
    """
    if not _WHOLE_SPLIT.fullmatch(spec.train_data_split):
        return None
    lengths: set[int] = set()
    paths = [Path(cached["filename"]).absolute() for cached in dataset.cache_files]
    files = [_indexed(spec, path, lengths) for path in paths]
    is_whole = sum(file.n_rows for file in files) == len(dataset)
    return files if is_whole and len(lengths) <= 1 else None


def _indexed(spec: DataSpec, path: Path, lengths: set[int]) -> ArrowRows:
    """One file; the lengths of its rows are added to `lengths`."""
    n_rows = 0
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                column = batch.column(spec.column_name)
                n_rows += len(chunk_rows(column, spec.n_ctx))
                lengths.update(np.unique(list_lengths(column)).tolist())
    except (ValueError, pa.ArrowException) as error:
        raise HarvestError(f"{_where(spec)} should hold tokens, but {error}.") from error
    stat = path.stat()
    modified = stat.st_mtime_ns if is_saved(spec.dataset_name) else None
    return ArrowRows(str(path), "stream", spec.column_name, n_rows, stat.st_size, modified)


def _order(spec: DataSpec, n_rows: int) -> NDArray[np.int64] | None:
    """Int64 [n_rows]: which stored row comes at each place of the harvest; None: as stored."""
    if spec.streaming:
        return None
    order = _loader_order(n_rows, spec.seed) if spec.shuffle_each_epoch else None
    if not spec.is_tokenized:
        return order
    permuted = permutation(n_rows, spec.seed)
    return permuted if order is None else permuted[order]


def _loader_order(n_rows: int, seed: int) -> NDArray[np.int64]:
    """The order of a shuffling `DataLoader` whose generator has this seed, in its first epoch."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    # The loader draws a seed for its workers before its sampler draws the order.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return torch.randperm(n_rows, generator=generator).numpy()


def _where(spec: DataSpec) -> str:
    return f"Column {spec.column_name!r} of the dataset {spec.dataset_name!r}"
