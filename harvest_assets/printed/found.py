"""The contexts that a search found, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from harvest_assets.errors import counted
from harvest_assets.printed.component import on_one_line
from harvest_assets.viewer.api.models import ContextHit, Contexts
from harvest_assets.viewer.contexts.search import MAX_HITS
from harvest_assets.viewer.figures import short

_LEFT, _RIGHT = 40, 60  # characters shown around a hit
_COMPONENTS = 4  # of a hit
_OFTEN = 10


def print_found(found: Contexts, console: Console) -> None:
    """Print a page of hits, and the components that fire in the most of all hits.

    Args:
        found: by a search.
        console: to print to; without colour a hit is in double angle brackets.
    """
    n = f"more than {MAX_HITS:,} places" if found.more else counted(found.n, "place")
    console.print(f"{n}, page {found.page:,} of {found.n_pages:,}")
    for hit in found.hits:
        console.print(_hit(hit, coloured=console.color_system is not None))
    if found.often:
        console.print(Text("fire there most often", "bold"))
    for it in found.often[:_OFTEN]:
        values = f"{counted(it.hits, 'place')}, mean {short(it.ci)}"
        console.print(Text.assemble("  ", (f"{it.key:<24}", "cyan"), f"  {values}"))


def _hit(hit: ContextHit, *, coloured: bool) -> Text:
    place = "" if hit.row is None else f"{hit.row}:{hit.position}"
    middle = on_one_line(hit.text)
    line = Text.assemble(
        (f"{place:>12}  ", "dim"),
        f"{on_one_line(hit.left)[-_LEFT:]:>{_LEFT}}",
        (middle, "bold underline") if coloured else f"<<{middle}>>",
        on_one_line(hit.right)[:_RIGHT],
    )
    first = list(hit.components.items())[:_COMPONENTS]
    firing = "  ".join(f"{key} {short(ci)}" for key, ci in first)
    more = hit.n_components - len(first)
    return line.append(
        f"\n{'':>14}{firing or 'no component is known to fire here'}", "cyan"
    ).append(f"  and {more:,} more" if more else "", "dim")
