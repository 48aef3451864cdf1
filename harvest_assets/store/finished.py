"""Whether a harvest is complete, decided from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import is_held
from harvest_assets.files.manifest import is_intact
from harvest_assets.settings import StorageSettings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.planning import make_plan, settings_over_stored
from harvest_assets.store.registry import Registration, require_named_here
from harvest_assets.store.shards import SHARD_KEYS, Work, has_saved_states
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.wandb_client.module_path import is_module
from harvest_assets.wandb_client.run_files import fetch_run


def is_finished(registration: Registration, settings: Mapping[str, Any], step: int | None) -> bool:
    """Whether harvesting a run again would change nothing.

    The checkpoint, the data and the plan are the ones harvested, the results are intact, the shards
    are compacted, and no process works on the harvest. In doubt the answer is no.

    Args:
        registration: the run and its folder.
        settings: of `HarvestSettings`; what is omitted is as in the stored plan.
        step: of the checkpoint; None is the newest.
    """
    paths = registration.layout
    try:
        stored, wanted = settings_over_stored(paths, settings)
        checkpoint = open_decomposition(paths.root)
        return (
            stored is not None
            and not is_held(paths.harvest_lease)
            and not is_held(paths.merge_lease)
            and _is_newest(checkpoint, registration, step)
            and make_plan(checkpoint, wanted) == stored
            and is_intact(paths, stored.digest)
            and _is_compacted(paths, stored)
            and _has_rows_of(checkpoint, paths, stored)
            and paths.tokenizer.is_dir()
        )
    except (HarvestError, OSError):
        return False


def _is_newest(checkpoint: Decomposition, registration: Registration, step: int | None) -> bool:
    """Whether the checkpoint is the one that would be harvested."""
    if step not in (None, checkpoint.step) or not is_module(Path(checkpoint.checkpoint_path)):
        return False
    require_named_here(registration.key)
    return checkpoint.is_of(fetch_run(registration.reference, step))


def _is_compacted(paths: HarvestLayout, plan: HarvestPlan) -> bool:
    """Whether exactly the states are stored that are to be kept after a merge."""
    keep = StorageSettings.from_environment().keep
    has_shards = any(paths.shard_current(name).exists() for name in SHARD_KEYS)
    if keep == "none":
        # No state says of which rows the results are: they must be newer than the rows.
        newer = paths.manifest.stat().st_mtime_ns > paths.token_rows.stat().st_mtime_ns
        return newer and not has_saved_states(paths)
    work = Work.of(paths, plan)
    merged = work.merged
    is_whole = merged is not None and merged.rows == range(work.n_rows) and merged.is_whole()
    return is_whole and (keep == "all" or not has_shards)


def _has_rows_of(checkpoint: Decomposition, paths: HarvestLayout, plan: HarvestPlan) -> bool:
    spec = checkpoint.data_spec(plan.context_length)
    return SharedTokenRows.open(paths.root).are_of(spec, plan.n_rows_wanted)
