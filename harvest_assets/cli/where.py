"""Where runs are harvested: as jobs of the cluster, by the daemon, or on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harvest_assets.cli.invocation import current
from harvest_assets.errors import HarvestError
from harvest_assets.settings import ComputeSettings
from harvest_assets.system.gpus import require_device

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from harvest_assets.orchestration.slurm.settings import SlurmSettings
    from harvest_assets.runners.protocol import Runner

Where = Literal["slurm", "daemon", "here"]

PLACES: dict[Where, str] = {
    "slurm": "as jobs of the cluster",
    "daemon": "by the Dagster daemon",
    "here": "on this machine",
}


def where_to_harvest(on_cluster: bool | None) -> Where:
    """Resolve the place; None means SLURM if set up, else a running daemon, else this machine."""
    if on_cluster is not None:
        return "slurm" if on_cluster else "here"
    from harvest_assets.orchestration.backfills import daemon_is_alive
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.orchestration.slurm.settings import slurm_is_here

    if slurm_is_here():
        return "slurm"
    with open_instance() as instance:
        return "daemon" if daemon_is_alive(instance) else "here"


def require_place(where: Where) -> None:
    """Check, before anything is written, that a place can be used.

    Raises:
        HarvestError: there is no SLURM, its settings are not valid, none of its nodes can run what
            they request, or the device that was asked for is not there or cannot be chosen.
    """
    from harvest_assets.orchestration.slurm.nodes import require_fitting_node
    from harvest_assets.orchestration.slurm.settings import (
        SlurmSettings,
        needs_gpu,
        slurm_is_here,
    )

    if where == "here":
        require_device()
    if where == "daemon" and current().device:
        raise HarvestError(
            "--device does not reach the Dagster daemon; set HARVEST_DEVICE where the daemon is "
            "started, or use --local."
        )
    if where != "slurm":
        return
    settings = SlurmSettings.from_environment()
    _check_device_of_jobs(settings)
    if settings.cluster == "slurm" and not slurm_is_here():
        raise HarvestError(
            "No SLURM is set up on this machine (sbatch and its configuration); use --local."
        )
    for stage in settings.submitted_stages:
        require_fitting_node(settings, gpu=needs_gpu(stage))


def _check_device_of_jobs(settings: SlurmSettings) -> None:
    """Check that no GPU is chosen by its number where SLURM chooses it."""
    device = ComputeSettings.from_environment().device
    if device.startswith("cuda:") and settings.cluster == "slurm" and settings.gres != "none":
        raise HarvestError(
            f"{device} cannot be chosen for SLURM jobs, each of which sees only the GPU that SLURM "
            "gives it; use --device cuda (or HARVEST_DEVICE=cuda)."
        )


def runner_at(where: Where, instance: DagsterInstance, *, rebuild: bool) -> Runner:
    """The runner for a place.

    Args:
        where: the place.
        instance: where runs are recorded.
        rebuild: whether the daemon makes existing plans again, or only what is missing.
    """
    if where == "slurm":
        from harvest_assets.orchestration.slurm.settings import SlurmSettings
        from harvest_assets.runners.slurm import SlurmRunner

        return SlurmRunner(instance, SlurmSettings.from_environment())
    if where == "daemon":
        from harvest_assets.definitions import defs
        from harvest_assets.runners.daemon import DaemonRunner

        return DaemonRunner(instance, defs.resolve_asset_graph(), rebuild=rebuild)
    from harvest_assets.runners.local import LocalRunner

    return LocalRunner(instance)
