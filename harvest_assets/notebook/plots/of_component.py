"""Figures of one component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harvest_assets.errors import HarvestError
from harvest_assets.notebook.plots.axes import rows_of_text
from harvest_assets.notebook.plots.contexts import draw_contexts
from harvest_assets.notebook.plots.plot import BLUE, GREY, VERMILION, Plot, Size, axes_of, style
from harvest_assets.suggestions import at_least, one_of
from harvest_assets.viewer.examples import ComponentExamples, Shade, ShownExample
from harvest_assets.viewer.portrait import TOKEN_SORTS, token_rows

if TYPE_CHECKING:
    from harvest_assets.schemas import ExampleOrder
    from harvest_assets.viewer.harvest import Harvest as ViewedHarvest

_WIDTH = 5.5  # inches
_SIDES: dict[str, Literal["input", "output"]] = {"reads": "input", "predicts": "output"}
_RECALL = {
    "reads": "recall: share of its firings on the token",
    "predicts": "recall: share of the probability where it fires",
}
_PRECISION = {
    "reads": "precision: share of the token's occurrences",
    "predicts": "precision: share of the token's probability",
}


@dataclass(frozen=True)
class ComponentPlots:
    """Figures of a component, as `component.plot`."""

    _harvest: ViewedHarvest
    _place: int

    def tokens(
        self, k: int = 12, side: str = "reads", by: str = "recall", size: Size | None = None
    ) -> Plot:
        """Recall and precision of the tokens that it reads or that are predicted where it fires.

        Args:
            k: how many at most.
            side: reads or predicts.
            by: what they are sorted by: recall, precision, lift, pmi, or bottom (lowest PMI first).
            size: width and height in inches; by default as high as the tokens need.

        Returns:
            Its data, from the top: token_id, token (with signs for what cannot be seen), count,
            recall, precision, lift, pmi.

        Raises:
            HarvestError: it never fired.
        """
        import polars as pl

        one_of("side", side, tuple(_SIDES))
        one_of("by", by, TOKEN_SORTS)
        rows = token_rows(self._harvest, self._place, _SIDES[side], by, at_least(1, "k", k))
        if not rows:
            raise HarvestError(f"{self._key} has no tokens to plot: it never fired.")
        recall, precision = (np.array([it.scores[m] for it in rows]) for m in _SCORES)
        with style():
            figure, axes = axes_of(size or (_WIDTH, min(9.0, 1.0 + 0.2 * len(rows))))
            at = np.arange(len(rows))
            axes.hlines(at, recall, precision, GREY, lw=1)
            axes.plot(recall, at, "o", color=BLUE, ms=5, label=_RECALL[side])
            hollow: dict[str, Any] = {"mfc": "white", "mew": 1.3, "ms": 5}
            axes.plot(precision, at, "s", color=VERMILION, label=_PRECISION[side], **hollow)
            # Blanks are marked: a label begins and ends where its text does.
            rows_of_text(axes, [it.token.text.replace(" ", "␣") for it in rows])
            highest = float(max(recall.max(), precision.max()))
            axes.set_xlim(-0.02 * highest, min(1.02, 1.1 * highest))
            figure.legend(loc="outside upper center", ncols=2, handletextpad=0.2)
        values = [
            {"token_id": it.token.token_id, "token": it.token.text, "count": it.count, **it.scores}
            for it in rows
        ]
        return Plot(figure, pl.DataFrame(values))

    def contexts(
        self,
        k: int = 10,
        order: ExampleOrder = "sample",
        shade: Shade = "ci",
        size: Size | None = None,
    ) -> Plot:
        """Contexts in which it fires, one below the other, aligned at the firing token.

        Args:
            k: how many at most.
            order: sample (uniform), ci or activation, as in `examples`.
            shade: what colours the tokens: ci, the firing strength, or act, the second value.
            size: width and height in inches; by default as high as the contexts need. What does not
                fit into the width is cut off.

        Returns:
            Its data: example (from 0, from the top), row and position of its firing, offset from
            the firing token, token_id, token, ci, act, and shade, from 0 (none) to 12.

        Raises:
            HarvestError: it never fired.
        """
        one_of("order", order, self._harvest.example_orders)
        one_of("shade", shade, ("ci", "act") if self._harvest.words.second else ("ci",))
        found = ComponentExamples(self._harvest, self._place, shade)
        examples = found.shown(order, 0, at_least(1, "k", k))
        if not examples:
            raise HarvestError(f"{self._key} has no contexts to plot: it never fired.")
        name = self._harvest.words.value(shade) or shade
        with style():
            figure = draw_contexts(examples, size, name, found.scale, negative=found.has_negative)
        return Plot(figure, _frame(examples))

    @property
    def _key(self) -> str:
        return str(self._harvest.frame["component_key"][self._place])


_SCORES = ("recall", "precision")


def _frame(examples: list[ShownExample]) -> Any:
    import polars as pl

    rows = [
        {
            "example": i,
            "row": example.row,
            "position": example.position,
            "offset": offset,
            "token_id": place.token.token_id,
            "token": place.token.text,
            "ci": place.ci,
            "act": place.act,
            "shade": place.shade,
        }
        for i, example in enumerate(examples)
        for offset, place in enumerate(
            [*example.left, example.firing, *example.right], -len(example.left)
        )
    ]
    return pl.DataFrame(rows)
