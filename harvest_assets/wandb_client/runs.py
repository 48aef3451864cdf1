"""Which runs a W&B project has, and whether one of them can be harvested."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvest_assets.decompositions.spd.run_config import load_run_config
from harvest_assets.errors import HarvestError, TransientError, reason_of
from harvest_assets.wandb_client.files import (
    check_reachable,
    download_files,
    list_files,
    may_pass,
)
from harvest_assets.wandb_client.listed_run import ListedRun, listed_run
from harvest_assets.wandb_client.run_files import CONFIG, checkpoint_step, choose_checkpoint
from harvest_assets.wandb_client.run_name import RunName

# What a look into a run finds.
HARVESTABLE, UNFINISHED, OTHER = "harvestable", "unfinished", "other"

_SECONDS_TO_ANSWER = 20
_NOT_THERE = "Could not find run"  # as the W&B client says it


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
        How many runs there are, and the runs; also those whose fields are odd.

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
        # The client's own conversion gives up a page for one odd run, and makes folders for runs.
        found.convert_objects = lambda: _nodes(project, found.last_response)
        next(found, None)
        total = (found.last_response or {})["project"].get("runCount")
    except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
        raise _told(project, error) from None

    def runs() -> Iterator[ListedRun]:
        nodes = iter(found)
        while True:
            try:
                node = next(nodes)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
                raise _told(project, error) from None
            yield listed_run(node)

    return total if isinstance(total, int) else 0, runs()


def _nodes(project: str, answer: Any) -> list[Any]:
    """What a page of W&B's answer has in the places of runs."""
    if not answer or not answer.get("project"):
        msg = f"there is no project {project}"
        raise ValueError(msg)
    page = answer["project"].get("runs") or {}
    # The client takes the place of the next page from the last of them.
    page["edges"] = [edge for edge in page.get("edges") or () if isinstance(edge, dict)]
    return [edge.get("node") for edge in page["edges"]]


def look_into(key: str) -> Finding:
    """Can a run on W&B be harvested? Its files are listed and its config is read.

    Args:
        key: `entity/project/run_id`.

    Raises:
        TransientError: W&B cannot be reached, or does not answer now.
        HarvestError: there is no API key, or W&B refuses the run, or its answer is odd.
    """
    try:
        return _look_into(key)
    except HarvestError:
        raise
    except Exception as error:  # noqa: BLE001  the client raises whatever odd fields lead to
        msg = f"W&B's answer about {key} cannot be understood: {reason_of(error)}."
        raise HarvestError(msg) from None


def _look_into(key: str) -> Finding:
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
