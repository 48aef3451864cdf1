"""One component of a harvest, for a notebook or a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harvest_assets.errors import HarvestError
from harvest_assets.loaders import DecodedExample
from harvest_assets.notebook.lines import component_lines
from harvest_assets.notebook.plots.of_component import ComponentPlots
from harvest_assets.suggestions import at_least, one_of
from harvest_assets.viewer.cofiring import NOT_COUNTED
from harvest_assets.viewer.interpreted import interpreted
from harvest_assets.viewer.portrait import (
    FIRING_SORTS,
    TOKEN_SORTS,
    Portrait,
    firing_rows,
    token_rows,
)
from harvest_assets.viewer.standalone import standalone_html
from harvest_assets.viewer.view_query import ViewQuery

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from harvest_assets.notebook.answers import Weights
    from harvest_assets.schemas import ExampleOrder
    from harvest_assets.viewer.harvest import Harvest as ViewedHarvest

_SCORE = "score_"
_EXAMPLES = 20  # of each list, on the page
_HEIGHT = 720  # pixels of the frame in a notebook


@dataclass(frozen=True, repr=False)
class Component:
    """A component; in a notebook it shows its page of the viewer.

    Args:
        flat_index: its place among all components, as in `count_ij` and the other counts.
    """

    _harvest: ViewedHarvest
    flat_index: int

    @property
    def key(self) -> str:
        """The layer and the index in it, `h.0.mlp.c_fc:12`."""
        return self._portrait.key

    @property
    def harvest_path(self) -> Path:
        """The folder of its harvest's files."""
        return self._harvest.paths.root

    @property
    def layer(self) -> str:
        """The layer."""
        return self._portrait.layer

    @property
    def index(self) -> int:
        """The index in its layer."""
        return int(self.key.rpartition(":")[2])

    @property
    def firing_count(self) -> int:
        """Positions at which it fired."""
        return self._portrait.firing_count

    @property
    def density(self) -> float:
        """Firings per token."""
        return self._portrait.density

    @property
    def mean_ci(self) -> float:
        """The firing strength (for SPD, the causal importance), mean over all positions."""
        return self._portrait.mean_ci

    @property
    def label(self) -> str | None:
        """The label that holds now; None if there is none."""
        return self._written["label"]  # type: ignore[no-any-return]

    @property
    def note(self) -> str | None:
        """The note that was written about it."""
        return self._written["note"]  # type: ignore[no-any-return]

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        return list(self._written["tags"] or ())

    @property
    def scores(self) -> dict[str, float]:
        """The newest score by each method of scoring."""
        scores = {k.removeprefix(_SCORE): v for k, v in self._written.items() if _SCORE in k}
        return {method: score for method, score in scores.items() if score is not None}

    @property
    def histogram(self) -> NDArray[np.int64] | None:
        """Firings by firing strength, int64 [64] (`harvester.histogram`); None where not kept."""
        return self._portrait.histogram

    def reads(self, k: int = 20, by: str = "recall") -> pl.DataFrame:
        """The tokens on which it fires.

        Args:
            k: how many at most.
            by: recall, precision, lift, pmi, or bottom (the lowest PMI first).

        Returns:
            Columns: token_id, token, count, recall, precision, lift, pmi.

        Raises:
            HarvestError: an argument is not valid.
        """
        return self._tokens("input", k, by)

    def predicts(self, k: int = 20, by: str = "pmi") -> pl.DataFrame:
        """The tokens that the model predicts where it fires.

        The arguments and columns are those of `reads`; `count` is the sum of probabilities.
        """
        return self._tokens("output", k, by)

    def fires_with(self, k: int = 20, by: str = "jaccard") -> pl.DataFrame:
        """The components that fire together with it.

        Args:
            k: how many at most.
            by: jaccard, precision, recall, pmi, or bottom (the lowest PMI first).

        Returns:
            Columns: component_key, together (positions at which both fired), jaccard, precision,
            recall, pmi.

        Raises:
            HarvestError: that was not counted, or an argument is not valid.
        """
        import polars as pl

        one_of("by", by, FIRING_SORTS)
        rows = firing_rows(self._harvest, self.flat_index, by, at_least(0, "k", k))
        if rows is None:
            raise HarvestError(NOT_COUNTED)
        schema = {"component_key": pl.String, "together": pl.Int64}
        schema |= dict.fromkeys(("jaccard", "precision", "recall", "pmi"), pl.Float64)
        values = [{"component_key": it.key, "together": it.together, **it.scores} for it in rows]
        return pl.DataFrame(values, schema=schema)

    def examples(self, k: int = 20, order: ExampleOrder = "sample") -> list[DecodedExample]:
        """Examples with their tokens as text, row and position; none if it never fired.

        Args:
            k: how many at most.
            order: `sample`, a uniform sample of its firings; `ci`, the firings of highest firing
                strength; or `activation`, those of largest second value, where there is one.

        Raises:
            HarvestError: an argument is not valid.
        """
        one_of("order", order, self._harvest.example_orders)
        found = self._harvest.examples(self.flat_index, order)[: at_least(0, "k", k)]
        return [DecodedExample.of(example, self._harvest.vocabulary) for example in found]

    def weights(self, top: int = 10) -> Weights:
        """What its weights say, without data, of an SPD run.

        Args:
            top: tokens and components in each list, at most.

        Raises:
            HarvestError: this is no SPD run, its files are not here, or `top` is not valid.
        """
        from harvest_assets.notebook.asking import weights

        return weights(self._harvest, self.key, top)

    @property
    def plot(self) -> ComponentPlots:
        """Figures of it, drawn by matplotlib."""
        return ComponentPlots(self._harvest, self.flat_index)

    def to_html(self) -> str:
        """Its page as one HTML file that needs nothing else."""
        return standalone_html(self._harvest, [self.key], ViewQuery(), _EXAMPLES)

    def __repr__(self) -> str:
        return "\n".join(component_lines(self._harvest, self._portrait, self.label))

    def _repr_html_(self) -> str:
        # A frame has a style sheet of its own, and a sandbox executes no script.
        return (
            f'<iframe sandbox srcdoc="{escape(self.to_html())}" title="{escape(self.key)}" '
            f'style="width: 100%; height: {_HEIGHT}px; border: 0"></iframe>'
        )

    @cached_property
    def _portrait(self) -> Portrait:
        return Portrait.of(self._harvest, self.flat_index)

    @property
    def _written(self) -> dict[str, Any]:
        return interpreted(self._harvest).of(self.flat_index)

    def _tokens(self, side: Literal["input", "output"], k: int, by: str) -> pl.DataFrame:
        import polars as pl

        one_of("by", by, TOKEN_SORTS)
        text = self._harvest.vocabulary.text
        rows = token_rows(self._harvest, self.flat_index, side, by, at_least(0, "k", k))
        schema = {"token_id": pl.Int32, "token": pl.String, "count": pl.Float64}
        schema |= dict.fromkeys(("recall", "precision", "lift", "pmi"), pl.Float64)
        ids = [it.token.token_id for it in rows]
        values = [
            {"token_id": i, "token": text(i), "count": it.count, **it.scores}
            for i, it in zip(ids, rows, strict=True)
        ]
        return pl.DataFrame(values, schema=schema)
