"""What a command shows while it moves the bytes of a harvest, or computes with its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from harvest_assets.sharing.contents import Watch


@contextmanager
def transfer_bar() -> Iterator[Watch]:
    """A live bar of bytes; see `live_bar`."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    with live_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as watch:
        yield watch


@contextmanager
def live_bar(*columns: ProgressColumn) -> Iterator[Watch]:
    """A live bar on a terminal, from the first progress on; elsewhere a line for each activity.

    Args:
        columns: what it shows after the activity and the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
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
