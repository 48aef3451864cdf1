"""`harvest-assets unregister RUN...`: remove partitions."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import RUN_HELP, debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current


@click.command(
    help=f"""Remove harvests from the partitions, so that the Dagster UI no longer shows them.

The name of a run is that of its first harvest. What was harvested stays on disk; registering or
harvesting it adds it again.

{RUN_HELP}
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
@debug_option
def unregister(runs: tuple[str, ...], *, debug: bool) -> None:
    """Remove partitions."""
    with errors_reported(debug=debug):
        from harvest_assets.orchestration.instance import open_instance, remove_run
        from harvest_assets.orchestration.partitions import RUN_DIMENSION
        from harvest_assets.store.lookup import harvest_named
        from harvest_assets.store.registry import remove_damaged_registration

        with open_instance() as instance:
            known = instance.get_dynamic_partitions(RUN_DIMENSION)
            # A partition that was typed into the UI may be no name of a harvest.
            for key in [run if run in known else harvest_named(run).key for run in runs]:
                # Without a partition there may still be a damaged file that hinders registering.
                damaged = None if key in known else remove_damaged_registration(key)
                kept = None if damaged else remove_run(instance, key)
                damaged = damaged or remove_damaged_registration(key)
                path = None if kept is None else str(kept)
                current().add("unregistered", {"key": key, "path": path})
                where = f"; its files stay in {kept}" if kept else ""
                click.echo(f"{key} is no longer registered{where}.")
                if damaged:
                    click.echo(
                        f"{damaged} was damaged and is removed; a run that is not on W&B is "
                        "registered again by its path."
                    )
