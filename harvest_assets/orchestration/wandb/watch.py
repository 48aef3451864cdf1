"""Finds new runs of a W&B project that can be harvested, one poll at a time.

1. The first scan registers the newest runs, at most 20; older runs that had ended before it are
   skipped unless `HARVEST_WANDB_SINCE` asks for them.
2. Each later poll lists runs by their last heartbeat, newest first, back to where the previous poll
   began. A run counts as seen only once it has been processed, so an interrupted poll loses none.
3. Once a day a full scan lists all runs by creation date, over several polls if need be: it also
   finds runs that appeared with an old heartbeat.

`watched.json` records why runs were skipped. A run without a checkpoint, or that W&B forbids, is
checked up to five times, at growing intervals; a run for which W&B fails is retried indefinitely.
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
from harvest_assets.errors import HarvestError, TransientError, counted
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
from harvest_assets.store.harvest_name import run_of_key
from harvest_assets.store.registry import registration_of
from harvest_assets.wandb_client.listed_run import ListedRun, parse_time
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets.wandb_client.runs import runs_filter

_FIRST_SCAN_LIMIT = 20

_RETRY_DELAYS = (
    timedelta(minutes=1),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=24),
)
_FULL_SCAN_INTERVAL = timedelta(hours=24)
# Clocks differ, and a run's last heartbeat may be old by the time W&B marks it as finished.
_SLACK = timedelta(minutes=15)
_OVERLAP = timedelta(hours=1)
_SMALL_PAGE, _LARGE_PAGE = 50, 500
_REGISTERED = "registered"
_EPOCH = "1970-01-01T00:00:00+00:00"


class WandbClient(Protocol):
    """The requests to W&B that a poll makes; `WandbSubprocess` implements them."""

    def list_runs(
        self, project: str, filters: Mapping[str, Any], order: str, per_page: int
    ) -> tuple[int, Iterator[ListedRun]]:
        """See `runs.list_runs`."""

    def inspect_run(self, key: str) -> Finding:
        """See `inspection.inspect_run`."""


@dataclass
class ProjectCursor:
    """How far a project has been polled; times are ISO. Stored in the sensor's cursor.

    Args:
        settings: digest of the filters; when it changes, the project is scanned from the start.
        switched_on: when the project was first polled.
        first: how many more runs the first scan may register; 0 once it is complete.
        older_than: runs created earlier are skipped if they ended before `switched_on`.
        full_place: creation date that the full scan has reached; empty if none is in progress.
        full_newest: latest heartbeat seen by the full scan.
        full_at: when the last full scan was completed.
        until: all runs with earlier heartbeats have been processed.
    """

    settings: str = ""
    switched_on: str = ""
    first: int = _FIRST_SCAN_LIMIT
    older_than: str = ""
    full_place: str = ""
    full_newest: str = ""
    full_at: str = ""
    until: str = ""

    def check(self) -> None:
        """Check the values read from a stored cursor.

        Raises:
            ValueError, TypeError, AttributeError: a field has the wrong type or is not a time.
        """
        values: dict[str, Any] = asdict(self)
        first = values.pop("first")
        if not isinstance(first, int):
            raise TypeError(f"first is {first!r}; expected an integer")
        for name in values.keys() - {"settings"}:
            _time(values[name])


@dataclass
class PollResult:
    """The outcome of one poll of a project.

    Args:
        new: keys of the runs to register, oldest first.
        resumed: step of the newer checkpoint, by key, of harvests whose run was trained further.
        messages: sentences for the log and the UI.
        n_seen: number of runs listed.
        failure: why the poll was cut short; empty if it was not.
    """

    new: list[str] = field(default_factory=list)
    resumed: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    n_seen: int = 0
    failure: str = ""


@dataclass
class _Remembered:
    """What was found about a run as of a heartbeat, and when to check it again."""

    heartbeat: str
    found: str
    tries: Annotated[int, Field(ge=0)] = 0
    again_at: str = ""

    def __post_init__(self) -> None:
        _time(self.heartbeat), _time(self.again_at)


@dataclass
class _Memory:
    """The content of `watched.json`: runs by run id."""

    runs: dict[str, _Remembered]


# Version 0.1 wrote the bare mapping.
_RECORD = Record(
    _Memory, "what is known of watched runs", older=Older(upgrade=lambda runs: {"runs": runs})
)


class ProjectWatch:
    """Polls one project.

    Args:
        project: `entity/project`.
        settings: which runs are wanted.
        cursor: where the previous poll ended; updated in place.
        known: partition keys that exist already.
        client: makes the requests to W&B.
        now: the current time.
    """

    def __init__(
        self,
        project: str,
        settings: WatchSettings,
        cursor: ProjectCursor,
        known: set[str],
        client: WandbClient,
        now: datetime,
    ) -> None:
        self.project = project
        self.settings = settings
        self.cursor = cursor
        self._known = set(known)
        self._client = client
        self._now = now
        self._result = PollResult()
        self._memory = _read_memory(project)

    def poll(self) -> PollResult:
        """Poll once; if W&B does not answer, the poll ends early and the result says so."""
        self._begin()
        before = {run: replace(it) for run, it in self._memory.items()}
        try:
            if self.cursor.first or self.cursor.full_place or self._full_scan_is_due():
                self._scan_all()
            else:
                self._poll_recent()
            self._recheck_skipped()
        except HarvestError as error:
            self._result.failure = str(error)
            self._result.messages.append(f"{error} The next poll continues from here.")
        if self._memory != before:
            memory = _Memory(dict(sorted(self._memory.items())))
            _RECORD.write(watched_path(*self.project.split("/")), memory)
        self._result.new.reverse()
        return self._result

    def _begin(self) -> None:
        wanted = self.settings.model_dump(exclude={"seconds"}) | {"projects": ""}
        settings = json.dumps(wanted, default=str)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
        if self.cursor.settings != digest:
            switched_on = self.cursor.switched_on or self._now.isoformat()
            fresh = ProjectCursor(settings=digest, switched_on=switched_on)
            if self.settings.since is not None:
                fresh.first = 0
            self.cursor.__dict__.update(asdict(fresh))

    def _full_scan_is_due(self) -> bool:
        return (
            not self.cursor.full_at or self._now - _time(self.cursor.full_at) >= _FULL_SCAN_INTERVAL
        )

    def _scan_all(self) -> None:
        cursor = self.cursor
        since = self.settings.since.isoformat() if self.settings.since else None
        filters = runs_filter(self.settings.states, since, cursor.full_place or None)
        is_first = cursor.first > 0
        per_page = _SMALL_PAGE if is_first else _LARGE_PAGE
        total, runs = self._client.list_runs(self.project, filters, "-created_at", per_page)
        for n_listed, run in enumerate(runs, start=1):
            n_new = len(self._result.new)
            self._consider(run)
            if not run.problem:
                cursor.full_place = run.created_at
                cursor.full_newest = self._later(cursor.full_newest, run.alive_at)
            if not is_first:
                continue
            cursor.first -= len(self._result.new) - n_new
            if cursor.first == 0:
                cursor.older_than = run.created_at
                if total > n_listed:
                    self._result.messages.append(self._older_runs_skipped(total - n_listed))
                break
        # The first scan may have missed runs that ended since the project was first polled.
        cursor.until = (not is_first and cursor.full_newest) or cursor.switched_on
        cursor.first, cursor.full_place, cursor.full_newest = 0, "", ""
        cursor.full_at = self._now.isoformat()

    def _older_runs_skipped(self, n_skipped: int) -> str:
        return (
            f"{counted(n_skipped, 'older finished run')} skipped; to register them, run `python -m "
            f"harvest_assets register --project {self.project}` or set HARVEST_WANDB_SINCE=<date>."
        )

    def _poll_recent(self) -> None:
        oldest = _time(self.cursor.until) - _OVERLAP
        newest = self.cursor.until
        filters = runs_filter(self.settings.states)
        _, runs = self._client.list_runs(self.project, filters, "-heartbeat_at", _SMALL_PAGE)
        for run in runs:
            # Servers put runs without a heartbeat first, or last.
            if run.heartbeat_at and run.heartbeat < oldest:
                break
            self._consider(run)
            if not run.problem:
                newest = self._later(newest, run.alive_at)
        self.cursor.until = newest

    def _later(self, newest: str, heartbeat: str) -> str:
        """The later of two times; a heartbeat in the future is ignored: it would hide runs."""
        in_future = _time(heartbeat) > self._now + _SLACK
        return newest if in_future else max(newest, heartbeat, key=_time)

    def _recheck_skipped(self) -> None:
        """Check incomplete runs again once their time has come."""
        for run_id, it in list(self._memory.items()):
            if it.again_at and _time(it.again_at) <= self._now:
                self._examine(run_id, it.heartbeat)

    def _consider(self, run: ListedRun) -> None:
        self._result.n_seen += 1
        if run.problem:
            self._report_malformed(run)
            return
        if not self.settings.wants(run):
            return
        key = f"{self.project}/{run.run_id}"
        before = self._memory.get(run.run_id)
        if key in self._known:
            if before is not None and _time(before.heartbeat) < run.heartbeat:
                self._check_for_newer_checkpoint(key)
            self._memory[run.run_id] = _Remembered(run.alive_at, _REGISTERED)
        elif before is not None and before.found != _REGISTERED:
            if _time(before.heartbeat) < run.heartbeat:
                self._memory.pop(run.run_id)
                self._examine(run.run_id, run.alive_at)
        elif before is not None or not self._is_too_old(run):
            self._examine(run.run_id, run.alive_at)

    def _is_too_old(self, run: ListedRun) -> bool:
        """Whether the run ended before the first poll and was too old for the first scan."""
        if not self.cursor.older_than or run.created >= _time(self.cursor.older_than):
            return False
        return run.heartbeat < _time(self.cursor.switched_on) - _SLACK

    def _report_malformed(self, run: ListedRun) -> None:
        """Report a run whose fields are malformed; only once if it has an id."""
        before = self._memory.get(run.run_id)
        reason = plain_text(f"{self.project}/{run.run_id or '?'}: {run.problem}")
        if before is not None and before.found in (_REGISTERED, reason):
            return
        if run.run_id:
            self._memory[run.run_id] = _Remembered("", reason)
        self._result.messages.append(f"Skipped: {reason}")

    def _examine(self, run_id: str, heartbeat: str) -> None:
        key = f"{self.project}/{run_id}"
        try:
            RunName.from_key(key)
        except HarvestError as error:
            self._remember(run_id, heartbeat, Finding(OTHER, reason=str(error)))
            return
        try:
            finding = self._client.inspect_run(key)
        except TransientError as error:
            # Remembered first: one run that never answers must not cut every poll short.
            self._remember(run_id, heartbeat, Finding(UNFINISHED, reason=str(error)), passing=True)
            raise
        except HarvestError as error:
            finding = Finding(UNFINISHED, reason=str(error))
        if finding.kind == HARVESTABLE:
            self._memory[run_id] = _Remembered(heartbeat, _REGISTERED)
            self._known.add(key)
            self._result.new.append(key)
        else:
            self._remember(run_id, heartbeat, finding)

    def _remember(
        self, run_id: str, heartbeat: str, finding: Finding, *, passing: bool = False
    ) -> None:
        before = self._memory.get(run_id)
        tries = before.tries if before is not None else 0
        if passing:
            tries = min(tries, len(_RETRY_DELAYS) - 1)
        again_at, what = "", "Skipped"
        if finding.kind != OTHER:
            if tries < len(_RETRY_DELAYS):
                again_at = (self._now + _RETRY_DELAYS[tries]).isoformat()
                what = f"To be checked again after {again_at[:16]}"
            else:
                what = f"Given up after {tries + 1} checks"
        self._memory[run_id] = _Remembered(heartbeat, finding.reason, tries + 1, again_at)
        self._result.messages.append(f"{what}: {finding.reason}")

    def _check_for_newer_checkpoint(self, run: str) -> None:
        """Compare the newest checkpoint of a run with that of each of its harvests."""
        ours = sorted(key for key in self._known if run_of_key(key) == run)
        steps = {key: step for key in ours if (step := _harvested_step(key)) is not None}
        if not steps:
            return
        try:
            newest = self._client.inspect_run(run).step
        except TransientError:
            raise
        except HarvestError:
            return
        for key, step in steps.items():
            if newest is not None and newest > step:
                self._result.resumed[key] = newest
                self._result.messages.append(
                    f"{run} was trained further, to step {newest}; the harvest {key} is of step "
                    f"{step}."
                )


def _harvested_step(key: str) -> int | None:
    """The step that was harvested; None if nothing was, or if it was deleted."""
    try:
        return open_decomposition(registration_of(key).layout.root).step
    except (HarvestError, OSError):
        return None


def _time(text: str) -> datetime:
    return parse_time(text or _EPOCH)


def _read_memory(project: str) -> dict[str, _Remembered]:
    """The remembered runs; empty if the file is missing or damaged: it only saves requests."""
    try:
        return _RECORD.read(watched_path(*project.split("/"))).runs
    except HarvestError:
        return {}
