"""`harvest-assets compare A B`: two harvests of the same rows, in numbers and pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harvest_assets.cli.common_options import complete_harvest, debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.invocation import current
from harvest_assets.cli.transfer_bar import live_bar
from harvest_assets.errors import HarvestError, counted, reason_of
from harvest_assets.viewer.figures import percent, short

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.comparison import Comparison

_SUFFIXES = (".parquet", ".csv")
_SHOWN_PAIRS = 10
_WIDTH_OF_FILES = 400
# Name, column of the summary, how it is shown.
_NUMBERS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("run", "run", str),
    ("kind", "kind", str),
    ("tokens", "tokens", "{:,}".format),
    ("fires above", "threshold", "{:g}".format),
    ("components", "components", "{:,}".format),
    ("alive", "share_alive", percent),
    ("fire at a token (L0)", "l0", short),
    ("density, 5% quantile", "density_q05", percent),
    ("density, median", "density_q50", percent),
    ("density, 95% quantile", "density_q95", percent),
    ("informativeness, mean", "informativeness_mean", short),
    ("informativeness, median", "informativeness_median", short),
)


@click.command(
    short_help="Compare two harvests of the same rows.",
    help="""Compare two finished harvests of the same rows, of any kind: how often components fire,
how informative they are, and which components of B fire where those of A do.

\b
  harvest-assets compare s-d2ec3bfe x-84b6700c
  harvest-assets compare s-d2ec3bfe x-84b6700c --rows 2000 --pairs pairs.parquet

To count pairs, both models compute the first rows again, unless both harvests kept their firings.
The pairs are kept, and `view` shows them. A and B are names of runs or folders of harvests.
""",
)
@click.argument("a", shell_complete=complete_harvest)
@click.argument("b", shell_complete=complete_harvest)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Count pairs over so many rows.  [default: as before, else all whose firings were kept, "
    "else 200]",
)
@click.option(
    "--top",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Matches of each component of A in FILE.",
)
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the pairs into FILE, .parquet or .csv.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the numbers of both and of their layers into FILE, .parquet or .csv.",
)
@click.option("--no-pairs", is_flag=True, help="Open no model: the numbers of each harvest only.")
@json_option
@debug_option
def compare(
    a: str,
    b: str,
    rows: int | None,
    top: int,
    pairs: Path | None,
    summary: Path | None,
    *,
    no_pairs: bool,
    debug: bool,
) -> None:
    """Compare two harvests of the same rows."""
    with errors_reported(debug=debug):
        if pairs is not None and no_pairs:
            raise click.UsageError("--pairs and --no-pairs contradict each other.")
        if pairs is not None and summary is not None and pairs.absolute() == summary.absolute():
            raise click.UsageError("--pairs and --summary name the same file; name two.")
        for file in (pairs, summary):
            _check(file)
        one, other = harvest_to_read(a), harvest_to_read(b)

        from harvest_assets.comparison import compare, compare_known

        numbers = compare_known(one, other)
        for warning in numbers.sameness.warnings:
            click.echo(f"warning: {warning}", err=True)
        current().result = numbers.as_json(n_pairs=0)
        _print_numbers(numbers)
        if summary is not None:
            _write(numbers.numbers, summary, "row")
        if no_pairs:
            return
        from rich.progress import MofNCompleteColumn, TimeElapsedColumn

        with live_bar(MofNCompleteColumn(), TimeElapsedColumn()) as progress:
            found = compare(one.root.name, other.root.name, rows=rows, top=top, progress=progress)
        current().result = found.as_json()
        _print_pairs(found)
        if pairs is not None and found.pairs is not None:
            _write(found.pairs, pairs, "pair")


def _check(file: Path | None) -> None:
    if file is None:
        return
    if file.suffix not in _SUFFIXES:
        raise click.UsageError(f"{file} must end in {' or '.join(_SUFFIXES)}.")
    if file.exists():
        raise HarvestError(f"{file} exists, and nothing is overwritten; name another file.")


def _print_numbers(found: Comparison) -> None:
    summary = found.summary.to_dicts()
    rows = [[name, *(_text(show, it[column]) for it in summary)] for name, column, show in _NUMBERS]
    for column in found.summary.columns:
        method = column.removesuffix("_mean")
        if f"{method}_n" in found.summary.columns and any(it[f"{method}_n"] for it in summary):
            scores = [_score(it[column], it[f"{method}_n"]) for it in summary]
            rows.append([f"{method.replace('_', ' ')} score", *scores])
    _print_table(["", found.run_a, found.run_b], rows)


def _text(show: Callable[[Any], str], value: Any) -> str:
    return "not known" if value is None else show(value)


def _score(mean: float | None, n: int) -> str:
    return "none" if mean is None else f"{mean:.3f} (of {n:,})"


def _print_pairs(found: Comparison) -> None:
    of, matches, pairs = found.pairs_of, found.matches, found.pairs
    if of is None or matches is None or pairs is None:
        return
    n = max(1, matches.components)
    click.echo(
        f"\nOver {counted(of.n_rows, 'row')} ({of.n_tokens:,} tokens), "
        f"{counted(matches.components, 'component')} of {found.run_a} fire. Of the Jaccard index "
        f"with the best match in {found.run_b} the mean is {matches.mean_jaccard:.3f} and the "
        f"median {matches.median_jaccard:.3f}; {matches.close / n:.1%} have at least 0.5, and "
        f"{matches.mutual / n:.1%} are matched in both directions.\n"
    )
    best = pairs.filter(pairs["rank"] == 1).head(_SHOWN_PAIRS)
    _print_table(
        [found.run_a, found.run_b, "both fire", "Jaccard", "precision", "recall"],
        [
            [
                row["component_a"],
                row["component_b"] or "none",
                f"{row['n_ab']:,}",
                *(_text("{:.3f}".format, row[name]) for name in ("jaccard", "precision", "recall")),
            ]
            for row in best.to_dicts()
        ],
        names=2,
    )


def _print_table(headings: list[str], rows: list[list[str]], names: int = 1) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < names else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    console.print(table)


def _write(frame: pl.DataFrame, file: Path, row: str) -> None:
    from harvest_assets.files.atomic import new_path
    from harvest_assets.viewer.export import as_parquet, without_formulas

    content = without_formulas(frame).write_csv().encode() if file.suffix == ".csv" else None
    try:
        with new_path(file) as temporary:
            temporary.write_bytes(as_parquet(frame) if content is None else content)
    except OSError as error:
        raise HarvestError(f"{file} cannot be written: {reason_of(error)}.") from error
    click.echo(f"\n{file} holds {counted(len(frame), row)}.")
