"""How long the unattended parts take with many runs.

`python -m harvest_assets_tests.orchestration.scale [RUNS]` makes an instance with so many runs, all
but ten of them harvested in sixteen shards, and measures a tick of the conditions, the decision
what is unharvested, a tick of the sensor with what it asks W&B, and the partition grid of the UI.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from harvest_assets.definitions import defs
from harvest_assets.orchestration.conditions import harvest_automation
from harvest_assets.orchestration.harvests import unharvested
from harvest_assets.orchestration.instance import open_instance
from harvest_assets.orchestration.partitions import RUN_DIMENSION, shard_partition
from harvest_assets.orchestration.sensors import new_wandb_runs
from harvest_assets.stages import Stage
from harvest_assets.store.shards import SHARD_KEYS
from harvest_assets_tests.dagster_dev import dagster_dev, graphql
from harvest_assets_tests.loopback_wandb import LoopbackWandb

if TYPE_CHECKING:
    from playwright.sync_api import Page

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
N_OPEN = 10

GRID = """
query Grid($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeysByDimension { name partitionKeys }
  assetPartitionStatuses { ... on MultiPartitionStatuses {
    primaryDimensionName
    ranges { primaryDimStartKey primaryDimEndKey secondaryDim { ... on DefaultPartitionStatuses
      { materializedPartitions failedPartitions materializingPartitions } } }
} } } } }
"""


def timed(what: str, function: Callable[[], T]) -> T:
    started = time.perf_counter()
    answer = function()
    print(f"{what:60}{time.perf_counter() - started:8.2f} s", flush=True)
    return answer


def fill(instance: dg.DagsterInstance, keys: list[str], n_open: int) -> None:
    instance.add_dynamic_partitions(RUN_DIMENSION, keys)
    for key in keys[: len(keys) - n_open]:
        parts = [(asset.value, key) for asset in (*Stage.PREPARE.assets, *Stage.MERGE.assets)]
        parts += [("harvest_shard", shard_partition(key, name)) for name in SHARD_KEYS]
        for asset, partition in parts:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))


@dataclass(frozen=True)
class Found:
    """What the parts found: runs that the conditions ask for, the keys that are unharvested, and
    questions to W&B, of each tick."""

    asked_for: list[int]
    open: list[set[str]]
    questions: list[int]


def measure(n_runs: int, folder: Path, server: LoopbackWandb) -> Found:
    os.environ.update(
        server.environment,
        HOME=str(folder),
        SPD_OUT_DIR=str(folder / "out"),
        HARVEST_WANDB_PROJECTS="ent/proj",
        HARVEST_WANDB_SINCE="2000-01-01",
    )
    os.environ.pop("DAGSTER_HOME", None)
    keys = [f"ent/proj/s-{n:08d}" for n in range(n_runs)]
    for n, key in enumerate(keys):
        created = datetime.now(UTC) - timedelta(hours=2 * (n_runs - n))
        times = {"created_at": created.isoformat(), "heartbeat_at": created.isoformat()}
        server.add_run(key, {}, **times)
    graph = defs.resolve_asset_graph()
    found = Found([], [], [])
    with open_instance() as instance:
        timed(f"filling an instance with {n_runs} runs", lambda: fill(instance, keys, N_OPEN))
        cursor = None
        repository = defs.get_repository_def()
        for which in ("first", "next"):
            with dg.build_sensor_context(
                instance, cursor=cursor, repository_def=repository
            ) as context:
                asked_for = timed(
                    f"{which} tick of the conditions",
                    lambda context=context: harvest_automation.evaluate_tick(context),
                )
            cursor = asked_for.cursor
            found.asked_for.append(len(asked_for.run_requests))
        for which in ("first", "next"):
            open_ = timed(f"{which} look what is unharvested", lambda: unharvested(instance, graph))
            found.open.append(set(open_))
        place = None
        for which in ("first", "next"):
            asked = len(server.operations)
            with dg.build_sensor_context(instance, cursor=place) as context:
                answer = timed(
                    f"{which} tick of the sensor", lambda context=context: new_wandb_runs(context)
                )
            place = answer.cursor
            found.questions.append(len(server.operations) - asked)
    return found


def measure_grid(folder: Path) -> None:
    with dagster_dev(dict(os.environ), folder) as address:
        variables = {"key": {"path": ["harvest_shard"]}}
        for which in ("first", "next"):
            grid = timed(f"{which} partition grid", lambda: graphql(address, GRID, variables))
            assert grid["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
        if CHROMIUM:
            measure_page(f"{address}/assets/harvest_shard?view=partitions")


def measure_page(address: str) -> None:
    """How long people wait for the grid in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page()
        page.set_default_timeout(120_000)
        for which in ("first", "next"):
            timed(f"{which} page of the grid in Chromium", lambda: _shown(page, address))
        chromium.close()


def _shown(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text("Materialized (").first.wait_for()


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as scratch, LoopbackWandb() as loopback:
        print(measure(number, Path(scratch), loopback))
        measure_grid(Path(scratch))
