"""What a command shows while it moves the bytes of a harvest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvest_assets.sharing.contents import Watch


@contextmanager
def transfer_bar() -> Iterator[Watch]:
    """A live bar on a terminal, from the first progress on; elsewhere a line for each activity."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None)
    shown = ""

    def watch(activity: str, done: int, total: int) -> None:
        nonlocal shown
        if activity != shown:
            shown = activity
            bar.start()
            bar.reset(task, description=activity)
            if not console.is_terminal:
                console.print(activity, highlight=False)
        bar.update(task, completed=done, total=total or None)

    try:
        yield watch
    finally:
        bar.stop()
