"""`harvest-assets labels export|import`: labels, scores and notes to and from other programs."""

from __future__ import annotations

from pathlib import Path

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
from harvest_assets.errors import counted

_FORMATS = ("csv", "autointerp", "delphi", "neuronpedia")
_MAX_NAMED = 3
_FORMATS_HELP = """\b
  csv           one row for each component
  autointerp    the SQLite tables of SPD's newer autointerp
  delphi        a folder with one explanation for each latent
  neuronpedia   explanations as JSON
"""


@click.group(short_help="Export and import labels, scores and notes.")
def labels() -> None:
    """Labels, scores and notes to and from files of other programs."""


@labels.command(
    name="export",
    help=f"""Write what was written about a run's components into FILE.

{_FORMATS_HELP}
FILE is never overwritten.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format", "name", type=click.Choice(_FORMATS), help="By default from the name of FILE."
)
@json_option
@debug_option
def export_labels(run: str, file: Path, name: str | None, *, debug: bool) -> None:
    """Write labels, scores and notes into a file."""
    with errors_reported(debug=debug):
        paths = harvest_to_read(run)

        from harvest_assets.interpretations.exchange.transfer import export_file

        n, history = export_file(paths, file, name)
        current().result = {"harvest": paths.root.name, "file": str(file), "components": n}
        for problem in history.problems:
            click.echo(f"warning: {problem}", err=True)
        click.echo(f"{file} holds what was written about {counted(n, 'component')}.")


@labels.command(
    name="import",
    help=f"""Keep the labels, scores and notes in FILE with a run's harvest: all, or none.

{_FORMATS_HELP}
Components that the harvest does not have are reported and left out. What holds already is not
written again, so a CSV file that was exported can be edited and imported. What was kept before
stays in the history; a person's label comes before all others.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format", "name", type=click.Choice(_FORMATS), help="By default from the content of FILE."
)
@click.option("--person", help="Whose labels these are.  [default: an import, by no person]")
@json_option
@debug_option
def import_labels(
    run: str, file: Path, name: str | None, person: str | None, *, debug: bool
) -> None:
    """Keep the labels, scores and notes in a file."""
    with errors_reported(debug=debug):
        paths = harvest_to_read(run)

        from harvest_assets.interpretations.exchange.transfer import import_file

        result = import_file(paths, file, name, person)
        counts = {
            "labels": len(result.kept.labels),
            "scores": len(result.kept.scores),
            "edits": len(result.kept.edits),
        }
        current().result = {
            "harvest": paths.root.name,
            **counts,
            "unchanged": result.n_unchanged,
            "unknown_keys": result.unknown,
            "ignored": result.ignored,
            "overridden": result.overridden,
            "outranked": result.outranked,
        }
        kept = ", ".join(counted(n, kind.removesuffix("s")) for kind, n in counts.items())
        click.echo(f"Kept from {file} in {paths.interpretations}: {kept}.")
        if result.n_unchanged:
            click.echo(f"There already: {result.n_unchanged:,}.", err=True)
        if result.overridden:
            n = counted(len(result.overridden), "label")
            won = tuple(f"{key}: {label}" for key, label in dict(result.overridden).items())
            click.echo(
                f"Left out: {n}, since a later one in the file is of the same component; kept are "
                f"{_named(won)}.",
                err=True,
            )
        if result.outranked:
            n = counted(len(result.outranked), "label")
            click.echo(
                f"Kept but not shown, since a person's label comes first: {n}, "
                f"{_named(result.outranked)}.",
                err=True,
            )
        if result.unknown:
            n = counted(len(result.unknown), "component")
            click.echo(f"Left out: {n} not in the harvest, {_named(result.unknown)}.", err=True)
        if result.ignored:
            click.echo(f"Not imported: {_named(result.ignored)}.", err=True)


def _named(names: tuple[str, ...]) -> str:
    from harvest_assets.files.sanitize import presentable

    rest = len(names) - _MAX_NAMED
    listed = ", ".join(presentable(name, 100) for name in names[:_MAX_NAMED])
    return f"{listed} and {rest:,} more" if rest > 0 else listed
