"""SIGKILL from outside, at seeded random moments of every stage; then readers look, then a rerun.

A round begins with an older complete result, or with nothing. The harvest is started in a process
of its own and killed, up to four times in a row; after each kill every file must be an old or a new
one, whole. Then it runs to its end, and the result must equal that of an uninterrupted run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from harvest_assets.files import atomic, lease
from harvest_assets.files import commit as publication
from harvest_assets.files.manifest import disagreements
from harvest_assets.harvester import HarvesterState
from harvest_assets.results import contexts
from harvest_assets.results import merge as merging
from harvest_assets.results.component_tables import ComponentTables
from harvest_assets.store import compaction, resume
from harvest_assets_tests.faults.small_harvest import SmallHarvest, contents

STAGES = ("accumulation", "save", "rename", "merge", "JSON lines", "index", "compaction", "sweep")
OLD_SEED, NEW_SEED = 7, 0
_CHILD_SECONDS = 120.0


@dataclass
class Tally:
    """What was tried and what came of it, by stage."""

    killed: Counter[str] = field(default_factory=Counter)
    over_old: int = 0
    rounds: int = 0
    losses: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.killed.values())

    def table(self) -> str:
        lines = ["| killed during | tried | survived | lost |", "|---|---|---|---|"]
        for stage in STAGES:
            lost = sum(loss.startswith(stage) for loss in self.losses)
            tried = self.killed[stage]
            lines.append(f"| {stage} | {tried} | {tried - lost} | {lost} |")
        lost = len(self.losses)
        lines.append(f"| all | {self.kills} | {self.kills - lost} | {lost} |")
        return "\n".join(lines)


class Killer:
    """Kills one harvest after the other.

    Args:
        folder: of its own.
        seed: of all choices.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        torch.set_num_threads(1)  # a forked child has no threads of its parent
        self._random = random.Random(seed)
        self._folder = folder
        self._old = SmallHarvest(folder / "old", OLD_SEED, keep_firings=-1)
        fresh = SmallHarvest(folder / "new", NEW_SEED, keep_firings=-1)
        for harvest in (self._old, fresh):
            in_child(harvest.run)
        self._versions = {
            SmallHarvest(folder, seed, keep_firings=-1).plan.digest: contents(harvest.paths)
            for seed, harvest in ((OLD_SEED, self._old), (NEW_SEED, fresh))
        }
        self._right = contents(fresh.paths)
        self._stage_events = _count_stages(
            SmallHarvest(folder / "counted", NEW_SEED, keep_firings=-1)
        )
        self.tally = Tally()

    def run(self, kills: int, seconds: float = float("inf")) -> Tally:
        """Go on until so many processes were killed, or so much time has passed."""
        started = time.monotonic()
        while self.tally.kills < kills and time.monotonic() - started < seconds:
            self._round(kills)
        return self.tally

    def _round(self, kills: int) -> None:
        place = self._folder / "work"
        shutil.rmtree(place, ignore_errors=True)
        over_old = self._random.random() < 0.5
        if over_old:
            shutil.copytree(self._old.root, place)
        harvest = SmallHarvest(place, NEW_SEED, keep_firings=-1)
        last = STAGES[0]
        for _ in range(self._random.randint(1, 4)):
            if self.tally.kills >= kills:
                break
            stage = self._random.choice([s for s in STAGES if self._stage_events[s]])
            nth = self._random.randint(1, self._stage_events[stage])
            if not _kill_in(harvest.run, stage, nth, self._random.random() ** 3 * 0.03):
                continue
            self.tally.killed[stage] += 1
            self.tally.over_old += over_old
            last = stage
            self._check(harvest, stage, over_old=over_old)
        self.tally.rounds += 1
        try:
            in_child(harvest.run)
        except RuntimeError as error:
            self.tally.losses.append(f"{last}: the rerun failed: {error}")
            return
        if contents(harvest.paths) != self._right or disagreements(harvest.paths, deep=True):
            self.tally.losses.append(f"{last}: the rerun ended with something else")
        left = [p for p in place.rglob("*") if p.name.endswith(".tmp") or p.name == "shards"]
        left = [p for p in left if p.name != "shards" or any(p.iterdir())]
        if left:
            self.tally.losses.append(f"{last}: leftovers {left}")

    def _check(self, harvest: SmallHarvest, stage: str, *, over_old: bool) -> None:
        """Each file is an old or a new one, whole; a mix of both is named by the manifest."""
        try:
            found = contents(harvest.paths)
        except Exception as error:  # noqa: BLE001  whatever a reader runs into is a loss
            self.tally.losses.append(f"{stage}: a reader failed: {error!r}")
            return
        versions = list(self._versions.values())
        for name, value in found.items():
            if all(value != version[name] for version in versions):
                self.tally.losses.append(f"{stage}: {name} is neither the old nor the new one")
        if over_old and len(found) < len(self._right):
            self.tally.losses.append(f"{stage}: an old file is gone")
        if not disagreements(harvest.paths, deep=True) and found not in versions:
            self.tally.losses.append(f"{stage}: a mix of harvests was not named")


def in_child(work: Callable[[], None]) -> None:
    """Run to the end in a process of its own."""
    pid = os.fork()
    if pid == 0:
        be_child(work)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"status {status}")


def be_child(work: Callable[[], None]) -> None:
    """Do the work and end this forked process, with status 1 if it raised."""
    try:
        signal.alarm(int(_CHILD_SECONDS))
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _kill_in(work: Callable[[], None], stage: str, nth: int, delay: float) -> bool:
    """Kill the process `delay` seconds after it entered a stage the n-th time."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        seen = Counter[str]()

        def note(entered: str) -> None:
            seen[entered] += 1
            if entered == stage and seen[stage] == nth:
                os.write(writing, b"!")

        _watch(note)
        be_child(work)
    os.close(writing)
    reached = os.read(reading, 1)  # empty when the process ended before
    os.close(reading)
    if reached:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _count_stages(harvest: SmallHarvest) -> dict[str, int]:
    """How often a whole harvest enters each stage."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _watch(lambda stage: os.write(writing, bytes([STAGES.index(stage)])) and None)
        be_child(harvest.run)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        seen = Counter(pipe.read())
    os.waitpid(pid, 0)
    return {stage: seen[number] for number, stage in enumerate(STAGES)}


def _watch(note: Callable[[str], Any]) -> None:
    """Call `note` when a stage is entered; only in a short-lived child process."""

    def wrap(owner: Any, name: str, stage: str) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            note(stage)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    wrap(resume, "harvest_rows", "accumulation")
    wrap(HarvesterState, "save", "save")
    for module in (atomic, publication):
        wrap(module, "rename_into_place", "rename")
    wrap(merging, "merge_correlations", "merge")
    wrap(merging, "merge_token_stats", "merge")
    wrap(contexts, "_line", "JSON lines")
    wrap(ComponentTables, "_write_index", "index")
    wrap(compaction.CompactedState, "write", "compaction")
    for module in (publication, compaction):
        wrap(module, "remove", "sweep")
    wrap(lease, "_create", "sweep")
