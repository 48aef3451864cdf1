"""SIGTERM, and the SIGHUP of a closed terminal, interrupt a command exactly as Ctrl-C does.

A signal that was ignored when the process started (`nohup`) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class _Stop:
    """Which signal came first, and whether interrupts are held back at the moment."""

    number: int | None = None
    held = 0
    waiting = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        """The handler of all three signals."""
        if self.number is None:
            self.number = number
        if self.held:
            self.waiting = True
        else:
            raise KeyboardInterrupt


_stop = _Stop()


@contextmanager
def handling(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """Handle signals while the block runs, except those that are ignored.

    Outside the main thread, where Python cannot handle signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    replaced = {n: old for n, old in before.items() if old is not signal.SIG_IGN}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """While the block runs, SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt` in it."""
    _stop.number, _stop.waiting = None, False
    with handling(_SIGNALS, _stop.note):
        yield


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let the block run to its end; a signal received meanwhile interrupts after it."""
    _stop.held += 1
    try:
        yield
    finally:
        _stop.held -= 1
        if _stop.waiting and not _stop.held:
            _stop.waiting = False
            raise KeyboardInterrupt


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the block run to its end, whoever handles signals; those received are handled after it.

    For imports: C extensions cannot repeat in the same process what a signal interrupted.
    """
    received: list[int] = []
    try:
        with handling(_SIGNALS, lambda number, _: received.append(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def hangup_terminates() -> None:
    """From here on this process handles SIGHUP as it handles SIGTERM, unless it is ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def end_with_stdin() -> None:
    """End this process at once when stdin ends: the process that started it holds the other end."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def exit_status() -> int:
    """The status of an interrupted command: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP.

    Shells use 128 plus the number of the signal.
    """
    return 128 + (_stop.number or signal.SIGINT)


def last_words(text: str, stream: Literal["stderr", "stdout"] = "stderr") -> None:
    """Print on a stream if it is still open: the terminal may have been closed."""
    try:
        file = getattr(sys, stream)
        file.write(f"{text}\n")
        file.flush()
    except OSError:
        # Python would try to write it again at its end, and change the exit status.
        setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
