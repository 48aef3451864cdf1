"""`harvest-assets unregister RUN...`: remove partitions."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import RUN_HELP, debug_option
from harvest_assets.cli.errors import errors_reported


@click.command(
    help=f"""Remove harvests from the partitions, so that the Dagster UI no longer shows them.

The name of a run is that of its first harvest. What was harvested stays on disk; registering or
harvesting it adds it again.

{RUN_HELP}
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@debug_option
def unregister(runs: tuple[str, ...], *, debug: bool) -> None:
    """Remove partitions."""
    with errors_reported(debug=debug):
        from harvest_assets.orchestration.instance import open_instance, remove_run
        from harvest_assets.store.lookup import harvest_named

        keys = [harvest_named(run).key for run in runs]
        with open_instance() as instance:
            for key in keys:
                kept = remove_run(instance, key)
                where = f"; its files stay in {kept}" if kept else ""
                click.echo(f"{key} is no longer registered{where}.")
