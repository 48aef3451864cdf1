"""Harvest one run or several and show the progress, for the commands that do so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.options import Settings
from harvest_assets.cli.where import Where
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable
from harvest_assets.system.stopping import exit_status, last_words

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from harvest_assets.store.plan import HarvestPlan
    from harvest_assets.store.registry import Registration
    from harvest_assets.wandb_client.run_name import RunReference


def show_dry_run(
    reference: RunReference, out_name: str | None, settings: Settings, step: int | None
) -> None:
    """Print what a harvest would do and need.

    Raises:
        HarvestError: what the harvest itself would refuse.
    """
    from rich.console import Console

    from harvest_assets.cli.dry_run import dry_run
    from harvest_assets.cli.dry_run_text import print_dry_run
    from harvest_assets.store.registry import registration_for

    with Console(stderr=True).status("opening the run and its data, computing a few rows"):
        result = dry_run(registration_for(reference, out_name), settings, step)
    print_dry_run(result, Console())


def harvest_one(
    reference: RunReference,
    out_name: str | None,
    settings: Settings,
    step: int | None,
    *,
    on_cluster: bool = False,
) -> Registration:
    """Harvest one run on this machine, or as jobs of the cluster.

    Args:
        reference: the run.
        out_name: the folder of its results; None for that of its run id.
        settings: of `HarvestConfig`; what is omitted stays as in the stored plan.
        step: of the checkpoint; None is the newest.
        on_cluster: whether its jobs go to the cluster.

    Raises:
        HarvestError: bad input, or a stage failed.
    """
    from harvest_assets.cli.progress import HarvestDisplay
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.store.registry import register

    run_stages = _cluster_runner() if on_cluster else _local_runner()
    registration = register(reference, out_name)
    with open_instance() as instance, HarvestDisplay(registration.key) as display:
        plan = run_stages(registration, instance, settings, step, display.show)
    display.finish(registration.layout, plan)
    return registration


def _local_runner() -> Callable[..., HarvestPlan]:
    from harvest_assets.runners.local import harvest_locally

    return harvest_locally


def _cluster_runner() -> Callable[..., HarvestPlan]:
    """The cluster's; its settings are checked before anything is begun."""
    from harvest_assets.orchestration.slurm.settings import SlurmSettings, slurm_is_here
    from harvest_assets.runners.slurm import harvest_on_cluster

    if SlurmSettings.from_environment().cluster == "slurm" and not slurm_is_here():
        raise HarvestError(
            "No SLURM is set up on this machine (sbatch and its configuration); use --local."
        )
    return harvest_on_cluster


def harvest_all(
    registrations: Sequence[Registration],
    settings: Settings,
    step: int | None,
    where: Where,
    *,
    replan: bool = True,
) -> None:
    """Harvest runs by SLURM, by the daemon or here; one that fails stops no other.

    Args:
        registrations: the runs.
        settings: of `HarvestConfig`; what is omitted stays as in the stored plans.
        step: of the checkpoints; None is the newest.
        where: which of the three.
        replan: whether the daemon makes their plans again, or only what is missing.

    Raises:
        HarvestError: some of them failed.
    """
    from harvest_assets.orchestration.instance import open_instance

    with open_instance() as instance:
        if where == "daemon":
            failed = _harvest_by_daemon(instance, registrations, settings, step, replan=replan)
        else:
            failed = _harvest_in_turn(registrations, settings, step, on_cluster=where == "slurm")
    if failed:
        raise HarvestError("\n       ".join(f"{key}: {reason}" for key, reason in failed.items()))


def _harvest_in_turn(
    registrations: Sequence[Registration], settings: Settings, step: int | None, *, on_cluster: bool
) -> dict[str, str]:
    """Harvest one after another; return why each failed, by key. A single run's error is raised."""
    failed = {}
    for owner in registrations:
        try:
            harvest_one(owner.reference, owner.out_name, settings, step, on_cluster=on_cluster)
        except HarvestError as error:
            if len(registrations) == 1:
                raise
            failed[owner.key] = str(error)
            click.echo(f"{owner.key}: {presentable(str(error))}", err=True)
    return failed


def _harvest_by_daemon(
    instance: DagsterInstance,
    registrations: Sequence[Registration],
    settings: Settings,
    step: int | None,
    *,
    replan: bool,
) -> dict[str, str]:
    """Wait for the daemon to harvest them; return why each failed, by key."""
    from harvest_assets.cli.progress import BackfillDisplay, harvest_warnings
    from harvest_assets.definitions import defs
    from harvest_assets.runners.daemon import hand_over, wait_for

    graph = defs.resolve_asset_graph()
    number = hand_over(registrations, instance, graph, settings, step, anew=replan)
    click.echo(f"This is backfill {number}; harvest-assets ui shows it.", err=True)
    try:
        with BackfillDisplay(len(registrations)) as display:
            failed = wait_for(registrations, instance, graph, number, display.show)
    except KeyboardInterrupt:
        last_words(
            f"Stopped watching; the daemon goes on with backfill {number}.\n"
            "  harvest-assets ui                  shows it, and can end it\n"
            "  harvest-assets backfill --dry-run  lists the state of each run"
        )
        sys.exit(exit_status())
    for owner in registrations:
        if owner.key not in failed:
            click.echo(f"{owner.key} is harvested: {owner.layout.root}")
            for warning in harvest_warnings(owner.layout):
                click.echo(f"Warning: {presentable(warning)}", err=True)
    return failed
