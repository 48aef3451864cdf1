"""Drive a model over rows of tokens and accumulate what it answers.

The model is run on groups of rows that are aligned to the row numbers of the whole harvest: row r
is always computed together with the same neighbours, whatever the batch size, the number of shards
or the point of a restart. Floating-point results depend on the shape of a matrix product, so this
is what makes causal importances equal to the last bit however the work was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.harvester import Harvester


class Activations(Protocol):
    """What a model answers for tokens [B, S]."""

    @property
    def output_probs(self) -> torch.Tensor:
        """Next-token probabilities, float [B, S, V]."""

    @property
    def ci(self) -> torch.Tensor:
        """Causal importances, float [B, S, C_total]."""

    @property
    def component_acts(self) -> torch.Tensor:
        """Component activations, float [B, S, C_total]."""


class RowSource(Protocol):
    """Rows of tokens in harvest order."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows from `start` to `stop`, int64 [stop - start, S]."""


def harvest_rows(
    harvester: Harvester,
    model: Callable[[torch.Tensor], Activations],
    source: RowSource,
    rows: range,
    *,
    batch_size: int,
    rows_per_forward: int,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Add the rows of one share to a harvester.

    Args:
        harvester: accumulates them.
        model: answers for tokens int64 [rows_per_forward, S] on the harvester's device.
        source: the rows of the whole harvest.
        rows: the share, contiguous.
        batch_size: rows of a batch, to name the batch in an error.
        rows_per_forward: rows of a group; part of what is reproduced to the last bit.
        on_progress: told how many rows of the share are done, after each group.

    Raises:
        HarvestError: a NaN, an infinity or a foreign token, named by its batch.
    """
    for group_start in range(
        rows.start - rows.start % rows_per_forward, rows.stop, rows_per_forward
    ):
        group_stop = min(group_start + rows_per_forward, source.n_rows)
        tokens = source.rows(group_start, group_stop)
        first, last = max(rows.start, group_start), min(rows.stop, group_stop)
        mine = slice(first - group_start, last - group_start)
        batches = f"Batch {first // batch_size}"
        if last - 1 >= (first // batch_size + 1) * batch_size:
            batches = f"Batches {first // batch_size} to {(last - 1) // batch_size}"
        try:
            _check_tokens(tokens, harvester.settings.vocab_size, group_start)
            padded = torch.nn.functional.pad(tokens, (0, 0, 0, rows_per_forward - len(tokens)))
            answer = model(padded.to(harvester.device))
            harvester.process_batch(
                tokens[mine],
                answer.ci[mine],
                answer.output_probs[mine],
                answer.component_acts[mine],
                first,
            )
        except HarvestError as error:
            msg = f"{batches}: {error}"
            raise HarvestError(msg) from error
        if on_progress is not None:
            on_progress(last - rows.start)
    bad_row = harvester.first_bad_row()
    if bad_row is not None:
        msg = (
            f"Batch {bad_row // batch_size}: a NaN, an infinity or a token outside the vocabulary "
            f"stands in the rows from {bad_row} on."
        )
        raise HarvestError(msg)


def _check_tokens(tokens: torch.Tensor, vocab_size: int, first_row: int) -> None:
    """Before the model looks them up: a foreign token would be an index out of bounds there."""
    foreign = ((tokens < 0) | (tokens >= vocab_size)).nonzero()
    if len(foreign):
        row, position = foreign[0].tolist()
        msg = (
            f"token {int(tokens[row, position])} at row {first_row + row}, position {position} "
            f"is outside the model's vocabulary of {vocab_size}."
        )
        raise HarvestError(msg)
