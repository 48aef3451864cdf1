"""Which W&B projects and runs a deployment watches."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from harvest_assets.errors import HarvestError
from harvest_assets.settings import EnvironmentModel
from harvest_assets.wandb_client.listed_run import ListedRun


def _listed(value: Any) -> Any:
    """Split comma-separated text; return any other value unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _projects(value: Any) -> Any:
    try:
        return tuple(dict.fromkeys(map(check_project, _listed(value))))
    except HarvestError:
        raise ValueError("entity/project, several of them separated by commas") from None


def _since(value: Any) -> Any:
    return parse_since(value, "HARVEST_WANDB_SINCE") if isinstance(value, str) else value


_Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class WatchSettings(EnvironmentModel, env_prefix="HARVEST_WANDB_"):
    """Which runs are wanted, and how often W&B is polled."""

    projects: Annotated[tuple[str, ...], BeforeValidator(_projects)] = Field(
        default=(),
        description="The watched projects, `entity/project`, separated by commas.",
    )
    states: _Listed = Field(
        default=("finished",), description="Only runs in one of these W&B states."
    )
    tags: _Listed = Field(default=(), description="Only runs with one of these tags; blank: all.")
    names: _Listed = Field(
        default=(),
        description=(
            "Only runs whose display name or id matches one of these patterns (`*`, `?`); "
            "blank: all."
        ),
    )
    since: Annotated[datetime | None, BeforeValidator(_since)] = Field(
        default=None,
        description=(
            "Only runs created at or after this date or time, UTC unless it has a zone. It also "
            "lifts the limit of the first tick."
        ),
    )
    seconds: int = Field(
        default=300,
        ge=1,
        description="Seconds between two polls. Read when the definitions are loaded.",
    )

    def wants(self, run: ListedRun) -> bool:
        """Whether a run matches the states, tags, names and date."""
        named = not self.names or any(
            fnmatchcase(text, pattern)
            for text in (run.display_name, run.run_id)
            for pattern in self.names
        )
        tagged = not self.tags or bool(set(self.tags) & set(run.tags))
        recent = self.since is None or run.created >= self.since
        return run.state in self.states and named and tagged and recent


def check_project(text: str) -> str:
    """Normalize `entity/project`, or the address of a project's page.

    Raises:
        HarvestError: the text names no project.
    """
    project = text.strip().removeprefix("https://wandb.ai/").strip("/")
    if len([part for part in project.split("/") if part]) != 2:  # noqa: PLR2004
        raise HarvestError(f"{text!r} is not a valid W&B project; expected entity/project.")
    return project


def parse_since(text: str, source: str) -> datetime | None:
    """Parse an ISO date or time, UTC unless it has a zone; None if the text is blank.

    Raises:
        HarvestError: the text is not a date; the message names `source`.
    """
    if not text.strip():
        return None
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise HarvestError(f"{source} is {text!r}; expected a date such as 2025-01-31.") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
