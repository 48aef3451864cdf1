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
from harvest_assets.orchestration.wandb.watch import Look, Place, ProjectWatch
from harvest_assets.stages import Asset, Stage

# The daemon gives a tick a minute.
SECONDS_FOR_A_LOOK = 40.0
_MAX_SENTENCES = 30


@dg.sensor(
    description=(
        "Registers finished runs of the W&B projects in HARVEST_WANDB_PROJECTS as partitions. A "
        "tick lists the runs it left out, with reasons: click on its result."
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

    `HARVEST_WANDB_STATES`, `_TAGS`, `_NAMES` and `_SINCE` say which runs; the first tick takes the
    20 newest of each project. A tick lists the runs it left out, with reasons; it fails if no
    project could be listed.
    """
    settings = WatchSettings.from_environment()
    if not settings.projects:
        return dg.SensorResult(
            skip_reason="HARVEST_WANDB_PROJECTS names no project: entity/project, comma-separated.",
            cursor=context.cursor,
        )
    known = set(context.instance.get_dynamic_partitions(RUN_DIMENSION))
    places = _read_cursor(context.cursor)
    looks = []
    with WandbSubprocess(SECONDS_FOR_A_LOOK) as wandb:
        # Shuffled: a project that takes all the time must not be first each time.
        for project in random.sample(settings.projects, len(settings.projects)):
            place = places.setdefault(project, Place())
            watch = ProjectWatch(project, settings, place, known, wandb, datetime.now(UTC))
            looks.append(watch.look())
    _fail_without_progress(looks)
    new = [key for look in looks for key in look.new]
    for look in looks:
        for sentence in look.told:
            context.log.info(sentence)
    return dg.SensorResult(
        skip_reason=_summary(new, looks),
        dynamic_partitions_requests=[runs.build_add_request(new)] if new else [],
        asset_events=[
            resumed_event(key, step) for look in looks for key, step in look.resumed.items()
        ],
        cursor=json.dumps({project: asdict(place) for project, place in places.items()}),
    )


def _fail_without_progress(looks: Sequence[Look]) -> None:
    """Fail the tick if no look came to anything: Dagster shows that in red.

    Raises:
        HarvestError: no project could be listed; the message says why for each.
    """
    failures = [look.failure for look in looks if look.failure]
    progress = any(look.n_seen or look.new or look.resumed for look in looks)
    if len(failures) == len(looks) and not progress:
        raise HarvestError(" ".join(dict.fromkeys(failures)))


def _read_cursor(cursor: str | None) -> dict[str, Place]:
    """How far each project has come."""
    if not cursor:
        return {}
    try:
        places = {project: Place(**it) for project, it in json.loads(cursor).items()}
        for place in places.values():
            place.check()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HarvestError(
            f"The sensor's cursor is damaged; reset it on the sensor's page. ({error})"
        ) from error
    return places


def _summary(new: list[str], looks: Iterable[Look]) -> str:
    """What the UI shows of a tick."""
    sentences = [sentence for look in looks for sentence in look.told]
    if new:
        sentences.insert(0, f"Registered {counted(len(new), 'run')}: {', '.join(new)}.")
    more = len(sentences) - _MAX_SENTENCES
    if more > 0:
        sentences[_MAX_SENTENCES:] = [f"And {more} more; the log of the tick has them."]
    return "\n".join(sentences) or "No new runs."
