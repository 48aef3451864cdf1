"""Runs whose training went on after they had been harvested, recorded as asset observations.

The sensor observes that there is a newer checkpoint; the next materialization of `run_checkpoint`
takes that one, even if an older one is in the run cache.
"""

from __future__ import annotations

import dagster as dg

from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.stages import Asset
from harvest_assets.store.harvest_name import run_of_key

_STEP = "newer checkpoint"
_ASSET = asset_key(Asset.RUN_CHECKPOINT)


def resumed_event(key: str, step: int) -> dg.AssetObservation:
    """The observation that the run of a harvest has a newer checkpoint than the one harvested."""
    return dg.AssetObservation(
        _ASSET,
        partition=key,
        metadata={_STEP: step},
        description=(
            f"The run was trained further, to step {step}; materialize run_checkpoint and its "
            "downstream assets to harvest it."
        ),
    )


def resumed_runs(instance: dg.DagsterInstance) -> set[str]:
    """The harvests whose run had a newer checkpoint observed since they last opened it.

    What is observed of a run's first harvest holds for its further ones too.
    """
    seen, opened = (
        instance.get_latest_storage_id_by_partition(_ASSET, kind)
        for kind in (
            dg.DagsterEventType.ASSET_OBSERVATION,
            dg.DagsterEventType.ASSET_MATERIALIZATION,
        )
    )
    return {
        key
        for key, number in opened.items()
        if max(seen.get(it, 0) for it in (key, run_of_key(key))) > number
    }


def newer_step(instance: dg.DagsterInstance, key: str) -> int | None:
    """The step of a newer checkpoint of a harvest's run, if one was observed since it opened it."""
    if key not in resumed_runs(instance):
        return None
    of_either = dg.AssetRecordsFilter(_ASSET, asset_partitions=[key, run_of_key(key)])
    for record in instance.fetch_observations(of_either, limit=1).records:
        event = record.asset_observation
        if event is not None and _STEP in event.metadata:
            return int(str(event.metadata[_STEP].value))
    return None
