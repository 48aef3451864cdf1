"""The seconds that a harvest takes, stage by stage, estimated before it starts.

What depends on the run is measured by the dry run: opening it, tokenizing, the model. The rest was
measured on two quiet cores of an AMD EPYC and is scaled by the speed of this machine as it is now;
`docs/performance.md` compares estimates with what harvests took.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.resource_estimate import ResourceEstimate, estimate_resources
from harvest_assets.store.shared_rows import SharedTokenRows

_LOOPS = 2_000_000
_LOOP_SECONDS = 0.166
# Importing Dagster in the command and in its worker, opening the instance.
_START_SECONDS = 3.5
# Importing PyTorch and its libraries, and Dagster's own work around three steps.
_PREPARE_SECONDS = 2.5
_SHARD_SECONDS = 1.0
# Eleven steps and checks of Dagster, and the end of the command.
_MERGE_SECONDS = 4.5
_RESULT_BYTES_PER_SECOND = 80e6
_STATE_BYTES_PER_SECOND = 170e6
# Of the estimate, where nothing else uses the machine.
_LOW, _HIGH = 0.7, 1.6


@dataclass(frozen=True)
class MeasuredSeconds:
    """What a dry run measures.

    Args:
        preparing: opening the run's files, and tokenizing.
        model: putting the model on its device, and its first rows.
        harvesting: all rows, by the shards side by side.
    """

    preparing: float
    model: float
    harvesting: float


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of each stage.

    Args:
        start: of processes.
        prepare: opening the run, its rows of tokens.
        harvest: opening the model, and all rows.
        merge: the sum of the shards, the results, their checks.
        crowding: factor by which other work on this machine may slow all stages but the harvest,
            whose speed was measured under the present load.
    """

    start: float
    prepare: float
    harvest: float
    merge: float
    crowding: float = 1.0

    @property
    def stages(self) -> dict[str, float]:
        """By name, in order."""
        return {
            "start": self.start,
            "prepare": self.prepare,
            "harvest": self.harvest,
            "merge": self.merge,
        }

    @property
    def total(self) -> float:
        """From the command to its end."""
        return sum(self.stages.values())

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest total that are expected."""
        around = self.total - self.harvest
        return _LOW * self.total, _HIGH * (self.harvest + self.crowding * around)


def estimate_time(
    measured: MeasuredSeconds, needs: ResourceEstimate, n_shards: int
) -> TimeEstimate:
    """The seconds that a harvest takes on this machine.

    Args:
        measured: what depends on the run.
        needs: what the harvest writes.
        n_shards: that share the work; several have processes of their own.
    """
    slowness = slowness_of_machine()
    shards = _SHARD_SECONDS + (_START_SECONDS + _PREPARE_SECONDS if n_shards > 1 else 0.0)
    return TimeEstimate(
        start=slowness * _START_SECONDS,
        prepare=slowness * _PREPARE_SECONDS + measured.preparing,
        harvest=slowness * shards + measured.model + measured.harvesting,
        merge=merge_seconds(needs, n_shards),
        crowding=max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / slowness),
    )


def merge_seconds(needs: ResourceEstimate, n_shards: int) -> float:
    """Seconds from the last shard to the end of the command."""
    summed = needs.state * n_shards if n_shards > 1 else 0
    quiet = (
        _MERGE_SECONDS + needs.results / _RESULT_BYTES_PER_SECOND + summed / _STATE_BYTES_PER_SECOND
    )
    return slowness_of_machine() * quiet


def merge_seconds_of(paths: HarvestLayout) -> float:
    """As `merge_seconds`, of a harvest that is prepared; 0 while it is not."""
    try:
        plan = HarvestPlan.open(paths.root)
        checkpoint = open_decomposition(paths.root).restricted(plan.layers)
        n_rows = SharedTokenRows.open(paths.root).n_rows
    except HarvestError:
        return 0.0
    return merge_seconds(estimate_resources(plan, checkpoint, n_rows), plan.n_shards)


@lru_cache(maxsize=1)
def slowness_of_machine() -> float:
    """How many times longer than on the machine of the figures Python takes here, now."""
    started = time.perf_counter()
    total = 0
    for number in range(_LOOPS):
        total += number * number
    return (time.perf_counter() - started) / _LOOP_SECONDS
