"""What one harvest is and how far it is, from its files alone."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout, harvest_folders, has_files
from harvest_assets.files.lease import is_held
from harvest_assets.files.manifest import read
from harvest_assets.files.sanitize import presentable
from harvest_assets.files.untrusted import read_json
from harvest_assets.store.harvest_name import run_of_key
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import owner_of
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, Work

_BLOCK_BYTES = 512  # unit of `st_blocks`, whatever the file system's own is
_NO_PLAN = "{} has no plan yet: it is being prepared, or what began it has ended."


class Condition(StrEnum):
    """The condition of a harvest."""

    HARVESTED = "harvested"
    IN_PROGRESS = "in progress"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class SavedRows:
    """Rows of a share that are saved.

    Args:
        name: `00` to `15`, or `merged`.
        rows: rows saved.
        rows_wanted: rows of the share.
    """

    name: str
    rows: int
    rows_wanted: int


@dataclass(frozen=True, kw_only=True)
class HarvestSummary:
    """One harvest on disk.

    Args:
        name: the folder below `harvest/`.
        key: `entity/project/run_id`, followed by `@name` for a further harvest of the run; None
            where the files name no run.
        run: the run's part of it.
        condition: of the harvest.
        n_components: of the layers that are harvested; None where not known.
        tokens: positions saved; None where not known.
        tokens_wanted: positions of the whole harvest; None where not known.
        settings: of its plan; empty where there is none.
        shards: what is saved of each share, of a harvest that is not finished.
        n_bytes: that its files take on the disk, holes left out.
        modified: when the newest of its files was written, in UTC.
        path: the folder.
        problem: what is wrong, in a sentence; empty if nothing is.
    """

    name: str
    key: str | None
    run: str | None
    condition: Condition = Condition.UNFINISHED
    n_components: int | None = None
    tokens: int | None = None
    tokens_wanted: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    shards: tuple[SavedRows, ...] = ()
    n_bytes: int
    modified: str
    path: str
    problem: str = ""


def summaries() -> list[HarvestSummary]:
    """All harvests below `harvest/`, by name; a folder without a file is none."""
    return [summarize(HarvestLayout(folder)) for folder in harvest_folders() if has_files(folder)]


def summarize(paths: HarvestLayout) -> HarvestSummary:
    """The harvest in a folder; damaged files are reported in `problem`."""
    n_bytes, modified = _size_and_time(paths.root)
    key = owner_of(paths)
    summary = HarvestSummary(
        name=paths.root.name,
        key=key,
        run=None if key is None else run_of_key(key),
        n_bytes=n_bytes,
        modified=datetime.fromtimestamp(modified, tz=UTC).isoformat(timespec="seconds"),
        path=str(paths.root),
    )
    try:
        summary = replace(summary, **_described(paths))
    except (HarvestError, OSError) as error:
        problem = presentable(str(error))
        summary = replace(summary, condition=Condition.DAMAGED, problem=problem)
    return replace(summary, condition=Condition.IN_PROGRESS) if _is_at_work(paths) else summary


def _described(paths: HarvestLayout) -> dict[str, Any]:
    """The fields that follow from the files which describe a harvest.

    Raises:
        HarvestError: one is damaged.
    """
    missing = [file for file in paths.five_files if not file.exists()]
    if not paths.plan.exists():
        # Results of another program have no plan.
        if missing:
            opened = [paths.run_checkpoint, *paths.five_files]
            is_bare = not (any(file.exists() for file in opened) or _is_at_work(paths))
            return {"problem": _NO_PLAN.format(paths.root)} if is_bare else {}
        n_tokens, n_components = _tokens_of_results(paths), _components_of_results(paths)
        seen = {"tokens": n_tokens, "tokens_wanted": n_tokens, "n_components": n_components}
        return {"condition": Condition.HARVESTED, **seen}
    plan = HarvestPlan.open(paths.root)
    checkpoint = open_decomposition(paths.root).restricted(plan.layers)
    fields = {"settings": plan.flat(), "n_components": checkpoint.n_components}
    if paths.token_rows.exists():
        fields |= _progress(paths, plan)
    of_this_plan = {entry.plan for entry in read(paths).values()} == {plan.digest}
    begun = any(paths.shard_saved(name).exists() for name in SHARD_KEYS)
    if not of_this_plan or missing or begun:
        return fields
    # Results that were received come without rows, and states may have been removed.
    tokens = fields["tokens_wanted"] if "tokens_wanted" in fields else _tokens_of_results(paths)
    done = {"tokens": tokens, "tokens_wanted": tokens, "shards": ()}
    return {**fields, "condition": Condition.HARVESTED, **done}


def _progress(paths: HarvestLayout, plan: HarvestPlan) -> dict[str, Any]:
    """The fields that say how much is saved."""
    work = Work.of(paths, plan)
    stored = ShardResults(paths).saved_so_far(work)
    shares = dict(zip(SHARD_KEYS, work.shares, strict=False))
    if work.merged is not None:
        shares = {"merged": work.merged.rows, **shares}
    shards = tuple(
        SavedRows(name, len(stored[name].rows) if name in stored else 0, len(share))
        for name, share in shares.items()
        if share
    )
    return {
        "shards": shards,
        "tokens": sum(part.rows for part in shards) * plan.context_length,
        "tokens_wanted": work.n_rows * plan.context_length,
    }


def _tokens_of_results(paths: HarvestLayout) -> int | None:
    try:
        n_tokens = read_json(paths.config)["n_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return n_tokens if type(n_tokens) is int else None


def _components_of_results(paths: HarvestLayout) -> int | None:
    """Rows of the index of components; None if there is none, or a damaged one."""
    import pyarrow.parquet as pq

    from harvest_assets.results.parquet import DAMAGED

    try:
        return int(pq.read_metadata(paths.component_index).num_rows)
    except DAMAGED:
        return None


def _is_at_work(paths: HarvestLayout) -> bool:
    """Whether a process or a job holds one of the leases."""
    leases = [paths.harvest_lease, paths.merge_lease, *map(paths.shard_lease, SHARD_KEYS)]
    return any(lease.exists() and is_held(lease) for lease in leases)


def _size_and_time(folder: Path) -> tuple[int, float]:
    """Bytes of the disk that a folder takes, and when the newest file, else it, was written."""
    blocks: dict[int, int] = {}  # by inode: a file may have several names
    newest = 0.0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(root, name))  # noqa: PTH118 - thousands of files
            except FileNotFoundError:  # replaced meanwhile
                continue
            blocks[stat.st_ino] = stat.st_blocks
            newest = max(newest, stat.st_mtime)
    with suppress(FileNotFoundError):
        newest = newest or folder.stat().st_mtime
    return sum(blocks.values()) * _BLOCK_BYTES, newest
