"""All finished runs of a W&B project, to register more than the newest ones."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.orchestration.wandb.inspection import HARVESTABLE, inspect_run
from harvest_assets.orchestration.wandb.settings import WatchSettings, check_project, parse_since
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets.wandb_client.runs import list_runs, runs_filter

_PER_PAGE = 500


def harvestable_runs(
    instance: dg.DagsterInstance, project: str, since: str
) -> Iterator[tuple[str, str | None]]:
    """The runs of a project that are not partitions yet, oldest first.

    States, tags and names are filtered by the settings that the sensor uses.

    Args:
        instance: holds the partitions.
        project: `entity/project`.
        since: a date, or empty.

    Yields:
        The key of a run, and the reason it cannot be harvested, or None if it can.

    Raises:
        HarvestError: W&B does not answer, the project does not exist, or `since` is not a date.
    """
    project = check_project(project)
    wanted = WatchSettings.from_environment()
    if created := parse_since(since, "--since"):
        wanted = wanted.model_copy(update={"since": created})
    created_from = wanted.since.isoformat() if wanted.since else None
    known = set(instance.get_dynamic_partitions(RUN_DIMENSION))
    filters = runs_filter(wanted.states, created_from)
    _, runs = list_runs(project, filters, "+created_at", _PER_PAGE)
    for run in runs:
        key = f"{project}/{run.run_id}"
        if key in known or not wanted.wants(run):
            continue
        try:
            RunName.from_key(key)
            finding = inspect_run(key)
        except TransientError:
            raise
        except HarvestError as error:
            yield key, str(error)
            continue
        yield key, None if finding.kind == HARVESTABLE else finding.reason
