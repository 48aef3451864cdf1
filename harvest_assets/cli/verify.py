"""`harvest-assets verify RUN`: check what a harvest left on disk."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.invocation import current
from harvest_assets.errors import HarvestError


@click.command(
    help=f"""Check that all files of a run's harvest are consistent with each other.

Digests, symmetry and diagonals of the counts, marginals, the index against the lines, and the
states that are kept. Exit status 0 only if everything agrees.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@json_option
@debug_option
def verify(run: str, *, debug: bool) -> None:
    """Check what a harvest left on disk."""
    with errors_reported(debug=debug):
        paths = harvest_to_read(run)

        from harvest_assets.store.verification import older_plan_of, problems_of

        problems = problems_of(paths, lambda what: click.echo(f"checking {what}", err=True))
        current().result = {
            "harvest": paths.root.name,
            "path": str(paths.root),
            "problems": problems,
            "older_plan": older_plan_of(paths),
        }
        if current().result["older_plan"]:
            click.echo(f"warning: {current().result['older_plan']}", err=True)
        if problems:
            raise HarvestError("\n       ".join(problems))
        click.echo(f"{paths.root}: everything agrees.")
