"""Harvests and components as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harvest_assets.errors import counted
from harvest_assets.files.sanitize import plain_text
from harvest_assets.viewer.figures import count, percent, short
from harvest_assets.viewer.portrait import firing_rows, token_rows

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken
    from harvest_assets.schemas import LocatedExample
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.portrait import Portrait

_WIDTH = 100  # characters of a line
_SIDE = 38  # of a context, on each side of the firing token
_TOKENS = 8
_NEIGHBOURS = 3
_EXAMPLES = 4


def harvest_lines(harvest: Harvest, n_labels: int) -> list[str]:
    """What a harvest is of, in three lines."""
    layers, config = harvest.layers, harvest.config
    alive, l0 = int(layers["alive"].sum()), float(layers["l0"].sum())
    state = "" if harvest.progress is None else f", {percent(harvest.progress.share)} harvested"
    of = f"; {config['dataset_name']}" if config.get("dataset_name") else ""
    threshold = config.get("ci_threshold")
    above = "" if threshold is None else f", firing where {harvest.words.long} is above {threshold}"
    labels = f", {counted(n_labels, 'label')}" if n_labels else ""
    return [
        line(f"Harvest {harvest.run}, in {harvest.paths.root.name}{state}"),
        line(
            f"  {alive:,} of {counted(len(harvest.frame), 'component')} fired, in "
            f"{counted(len(layers), 'layer')}; {short(l0)} of them on a token"
        ),
        line(f"  {counted(harvest.n_tokens, 'token')}{above}{labels}{of}"),
    ]


def component_lines(harvest: Harvest, portrait: Portrait, label: str | None) -> list[str]:
    """What is known of a component, in ten lines; in two if it never fired."""
    title = f"{portrait.key} of {harvest.run}" + (f": {label}" if label else "")
    if not portrait.firing_count:
        return [line(title), f"  never fired, in {counted(harvest.n_tokens, 'token')}"]
    (rank, n), words = portrait.rank, harvest.words
    times = f"on {percent(portrait.density)} of tokens, {count(portrait.firing_count)} times"
    mean = (
        f"{short(portrait.mean_ci)} over all tokens, {short(portrait.mean_ci_firing)} when firing"
    )
    examples = harvest.examples(portrait.place, "sample")[:_EXAMPLES]
    lines = [
        ("fires", f"{times}, rank {rank:,} of {n:,} in its layer"),
        (f"mean {words.short}", mean),
        ("reads", _tokens(harvest, portrait)),
        ("predicts", _predicted(harvest, portrait)),
        ("fires with", _neighbours(harvest, portrait)),
        *zip(["in", "", "", ""], (_context(harvest, it) for it in examples), strict=False),
    ]
    width = max(len(name) for name, _ in lines)
    return [line(title), *(line(f"  {name:<{width}}  {text}") for name, text in lines)]


def line(text: str) -> str:
    """A text in one line that a terminal can show."""
    shown = plain_text(text).replace("\n", " ")
    return shown if len(shown) <= _WIDTH else f"{shown[: _WIDTH - 1]}…"


def _tokens(harvest: Harvest, portrait: Portrait) -> str:
    rows = token_rows(harvest, portrait.place, "input", "recall", _TOKENS)
    return "  ".join(f"{_quoted(it.token)} {percent(it.scores['recall'])}" for it in rows)


def _predicted(harvest: Harvest, portrait: Portrait) -> str:
    rows = token_rows(harvest, portrait.place, "output", "pmi", _TOKENS)
    return "  ".join(f"{_quoted(it.token)} {short(it.scores['pmi'])}" for it in rows)


def _neighbours(harvest: Harvest, portrait: Portrait) -> str:
    rows = firing_rows(harvest, portrait.place, "jaccard", _NEIGHBOURS)
    if rows is None:
        return "not counted"
    return "  ".join(f"{it.key} {short(it.scores['jaccard'])}" for it in rows) or "none"


def _quoted(token: ShownToken) -> str:
    return f'"{token.text}"'


def _context(harvest: Harvest, example: LocatedExample) -> str:
    middle = len(example.token_ids) // 2
    shown = harvest.vocabulary.shown_context(example.token_ids, middle)
    before, after = _joined(shown[:middle]), _joined(shown[middle + 1 :])
    return f"{before[-_SIDE:]}<<{_joined(shown[middle : middle + 1])}>>{after[:_SIDE]}"


def _joined(tokens: Sequence[ShownToken]) -> str:
    return "".join(token.text for token in tokens)
