"""Harvest runs and show the progress; shared by the commands that harvest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import Settings
from harvest_assets.cli.where import Where, runner_at
from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.store.registry import Registration


def show_dry_run(
    registration: Registration, settings: Settings, step: int | None, where: Where
) -> None:
    """Print what a harvest would do and need; see `dry_run`.

    Raises:
        HarvestError: what the harvest itself would refuse.
    """
    from rich.console import Console

    from harvest_assets.cli.dry_run import dry_run
    from harvest_assets.cli.dry_run_text import dry_run_record, finished_record, print_dry_run

    if _is_finished(registration, settings, step):
        current().add("dry_runs", finished_record(registration))
        click.echo(f"{registration.key} is already harvested; nothing would be done.")
        return
    with Console(stderr=True).status("opening the run and its data, computing a few rows"):
        result = dry_run(registration, settings, step, where)
    current().add("dry_runs", dry_run_record(result))
    print_dry_run(result, Console())


def without_finished(
    registrations: Sequence[Registration], settings: Settings, step: int | None
) -> list[Registration]:
    """The runs whose harvest is not finished; reports the results of the others.

    A finished one that was removed from the partitions is registered again.

    Args:
        registrations: the runs, registered or not.
        settings: of `HarvestSettings`, all of them.
        step: of the checkpoints; None is the newest.
    """
    from harvest_assets.cli.harvest_results import print_result

    left = [it for it in registrations if not _is_finished(it, settings, step)]
    for it in registrations:
        if it not in left:
            if it.layout.unregistered.exists():
                _register_again(it)
            print_result(it, None, several=len(registrations) > 1)
    return left


def _register_again(registration: Registration) -> None:
    from harvest_assets.orchestration.instance import add_run, open_instance
    from harvest_assets.store.registry import store_registration

    store_registration(registration)
    with open_instance() as instance:
        if not add_run(instance, registration.key):
            return
    current().add("registered", {"key": registration.key})
    click.echo(f"{registration.key} is registered again.")


def _is_finished(registration: Registration, settings: Settings, step: int | None) -> bool:
    from harvest_assets.store.finished import is_finished
    from harvest_assets.wandb_client.run_name import LOCAL_ENTITY

    if not is_finished(registration, settings, step):
        return False
    reference = registration.reference
    if step is not None or reference.path is not None or reference.name.entity == LOCAL_ENTITY:
        return True
    # A sensor may have observed that the run was trained further.
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.orchestration.wandb.retrained import newer_step

    with open_instance() as instance:
        return newer_step(instance, registration.key) is None


def harvest_runs(
    registrations: Sequence[Registration],
    settings: Settings,
    step: int | None,
    where: Where,
    *,
    rebuild: bool = True,
) -> None:
    """Harvest runs and show the progress; one that fails does not stop the others.

    Args:
        registrations: the runs.
        settings: of `HarvestSettings`; what is omitted stays as in the stored plans.
        step: of the checkpoints; None is the newest.
        where: on SLURM, by the daemon or here.
        rebuild: whether the daemon makes existing plans again, or only what is missing.

    Raises:
        HarvestError: some of them failed.
    """
    from harvest_assets.cli.follow_logs import following_logs
    from harvest_assets.cli.progress import HarvestDisplay
    from harvest_assets.orchestration.instance import open_instance

    with open_instance() as instance:
        runner = runner_at(where, instance, rebuild=rebuild)
        with HarvestDisplay(registrations) as display, ExitStack() as stack:
            if current().verbose:
                logs = [it.layout for it in registrations]
                stack.enter_context(following_logs(logs, display.show_log))
            failed = runner.run(registrations, settings, step, display.show)
    if len(registrations) == 1 and failed:
        raise next(iter(failed.values()))
    if failed:
        raise HarvestError("\n       ".join(f"{key}: {error}" for key, error in failed.items()))
