"""What a new plan changes, and what has to be harvested again for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.filesize import decimal

from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.settings import ALL_ROWS
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults, Work, has_saved_states


def change_of_plan(
    paths: HarvestLayout, stored: HarvestPlan, plan: HarvestPlan, *, streaming: bool
) -> str:
    """The settings that change, how much is harvested again, and what is removed, in sentences.

    Args:
        paths: of the harvest, before anything is done for the new plan.
        stored: the plan that is replaced.
        plan: the new plan.
        streaming: the dataset is a stream, of which other rows are kept for other `n_batches`.
    """
    changed = changed_settings(stored.model_dump(), plan.model_dump())
    redone = _redone(paths, stored, plan, streaming=streaming)
    return f"The plan changes: {changed}. {redone}{_given_up(paths, plan)}"


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The settings of both that differ, each with its two values; empty if none does."""
    return ", ".join(
        f"{_name(name)} from {_value(name, before[name])} to {_value(name, value)}"
        for name, value in after.items()
        if name in before and before[name] != value
    )


def shares_left(
    paths: HarvestLayout,
    stored: HarvestPlan | None,
    plan: HarvestPlan,
    n_rows: int | None,
    *,
    streaming: bool,
) -> list[int]:
    """The rows of each shard that has some to harvest, before anything is done for a plan.

    Args:
        paths: of the harvest.
        stored: its plan; None if there is none.
        plan: the plan that may replace it.
        n_rows: rows of the dataset; None while that is not known.
        streaming: as for `change_of_plan`.

    Returns:
        Rows by shard. Where earlier work does not count: for each shard of the plan all rows, an
        upper bound, or 0 if their number is not known.
    """
    work = None if stored is None else _work(paths, stored, plan, streaming=streaming)
    if work is None:
        return [n_rows or plan.n_rows_wanted or 0] * plan.n_shards
    if not ShardResults(paths).without_result(plan):
        return []
    return [len(share) for share in work.shares if share]


def _work(
    paths: HarvestLayout, stored: HarvestPlan, plan: HarvestPlan, *, streaming: bool
) -> Work | None:
    """The work of a new plan; None where what was harvested for the stored one does not count."""
    other_rows = streaming and stored.n_rows_wanted != plan.n_rows_wanted
    if other_rows or stored.compatibility_digest("") != plan.compatibility_digest(""):
        return None
    try:
        return Work.of(paths, plan)
    except HarvestError:  # the rows of tokens are gone
        return None


def _redone(
    paths: HarvestLayout, stored: HarvestPlan, plan: HarvestPlan, *, streaming: bool
) -> str:
    if not is_begun(paths):
        return "Nothing has been harvested yet."
    work = _work(paths, stored, plan, streaming=streaming)
    if work is not None and not ShardResults(paths).without_result(plan):
        return "No batch is harvested again; the results are merged again."
    if work is None or work.merged is None:
        return "All batches are harvested again."
    new = -(-(work.n_rows - work.merged.rows.stop) // plan.batch_size)
    total = counted(work.n_rows // plan.batch_size, "batch", "batches")
    verb = "is" if new == 1 else "are"
    return f"Only {new:,} of {total} {verb} harvested; the results are merged again."


def _given_up(paths: HarvestLayout, plan: HarvestPlan) -> str:
    if plan.keep_firings or not paths.firings.exists():
        return ""
    size = decimal(paths.firings.stat().st_size)
    return (
        f" {paths.firings} ({size}) is removed, since no firings are to be kept; give "
        "--keep-firings again to keep it."
    )


def is_begun(paths: HarvestLayout) -> bool:
    """Whether anything has been harvested: merged, finished or saved."""
    return has_saved_states(paths) or paths.manifest.exists()


def _name(setting: str) -> str:
    return "checkpoint" if setting == "checkpoint_sha256" else setting


def _value(setting: str, value: Any) -> str:
    if setting == "n_batches" and value is None:
        return "the whole dataset"
    if setting == "keep_firings" and value in (0, ALL_ROWS):
        return "all rows" if value else "none"
    return str(value)[:8] if setting == "checkpoint_sha256" else str(value)
