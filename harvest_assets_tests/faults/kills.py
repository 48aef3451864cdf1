"""SIGKILL from outside, at seeded random moments of every stage; then readers look, then a rerun.

A round begins with an older result, or with nothing. The work is started in a process of its own
and killed, up to four times in a row; after each kill, what readers find must be whole. Then it
runs to its end, and the result must equal that of work that was never interrupted.
"""

from __future__ import annotations

import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from harvest_assets.store.garbage import free, removable
from harvest_assets_tests.faults.processes import (
    Point,
    count_stages,
    from_child,
    in_child,
    killed_in,
    stages_of,
    start_child,
    wait_for_child,
)


class Victim(ABC):
    """What is killed, and what must be true afterwards.

    All methods but `begin` and `kill` are called in forked processes.

    Attributes:
        points: where the stages of the work begin; without any, it has one stage.

    Args:
        folder: of its own.
    """

    points: ClassVar[Sequence[Point]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["SPD_OUT_DIR"] = str(folder / "out")

    def leftovers(self) -> Iterator[str]:
        """What killed processes left in the folder that `clean` does not remove."""
        free(removable())
        if left := [str(path) for path in self.folder.rglob(".*.tmp")]:
            yield f"leftovers {left}"

    @abstractmethod
    def begin(self, *, over_old: bool) -> None:
        """Begin a round, over an older result or in an empty place."""

    @abstractmethod
    def work(self) -> None:
        """Do what is killed; what an earlier attempt has done is continued."""

    @abstractmethod
    def after_kill(self) -> Iterable[str]:
        """What is wrong after a kill, in words."""

    @abstractmethod
    def after_rerun(self) -> Iterable[str]:
        """What is wrong after the work has run to its end, in words."""

    def beside(self) -> Sequence[Callable[[], None]]:
        """What other processes do at the same time."""
        return ()

    def rerun(self) -> None:
        """Run to the end."""
        self.work()

    def delay(self, stage: str, draw: float) -> float:  # noqa: ARG002 - others depend on it
        """Seconds from the beginning of a stage to the kill.

        Args:
            stage: of the work.
            draw: uniform from 0 to 1.
        """
        return draw**3 * 0.03

    def kill(self, pid: int, stage: str) -> int:  # noqa: ARG002 - others depend on it
        """Kill the process of the work, or one that it has started; returns its number."""
        os.kill(pid, signal.SIGKILL)
        return pid


@dataclass
class Tally:
    """What was tried and what came of it, by stage."""

    stages: Sequence[str]
    killed: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    losses: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.killed.total()

    def rows(self) -> Iterator[str]:
        """The table's, without its head."""
        for stage in (*self.stages, "all"):
            everything = stage == "all"
            lost = sum(everything or loss.startswith(f"{stage}: ") for loss in self.losses)
            tried = self.kills if everything else self.killed[stage]
            yield f"| {stage} | {tried:,} | {tried - lost:,} | {lost} |"


class Killer:
    """Kills one victim after the other.

    Args:
        victim: that is killed.
        name: of the only stage of a victim without points.
        seed: of all choices.
    """

    def __init__(self, victim: Victim, name: str, seed: int) -> None:
        self._victim = victim
        self._random = random.Random(seed)
        stages = stages_of(victim.points)
        self._stage_events = Counter({name: 1})
        if stages:
            victim.begin(over_old=False)
            self._stage_events = count_stages(victim.work, victim.points)
        self.tally = Tally(stages or [name])

    def run(self, kills: int, seconds: float = float("inf")) -> Tally:
        """Go on until so many processes were killed, or so much time has passed."""
        started = time.monotonic()
        while self.tally.kills < kills and time.monotonic() - started < seconds:
            self._round(kills)
        return self.tally

    def _round(self, kills: int) -> None:
        self._victim.begin(over_old=self._random.random() < 0.5)
        last = self.tally.stages[0]
        for _ in range(self._random.randint(1, 4)):
            if self.tally.kills >= kills:
                break
            stage = self._random.choice([s for s in self.tally.stages if self._stage_events[s]])
            nth = self._random.randint(1, self._stage_events[stage])
            if not self._kill(stage, nth):
                continue
            self.tally.killed[stage] += 1
            last = stage
            self._check(stage, "a reader failed", self._victim.after_kill)
        self.tally.rounds += 1
        try:
            in_child(self._victim.rerun)
        except RuntimeError as error:
            self.tally.losses.append(f"{last}: the rerun failed: {error}")
            return
        self._check(last, "after the rerun a reader failed", self._victim.after_rerun)

    def _kill(self, stage: str, nth: int) -> bool:
        """Kill it in a stage, while other processes are at work; False if it ended before."""
        victim = self._victim
        beside = [start_child(work) for work in victim.beside()]
        moment = (stage, nth, victim.delay(stage, self._random.random()))
        killed = False
        try:
            killed = killed_in(
                victim.work, victim.points, moment, lambda pid: victim.kill(pid, stage)
            )
            for pid in beside:
                wait_for_child(pid)
        except RuntimeError as error:
            self.tally.losses.append(f"{stage}: another process failed: {error}")
        return killed

    def _check(self, stage: str, failed: str, check: Callable[[], Iterable[str]]) -> None:
        try:
            found = from_child(lambda: list(check()))
        except Exception as error:  # noqa: BLE001  whatever a reader runs into is a loss
            found = [f"{failed}: {error!r}"]
        self.tally.losses += [f"{stage}: {problem}" for problem in found]
