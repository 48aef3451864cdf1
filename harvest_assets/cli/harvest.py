"""`harvest-assets harvest RUN`, or in short `harvest-assets RUN`."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import RUN_HELP, debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_make
from harvest_assets.cli.harvesting import harvest_runs, show_dry_run, without_finished
from harvest_assets.cli.options import HarvestingCommand, complete_settings, harvest_options
from harvest_assets.cli.where import require_place, where_to_harvest


@click.command(
    cls=HarvestingCommand,
    help=f"""Harvest one run on this machine.

{RUN_HELP}

\b
Examples:
  harvest-assets goodfire/spd/s-d2ec3bfe
  harvest-assets ./runs/my-run --n_batches 100 --batch_size 64
  harvest-assets goodfire/spd/s-d2ec3bfe --n_shards 4
  harvest-assets goodfire/spd/s-d2ec3bfe --dry-run
  harvest-assets goodfire/spd/s-d2ec3bfe@dense --ci_threshold 0.1

The last one is a further harvest of the run, beside the first and with its own settings.

Every option has a default that a deployment can set: HARVEST_N_BATCHES=2000 and so on.
""",
)
@click.argument("run")
@harvest_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the model, data, memory, disk space and time of the harvest; write nothing.",
)
@click.option(
    "--slurm/--local",
    "on_cluster",
    default=False,
    help="As jobs of the cluster, or on this machine (the default).",
)
@json_option
@debug_option
def harvest(
    run: str,
    step: int | None,
    out_name: str | None,
    *,
    dry_run: bool,
    on_cluster: bool,
    debug: bool,
    **settings: float | None,
) -> None:
    """Harvest one run on this machine."""
    with errors_reported(debug=debug):
        from harvest_assets.store.registry import store_registration

        registration = harvest_to_make(run, out_name)
        chosen = complete_settings(settings)
        where = where_to_harvest(on_cluster)
        if dry_run:
            show_dry_run(registration, chosen, step, where)
            return
        if without_finished([registration], chosen, step):
            require_place(where)
            store_registration(registration)
            harvest_runs([registration], chosen, step, where)
