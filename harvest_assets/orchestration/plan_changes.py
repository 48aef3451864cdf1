"""What the latest plan of a run changed, read from its materialization."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.stages import Asset

CHANGES = "changes"
_MAX_RECORDS = 1000


def plan_changes(
    instance: dg.DagsterInstance, keys: Sequence[str], since: float | None = None
) -> dict[str, str]:
    """What the latest plans changed and what is harvested again, by run.

    Args:
        instance: where materializations are recorded.
        keys: the runs.
        since: only plans made after this time, in seconds since 1970.
    """
    made = dg.AssetRecordsFilter(
        asset_key(Asset.HARVEST_PLAN), asset_partitions=keys, after_timestamp=since
    )
    latest: dict[str, str] = {}
    for record in instance.fetch_materializations(made, limit=_MAX_RECORDS).records:
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            changes = event.metadata.get(CHANGES)
            latest.setdefault(event.partition, str(changes.value) if changes is not None else "")
    return {run: change for run, change in latest.items() if change}
