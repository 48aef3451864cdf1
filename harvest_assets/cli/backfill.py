"""`harvest-assets backfill`: harvest the registered runs not harvested yet."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvesting import harvest_runs
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import device_option
from harvest_assets.cli.sensor_warnings import warn_of_failing_sensors
from harvest_assets.cli.where import require_place, where_to_harvest
from harvest_assets.errors import counted


@click.command()
@click.option(
    "--include-changed",
    is_flag=True,
    help="Also runs whose plan or checkpoint has changed since they were harvested.",
)
@click.option("--dry-run", is_flag=True, help="Only list the status of each run.")
@device_option
@json_option
@debug_option
def backfill(*, include_changed: bool, dry_run: bool, debug: bool) -> None:
    """Harvest all registered runs whose harvest is missing.

    \b
    The Dagster daemon does it, where one runs; else this command, one run after another.
    Runs that are queued, in progress or failed are left out; harvest a failed run by its name.
    """
    with errors_reported(debug=debug):
        from harvest_assets.definitions import defs
        from harvest_assets.orchestration.harvests import harvests_of, unharvested
        from harvest_assets.orchestration.instance import open_instance
        from harvest_assets.store.registry import registration_of

        with open_instance() as instance:
            warn_of_failing_sensors(instance)
            graph = defs.resolve_asset_graph()
            found = harvests_of(instance, graph) if dry_run else ()
            for it in found:
                click.echo(f"{it.key}: {it.status.value}")
            keys = unharvested(instance, graph, include_changed=include_changed)
            current().result = (
                {"runs": {it.key: it.status.value for it in found}, "would_harvest": keys}
                if dry_run
                else {"harvests": []}
            )
            runs = counted(len(keys), "run") if keys else "No registered run"
            click.echo(f"{runs} {'would' if dry_run else 'will'} be harvested.")
            if keys and not dry_run:
                owners = [registration_of(key) for key in keys]
                where = where_to_harvest(None)
                require_place(where)
                harvest_runs(owners, {}, None, where, rebuild=False)
