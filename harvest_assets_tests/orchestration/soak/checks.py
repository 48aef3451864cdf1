"""What must be true at the end of a soak; each problem is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import torch

from harvest_assets.definitions import defs
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import is_held
from harvest_assets.files.manifest import disagreements
from harvest_assets.orchestration.harvests import HarvestStatus, harvests_of
from harvest_assets.orchestration.partitions import registration
from harvest_assets.stages import Asset, Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS

GRAPH = defs.resolve_asset_graph()
RUN_ASSETS = (*Stage.PREPARE.assets, *Stage.MERGE.assets)
_OF_THE_RUN = ("wandb_path", "plan")


def statuses() -> dict[str, HarvestStatus]:
    """The status of each registered harvest."""
    with dg.DagsterInstance.get() as instance:
        return {it.key: it.status for it in harvests_of(instance, GRAPH)}


def times_made(instance: dg.DagsterInstance, asset: str) -> Counter[str]:
    """How often each partition of an asset was materialized."""
    made = makers(instance, asset).items()
    return Counter({partition: len(run_ids) for partition, run_ids in made})


def makers(instance: dg.DagsterInstance, asset: str) -> dict[str, list[str]]:
    """The Dagster runs that materialized each partition of an asset."""
    found: dict[str, list[str]] = defaultdict(list)
    cursor = None
    while True:
        answer = instance.fetch_materializations(dg.AssetKey(asset), limit=1000, cursor=cursor)
        for record in answer.records:
            found[str(record.asset_materialization.partition)].append(record.run_id)
        cursor = answer.cursor
        if not answer.has_more:
            return found


def of_records(sound: set[str], broken: set[str], struck: set[str]) -> Iterator[str]:
    """What Dagster recorded: everything once, and no failure that is not explained.

    Args:
        sound: keys of the runs that can be harvested.
        broken: keys of those that cannot.
        struck: Dagster runs whose processes were killed.
    """
    found = statuses()
    for key in sorted(found.keys() ^ (sound | broken)):
        yield f"{key} is {'registered' if key in found else 'not registered'}"
    for key in sorted(found.keys() & (sound | broken)):
        expected = HarvestStatus.HARVESTED if key in sound else HarvestStatus.FAILED
        if found[key] != expected:
            yield f"{key} is {found[key].value}"
    with dg.DagsterInstance.get() as instance:
        for asset in RUN_ASSETS:
            made = makers(instance, asset.value)
            for key in sorted(sound):
                yield from _unless_once(f"{asset.value} of {key}", made[key], struck)
        made = makers(instance, Asset.HARVEST_SHARD.value)
        for key in sorted(sound & found.keys()):
            yield from _of_shards(key, made, struck)
        yield from _of_failures(instance, broken, struck)


def _of_shards(key: str, made: dict[str, list[str]], struck: set[str]) -> Iterator[str]:
    """A shard beyond the plan is only reported, again if the process that planned was killed."""
    n_shards = HarvestPlan.open(registration(key).layout.root).n_shards
    for n, shard in enumerate(SHARD_KEYS):
        makers_of_it = made[f"{key}|{shard}"]
        if n >= n_shards:
            makers_of_it = makers_of_it[:1]
        yield from _unless_once(f"shard {shard} of {key}", makers_of_it, struck)


def _unless_once(what: str, run_ids: list[str], struck: set[str]) -> Iterator[str]:
    """A process may die after it recorded its result and before it recorded its success.

    The next attempt then finds the result and records it again.
    """
    if not run_ids or len([run_id for run_id in run_ids if run_id not in struck]) > 1:
        yield f"{what} was made {len(run_ids)} times"


def _of_failures(instance: dg.DagsterInstance, broken: set[str], struck: set[str]) -> Iterator[str]:
    for run in instance.get_runs():
        partition = run.tags.get("dagster/partition", "")
        if not run.is_finished:
            yield f"Dagster run {run.run_id} of {partition} is {run.status.value}"
        elif not run.is_success and partition not in broken and run.run_id not in struck:
            yield f"Dagster run {run.run_id} of {partition} failed without having been killed"


def of_files(key: str, right: Path) -> Iterator[str]:
    """What a harvest wrote: intact, and equal to an uninterrupted harvest of the same files.

    Args:
        key: of the harvest.
        right: folder of the other harvest.
    """
    layout, other = registration(key).layout, HarvestLayout(right)
    yield from (f"{key}: {problem}" for problem in disagreements(layout, deep=True))
    for ours, theirs in zip(layout.five_files, other.five_files, strict=True):
        if _content(ours, layout) != _content(theirs, other):
            yield f"{key}: {ours.name} differs from that of an uninterrupted harvest"
    for path in layout.root.rglob("*"):
        if path.suffix == ".tmp" or (path.parent.name == "leases" and is_held(path)):
            yield f"{key}: {path} is left"


def _content(file: Path, layout: HarvestLayout) -> object:
    """Bytes; of tensors, what they hold; of the configuration, without what names the run."""
    if file.suffix == ".pt":
        held = torch.load(file, weights_only=True)
        return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in held.items()}
    text = file.read_text(encoding="utf-8")
    if file == layout.config:
        fields = json.loads(text)
        assert fields["plan"] == HarvestPlan.open(layout.root).digest
        for name in _OF_THE_RUN:
            text = text.replace(json.dumps(fields[name]), name)
    return text


def harvest_by_command(key: str, n_shards: int, environment: dict[str, str], out: Path) -> Path:
    """The folder of the same harvest, made by one command in another `SPD_OUT_DIR`."""
    command = [sys.executable, "-m", "harvest_assets", key, "--n_shards", str(n_shards)]
    done = subprocess.run(
        command,
        env={**environment, "SPD_OUT_DIR": str(out), "DAGSTER_HOME": str(out / "dagster")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / "harvest" / key.rpartition("/")[2]


def of_processes(out: Path) -> Iterator[str]:
    """Processes of this deployment that are left running."""
    own = psutil.Process()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process != own and process.environ().get("SPD_OUT_DIR") == str(out):
                yield f"process {process.pid} is left running: {' '.join(process.cmdline())[:200]}"


def of_leftovers(out: Path) -> Iterator[str]:
    """Temporary files outside the harvests' own folders."""
    for folder in ("runs", "data", "registered"):
        yield from (f"{path} is left" for path in (out / folder).rglob("*.tmp"))
