"""Where the assets' values lie under `SPD_OUT_DIR`, and how they get there whole.

A value writes itself into a folder as its part of the harvest's folder looks; the manager moves
what is complete to where readers look. A shard's state is a directory, which no rename can put over
another: every attempt gets a new one, and a small file, replaced atomically, points to it.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import dagster as dg

from harvest_assets.atomic import fsync_path, rename_into_place, write_json
from harvest_assets.decomposition.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.layout import HarvestLayout
from harvest_assets.manifest import record
from harvest_assets.orchestration.failures import bad_input_is_final
from harvest_assets.orchestration.partitions import registration, run_of, shard_of
from harvest_assets.plan import HarvestPlan
from harvest_assets.registry import check_owner
from harvest_assets.shards import ShardResults
from harvest_assets.shared_rows import SharedTokenRows

SHARD_ASSET = "harvest_shard"


def _readable(asset: str, paths: HarvestLayout) -> tuple[Path, Callable[[Path], Any]]:
    """The file that an upstream asset leaves, and what opens it."""
    return {
        "run_checkpoint": (paths.run_checkpoint, RunCheckpoint.open),
        "harvest_plan": (paths.plan, HarvestPlan.open),
        "token_rows": (paths.token_rows, SharedTokenRows.open),
    }[asset]


class Value(Protocol):
    """What an asset produces."""

    def write(self, directory: Path) -> None:
        """Write everything, on the disk when it returns, into a directory that is there."""


class HarvestIOManager(dg.IOManager):
    """Keeps the values of all assets under `SPD_OUT_DIR/harvest/<run_id>/`."""

    def handle_output(self, context: dg.OutputContext, obj: Value) -> None:
        """Write a value where nobody looks, then move it into place."""
        with bad_input_is_final():
            started = time.monotonic()
            owner = registration(context.partition_key)
            check_owner(owner)
            if context.asset_key.path[-1] == SHARD_ASSET:
                shard = shard_of(context.partition_key)
                written = _commit_directory(owner.layout.shard_current(shard), obj)
            else:
                written = _publish_files(owner.layout, obj)
            seconds = round(time.monotonic() - started, 2)
            context.add_output_metadata({"bytes": written, "seconds writing": seconds})

    def load_input(self, context: dg.InputContext) -> Any:
        """Open what an upstream asset left; shards are opened by the merge, by its plan."""
        asset = context.asset_key.path[-1]
        run = run_of(context.asset_partition_keys[0])
        with bad_input_is_final():
            paths = registration(run).layout
            if asset == SHARD_ASSET:
                return ShardResults(paths)
            file, open_value = _readable(asset, paths)
            if not file.exists():
                msg = (
                    f"{asset} of {run} is not there yet: dagster asset materialize --select "
                    f"{asset} --partition {run} -m harvest_assets.definitions"
                )
                raise HarvestError(msg)
            return open_value(paths.root)


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A folder of our own that goes when the block ends."""
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / f".staging-{uuid.uuid4().hex}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _publish_files(paths: HarvestLayout, value: Value) -> int:
    """Replace file by file, each atomically, and write each of the five into the manifest.

    A value that writes one of the five knows the plan that it was merged for. Answers the bytes
    written.
    """
    written = 0
    with _staging(paths.root) as staging:
        value.write(staging)
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            final = paths.root / file.relative_to(staging)
            written += file.stat().st_size
            final.parent.mkdir(parents=True, exist_ok=True)
            rename_into_place(file, final)
            if final in paths.five_files:
                record(paths, final, getattr(value, "plan_digest", ""))
    return written


def _commit_directory(current: Path, value: Value) -> int:
    """Write into a new directory, point to it, and remove what was pointed to before.

    Answers the bytes written.
    """
    place, attempt = current.parent, uuid.uuid4().hex
    directory = place / attempt
    try:
        value.write(directory)
        fsync_path(directory)
        fsync_path(place)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    write_json(current, {"directory": attempt})
    for old in place.iterdir():
        if old.is_dir() and old.name != attempt:
            shutil.rmtree(old, ignore_errors=True)
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
