"""Harvests of several runs, as a command has them made: by the daemon, or by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.manifest import disagreements
from harvest_assets.orchestration.backfills import BackfillStatus, follow, submit
from harvest_assets.orchestration.dagster_private import BaseAssetGraph
from harvest_assets.orchestration.harvests import HarvestStatus, look_at_harvests
from harvest_assets.orchestration.instance import add_run
from harvest_assets.store.registry import Registration

Graph = BaseAssetGraph[Any]


def hand_over(
    registrations: Sequence[Registration],
    instance: dg.DagsterInstance,
    graph: Graph,
    settings: Mapping[str, Any],
    step: int | None,
    *,
    anew: bool,
) -> str:
    """Give the daemon one backfill of these runs.

    With `anew` their plans are made again; else only what is missing is made.

    Returns:
        The id of the backfill.

    Raises:
        HarvestError: one of them is queued or in progress already.
    """
    keys = [owner.key for owner in registrations]
    busy = [
        it.key
        for it in look_at_harvests(instance, graph, keys)
        if it.status == HarvestStatus.UNDER_WAY
    ]
    if busy:
        raise HarvestError(
            f"{', '.join(busy)} is queued or in progress already: harvest-assets ui "
            "shows it, and can end it."
        )
    for key in keys:
        add_run(instance, key)
    title = keys[0] if len(keys) == 1 else f"{len(keys)} runs"
    return submit(
        instance,
        graph,
        keys,
        title=f"Harvest of {title}",
        settings=settings,
        step=step,
        anew=anew,
    )


def wait_for(
    registrations: Sequence[Registration],
    instance: dg.DagsterInstance,
    graph: Graph,
    backfill: str,
    watch: Callable[[BackfillStatus], None],
) -> dict[str, str]:
    """Follow a backfill to its end.

    Returns:
        Why runs are not harvested, by their keys; empty if all are.

    Raises:
        HarvestError: the daemon is gone.
    """
    keys = [owner.key for owner in registrations]
    status = follow(instance, graph, backfill, keys, watch)
    failed = dict(status.failed)
    for owner in registrations:
        problems = disagreements(owner.layout)
        if problems and owner.key not in failed:
            failed[owner.key] = " ".join(problems)
    return failed
