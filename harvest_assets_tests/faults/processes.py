"""Work in forked processes: to its end, or until it is killed from outside in a chosen stage."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
_CHILD_SECONDS = 900


@dataclass(frozen=True)
class Point:
    """A function whose calls begin a stage.

    Args:
        stage: name of the stage.
        owner: the module or class that holds the function.
        name: of the function there.
    """

    stage: str
    owner: Any
    name: str


def be_child(work: Callable[[], None]) -> NoReturn:
    """Do the work and end this forked process, with status 1 if it raised."""
    try:
        signal.alarm(_CHILD_SECONDS)
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def start_child(work: Callable[[], None]) -> int:
    """Start the work in a process of its own, and return its number."""
    pid = os.fork()
    if pid == 0:
        be_child(work)
    return pid


def wait_for_child(pid: int) -> None:
    """Wait until a process has ended well.

    Raises:
        RuntimeError: it has not.
    """
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"status {status}")


def in_child(work: Callable[[], None]) -> None:
    """Run to the end in a process of its own."""
    wait_for_child(start_child(work))


def from_child(compute: Callable[[], T]) -> T:
    """What a function returns that runs in a process of its own.

    So the threads of libraries never run in the parent, where they would not survive a fork. What
    the process imported is imported here too, which saves later ones the time.
    """
    reading, writing = os.pipe()

    def send() -> None:
        content = pickle.dumps((compute(), [*sys.modules]))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    pid = start_child(send)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    wait_for_child(pid)
    value: T
    value, modules = pickle.loads(content)  # noqa: S301 - our own
    for name in modules:
        if name not in sys.modules:
            with suppress(ImportError):
                import_module(name)
    return value


def killed_in(
    work: Callable[[], None],
    points: Sequence[Point],
    moment: tuple[str, int, float],
    kill: Callable[[int], int],
) -> bool:
    """Kill a process, or one that it has started, in a stage of its work.

    Args:
        work: of the process.
        points: where stages begin; without any, there is one that begins with the work.
        moment: the stage, which of the times that it begins, and seconds to wait then.
        kill: kills, and returns the number of the process that it killed.

    Returns:
        Whether it was killed before it had ended.

    Raises:
        RuntimeError: it survived the end of a process that it had started, but failed.
    """
    stage, nth, delay = moment
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        seen = Counter[str]()

        def note(entered: str) -> None:
            seen[entered] += 1
            if entered == stage and seen[stage] == nth:
                os.write(writing, b"!")

        _watch(points, note)
        if not points:
            note(stage)
        be_child(work)
    os.close(writing)
    reached = os.read(reading, 1)  # empty when the process ended before
    os.close(reading)
    killed = 0
    if reached:
        time.sleep(delay)
        killed = kill(pid)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if status:
        raise RuntimeError(f"status {status}")
    return killed not in (0, pid)


def count_stages(work: Callable[[], None], points: Sequence[Point]) -> Counter[str]:
    """How often the whole work begins each stage."""

    def counted() -> Counter[str]:
        seen = Counter[str]()
        _watch(points, lambda stage: seen.update([stage]))
        work()
        return seen

    return from_child(counted)


def stages_of(points: Iterable[Point]) -> list[str]:
    """The names of stages, each once."""
    return list(dict.fromkeys(point.stage for point in points))


def write_line(path: Path, line: str) -> None:
    """Add a line to a file that stays when this process is killed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _watch(points: Iterable[Point], note: Callable[[str], object]) -> None:
    """Call `note` when a stage begins; only in a short-lived child process."""

    def wrap(point: Point) -> None:
        original = getattr(point.owner, point.name)

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            note(point.stage)
            return original(*args, **kwargs)

        setattr(point.owner, point.name, wrapped)

    for point in points:
        wrap(point)
