"""Where the assets' values are stored under `SPD_OUT_DIR`; `files/commit.py` moves them there."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets.decompositions.registry import open_registered
from harvest_assets.errors import HarvestError
from harvest_assets.files.commit import publish_files
from harvest_assets.orchestration.asset_metadata import top_components
from harvest_assets.orchestration.failures import bad_input_is_final
from harvest_assets.orchestration.partitions import registration, run_of
from harvest_assets.orchestration.slurm.requeue import requeued_when_interrupted
from harvest_assets.stages import Asset
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration, check_owner, require_named_here
from harvest_assets.store.shards import ShardResults, commit_shard
from harvest_assets.store.shared_rows import SharedTokenRows


def _readable(asset: Asset, owner: Registration) -> tuple[Path, Callable[[Path], Any]]:
    """The file that an upstream asset leaves, and what opens it."""
    paths = owner.layout
    checkpoint = partial(open_registered, reference=owner.reference)
    readable: dict[Asset, tuple[Path, Callable[[Path], Any]]] = {
        Asset.RUN_CHECKPOINT: (paths.run_checkpoint, checkpoint),
        Asset.HARVEST_PLAN: (paths.plan, HarvestPlan.open),
        Asset.TOKEN_ROWS: (paths.token_rows, SharedTokenRows.open),
    }
    return readable[asset]


class HarvestIOManager(dg.IOManager):
    """Keeps the values of all assets under `SPD_OUT_DIR/harvest/<run_id>/`."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a value beside its place, then move it there."""
        with requeued_when_interrupted(), bad_input_is_final():
            started = time.monotonic()
            owner = registration(context.partition_key)
            check_owner(owner)
            if context.asset_key.path[-1] == Asset.HARVEST_SHARD:
                written = commit_shard(owner.layout, obj)
            else:
                written = publish_files(owner.layout, obj)
            seconds = round(time.monotonic() - started, 2)
            metadata = {"bytes": written, "seconds writing": seconds}
            if context.asset_key.path[-1] == Asset.ACTIVATION_CONTEXTS:
                metadata |= top_components(owner)
            context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> Any:
        """Open an upstream asset's value; the merge opens shards itself, according to its plan."""
        asset = Asset(context.asset_key.path[-1])
        run = run_of(context.asset_partition_keys[0])
        with bad_input_is_final():
            owner = registration(run)
            paths = owner.layout
            if asset is Asset.HARVEST_SHARD:
                return ShardResults(paths)
            if asset is Asset.RUN_CHECKPOINT:
                require_named_here(owner.key)
            file, open_value = _readable(asset, owner)
            if not file.exists():
                raise HarvestError(
                    f"{asset} of {run} does not exist yet: dagster asset materialize --select "
                    f"{asset} --partition {run} -m harvest_assets.definitions"
                )
            return open_value(paths.root)
