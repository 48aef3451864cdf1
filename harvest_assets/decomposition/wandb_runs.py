"""Which runs a W&B project has, and whether one of them can be harvested."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harvest_assets.decomposition.run_config import load_run_config
from harvest_assets.decomposition.run_files import CONFIG, checkpoint_step, choose_checkpoint
from harvest_assets.decomposition.run_name import RunName
from harvest_assets.decomposition.wandb_files import (
    check_reachable,
    download_files,
    list_files,
    may_pass,
)
from harvest_assets.errors import HarvestError, TransientError, reason_of

# What a look into a run finds.
HARVESTABLE, UNFINISHED, OTHER = "harvestable", "unfinished", "other"

_SECONDS_TO_ANSWER = 20
_NOT_THERE = "Could not find run"  # as the W&B client says it


@dataclass(frozen=True)
class ListedRun:
    """A run as a list of runs tells of it.

    Args:
        run_id: last part of its name.
        display_name: what people call it.
        state: `finished`, `running`, `crashed`, ...
        tags: of the run.
        created_at, heartbeat_at: ISO times; the latter is when it was last alive.
    """

    run_id: str
    display_name: str
    state: str
    tags: tuple[str, ...]
    created_at: str
    heartbeat_at: str

    @property
    def created(self) -> datetime:
        """When it was created."""
        return datetime.fromisoformat(self.created_at)

    @property
    def heartbeat(self) -> datetime:
        """When it was last alive."""
        return datetime.fromisoformat(self.heartbeat_at)


@dataclass(frozen=True)
class Finding:
    """What a look into the files of a run found.

    Args:
        kind: `harvestable`; `unfinished`, if files are missing that may still come; or `other`.
        step: of the newest checkpoint.
        reason: why it cannot be harvested, in a sentence.
    """

    kind: str
    step: int | None = None
    reason: str = ""


def list_runs(
    project: str, filters: Mapping[str, Any], order: str, per_page: int
) -> tuple[int, Iterator[ListedRun]]:
    """Runs of a W&B project, page by page as they are iterated.

    Args:
        project: `entity/project`.
        filters: as the W&B client takes them.
        order: as the W&B client takes it, `-heartbeat_at` say.
        per_page: runs of a request.

    Returns:
        How many runs there are, and the runs.

    Raises:
        TransientError: W&B cannot be reached, or does not answer now; also while iterating.
        HarvestError: there is no such project, or no API key.
    """
    import wandb

    try:
        check_reachable(wandb.setup().settings)
        found = wandb.Api(timeout=_SECONDS_TO_ANSWER).runs(
            project, filters=dict(filters), order=order, per_page=per_page, lazy=True
        )
        total = len(found)
    except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
        raise _told(project, error) from None

    def runs() -> Iterator[ListedRun]:
        while True:
            try:
                run = next(found)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
                raise _told(project, error) from None
            created = run.created_at
            yield ListedRun(
                run_id=run.id,
                display_name=run.name,
                state=run.state,
                tags=tuple(run.tags or ()),
                created_at=created,
                heartbeat_at=run.heartbeat_at or created,
            )

    return total, runs()


def look_into(key: str) -> Finding:
    """Can a run on W&B be harvested? Its files are listed and its config is read.

    Args:
        key: `entity/project/run_id`.

    Raises:
        TransientError: W&B cannot be reached, or does not answer now.
        HarvestError: there is no API key, or W&B refuses the run.
    """
    name = RunName.from_key(key)
    try:
        files = list_files(name)
    except HarvestError as error:
        if isinstance(error, TransientError) or _NOT_THERE not in str(error):
            raise
        return Finding(OTHER, reason=f"{key} is not on W&B any more.")
    if not files:
        return Finding(UNFINISHED, reason=f"{key} has no files.")
    if CONFIG not in files:
        return Finding(OTHER, reason=f"{key} is no SPD run: it has no {CONFIG}.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        download_files(name, files, [CONFIG], folder)
        try:
            load_run_config(folder / CONFIG)
        except HarvestError as error:
            return Finding(OTHER, reason=str(error).replace(str(folder), key))
    checkpoint = choose_checkpoint(files)
    if checkpoint is None:
        return Finding(UNFINISHED, reason=f"{key} has no checkpoint.")
    return Finding(HARVESTABLE, step=checkpoint_step(checkpoint))


def runs_filter(
    states: Sequence[str], created_from: str | None = None, created_until: str | None = None
) -> dict[str, Any]:
    """The filter of `list_runs` for runs in these states, created between two ISO times."""
    filters: dict[str, Any] = {"state": {"$in": list(states)}}
    created = {"$gte": created_from, "$lte": created_until}
    if any(created.values()):
        filters["createdAt"] = {sign: time for sign, time in created.items() if time}
    return filters


def _told(project: str, error: Exception) -> HarvestError:
    kind = TransientError if may_pass(error) else HarvestError
    return kind(f"The runs of {project} could not be listed by W&B: {reason_of(error)}.")
