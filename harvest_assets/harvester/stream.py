"""Run a model over rows of tokens and accumulate its activations.

The model is run on groups of rows that are aligned to the row numbers of the whole harvest: row r
is always computed together with the same neighbours, whatever the batch size, the number of shards
or the point of a restart. Floating-point results depend on the shape of a matrix product; this
makes causal importances equal to the last bit however the work was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.state import HarvesterSettings

if TYPE_CHECKING:
    from harvest_assets.harvester.kept_firings import FiringRecorder


class Activations(Protocol):
    """What a model computes for tokens [B, S]."""

    @property
    def output_probs(self) -> torch.Tensor:
        """Next-token probabilities, float [B, S, V]."""

    @property
    def firing_strengths(self) -> torch.Tensor:
        """What the threshold is applied to, float [B, S, C_total]: the `ci` of `process_batch`."""

    @property
    def second_values(self) -> torch.Tensor | None:
        """The `component_acts`, float [B, S, C_total]; None repeats the firing strengths."""


class RowConsumer(Protocol):
    """What activations are given to: a `Harvester`, or a listing of firings."""

    settings: HarvesterSettings
    device: torch.device

    def process_batch(
        self,
        tokens: torch.Tensor,
        ci: torch.Tensor,
        output_probs: torch.Tensor,
        component_acts: torch.Tensor,
        first_row: int,
    ) -> None:
        """Take rows; see `Harvester.process_batch`."""

    def first_bad_row(self) -> int | None:
        """The first row that may hold invalid values; None if there is none."""


class RowSource(Protocol):
    """Rows of tokens in harvest order."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows from `start` to `stop`, int64 [stop - start, S]."""


def harvest_rows(
    harvester: RowConsumer,
    model: Callable[[torch.Tensor], Activations],
    source: RowSource,
    rows: range,
    *,
    batch_size: int,
    rows_per_forward: int,
    on_progress: Callable[[int], None] | None = None,
    recorder: FiringRecorder | None = None,
) -> None:
    """Add the rows of one share to a harvester.

    Args:
        harvester: accumulates them.
        model: computes activations of tokens int64 [rows_per_forward, S] on the harvester's device.
        source: the rows of the whole harvest.
        rows: the share, contiguous.
        batch_size: rows of a batch, to name the batch in an error.
        rows_per_forward: rows of a group; results depend on it in their last bits.
        on_progress: called after each group with the rows of the share that are done.
        recorder: keeps every firing; None: they are only counted.

    Raises:
        HarvestError: a NaN, an infinity or a token outside the vocabulary, named by its batch; or
            there was not enough memory even for half of a group.
    """
    groups = _groups(source, rows, rows_per_forward, harvester)
    n_pieces = 1
    for group in groups:
        batches = f"Batch {group.first // batch_size}"
        if group.last - 1 >= (group.first // batch_size + 1) * batch_size:
            batches = f"Batches {group.first // batch_size} to {(group.last - 1) // batch_size}"
        try:
            _check_tokens(group.tokens, harvester.settings.vocab_size, group.start)
            n_pieces = _add_group(harvester, model, group, n_pieces, recorder)
        except HarvestError as error:
            raise HarvestError(f"{batches}: {error}") from error
        except torch.OutOfMemoryError as error:
            raise HarvestError(
                f"{batches}: {harvester.device} does not have enough memory for the model and the "
                "counts, even with half of the rows at a time; use a larger GPU."
            ) from error
        if on_progress is not None:
            on_progress(group.last - rows.start)
    bad_row = harvester.first_bad_row()
    if bad_row is not None:
        raise HarvestError(
            f"Batch {bad_row // batch_size}: a NaN, an infinity or a token outside the vocabulary "
            f"is in the rows from {bad_row} on."
        )


class _Group(NamedTuple):
    """Rows that the model computes together; those from `first` to `last` are in the share."""

    start: int
    first: int
    last: int
    tokens: torch.Tensor  # int64 [rows there are, S]
    padded: torch.Tensor  # int64 [rows_per_forward, S], on the device


def _groups(
    source: RowSource, rows: range, rows_per_forward: int, harvester: RowConsumer
) -> Iterator[_Group]:
    """The groups of a share; while one is computed the next is copied to the device."""
    coming: _Group | None = None
    for start in range(rows.start - rows.start % rows_per_forward, rows.stop, rows_per_forward):
        stop = min(start + rows_per_forward, source.n_rows)
        tokens = source.rows(start, stop)
        padded = torch.nn.functional.pad(tokens, (0, 0, 0, rows_per_forward - len(tokens)))
        if harvester.device.type == "cuda":
            padded = padded.pin_memory().to(harvester.device, non_blocking=True)
        if coming is not None:
            yield coming
        coming = _Group(start, max(rows.start, start), min(rows.stop, stop), tokens, padded)
    if coming is not None:
        yield coming


def _add_group(
    harvester: RowConsumer,
    model: Callable[[torch.Tensor], Activations],
    group: _Group,
    n_pieces: int,
    recorder: FiringRecorder | None,
) -> int:
    """Compute and add a group in one piece, or in two halves where memory is short.

    If memory runs out, nothing of the group has been counted yet. Returns the number of pieces.
    """
    size = -(-len(group.padded) // n_pieces)
    for start in range(0, len(group.padded), size):
        activations = None
        try:
            activations = model(group.padded[start : start + size])
        except torch.OutOfMemoryError:
            if n_pieces > 1 or len(group.padded) == 1:
                raise
        if activations is None:
            # The memory that the error referred to is free only outside its handler.
            torch.cuda.empty_cache()
            return _add_group(harvester, model, group, 2, recorder)
        first, last = (
            max(group.first, group.start + start),
            min(group.last, group.start + start + size),
        )
        if first < last:
            mine = slice(first - group.start - start, last - group.start - start)
            add_answer(harvester, group.padded[start : start + size], activations, first, mine)
            if recorder is not None:
                recorder.add(activations, first, mine)
        del activations
    return n_pieces


def add_answer(
    harvester: RowConsumer,
    tokens: torch.Tensor,
    answer: Activations,
    first_row: int,
    rows: slice = slice(None),
) -> None:
    """Add what a model computed for rows of tokens.

    Args:
        harvester: accumulates it.
        tokens: int64 [B, S].
        answer: for these tokens.
        first_row: number in the whole harvest of the first row that is added.
        rows: which of the B rows to add.
    """
    strengths, second = answer.firing_strengths[rows], answer.second_values
    harvester.process_batch(
        tokens[rows],
        strengths,
        answer.output_probs[rows],
        strengths if second is None else second[rows],
        first_row,
    )


def _check_tokens(tokens: torch.Tensor, vocab_size: int, first_row: int) -> None:
    """Check tokens before the model does, where they would be indices out of bounds."""
    foreign = ((tokens < 0) | (tokens >= vocab_size)).nonzero()
    if len(foreign):
        row, position = foreign[0].tolist()
        raise HarvestError(
            f"token {int(tokens[row, position])} at row {first_row + row}, position {position} "
            f"is outside the model's vocabulary of {vocab_size}."
        )
