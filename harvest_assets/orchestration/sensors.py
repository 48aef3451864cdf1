"""The sensor that finds new runs on W&B; the automation conditions do the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg

from harvest_assets.decomposition.wandb_aside import WandbAside
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.partitions import RUN_DIMENSION, runs
from harvest_assets.orchestration.resumed import resumed_event
from harvest_assets.orchestration.wandb_settings import (
    WatchSettings,
    automation_from_the_start,
    seconds_between_looks,
)
from harvest_assets.orchestration.wandb_watch import Look, Place, ProjectWatch

# The daemon gives a tick a minute.
SECONDS_FOR_A_LOOK = 40.0
_MOST_SENTENCES = 30


@dg.sensor(
    description=(
        "Registers finished runs of the W&B projects in HARVEST_WANDB_PROJECTS as partitions. A "
        "tick tells which runs it left out, and why: click on its result."
    ),
    minimum_interval_seconds=seconds_between_looks(),
    default_status=dg.DefaultSensorStatus.RUNNING
    if automation_from_the_start()
    else dg.DefaultSensorStatus.STOPPED,
    asset_selection=["run_checkpoint"],
    tags={"stage": "prepare"},
)
def new_wandb_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Registers finished runs of the W&B projects in `HARVEST_WANDB_PROJECTS` as partitions.

    `HARVEST_WANDB_STATES`, `_TAGS`, `_NAMES` and `_SINCE` say which runs; the first tick takes the
    20 newest of each project. A tick tells which runs it left out, and why.
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
    with WandbAside(SECONDS_FOR_A_LOOK) as asked:
        # Who came to nothing because time was up is first the next time.
        for project in sorted(settings.projects, key=places.turn):
            place = places.of(project)
            watch = ProjectWatch(project, settings, place, known, asked, datetime.now(UTC))
            looks.append(watch.look())
            places.had_its_turn(project)
    new = [key for look in looks for key in look.new]
    for look in looks:
        for sentence in look.told:
            context.log.info(sentence)
    return dg.SensorResult(
        skip_reason=_told(new, looks),
        dynamic_partitions_requests=[runs.build_add_request(new)] if new else [],
        asset_events=[
            resumed_event(key, step) for look in looks for key, step in look.resumed.items()
        ],
        cursor=places.cursor(),
    )


class _Places:
    """The sensor's cursor: the place of each project, in the order of their last turns."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places

    def of(self, project: str) -> Place:
        return self._places.setdefault(project, Place())

    def turn(self, project: str) -> int:
        return list(self._places).index(project) if project in self._places else -1

    def had_its_turn(self, project: str) -> None:
        self._places[project] = self._places.pop(project)

    def cursor(self) -> str:
        return json.dumps({project: asdict(place) for project, place in self._places.items()})


def _read_cursor(cursor: str | None) -> _Places:
    if not cursor:
        return _Places({})
    try:
        return _Places({project: Place(**it) for project, it in json.loads(cursor).items()})
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"The sensor's cursor is damaged; reset it on the sensor's page. ({error})"
        raise HarvestError(msg) from error


def _told(new: list[str], looks: Iterable[Look]) -> str:
    """What a tick says in the UI."""
    sentences = [sentence for look in looks for sentence in look.told]
    if new:
        sentences.insert(0, f"Registered {len(new)} run{'s' * (len(new) > 1)}: {', '.join(new)}.")
    more = len(sentences) - _MOST_SENTENCES
    if more > 0:
        sentences[_MOST_SENTENCES:] = [f"And {more} more; the log of the tick has them."]
    return "\n".join(sentences) or "No new runs."
