"""`harvest-assets clean`: delete files that are no longer needed."""

from __future__ import annotations

import click

from harvest_assets.cli.ages import parse_age
from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current


@click.command()
@click.option("--older-than", default="0s", help="Only files older than this: 30d, 12h, 90m, 2w.")
@click.option("--dry-run", is_flag=True, help="Only list what would be freed.")
@json_option
@debug_option
def clean(older_than: str, *, dry_run: bool, debug: bool) -> None:
    """List and delete files that are no longer needed.

    These are shards that were compacted into a merged state, leftovers of killed processes, and
    token rows and arrays that no harvest uses. Results, merged states and files in use are kept.
    """
    with errors_reported(debug=debug):
        age = parse_age(older_than)

        from harvest_assets.store.garbage import free, removable

        current().result = {"dry_run": dry_run, "removed": []}
        items = removable(age)
        for item in items:
            click.echo(f"{item.n_bytes:>15,} bytes  {item.path}  ({item.why})")
        freed = items if dry_run else free(items)
        for item in freed:
            record = {"path": str(item.path), "n_bytes": item.n_bytes, "reason": item.why}
            current().add("removed", record)
        n_bytes = sum(item.n_bytes for item in freed)
        click.echo(f"{n_bytes:,} bytes {'would be' if dry_run else 'were'} freed.")
