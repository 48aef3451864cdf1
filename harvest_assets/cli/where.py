"""Where runs are harvested: as jobs of the cluster, by the daemon, or on this machine."""

from __future__ import annotations

from typing import Literal

Where = Literal["slurm", "daemon", "here"]

PLACES: dict[Where, str] = {
    "slurm": "as jobs of the cluster",
    "daemon": "by the Dagster daemon",
    "here": "on this machine",
}


def where_to_harvest(on_cluster: bool | None) -> Where:
    """The place; None is SLURM where it is set up, else a daemon that is alive, else here."""
    from harvest_assets.orchestration.backfills import daemon_is_alive
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.orchestration.slurm.settings import slurm_is_here

    if on_cluster is None and not slurm_is_here():
        with open_instance() as instance:
            return "daemon" if daemon_is_alive(instance) else "here"
    return "here" if on_cluster is False else "slurm"
