"""`spd-harvest RUN...`: harvest runs on the cluster, by the daemon, or on this machine."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import (
    CONTEXT_SETTINGS,
    RUN_HELP,
    debug_option,
    json_option,
    with_common_options,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_make
from harvest_assets.cli.harvesting import harvest_runs, show_dry_run, without_finished
from harvest_assets.cli.options import (
    HarvestingCommand,
    complete_settings,
    harvest_options,
    require_one_run,
)
from harvest_assets.cli.where import PLACES, require_place, where_to_harvest


@with_common_options
@click.command(
    cls=HarvestingCommand,
    context_settings=CONTEXT_SETTINGS,
    help=f"""Harvest runs: on the cluster's SLURM, where there is one, else on this machine.

Where a Dagster daemon runs on this machine's instance, it does the work.

{RUN_HELP}

\b
Examples:
  spd-harvest goodfire/spd/s-d2ec3bfe
  spd-harvest goodfire/spd/s-d2ec3bfe goodfire/spd/s-1a2b3c4d --n_batches 1000
  spd-harvest ./runs/my-run --local

Ctrl-C ends this command, and so do SIGTERM and a closed terminal. The daemon continues; jobs of
the cluster are cancelled, and save their work: the same command continues from there.
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@harvest_options
@click.option(
    "--slurm/--local",
    "on_cluster",
    default=None,
    help="As jobs of the cluster, or by this command on this machine; omitted: SLURM if there is "
    "one, else the Dagster daemon if one is running, else on this machine.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the model, data, memory, disk space and time of the harvests; write nothing.",
)
@json_option
@debug_option
def spd_harvest_command(
    runs: tuple[str, ...],
    step: int | None,
    out_name: str | None,
    *,
    on_cluster: bool | None,
    dry_run: bool,
    debug: bool,
    **settings: float | None,
) -> None:
    """Harvest runs, and report where."""
    with errors_reported(debug=debug):
        from harvest_assets.store.registry import store_registration

        require_one_run(runs, out_name, "harvest")
        chosen = complete_settings(settings)
        named = [harvest_to_make(run, out_name) for run in dict.fromkeys(runs)]
        where = where_to_harvest(on_cluster)
        click.echo(f"Harvesting {PLACES[where]}.", err=True)
        if dry_run:
            for registration in named:
                show_dry_run(registration, chosen, step, where)
            return
        left = without_finished(named, chosen, step)
        if left:
            require_place(where)
            for registration in left:
                store_registration(registration)
            harvest_runs(left, chosen, step, where)
