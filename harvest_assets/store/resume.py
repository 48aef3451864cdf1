"""A shard's share, harvested so that no more than minutes are lost when the machine goes.

1. A state of the first rows of the share is looked for; what it covers is not done again.
2. After each group of rows it is seen whether a state should be saved: when a signal came, or when
   so much time has passed that saving has taken at most 5% of it.
3. A saved state is a directory of its own, pointed to by a file that is replaced atomically.

Rows are computed in groups whose place does not depend on where a harvest starts, so what is
resumed equals what was never interrupted, to the last bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError
from harvest_assets.files.commit import commit_directory
from harvest_assets.harvester.harvester import Harvester
from harvest_assets.harvester.stream import Activations, RowSource, harvest_rows
from harvest_assets.store.shards import ShardResult, StoredState
from harvest_assets.system.stopping import handling

if TYPE_CHECKING:
    import torch

_SIGNALS = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGINT,
)
_SAVING_SHARE = 0.05
_LEAST_SECONDS = 30.0


def resume_or_begin(
    saved: Path,
    share: ShardResult,
    begin: Callable[[], Harvester],
    device: torch.device,
    tell: Callable[[str], None],
) -> tuple[Harvester, int]:
    """A harvester and how many rows of the share it has already seen.

    Args:
        saved: the pointer to the state that was saved last.
        share: what is to be harvested, without a state.
        begin: makes an empty harvester.
        device: where to accumulate.
        tell: takes a line for people.
    """
    try:
        stored = StoredState.find(saved)
        if stored is not None and _continues(stored, share):
            harvester = Harvester.from_state(stored.open(), device)
            tell(f"Resumed behind row {stored.rows.stop}; rows {share.rows.start} on were saved.")
            return harvester, len(stored.rows)
    except HarvestError as error:
        tell(f"The saved state is not used: {error}")
    return begin(), 0


def _continues(stored: StoredState, share: ShardResult) -> bool:
    return (
        stored.sums == share.sums
        and stored.rows.start == share.rows.start
        and share.rows.start < stored.rows.stop <= share.rows.stop
    )


def harvest_saving(
    harvester: Harvester,
    model: Callable[[torch.Tensor], Activations],
    source: RowSource,
    share: ShardResult,
    saved: Path,
    *,
    done: int,
    batch_size: int,
    rows_per_forward: int,
    on_progress: Callable[[int], None],
    may_write: Callable[[], None] = lambda: None,
    saving_share: float = _SAVING_SHARE,
    least_seconds: float = _LEAST_SECONDS,
) -> None:
    """Harvest what is left of a share, saving now and then.

    Args:
        harvester: has seen the first `done` rows of the share.
        model: answers for tokens.
        source: the rows of the whole harvest.
        share: what is to be harvested.
        saved: pointer to the state that is saved.
        done: rows of the share that are done.
        batch_size: rows of a batch.
        rows_per_forward: rows of a group.
        on_progress: told how many rows of the share are done.
        may_write: raises if the shard is not this process's any more.
        saving_share: how much of the time may go into saving.
        least_seconds: between two saved states, at least.

    Raises:
        HarvestError: as `harvest_rows`.
        KeyboardInterrupt: SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGINT came; the state was saved.
    """
    rows = share.rows[done:]
    next_save = time.monotonic() + max(least_seconds, harvester.n_bytes / 2e8 / saving_share)

    def look(rows_done: int) -> None:
        nonlocal next_save
        on_progress(done + rows_done)
        stop = signals.came
        if rows_done == len(rows) or not (stop or time.monotonic() > next_save):
            return
        started = time.monotonic()
        may_write()
        part = replace(share, rows=share.rows[: done + rows_done], state=harvester.state())
        commit_directory(saved, part)
        now = time.monotonic()
        next_save = now + max(least_seconds, (now - started) / saving_share)
        if stop:
            raise KeyboardInterrupt

    with _signals_noted() as signals:
        if rows:
            harvest_rows(
                harvester,
                model,
                source,
                rows,
                batch_size=batch_size,
                rows_per_forward=rows_per_forward,
                on_progress=look,
            )


class _Signals:
    """Has one come?"""

    came = False

    def note(self, _signum: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.came = True


@contextmanager
def _signals_noted() -> Iterator[_Signals]:
    """While the block runs, signals that end a process are only written down."""
    signals = _Signals()
    with handling(_SIGNALS, signals.note):
        yield signals
