"""`harvest-assets view [RUN]`: the components of runs in a browser."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import RUN_OR_HARVEST_HELP, complete_harvest, debug_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.options import device_option


@click.command(
    help=f"""View the components of a run in a browser, also while it is being harvested.

Without RUN the first page lists all harvests.

A small server on this machine reads the harvest's files where they are; nothing is copied, and
nothing is requested from other machines. Every choice is part of the address, which can be shared.
Labels and notes that you write are kept with the harvest; with another --host it is read-only. A
text of your own opens the run's model, on --device, in another process that ends when idle.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", required=False, shell_complete=complete_harvest)
@click.option("--port", type=click.IntRange(0, 65535), default=3100, help="0: any free port.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--browser/--no-browser", default=True, help="Open a browser.", show_default=True)
@device_option
@debug_option
def view(run: str | None, port: int, host: str, *, browser: bool, debug: bool) -> None:
    """View the components of runs in a browser."""
    with errors_reported(debug=debug):
        name = harvest_to_read(run).root.name if run else None

        from harvest_assets.viewer.serve import serve

        serve(name, host, port, browser=browser, log=click.echo)
