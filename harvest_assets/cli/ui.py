"""`harvest-assets ui`: Dagster's UI and daemon."""

from __future__ import annotations

import sys

import click

from harvest_assets.cli.common_options import debug_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current
from harvest_assets.cli.sensor_warnings import warn_of_failing_sensors


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="0: any free port.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@debug_option
def ui(port: int, host: str, *, debug: bool) -> None:
    """Open the Dagster UI with its daemon, on the instance where harvests are recorded.

    \b
    Add a run there under Assets > harvest_shard > Materialize > Add partition,
    or before that with: harvest-assets register RUN
    """
    with errors_reported(debug=debug):
        from harvest_assets.orchestration.dagster_dev import run_dagster_dev
        from harvest_assets.orchestration.instance import (
            make_room_for_shards,
            only_daemon_of,
            open_instance,
        )
        from harvest_assets.orchestration.orphaned_runs import dead_runs_ended
        from harvest_assets.system.ports import check_free, url_of

        port = check_free(host, port)
        url = url_of(host, port)
        with open_instance() as instance, only_daemon_of(instance, url):
            warn_of_failing_sensors(instance)
            make_room_for_shards(instance)
            click.echo(f"{url} (Ctrl-C stops it)")
            invoked = current()
            level = "error" if invoked.quiet else "debug" if invoked.verbose else "info"
            with dead_runs_ended(instance):
                status = run_dagster_dev(host, port, level)
            sys.exit(status)
