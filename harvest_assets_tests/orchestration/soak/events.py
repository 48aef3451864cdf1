"""What happens in a soak, and when: drawn from a seed, so that it can be drawn again.

Times are seconds after the start. Runs appear and are changed, faults of the server begin and end,
and processes are killed, all within the given time; Dagster is restarted only in the first 45% of
it, so that the memory of the same processes is measured in the second half.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

N_WORLDS = 3  # runs of the same world have equal files
RESTARTS = ("kill_daemon", "kill_tree", "terminate", "kill_daemon")
CODE_SERVER_DIES = (0.06, 0.3)  # of the time


class Kind(StrEnum):
    """What becomes of a run."""

    PLAIN = "complete when it appears"
    RUNNING = "appears while it is running"
    NO_CHECKPOINT = "its checkpoint comes later"
    NO_FILES = "its files come later"
    RETURNS = "is deleted, and comes back under the same id"
    RENAMED = "gets another display name"
    BROKEN = "is broken for good"


class Fault(StrEnum):
    """What the server does wrong for some time."""

    AWAY = "refuses connections"
    LIMITED = "answers 429 with Retry-After"
    FAILING = "answers 500"
    REFUSING = "answers 403"
    GARBAGE = "answers with a page instead of JSON"
    HALF = "closes the connection in the middle of an answer"
    SLOW = "takes seconds for each answer"
    SIZES = "reports wrong sizes of files"
    BROKEN_OFF = "closes the connection in the middle of a file"
    TWICE = "lists each run twice"
    LEFT_OUT = "leaves out some runs of each list"
    ODD = "sends fields of the wrong type for some runs of each list"


SHARE_OF_KINDS = {
    Kind.PLAIN: 0.50,
    Kind.RUNNING: 0.14,
    Kind.NO_CHECKPOINT: 0.10,
    Kind.NO_FILES: 0.05,
    Kind.RETURNS: 0.06,
    Kind.RENAMED: 0.09,
    Kind.BROKEN: 0.06,
}


@dataclass(frozen=True)
class PlannedRun:
    """One run on W&B.

    Args:
        number: makes its id.
        world: which files it has.
        kind: what becomes of it.
        hours_old: how long before it appears it was created.
        minutes_silent: how long before it appears its last heartbeat was.
        spelling: of its times; see `unreliable_wandb.SPELLINGS`.
    """

    number: int
    world: int
    kind: Kind
    hours_old: float
    minutes_silent: float
    spelling: int

    @property
    def run_id(self) -> str:
        """The id on W&B."""
        return f"s-{self.number:08d}"


@dataclass(frozen=True, order=True)
class Event:
    """`action` is the name of a method of `Soak`; `subject` is its argument."""

    at: float
    action: str
    subject: int | str = ""


@dataclass(frozen=True)
class Schedule:
    """A whole soak.

    Args:
        runs: by number.
        events: in order of time.
    """

    runs: list[PlannedRun]
    events: list[Event]


def draw_schedule(seed: int, n_runs: int, seconds: float) -> Schedule:
    """The runs and events of a seed; the same for the same arguments."""
    dice = random.Random(seed)
    kinds = _kinds(dice, n_runs)
    runs = [_planned_run(dice, number, kind) for number, kind in enumerate(kinds)]
    events = [event for run in runs for event in _of_run(dice, run, n_runs, seconds)]
    events += _faults(dice, seconds)
    events += _kills(dice, n_runs, seconds)
    events += [
        Event(seconds * (0.10 + 0.35 * n / len(RESTARTS)), action)
        for n, action in enumerate(RESTARTS, start=1)
    ]
    events += [Event(seconds * share, "kill_code_server") for share in CODE_SERVER_DIES]
    # In between the schedule does the work, with backfills.
    events += [Event(0.55 * seconds, "automation_off"), Event(0.75 * seconds, "automation_on")]
    return Schedule(runs, sorted(events, key=lambda event: event.at))


def _kinds(dice: random.Random, n_runs: int) -> list[Kind]:
    """In a random order, each kind as often as its share says, and once where that is possible."""
    others = [kind for kind in Kind if kind != Kind.PLAIN]
    kinds = [k for k in others for _ in range(max(1, round(n_runs * SHARE_OF_KINDS[k])))]
    kinds = kinds[:n_runs] + [Kind.PLAIN] * (n_runs - len(kinds))
    dice.shuffle(kinds)
    return kinds


def _planned_run(dice: random.Random, number: int, kind: Kind) -> PlannedRun:
    return PlannedRun(
        number,
        dice.randrange(N_WORLDS),
        kind,
        dice.uniform(1, 700),
        dice.uniform(0, 20),
        dice.randrange(4),
    )


def _of_run(dice: random.Random, run: PlannedRun, n_runs: int, seconds: float) -> list[Event]:
    """Some runs are there at the start; the last one comes after three quarters of the time."""
    at_once = max(2, n_runs // 12)
    share = max(0, run.number - at_once + 1) / max(1, n_runs - at_once)
    appears = 0.75 * seconds * min(1.0, share + dice.uniform(0, 0.01))
    changes = appears + dice.uniform(5, 90)
    if run.kind in (Kind.PLAIN, Kind.BROKEN):
        return [Event(appears, "appear", run.number)]
    if run.kind == Kind.RETURNS:
        return [
            Event(appears, "appear", run.number),
            Event(changes, "disappear", run.number),
            Event(changes + dice.uniform(10, 60), "change", run.number),
        ]
    return [Event(appears, "appear", run.number), Event(changes, "change", run.number)]


def _faults(dice: random.Random, seconds: float) -> list[Event]:
    """Faults of 15 to 45 s with 30 to 60 s between them, until 80% of the time has passed."""
    events: list[Event] = []
    waiting: list[Fault] = []
    at = 40.0
    while at + 45 < 0.8 * seconds:
        if not waiting:
            waiting = dice.sample(list(Fault), len(Fault))
        events.append(Event(at, "fault", waiting.pop()))
        at += dice.uniform(15, 45)
        events.append(Event(at, "healthy"))
        at += dice.uniform(30, 60)
    return events


def _kills(dice: random.Random, n_runs: int, seconds: float) -> list[Event]:
    """Workers die at random, one for five runs."""
    return [
        Event(dice.uniform(0.05, 0.85) * seconds, "kill_worker") for _ in range(max(1, n_runs // 5))
    ]
