"""The examples of one component as pages show them: in lists or by interval, on one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from harvest_assets.schemas import ExampleOrder, LocatedExample

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken
    from harvest_assets.viewer.harvest import Harvest

# The lists, and groups of the uniform sample by interval.
ExampleChoice = Literal[ExampleOrder, "intervals"]
# What colours tokens, and what intervals are cut from.
Shade = Literal["ci", "act"]
EXAMPLES_PER_PAGE = 20
SHADES = 12
N_INTERVALS = 5
_EXAMPLES_PER_INTERVAL = 4


@dataclass(frozen=True)
class ShownPlace:
    """A token of an example with its values; `shade` is 0 (none) to `SHADES`."""

    token: ShownToken
    ci: float
    act: float
    shade: int
    negative: bool
    fires: bool


@dataclass(frozen=True)
class ShownExample:
    """A window around one firing: left of it, the firing token, right of it."""

    left: list[ShownPlace]
    firing: ShownPlace
    right: list[ShownPlace]
    row: int | None
    position: int | None
    begins: bool  # the sequence begins in the window
    ends: bool


@dataclass(frozen=True)
class Interval:
    """The sampled firings with a value in an interval.

    Args:
        low, high: the values; `high` belongs to the next interval, except in the topmost.
        count: sampled firings.
        examples: the first of them, themselves a uniform sample.
    """

    low: float
    high: float
    count: int
    examples: list[ShownExample]


class ComponentExamples:
    """The examples of one component.

    Args:
        harvest: the harvest.
        place: of the component.
        shade: the value that colours the tokens.
    """

    def __init__(self, harvest: Harvest, place: int, shade: Shade) -> None:
        self._harvest = harvest
        self._shade = shade
        self._lists = {order: harvest.examples(place, order) for order in harvest.example_orders}
        values = [v for found in self._lists.values() for e in found for v in self._values(e)]
        # One scale for all lists, so that a shade means the same in each.
        self.scale = max(map(abs, values), default=0.0) or 1.0
        self.has_negative = min(values, default=0.0) < 0

    def count(self, order: ExampleOrder) -> int:
        """The examples of a list."""
        return len(self._lists[order])

    def shown(self, order: ExampleOrder, start: int, stop: int) -> list[ShownExample]:
        """A part of a list."""
        return [self._shown(example) for example in self._lists[order][start:stop]]

    @cached_property
    def intervals(self) -> list[Interval]:
        """Equal steps between the extremes of the uniform sample, the topmost first.

        One interval where all sampled firings have the same value, none where there are none.
        """
        sample = self._lists["sample"]
        values = [self._values(e)[len(e.token_ids) // 2] for e in sample]
        if not values:
            return []
        low, high = min(values), max(values)
        n = N_INTERVALS if high > low else 1
        edges = [low + (high - low) * i / n for i in range(n)] + [high]
        groups: list[list[LocatedExample]] = [[] for _ in range(n)]
        for example, value in zip(sample, values, strict=True):
            groups[sum(edge <= value for edge in edges[1:-1])].append(example)
        intervals = [
            Interval(
                edges[i],
                edges[i + 1],
                len(group),
                [self._shown(example) for example in group[:_EXAMPLES_PER_INTERVAL]],
            )
            for i, group in enumerate(groups)
        ]
        return intervals[::-1]

    def _values(self, example: LocatedExample) -> list[float]:
        return example.ci_values if self._shade == "ci" else example.component_acts

    def _shown(self, example: LocatedExample) -> ShownExample:
        middle = len(example.token_ids) // 2
        tokens = self._harvest.vocabulary.shown_context(example.token_ids, middle)
        values = self._values(example)
        windows = zip(tokens, example.ci_values, example.component_acts, values, strict=True)
        places = [
            ShownPlace(
                token,
                ci,
                act,
                math.ceil(SHADES * min(1.0, abs(value) / self.scale)),
                negative=value < 0,
                fires=i == middle,
            )
            for i, (token, ci, act, value) in enumerate(windows)
        ]
        left = [p for p in places[:middle] if p.token.token_id != -1]
        right = [p for p in places[middle + 1 :] if p.token.token_id != -1]
        return ShownExample(
            left=left,
            firing=places[middle],
            right=right,
            row=example.row,
            position=example.position,
            begins=len(left) < middle,
            ends=len(right) < middle,
        )
