"""Finds sensors whose ticks fail, so that commands can report them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import dagster as dg

from harvest_assets.errors import counted
from harvest_assets.orchestration.dagster_private import (
    InstigatorStatus,
    InstigatorType,
    TickStatus,
)
from harvest_assets.orchestration.run_failures import stored_message

_MAX_TICKS = 500
# An older tick is of a daemon that has ended.
_RECENT_SECONDS = 3600.0


def failing_sensors(instance: dg.DagsterInstance) -> list[str]:
    """One sentence for each sensor that is on and whose last tick failed."""
    sentences = []
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.status == InstigatorStatus.STOPPED:
            continue
        ticks = instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            after=time.time() - _RECENT_SECONDS,
            limit=_MAX_TICKS,
            statuses=[TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.SUCCESS],
        )
        failed = []
        for tick in ticks:  # newest first
            if tick.status != TickStatus.FAILURE:
                break
            failed.append(tick)
        if failed:
            since = datetime.fromtimestamp(failed[-1].timestamp, UTC)
            sentences.append(
                f"The sensor {state.name} has failed at its last {counted(len(failed), 'tick')}, "
                f"since {since:%Y-%m-%d %H:%M} UTC: {stored_message(failed[0].error)}"
            )
    return sentences
