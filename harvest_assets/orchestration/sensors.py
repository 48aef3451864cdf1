"""The sensor that finds new runs on W&B; the automation conditions do the rest."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg

from harvest_assets.errors import HarvestError, counted
from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.failures import presentable_errors
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import RUN_DIMENSION, runs
from harvest_assets.orchestration.wandb.retrained import resumed_event
from harvest_assets.orchestration.wandb.settings import WatchSettings
from harvest_assets.orchestration.wandb.subprocess_client import WandbSubprocess
from harvest_assets.orchestration.wandb.watch import PollResult, ProjectCursor, ProjectWatch
from harvest_assets.stages import Asset, Stage

# The daemon allows one minute per tick.
SECONDS_FOR_WANDB = 40.0
_MAX_SENTENCES = 30


@dg.sensor(
    description=(
        "Registers finished runs of the W&B projects in HARVEST_WANDB_PROJECTS as partitions. A "
        "tick lists the runs it skipped, with reasons: click on its result."
    ),
    minimum_interval_seconds=WatchSettings.from_environment().seconds,
    default_status=dg.DefaultSensorStatus.RUNNING
    if UnattendedSettings.from_environment().automation
    else dg.DefaultSensorStatus.STOPPED,
    asset_selection=[asset_key(Asset.RUN_CHECKPOINT)],
    tags={"stage": Stage.PREPARE.value},
)
@presentable_errors()
def new_wandb_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Registers finished runs of the W&B projects in `HARVEST_WANDB_PROJECTS` as partitions.

    `HARVEST_WANDB_STATES`, `_TAGS`, `_NAMES` and `_SINCE` select the runs; the first tick takes the
    20 newest of each project. A tick lists the runs it skipped, with reasons; it fails if no
    project could be listed.
    """
    settings = WatchSettings.from_environment()
    if not settings.projects:
        return dg.SensorResult(
            skip_reason="HARVEST_WANDB_PROJECTS names no project: entity/project, comma-separated.",
            cursor=context.cursor,
        )
    known = set(context.instance.get_dynamic_partitions(RUN_DIMENSION))
    cursors = _read_cursor(context.cursor)
    results = []
    with WandbSubprocess(SECONDS_FOR_WANDB) as wandb:
        # Shuffled: a project that uses up all the time must not always be first.
        for project in random.sample(settings.projects, len(settings.projects)):
            cursor = cursors.setdefault(project, ProjectCursor())
            watch = ProjectWatch(project, settings, cursor, known, wandb, datetime.now(UTC))
            results.append(watch.poll())
    _fail_without_progress(results)
    new = [key for result in results for key in result.new]
    for result in results:
        for sentence in result.messages:
            context.log.info(sentence)
    return dg.SensorResult(
        skip_reason=_summary(new, results),
        dynamic_partitions_requests=[runs.build_add_request(new)] if new else [],
        asset_events=[
            resumed_event(key, step) for result in results for key, step in result.resumed.items()
        ],
        cursor=json.dumps({project: asdict(cursor) for project, cursor in cursors.items()}),
    )


def _fail_without_progress(results: Sequence[PollResult]) -> None:
    """Fail the tick, which Dagster shows in red, if no poll achieved anything.

    Raises:
        HarvestError: no project could be listed; the message says why for each.
    """
    failures = [result.failure for result in results if result.failure]
    progress = any(result.n_seen or result.new or result.resumed for result in results)
    if len(failures) == len(results) and not progress:
        raise HarvestError(" ".join(dict.fromkeys(failures)))


def _read_cursor(cursor: str | None) -> dict[str, ProjectCursor]:
    """The cursor of each project."""
    if not cursor:
        return {}
    try:
        cursors = {
            project: ProjectCursor(**fields) for project, fields in json.loads(cursor).items()
        }
        for project_cursor in cursors.values():
            project_cursor.check()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HarvestError(
            f"The sensor's cursor is damaged; reset it on the sensor's page. ({error})"
        ) from error
    return cursors


def _summary(new: list[str], results: Iterable[PollResult]) -> str:
    """The text that the UI shows for a tick."""
    sentences = [sentence for result in results for sentence in result.messages]
    if new:
        sentences.insert(0, f"Registered {counted(len(new), 'run')}: {', '.join(new)}.")
    more = len(sentences) - _MAX_SENTENCES
    if more > 0:
        sentences[_MAX_SENTENCES:] = [f"And {more} more; the log of the tick has them."]
    return "\n".join(sentences) or "No new runs."
