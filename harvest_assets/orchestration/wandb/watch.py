"""Which runs of a W&B project are new and can be harvested: one look at a time.

1. The first look takes the newest runs until 20 can be harvested; what had ended before and is
   older is left, unless `HARVEST_WANDB_SINCE` asks for it.
2. Each further look reads runs by their last heartbeat, newest first, back to where the last look
   began. A run counts as looked at only when it has been, so a look that breaks off loses none.
3. Once a day all runs are read by their date of creation, over several looks if need be: what
   came with an old heartbeat is found too.

Of runs that were left out, `watched.json` keeps why; who lacks a checkpoint is looked at again, at
growing distances, five times in all. A run at which W&B fails is looked at again for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol

from pydantic import Field

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files.layout import watched_path
from harvest_assets.files.records import Older, Record
from harvest_assets.files.sanitize import plain_text
from harvest_assets.orchestration.wandb.inspection import (
    HARVESTABLE,
    OTHER,
    UNFINISHED,
    Finding,
)
from harvest_assets.orchestration.wandb.settings import WatchSettings
from harvest_assets.store.registry import registration_of
from harvest_assets.wandb_client.listed_run import ListedRun, parse_time
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets.wandb_client.runs import runs_filter

FIRST_LOOK = 20

_AGAIN_AFTER = (
    timedelta(minutes=1),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=24),
)
_FULL_LOOK_EVERY = timedelta(hours=24)
# Clocks differ, and a run's last heartbeat may be a while old when W&B calls it finished.
_SLACK = timedelta(minutes=15)
_OVERLAP = timedelta(hours=1)
_FEW, _MANY = 50, 500
_REGISTERED = "registered"
_LONG_AGO = "1970-01-01T00:00:00+00:00"


class Asked(Protocol):
    """Who answers about W&B: `WandbSubprocess`."""

    def list_runs(
        self, project: str, filters: Mapping[str, Any], order: str, per_page: int
    ) -> tuple[int, Iterator[ListedRun]]:
        """See `runs.list_runs`."""

    def inspect_run(self, key: str) -> Finding:
        """See `inspection.inspect_run`."""


@dataclass
class Place:
    """How far the looks at a project have come; times are ISO.

    Args:
        settings: digest of the filters; with others everything is looked at anew.
        switched_on: when the project was first looked at.
        first: runs that the first look may still take; 0 when it is over.
        older_than: runs created before are left if they had ended when it was switched on.
        full_place: date of creation that a full look has come to; empty if none is under way.
        full_newest: the latest heartbeat that it has seen.
        full_at: when the last full look was complete.
        until: all runs with heartbeats before have been looked at.
    """

    settings: str = ""
    switched_on: str = ""
    first: int = FIRST_LOOK
    older_than: str = ""
    full_place: str = ""
    full_newest: str = ""
    full_at: str = ""
    until: str = ""

    def check(self) -> None:
        """Check what a cursor holds.

        Raises:
            ValueError, TypeError, AttributeError: a field has the wrong type or is not a time.
        """
        values: dict[str, Any] = asdict(self)
        first = values.pop("first")
        if not isinstance(first, int):
            raise TypeError(f"first is {first!r}")
        for name in values.keys() - {"settings"}:
            _time(values[name])


@dataclass
class Look:
    """What came of a look at a project.

    Args:
        new: keys of runs that are to be registered, oldest first.
        resumed: steps of newer checkpoints, by the key of a run that was trained on.
        told: sentences for people.
        n_seen: runs that the list had.
        failure: why the look ended before its time; empty if it did not.
    """

    new: list[str] = field(default_factory=list)
    resumed: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    n_seen: int = 0
    failure: str = ""


@dataclass
class _Remembered:
    """Of a run: what was found when it had this heartbeat, and when to look again."""

    heartbeat: str
    found: str
    tries: Annotated[int, Field(ge=0)] = 0
    again_at: str = ""

    def __post_init__(self) -> None:
        _time(self.heartbeat), _time(self.again_at)


@dataclass
class _Memory:
    """What `watched.json` holds, by run id."""

    runs: dict[str, _Remembered]


# Version 0.1 wrote the mapping itself.
_RECORD = Record(
    _Memory, "what is known of watched runs", older=Older(upgrade=lambda runs: {"runs": runs})
)


class ProjectWatch:
    """Looks at one project.

    Args:
        project: `entity/project`.
        settings: which runs are wanted.
        place: where the last look ended; it is moved on.
        known: partition keys that are there.
        asked: answers about W&B.
        now: the time.
    """

    def __init__(
        self,
        project: str,
        settings: WatchSettings,
        place: Place,
        known: set[str],
        asked: Asked,
        now: datetime,
    ) -> None:
        self.project = project
        self.settings = settings
        self.place = place
        self._known = set(known)
        self._asked = asked
        self._now = now
        self._look = Look()
        self._memory = _read_memory(project)

    def look(self) -> Look:
        """Look once; W&B that does not answer ends the look and is told."""
        self._begin()
        before = {run: replace(it) for run, it in self._memory.items()}
        try:
            if self.place.first or self.place.full_place or self._full_look_is_due():
                self._look_at_all()
            else:
                self._look_at_recent()
            self._look_again()
        except HarvestError as error:
            self._look.failure = str(error)
            self._look.told.append(f"{error} The next look goes on from here.")
        if self._memory != before:
            memory = _Memory(dict(sorted(self._memory.items())))
            _RECORD.write(watched_path(*self.project.split("/")), memory)
        self._look.new.reverse()
        return self._look

    def _begin(self) -> None:
        wanted = self.settings.model_dump(exclude={"seconds"}) | {"projects": ""}
        settings = json.dumps(wanted, default=str)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
        if self.place.settings != digest:
            switched_on = self.place.switched_on or self._now.isoformat()
            fresh = Place(settings=digest, switched_on=switched_on)
            if self.settings.since is not None:
                fresh.first = 0
            self.place.__dict__.update(asdict(fresh))

    def _full_look_is_due(self) -> bool:
        return not self.place.full_at or self._now - _time(self.place.full_at) >= _FULL_LOOK_EVERY

    def _look_at_all(self) -> None:
        place = self.place
        since = self.settings.since.isoformat() if self.settings.since else None
        filters = runs_filter(self.settings.states, since, place.full_place or None)
        is_first = place.first > 0
        per_page = _FEW if is_first else _MANY
        total, runs = self._asked.list_runs(self.project, filters, "-created_at", per_page)
        for looked_at, run in enumerate(runs, start=1):
            n_new = len(self._look.new)
            self._consider(run)
            if not run.problem:
                place.full_place = run.created_at
                place.full_newest = self._later(place.full_newest, run.alive_at)
            if not is_first:
                continue
            place.first -= len(self._look.new) - n_new
            if place.first == 0:
                place.older_than = run.created_at
                if total > looked_at:
                    self._look.told.append(self._left(total - looked_at))
                break
        # The first look has not seen all that ended since the project is watched.
        place.until = (not is_first and place.full_newest) or place.switched_on
        place.first, place.full_place, place.full_newest = 0, "", ""
        place.full_at = self._now.isoformat()

    def _left(self, n_left: int) -> str:
        return (
            f"{n_left} older finished run{'s were' if n_left > 1 else ' was'} left: `python -m "
            f"harvest_assets register --project {self.project}` takes them, and so does "
            "HARVEST_WANDB_SINCE=<date>."
        )

    def _look_at_recent(self) -> None:
        oldest = _time(self.place.until) - _OVERLAP
        newest = self.place.until
        filters = runs_filter(self.settings.states)
        _, runs = self._asked.list_runs(self.project, filters, "-heartbeat_at", _FEW)
        for run in runs:
            # Servers put runs without a heartbeat first, or last.
            if run.heartbeat_at and run.heartbeat < oldest:
                break
            self._consider(run)
            if not run.problem:
                newest = self._later(newest, run.alive_at)
        self.place.until = newest

    def _later(self, newest: str, heartbeat: str) -> str:
        """The later of two times; a heartbeat of next year does not count, it would hide runs."""
        in_future = _time(heartbeat) > self._now + _SLACK
        return newest if in_future else max(newest, heartbeat, key=_time)

    def _look_again(self) -> None:
        """Look at runs that lacked something, when it is time."""
        for run_id, it in list(self._memory.items()):
            if it.again_at and _time(it.again_at) <= self._now:
                self._examine(run_id, it.heartbeat)

    def _consider(self, run: ListedRun) -> None:
        self._look.n_seen += 1
        if run.problem:
            self._leave_out(run)
            return
        if not self.settings.wants(run):
            return
        key = f"{self.project}/{run.run_id}"
        before = self._memory.get(run.run_id)
        if key in self._known:
            if before is not None and _time(before.heartbeat) < run.heartbeat:
                self._see_whether_it_was_trained_on(key)
            self._memory[run.run_id] = _Remembered(run.alive_at, _REGISTERED)
        elif before is not None and before.found != _REGISTERED:
            if _time(before.heartbeat) < run.heartbeat:
                self._memory.pop(run.run_id)
                self._examine(run.run_id, run.alive_at)
        elif before is not None or not self._is_left(run):
            self._examine(run.run_id, run.alive_at)

    def _is_left(self, run: ListedRun) -> bool:
        """Had it ended before the project was watched, and was it too old for the first look?"""
        if not self.place.older_than or run.created >= _time(self.place.older_than):
            return False
        return run.heartbeat < _time(self.place.switched_on) - _SLACK

    def _leave_out(self, run: ListedRun) -> None:
        """Report a run whose fields are odd, once if it has an id."""
        before = self._memory.get(run.run_id)
        reason = plain_text(f"{self.project}/{run.run_id or '?'}: {run.problem}")
        if before is not None and before.found in (_REGISTERED, reason):
            return
        if run.run_id:
            self._memory[run.run_id] = _Remembered("", reason)
        self._look.told.append(f"Left out: {reason}")

    def _examine(self, run_id: str, heartbeat: str) -> None:
        key = f"{self.project}/{run_id}"
        try:
            RunName.from_key(key)
        except HarvestError as error:
            self._remember(run_id, heartbeat, Finding(OTHER, reason=str(error)))
            return
        try:
            finding = self._asked.inspect_run(key)
        except TransientError as error:
            # Remembered first: one run that never answers must not end every look.
            self._remember(run_id, heartbeat, Finding(UNFINISHED, reason=str(error)), passing=True)
            raise
        except HarvestError as error:
            finding = Finding(UNFINISHED, reason=str(error))
        if finding.kind == HARVESTABLE:
            self._memory[run_id] = _Remembered(heartbeat, _REGISTERED)
            self._known.add(key)
            self._look.new.append(key)
        else:
            self._remember(run_id, heartbeat, finding)

    def _remember(
        self, run_id: str, heartbeat: str, finding: Finding, *, passing: bool = False
    ) -> None:
        before = self._memory.get(run_id)
        tries = before.tries if before is not None else 0
        if passing:
            tries = min(tries, len(_AGAIN_AFTER) - 1)
        again_at, what = "", "Left out"
        if finding.kind != OTHER:
            if tries < len(_AGAIN_AFTER):
                again_at = (self._now + _AGAIN_AFTER[tries]).isoformat()
                what = f"Looked at again after {again_at[:16]}"
            else:
                what = f"Given up after {tries + 1} looks"
        self._memory[run_id] = _Remembered(heartbeat, finding.reason, tries + 1, again_at)
        self._look.told.append(f"{what}: {finding.reason}")

    def _see_whether_it_was_trained_on(self, key: str) -> None:
        try:
            harvested = open_decomposition(registration_of(key).layout.root).step
            newest = self._asked.inspect_run(key).step
        except TransientError:
            raise
        except (HarvestError, OSError):
            return  # nothing of it is harvested, or it is gone
        if harvested is not None and newest is not None and newest > harvested:
            self._look.resumed[key] = newest
            self._look.told.append(
                f"{key} was trained on to step {newest}; its harvest is of step {harvested}."
            )


def _time(text: str) -> datetime:
    return parse_time(text or _LONG_AGO)


def _read_memory(project: str) -> dict[str, _Remembered]:
    """What is known of the runs; nothing where it is missing or damaged: it only saves requests."""
    try:
        return _RECORD.read(watched_path(*project.split("/"))).runs
    except HarvestError:
        return {}
