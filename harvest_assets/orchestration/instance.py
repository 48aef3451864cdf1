"""The Dagster instance that the command, the UI and `dagster asset materialize` share."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from harvest_assets.atomic import atomic_path
from harvest_assets.orchestration.partitions import RUN_DIMENSION

DEFAULT_HOME = "~/.local/share/harvest_assets/dagster"
GPU_POOL = "gpu"

_DAGSTER_YAML = """\
telemetry:
  enabled: false
concurrency:
  pools:
    granularity: op
    default_limit: 1
run_monitoring:
  enabled: true
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
"""


def dagster_home() -> Path:
    """`$DAGSTER_HOME`; where it is not set, a folder of ours with a `dagster.yaml`, made here.

    The environment variable is set for this process and those it starts.
    """
    given = os.environ.get("DAGSTER_HOME")
    if given:
        home = Path(given).expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
    else:
        home = Path(DEFAULT_HOME).expanduser().absolute()
        settings = home / "dagster.yaml"
        if not settings.exists():
            with atomic_path(settings) as temporary:
                temporary.write_text(_DAGSTER_YAML, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def open_instance() -> dg.DagsterInstance:
    """The instance in `dagster_home`."""
    dagster_home()
    return dg.DagsterInstance.get()


def add_run(instance: dg.DagsterInstance, key: str) -> None:
    """Add a run as a partition."""
    if not instance.has_dynamic_partition(RUN_DIMENSION, key):
        instance.add_dynamic_partitions(RUN_DIMENSION, [key])


def shards_at_once() -> int:
    """Shards that this machine works on side by side: one for each GPU, else one for each core."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def make_room_for_shards(instance: dg.DagsterInstance) -> None:
    """Give the pool of the shards a limit that suits this machine, unless somebody set one."""
    if GPU_POOL not in instance.event_log_storage.get_concurrency_keys():
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, shards_at_once())
