"""The Dagster instance that the command, the UI and `dagster asset materialize` share."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import atomic_path, remove
from harvest_assets.files.filesystems import network_filesystem
from harvest_assets.files.layout import registration_path
from harvest_assets.files.lease import hold_lease, is_held
from harvest_assets.files.sanitize import presentable
from harvest_assets.orchestration.dagster_private import (
    InstigatorStatus,
    InstigatorType,
    TickStatus,
)
from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.orchestration.slurm.settings import slurm_is_here
from harvest_assets.store.registry import Registration, registration_of, release_folder
from harvest_assets.system.gpus import shards_at_once

DEFAULT_HOME = "~/.local/share/harvest_assets/dagster"
GPU_POOL = "gpu"
_MAX_TICK_SECONDS = 600.0

_TELEMETRY_OFF = """\
telemetry:
  enabled: false
"""
# A killed process does not release its place in a pool.
_FREE_PLACES = """\
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 30
"""
# A run that the code server could not be asked to start goes back to the queue.
_QUEUE = """\
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    max_user_code_failure_retries: 20
    user_code_failure_retry_delay: 30
"""
# A run may wait in the cluster's queue for days before it starts; no code server is asked.
_CLUSTER = """\
  start_timeout_seconds: 31536000
  cancel_timeout_seconds: 600
run_launcher:
  module: harvest_assets.orchestration.slurm.launcher
  class: SlurmRunLauncher
run_coordinator:
  module: harvest_assets.orchestration.slurm.launcher
  class: SlurmRunCoordinator
  config:
    max_concurrent_runs: 100
"""


def _dagster_yaml(how_runs_start: str) -> str:
    return f"""\
{_TELEMETRY_OFF}concurrency:
  pools:
    granularity: op
    default_limit: 1
run_monitoring:
  enabled: true
{how_runs_start}run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
"""


_DAGSTER_YAML = _dagster_yaml(_FREE_PLACES + _QUEUE)
_CLUSTER_YAML = _dagster_yaml(_FREE_PLACES + _CLUSTER)
_CLUSTER_0_1 = _CLUSTER.replace("31536000", "0")  # which Dagster reports as an error at each look
_RENEWED = {_dagster_yaml(""): _DAGSTER_YAML, _dagster_yaml(_CLUSTER_0_1): _CLUSTER_YAML}


def dagster_home() -> Path:
    """`$DAGSTER_HOME`; if unset, a default folder, created here with a `dagster.yaml`.

    There an unmodified file written by an older version is replaced; an edited one is kept. A given
    folder without a `dagster.yaml` gets one that turns telemetry off, and nothing else. The
    environment variable is set for this process and those it starts.
    """
    given = os.environ.get("DAGSTER_HOME")
    if given:
        home = Path(given).expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
        # Where there is no file, `dagster` commands typed by hand would turn telemetry on.
        with suppress(OSError), (home / "dagster.yaml").open("x", encoding="utf-8") as settings:
            settings.write(_TELEMETRY_OFF)
    else:
        home = Path(DEFAULT_HOME).expanduser().absolute()
        if not (home / "dagster.yaml").exists():
            _write(home / "dagster.yaml", _CLUSTER_YAML if slurm_is_here() else _DAGSTER_YAML)
        else:
            _renew(home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _write(settings: Path, text: str) -> None:
    with atomic_path(settings) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _renew(settings: Path) -> None:
    """Replace a file as an older version of this program wrote it, if it can be replaced."""
    with suppress(OSError, UnicodeError):
        renewed = _RENEWED.get(settings.read_text(encoding="utf-8"))
        if renewed is not None:
            _write(settings.resolve(), renewed)


def open_instance() -> dg.DagsterInstance:
    """The instance in `dagster_home`; warns on stderr where its databases may be damaged."""
    home = dagster_home()
    instance = dg.DagsterInstance.get()
    warning = database_warning(home, type(instance.run_storage).__name__)
    if warning:
        click.echo(f"Warning: {presentable(warning)}", err=True)
    return instance


@contextmanager
def only_daemon_of(instance: dg.DagsterInstance, url: str) -> Iterator[None]:
    """While the block runs, no other `harvest-assets ui` starts a daemon on the instance.

    Args:
        instance: of the daemon.
        url: where its pages will be, for the message that the other gives.

    Raises:
        HarvestError: another runs already.
    """
    home = Path(instance.root_directory)
    lease, page = home / "leases/ui.json", home / "leases/ui.url"
    if is_held(lease) and page.exists():
        raise HarvestError(
            f"harvest-assets ui runs on the Dagster instance in {home} already, at "
            f"{presentable(page.read_text(encoding='utf-8'))}; a second daemon would disturb it. "
            "Open that page, or set DAGSTER_HOME to another folder."
        )
    with hold_lease(lease, f"The Dagster instance in {home}"):
        page.write_text(url, encoding="utf-8")
        yield


def database_warning(home: Path, storage: str) -> str | None:
    """Why an instance's databases may be damaged; None if they are safe.

    Args:
        home: of the instance.
        storage: name of the class that keeps its runs.
    """
    kind = network_filesystem(home)
    if kind is None or "sqlite" not in storage.lower():
        return None
    return (
        f"{home} is on {kind}, and Dagster keeps SQLite databases there: several machines that "
        "write to them will find them locked or damage them. Use PostgreSQL (docs/production.md), "
        "or set DAGSTER_HOME to a folder on a disk of this machine if no other needs it."
    )


def add_run(instance: dg.DagsterInstance, key: str) -> bool:
    """Add a run as a partition; whether it was not one already."""
    is_new = not instance.has_dynamic_partition(RUN_DIMENSION, key)
    if is_new:
        instance.add_dynamic_partitions(RUN_DIMENSION, [key])
    with suppress(HarvestError):  # a damaged registration names no folder
        registration_of(key).layout.unregistered.unlink(missing_ok=True)
    return is_new


def remove_run(instance: dg.DagsterInstance, key: str) -> Path | None:
    """Remove a run from the partitions; its files are kept.

    Returns:
        The folder of its harvest, if there is one.

    Raises:
        HarvestError: it is not registered, or is being harvested.
    """
    if not instance.has_dynamic_partition(RUN_DIMENSION, key):
        known = instance.get_dynamic_partitions(RUN_DIMENSION)
        close = difflib.get_close_matches(key, known, n=3)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        raise HarvestError(f"{key} is not registered.{meant}")
    try:
        registration = registration_of(key)
    except HarvestError:  # the key names no harvest, or its folder is not known
        instance.delete_dynamic_partition(RUN_DIMENSION, key)
        return None
    paths = registration.layout
    if is_held(paths.harvest_lease):
        raise HarvestError(f"{key} is being harvested ({paths.harvest_lease}); end that first.")
    instance.delete_dynamic_partition(RUN_DIMENSION, key)
    if not paths.root.exists():
        release_folder(registration)
        return None
    with suppress(OSError):  # the folder may be read-only
        paths.unregistered.touch()
    return paths.root


def forget_run(instance: dg.DagsterInstance, registration: Registration) -> None:
    """Remove a harvest of which nothing was computed: partition, registration and folder."""
    instance.delete_dynamic_partition(RUN_DIMENSION, registration.key)
    registration_path(registration.key).unlink(missing_ok=True)
    remove(registration.layout.root)


def make_room_for_shards(instance: dg.DagsterInstance) -> None:
    """Set the limit of the shards' pool for this machine, unless it is set already."""
    if GPU_POOL not in instance.event_log_storage.get_concurrency_keys():
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, shards_at_once())


def sensor_is_active(instance: dg.DagsterInstance, name: str, *, default: bool) -> bool:
    """Whether a sensor is on, or was switched off during a tick that still starts runs.

    Args:
        instance: where its status and ticks are recorded.
        name: of the sensor.
        default: whether it is on until it is switched.
    """
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.name != name or state.status == InstigatorStatus.DECLARED_IN_CODE:
            continue
        if state.status == InstigatorStatus.RUNNING:
            return True
        # An older tick that has not ended is of a daemon that was killed.
        since = time.time() - _MAX_TICK_SECONDS
        ticks = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=since, limit=1
        )
        return any(tick.status == TickStatus.STARTED for tick in ticks)
    return default
