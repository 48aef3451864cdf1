"""A shard's share, harvested so that no more than minutes are lost when the machine goes.

1. If a state of the first rows of the share was saved, the rows that it covers are not done again.
2. After each group of rows a state is saved if a signal has arrived, or if so much time has passed
   that saving takes at most 5% of it.
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
from harvest_assets.harvester.kept_firings import FiringRecorder
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
_MIN_SECONDS = 30.0


def resume_or_begin(
    saved: Path,
    share: ShardResult,
    begin: Callable[[], Harvester],
    device: torch.device,
    log: Callable[[str], None],
    recorder: FiringRecorder | None = None,
) -> tuple[Harvester, int]:
    """A harvester and how many rows of the share it has already seen.

    Args:
        saved: the pointer to the state that was saved last.
        share: what is to be harvested, without a state.
        begin: makes an empty harvester.
        device: where to accumulate.
        log: called with each line to log.
        recorder: keeps every firing, and continues with those that were saved.
    """
    try:
        stored = StoredState.find(saved)
        if stored is not None and stored.begins(share.rows, share.compatibility_digest):
            harvester = Harvester.from_state(stored.open(), device)
            if recorder is not None:
                recorder.continue_after(stored.firings(), len(stored.rows))
            log(f"Resumed at row {stored.rows.stop}: rows from {share.rows.start} on were saved.")
            return harvester, len(stored.rows)
    except HarvestError as error:
        log(f"The saved state is not used: {error}")
    return begin(), 0


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
    recorder: FiringRecorder | None = None,
    saving_share: float = _SAVING_SHARE,
    min_seconds: float = _MIN_SECONDS,
) -> None:
    """Harvest what is left of a share, saving now and then.

    Args:
        harvester: has seen the first `done` rows of the share.
        model: maps tokens to activations.
        source: the rows of the whole harvest.
        share: what is to be harvested.
        saved: the pointer to the saved state.
        done: rows of the share that are done.
        batch_size: rows of a batch.
        rows_per_forward: rows of a group.
        on_progress: called with the number of rows of the share that are done.
        may_write: raises if the shard no longer belongs to this process.
        recorder: keeps every firing; None: they are only counted.
        saving_share: the largest share of the time that saving may take.
        min_seconds: the shortest time between two saved states.

    Raises:
        HarvestError: as `harvest_rows`.
        KeyboardInterrupt: SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGINT arrived; the state was saved.
    """
    rows = share.rows[done:]
    next_save = time.monotonic() + max(min_seconds, harvester.n_bytes / 2e8 / saving_share)

    def save_if_due(rows_done: int) -> None:
        nonlocal next_save
        on_progress(done + rows_done)
        stop = signals.arrived
        if rows_done == len(rows) or not (stop or time.monotonic() > next_save):
            return
        started = time.monotonic()
        may_write()
        part = replace(
            share,
            rows=share.rows[: done + rows_done],
            state=harvester.borrowed_state(),
            firings=None if recorder is None else recorder.blocks(),
        )
        commit_directory(saved, part)
        now = time.monotonic()
        next_save = now + max(min_seconds, (now - started) / saving_share)
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
                on_progress=save_if_due,
                recorder=recorder,
            )


class _Signals:
    """Whether a signal has arrived."""

    arrived = False

    def note(self, _signum: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.arrived = True


@contextmanager
def _signals_noted() -> Iterator[_Signals]:
    """While the block runs, signals that would end the process are only recorded."""
    signals = _Signals()
    with handling(_SIGNALS, signals.note):
        yield signals
