"""The list of attacks, and what becomes of one.

An attack is *let in* if code of it runs, a file outside of its folder is read or written, memory
grows beyond a bound, or a wrong value is believed. It *crashed* if anything but the reader's own
error came out, or nothing within half a minute.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets_tests.hostile.readers import READERS

REFUSED, LET_IN, CRASHED = "refused", "let in", "crashed"
_SECONDS = 30
_MAX_KILOBYTES = 300_000


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        kind: of input.
        name: what is tried.
        is_refused: tries it in an empty folder; answers whether it was refused. What is executed
            makes the file `executed` there; what is called `outside` there stays as it is.
    """

    kind: str
    name: str
    is_refused: Callable[[Path], bool]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


ATTACKS: list[Attack] = []


class _HangsError(BaseException):
    """Nothing came; a reader that reports all exceptions must not catch it as its own."""


def outcome(attack: Attack, folder: Path) -> tuple[str, str]:
    """What became of an attack, and what was seen."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept").write_text("secret")
    with _watched() as grown:
        try:
            refused = attack.is_refused(folder)
        except BaseException as error:  # noqa: BLE001 - a panic of a library is none else
            return CRASHED, repr(error)[:300]
    kept = [path.name for path in outside.iterdir()] == ["kept"]
    if not kept or (outside / "kept").read_text() != "secret":
        return LET_IN, "a file outside was changed"
    if (folder / "executed").exists():
        return LET_IN, "code was executed"
    if grown() > _MAX_KILOBYTES:
        return LET_IN, f"memory grew by {grown() // 1024} MB"
    return (REFUSED, "") if refused else (LET_IN, "a wrong value was believed")


@contextlib.contextmanager
def _watched() -> Iterator[Callable[[], int]]:
    """Memory at its peak, in kilobytes more than before; and an end to what hangs."""

    def hangs(*_: object) -> None:
        raise _HangsError

    handler = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 1)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak()
    try:
        yield lambda: _peak() - before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _peak() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def attack(kind: str, name: str) -> Callable[[Callable[[Path], bool]], Callable[[Path], bool]]:
    """Put a function on the list."""

    def add(is_refused: Callable[[Path], bool]) -> Callable[[Path], bool]:
        ATTACKS.append(Attack(kind, name, is_refused))
        return is_refused

    return add


def byte_attacks(
    kind: str, reader: str, attacks: dict[str, bytes | Callable[[bytes], bytes]]
) -> None:
    """Attacks that are the bytes of a file; a function makes them of good ones."""
    for name, content in attacks.items():

        def is_refused(folder: Path, content: bytes | Callable[[bytes], bytes] = content) -> bool:
            (folder / "files").mkdir()
            victim = READERS[reader](folder / "files")
            return not victim(content if isinstance(content, bytes) else content(victim.seeds()[0]))

        attack(kind, f"{name} ({reader})")(is_refused)


def refused(call: Callable[[], object]) -> bool:
    """Whether a call ends with the expected error."""
    try:
        call()
    except HarvestError:
        return True
    return False
