"""What is watched on W&B and how much is started by itself, as a deployment sets it.

Everything is read from the environment when it is needed: `HARVEST_WANDB_PROJECTS` and so on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.environment import number_from, yes_or_no
from harvest_assets.wandb_client.listed_run import ListedRun

AUTOMATION = "HARVEST_AUTOMATION"
_SINCE = "HARVEST_WANDB_SINCE"


@dataclass(frozen=True)
class WatchSettings:
    """Which runs are wanted.

    Args:
        projects: `entity/project` each; `HARVEST_WANDB_PROJECTS`.
        states: of W&B, `finished` unless set; `HARVEST_WANDB_STATES`.
        tags: a run must have one of them, if there are any; `HARVEST_WANDB_TAGS`.
        names: patterns (`*`, `?`) of which one must fit the run's name on its page or its id, if
            there are any; `HARVEST_WANDB_NAMES`.
        since: runs created before are left out; `HARVEST_WANDB_SINCE`.
    """

    projects: tuple[str, ...]
    states: tuple[str, ...] = ("finished",)
    tags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    since: datetime | None = None

    @classmethod
    def from_environment(cls, since: datetime | None = None) -> WatchSettings:
        """The deployment's settings; a date that is given counts in place of the deployment's.

        Raises:
            HarvestError: a variable holds what it cannot.
        """
        projects = tuple(map(check_project, _listed("HARVEST_WANDB_PROJECTS")))
        if since is None:
            since = parse_since(os.environ.get(_SINCE, ""), _SINCE)
        return cls(
            projects=tuple(dict.fromkeys(projects)),
            states=_listed("HARVEST_WANDB_STATES") or ("finished",),
            tags=_listed("HARVEST_WANDB_TAGS"),
            names=_listed("HARVEST_WANDB_NAMES"),
            since=since,
        )

    def wants(self, run: ListedRun) -> bool:
        """Do state, tags, name and date of a run fit?"""
        named = not self.names or any(
            fnmatchcase(text, pattern)
            for text in (run.display_name, run.run_id)
            for pattern in self.names
        )
        tagged = not self.tags or bool(set(self.tags) & set(run.tags))
        young = self.since is None or run.created >= self.since
        return run.state in self.states and named and tagged and young


def check_project(text: str) -> str:
    """`entity/project` without blanks around it.

    Raises:
        HarvestError: the text is nothing like it.
    """
    project = text.strip().removeprefix("https://wandb.ai/").strip("/")
    if len([part for part in project.split("/") if part]) != 2:  # noqa: PLR2004
        raise HarvestError(f"{text!r} is no W&B project: entity/project is.")
    return project


def parse_since(text: str, source: str) -> datetime | None:
    """An ISO date or time; without a zone it is UTC. None for an empty text.

    Raises:
        HarvestError: the text is no date; the message names `source`.
    """
    if not text.strip():
        return None
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise HarvestError(
            f"{source} is {text!r}; it must be a date such as 2025-01-31."
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def max_active_runs() -> int:
    """Unfinished harvests up to which automation starts new ones; `HARVEST_MAX_ACTIVE_RUNS`."""
    return number_from("HARVEST_MAX_ACTIVE_RUNS", 4)


def seconds_between_looks() -> int:
    """Between two looks at W&B; `HARVEST_WANDB_SECONDS`."""
    return number_from("HARVEST_WANDB_SECONDS", 300)


def automation_from_the_start() -> bool:
    """Do sensor and automation run before anybody switches them on in the UI?

    Raises:
        HarvestError: `HARVEST_AUTOMATION` is neither yes nor no.
    """
    return yes_or_no(AUTOMATION)


def _listed(variable: str) -> tuple[str, ...]:
    parts = os.environ.get(variable, "").split(",")
    return tuple(part.strip() for part in parts if part.strip())
