"""What a command shows while it harvests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
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

from harvest_assets.cli.harvest_results import print_result
from harvest_assets.cli.invocation import current
from harvest_assets.errors import counted
from harvest_assets.files.sanitize import presentable
from harvest_assets.runners.protocol import HarvestProgress
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration

_WHAT = {
    Stage.PREPARE: "opening the run, tokenizing",
    Stage.HARVEST: "harvesting",
    Stage.MERGE: "merging, writing",
}
_SECONDS_BETWEEN_LINES = 60.0


class HarvestDisplay:
    """A live bar on a terminal or in a notebook; elsewhere a line at each stage and one a minute.

    Args:
        registrations: the runs that are harvested.
    """

    def __init__(self, registrations: Sequence[Registration]) -> None:
        self._registrations = {it.key: it for it in registrations}
        self._reported: set[str] = set()
        self._changes_shown: set[str] = set()
        self._line = ""
        self._line_printed = time.monotonic()
        self._console = Console(stderr=True)
        # Without ipywidgets, Rich has no bars in notebooks.
        in_notebook = self._console.is_jupyter and find_spec("ipywidgets") is not None
        self._has_bar = self._console.is_terminal or in_notebook
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task("queued", total=None, pace="")

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

    def show(self, progress: HarvestProgress) -> None:
        """Show the progress of the harvests, and the result of each that has ended."""
        for run in progress.changes.keys() - self._changes_shown:
            self._changes_shown.add(run)
            self._print(f"{run}: {progress.changes[run]}")
        what, unit = self._description(progress), "tokens"
        done, total, speed = progress.tokens_done, progress.tokens, progress.tokens_per_second
        if progress.texts_done:
            done, total, unit = progress.texts_done, progress.texts, "rows of the dataset"
        pace = ""
        if speed:
            left = timedelta(seconds=round((total - done) / speed + progress.merge_seconds))
            pace = f"{speed:,.0f} tokens/s, {left} left with merging"
        elif progress.stage is Stage.MERGE and progress.merge_seconds:
            pace = f"about {timedelta(seconds=round(progress.merge_seconds))}"
        self._bar.update(
            self._task,
            description=what,
            completed=done,
            total=total if progress.stage is not Stage.MERGE and total else None,
            pace=pace,
        )
        if what and not self._has_bar:
            share = f"{done:,} of {total:,} {unit}" if total else ""
            self._print_line(what, ", ".join(part for part in (share, pace) if part))
        self._report_results(progress)

    def show_log(self, line: str) -> None:
        """Show a line of a log, above the bar."""
        self._print(line)

    def _description(self, progress: HarvestProgress) -> str:
        """The current activity; empty if the result of the only run says it."""
        n = len(self._registrations)
        if n == 1 and progress.harvested.keys() | progress.failed.keys():
            return ""
        runs = f"{len(progress.harvested)} of {counted(n, 'run')} harvested"
        if progress.stage is None:
            return runs
        what = _WHAT[progress.stage]
        return what if n == 1 else f"{runs}, {what}"

    def _print_line(self, what: str, details: str) -> None:
        now = time.monotonic()
        if what != self._line or now - self._line_printed > _SECONDS_BETWEEN_LINES:
            self._line, self._line_printed = what, now
            self._print(f"{what}: {details}" if details else what)

    def _report_results(self, progress: HarvestProgress) -> None:
        ended = [*progress.harvested, *progress.failed]
        new = [key for key in ended if key not in self._reported]
        if not new:
            return
        self._reported.update(new)
        self._bar.stop()  # results go to stdout, where the bar must not be
        several = len(self._registrations) > 1
        for key in new:
            if key in progress.harvested:
                seconds = progress.harvested[key]
                print_result(self._registrations[key], seconds, several=several)
            elif several:
                error = presentable(str(progress.failed[key]))
                current().add("harvests", {"key": key, "error": error})
                self._print(f"{key}: {error}")
        if len(self._reported) < len(self._registrations):
            self._bar.start()

    def _print(self, line: str) -> None:
        self._console.print(presentable(line), highlight=False, markup=False, soft_wrap=True)
