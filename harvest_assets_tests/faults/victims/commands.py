"""The command `harvest` with all its processes, killed at random moments of its whole time."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements
from harvest_assets_tests.decompositions.dictionaries.tiny_set import write_set
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import from_child, in_child
from harvest_assets_tests.faults.small_harvest import contents
from harvest_assets_tests.upgrade.old_disk import INTERRUPTED_SETTINGS, unpack


class CommandVictim(Victim):
    """A command; its processes are killed together, as where a machine goes down.

    Attributes:
        arguments: of the command.
        place: its working directory.
        name: the folder of the harvest.

    Args:
        folder: of its own.
    """

    arguments: Sequence[object]
    place: Path
    name: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = folder / "place"
        self.place.mkdir()
        self._disk, self._untouched = self.place / "spd_out", folder / "untouched"
        self._disk.mkdir()
        os.environ["SPD_OUT_DIR"] = str(self._disk)
        in_child(self.prepare)
        shutil.copytree(self._disk, self._untouched, symlinks=True)
        shutil.rmtree(HarvestLayout.of(self.name).root, ignore_errors=True)
        started = time.monotonic()
        in_child(self.work)
        self._seconds = time.monotonic() - started
        self._right = from_child(self._results)

    @abstractmethod
    def prepare(self) -> None:
        """Fill `place`; an unfinished harvest may be there."""

    def begin(self, *, over_old: bool) -> None:  # noqa: ARG002 - there is one older state, or none
        shutil.rmtree(self._disk)
        shutil.copytree(self._untouched, self._disk, symlinks=True)

    def work(self) -> None:
        os.setsid()
        os.chdir(self.place)
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
        environment = {**kept, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        arguments = [str(it) for it in self.arguments]
        command = [sys.executable, "-m", "harvest_assets", "harvest", *arguments]
        os.execve(sys.executable, command, environment)  # noqa: S606

    def delay(self, stage: str, draw: float) -> float:  # noqa: ARG002 - there is one
        return draw * self._seconds

    def kill(self, pid: int, stage: str) -> int:  # noqa: ARG002 - there is one
        with suppress(ProcessLookupError):  # it has no group yet, or has ended
            os.killpg(pid, signal.SIGKILL)
        return pid

    def after_kill(self) -> Iterator[str]:
        for name, value in self._results().items():
            if value != self._right[name]:
                yield f"{name} is not whole"

    def after_rerun(self) -> Iterator[str]:
        if self._results() != self._right:
            yield "the rerun ended with something else"
        yield from disagreements(HarvestLayout.of(self.name), deep=True)
        yield from self.leftovers()

    def _results(self) -> dict[str, object]:
        """The results without `config.json`, which names the version that made the plan."""
        found = contents(HarvestLayout.of(self.name))
        return {name: value for name, value in found.items() if name != "config.json"}


class DictionaryCommand(CommandVictim):
    """The harvest of a set of small dictionaries by two shards."""

    arguments = ("../world/tiny_set", "--out-name", "work", "--n-shards", 2, "--batch-size", 8)
    name = "work"

    def prepare(self) -> None:
        write_set(self.folder / "world")


class UpgradeCommand(CommandVictim):
    """A harvest that version 0.1 began; the results are those of a new one."""

    arguments = (
        "old/versions/s-00000002",
        *(f"--{name.replace('_', '-')}={value}" for name, value in INTERRUPTED_SETTINGS.items()),
    )
    name = "s-00000002"

    def prepare(self) -> None:
        unpack(self.place)
