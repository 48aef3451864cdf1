"""`harvest-assets status HARVEST`: one harvest in detail."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current
from harvest_assets.cli.list_harvests import share_of
from harvest_assets.errors import counted

if TYPE_CHECKING:
    from harvest_assets.store.summary import HarvestSummary


@click.command(
    help=f"""Show one harvest: its run, settings, progress, size and place, and its jobs on SLURM.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("harvest", metavar="RUN", shell_complete=complete_harvest)
@json_option
@debug_option
def status(harvest: str, *, debug: bool) -> None:
    """Show one harvest."""
    with errors_reported(debug=debug):
        from harvest_assets.store.lookup import find_harvest

        paths = find_harvest(harvest)

        from harvest_assets.store.summary import summarize

        found = summarize(paths)
        jobs = _jobs_of(found)
        current().result = asdict(found) | {"jobs": jobs}
        _print(found, jobs)


def _print(found: HarvestSummary, jobs: dict[str, str]) -> None:
    from rich.filesize import decimal

    components = "" if found.n_components is None else counted(found.n_components, "component")
    rows = {
        "harvest": found.name,
        "run": found.key or "not known",
        "condition": found.condition.value,
        "problem": found.problem,
        "components": components,
        "tokens": share_of(found),
        "size": decimal(found.n_bytes),
        "modified": f"{found.modified[:16].replace('T', ' ')} UTC",
        "path": found.path,
    }
    rows |= {f"job {job}": text for job, text in jobs.items()}
    if found.condition != "harvested":
        rows |= {
            f"shard {part.name}": f"{part.rows:,} of {counted(part.rows_wanted, 'row')} saved"
            for part in found.shards
        }
    rows |= {name: str(value) for name, value in found.settings.items() if name != "run"}
    width = max(map(len, rows)) + 2
    for name, text in rows.items():
        if text:
            click.echo(f"{name:{width}}{text}")


def _jobs_of(found: HarvestSummary) -> dict[str, str]:
    """The unfinished jobs of a harvest on SLURM, by number: shard and state, with the reason."""
    from harvest_assets.orchestration.slurm.settings import slurm_is_here

    if found.key is None or not slurm_is_here():
        return {}
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.orchestration.slurm.waiting import jobs_at_work

    with open_instance() as instance:
        return jobs_at_work(instance, found.key)
