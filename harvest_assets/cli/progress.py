"""What the command shows while it harvests, and what it says in the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.orchestration.backfills import BackfillStatus
from harvest_assets.runners.local import StageStatus
from harvest_assets.store.plan import HarvestPlan

_WHAT = {
    "prepare": "opening the run, tokenizing",
    "harvest": "harvesting",
    "merge": "merging, writing",
}
_SECONDS_BETWEEN_LINES = 60.0


def harvest_warnings(paths: HarvestLayout) -> list[str]:
    """Sentences that whoever started this harvest should read."""
    threshold = HarvestPlan.open(paths.root).ci_threshold
    return open_decomposition(paths.root).warnings(threshold)


class _Display:
    """A live bar on a terminal; elsewhere lines, which the subclass prints.

    Args:
        description: what stands before the bar at first.
    """

    def __init__(self, description: str) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=None, pace="")
        self._changes_shown: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the terminal may have been closed
            self._bar.stop()

    def _show_changes(self, changes: Mapping[str, str]) -> None:
        """Print once for each run what its new plan changes."""
        for run in changes.keys() - self._changes_shown:
            self._changes_shown.add(run)
            self._console.print(
                f"{run}: {changes[run]}", highlight=False, markup=False, soft_wrap=True
            )


class HarvestDisplay(_Display):
    """A live bar on a terminal; elsewhere a line at each stage and one a minute.

    Args:
        run: `entity/project/run_id`.
    """

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self._stage = ""
        self._line_printed = self._started = time.monotonic()

    def show(self, status: StageStatus) -> None:
        """Show where the harvest is."""
        self._show_changes(status.changes)
        done = status.rows_done * status.tokens_per_row
        total = status.rows * status.tokens_per_row
        pace = ""
        if status.tokens_per_second:
            left = timedelta(seconds=round((total - done) / status.tokens_per_second))
            pace = f"{status.tokens_per_second:,.0f} tokens/s, {left} left"
        self._bar.update(
            self._task,
            description=_WHAT[status.stage],
            completed=done,
            total=total if status.stage == "harvest" else None,
            pace=pace,
        )
        now = time.monotonic()
        due = status.stage != self._stage or now - self._line_printed > _SECONDS_BETWEEN_LINES
        self._stage = status.stage
        if due and not self._console.is_terminal:
            self._line_printed = now
            share = f"{done:,} of {total:,} tokens" if total else ""
            told = ", ".join(part for part in (share, pace) if part)
            self._console.print(_WHAT[status.stage] + (told and f": {told}"), highlight=False)

    def finish(self, paths: HarvestLayout, plan: HarvestPlan) -> None:
        """Say where the files are and how to look at them."""
        seconds = time.monotonic() - self._started
        sizes = "\n".join(
            f"  {file.relative_to(paths.root)!s:46}{file.stat().st_size:>16,} bytes"
            for file in paths.five_files
        )
        console = Console(soft_wrap=True, highlight=False, markup=False)
        console.print(
            f"{plan.run} is harvested ({seconds:,.1f} s, {plan.n_shards} shard"
            f"{'s' if plan.n_shards > 1 else ''}):\n{paths.root}\n{sizes}\n\n"
            "Look at it in Python:\n"
            "  from harvest_assets.loaders import load_components_frame\n"
            f"  load_components_frame({paths.root.name!r})\n"
            "or in the Dagster UI:\n"
            "  harvest-assets ui"
        )
        for warning in harvest_warnings(paths):
            self._console.print(
                f"Warning: {warning}", highlight=False, markup=False, soft_wrap=True
            )


class BackfillDisplay(_Display):
    """The same of harvests that the daemon makes: one bar for all of them.

    Args:
        n_runs: runs of the backfill.
    """

    def __init__(self, n_runs: int) -> None:
        super().__init__("queued")
        self._n_runs = n_runs
        self._printed = ""
        self._printed_at = time.monotonic()

    def show(self, status: BackfillStatus) -> None:
        """Show where the backfill is."""
        self._show_changes(status.changes)
        runs = f"{len(status.harvested)} of {self._n_runs} runs harvested"
        pace = f"{status.tokens_per_second:,.0f} tokens/s" if status.tokens_per_second else ""
        self._bar.update(
            self._task,
            description=runs,
            completed=status.rows_done,
            total=status.rows or None,
            pace=pace,
        )
        if self._console.is_terminal:
            return
        now = time.monotonic()
        if runs != self._printed or now - self._printed_at > _SECONDS_BETWEEN_LINES:
            self._printed, self._printed_at = runs, now
            rows = f"{status.rows_done:,} of {status.rows:,} rows at work" if status.rows else ""
            told = ", ".join(part for part in (runs, rows, pace) if part)
            self._console.print(told, highlight=False)
