"""A component as text for a terminal: tokens, neighbours, contexts with their CI as colour."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from harvest_assets.analysis import (
    Scored,
    get_correlated_components,
    get_informative_components,
    get_input_token_stats,
    get_output_token_stats,
)
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import plain_text
from harvest_assets.loaders import (
    DecodedExample,
    activation_examples,
    load_components_frame,
    load_correlations,
    load_token_stats,
    load_vocabulary_of,
)
from harvest_assets.results.count_tensors import CorrelationStorage

_TOKENS = 8
_NEIGHBOURS = 4
_CONTEXTS = 4
_FULL_COLOUR = (208, 74, 2)


@dataclass(frozen=True)
class _Harvest:
    run_id: str
    correlations: Any
    token_stats: Any
    vocabulary: Vocabulary
    mean_ci: dict[str, float]


def print_informative_components(run_id: str, n: int, console: Console) -> None:
    """Print the `n` most informative components of a harvest.

    Args:
        run_id: the folder below `harvest/`.
        n: maximum number of components.
        console: to print to; without colour the firing token is in double angle brackets.

    Raises:
        HarvestError: there is no such harvest, or a file of it is damaged.
    """
    correlations, token_stats = load_correlations(run_id), load_token_stats(run_id)
    frame = load_components_frame(run_id)
    if correlations is None or token_stats is None or frame is None:
        raise HarvestError(f"{run_id} has not been harvested.")
    mean_ci = dict(zip(frame["component_key"], frame["mean_ci"], strict=True))
    harvest = _Harvest(run_id, correlations, token_stats, load_vocabulary_of(run_id), mean_ci)
    for key in get_informative_components(correlations, token_stats, n):
        console.print(_portrait(harvest, key, coloured=console.color_system is not None))


def _portrait(harvest: _Harvest, key: str, *, coloured: bool) -> RenderableType:
    row = harvest.correlations.component_keys.index(key)
    firings = int(harvest.correlations.count_i[row])
    share = firings / harvest.correlations.count_total
    head = Text.assemble(
        (key, "bold cyan"),
        f"   fires {firings:,} times ({share:.2%}), mean CI {harvest.mean_ci[key]:.2g}",
    )
    tokens = (harvest.token_stats, key, harvest.vocabulary, _TOKENS)
    fires_on, predicts = get_input_token_stats(*tokens), get_output_token_stats(*tokens)
    lines: list[Text] = []
    if fires_on and predicts:
        lines.append(_labelled("reads", _listed(fires_on.top_recall)))
        lines.append(_labelled("predicts", _listed(predicts.top_pmi, percent=False)))
    lines.append(_labelled("fires with", Text(_neighbours(harvest.correlations, key))))
    examples = activation_examples(harvest.run_id, key, _CONTEXTS) or []
    lines.extend(_labelled("in", _context(example, coloured=coloured)) for example in examples)
    return Group(head, Padding(Group(*lines), (0, 0, 1, 2)))


def _neighbours(correlations: CorrelationStorage, key: str) -> str:
    if correlations.count_ij is None:
        return "not counted"
    others = get_correlated_components(correlations, key, "jaccard", _NEIGHBOURS)
    return ", ".join(f"{other.component_key} {other.score:.2f}" for other in others) or "none"


def _labelled(label: str, text: Text) -> Text:
    line = Text.assemble((f"{label:>10}  ", "dim"), text)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _listed(scored: Scored, *, percent: bool = True) -> Text:
    parts = []
    for token, score in scored:
        parts.append(quoted(token) + (f" {score:.0%}" if percent else f" {score:.1f}"))
    return Text("  ".join(parts))


def quoted(token: str) -> str:
    """A token in quotes: it may be blank or hold control characters."""
    return plain_text(json.dumps(token, ensure_ascii=False))


def _context(example: DecodedExample, *, coloured: bool) -> Text:
    text = Text()
    for i, token in enumerate(example.context):
        shown = on_one_line(token)
        fires = i == example.firing_index
        if coloured:
            text.append(shown, shade(example.example.ci_values[i], fires=fires))
        else:
            text.append(f"<<{shown}>>" if fires else shown)
    return text


def on_one_line(token: str) -> str:
    """A token without line breaks and what cannot be printed."""
    marked = token.replace("\n", "⏎").replace("\t", "→")
    return "".join(c if c.isprintable() else "�" for c in marked)


def shade(ci: float, *, fires: bool) -> str:
    """A colour that is deeper the closer the causal importance is to 1."""
    share = min(1.0, max(0.0, ci))
    style = "bold underline" if fires else ""
    if share > 0:
        red, green, blue = (round(30 + (full - 30) * share) for full in _FULL_COLOUR)
        style += f" rgb(255,255,255) on rgb({red},{green},{blue})"
    return style.strip() or "none"
