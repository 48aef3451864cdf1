"""A harvest, for a notebook or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from harvest_assets.comparison import DEFAULT_TOP
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.notebook.component import Component
from harvest_assets.notebook.components import Components
from harvest_assets.notebook.lines import harvest_lines
from harvest_assets.viewer import charts
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.rendering import rendered

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.data.vocabulary import Vocabulary
    from harvest_assets.notebook.answers import Ablation, Prompt
    from harvest_assets.notebook.plots.of_comparison import PlottedComparison
    from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
    from harvest_assets.viewer.harvest import Harvest as ViewedHarvest
    from harvest_assets.viewer.harvest import Progress


Keys: TypeAlias = "str | Component | Iterable[str | Component]"


class Harvest(Components):
    """A harvest as it was when it was opened: all its components, and the counts.

    Labels and notes are read again whenever something was written.

    Args:
        harvest: as the viewer opens it.
    """

    def __init__(self, harvest: ViewedHarvest) -> None:
        super().__init__(harvest, np.arange(len(harvest.frame)))

    @property
    def run(self) -> str:
        """The run, followed by `@name` for a further harvest of it."""
        return self._harvest.run

    @property
    def path(self) -> Path:
        """The folder of its files."""
        return self._harvest.paths.root

    @property
    def config(self) -> dict[str, Any]:
        """What was harvested and how: the keys of `config.json`."""
        return dict(self._harvest.config)

    @property
    def n_tokens(self) -> int:
        """Positions seen."""
        return self._harvest.n_tokens

    @property
    def progress(self) -> Progress | None:
        """How much had been saved when it was opened; None for a finished harvest."""
        return self._harvest.progress

    @property
    def vocabulary(self) -> Vocabulary:
        """The texts of the tokens: `vocabulary.text(token_id)`."""
        return self._harvest.vocabulary

    @property
    def layers(self) -> pl.DataFrame:
        """A row for each layer: layer, components, alive, l0 (firing on a token), mean_ci (sum)."""
        return self._harvest.layers

    @property
    def correlations(self) -> CorrelationStorage:
        """Firings and co-firings, memory-mapped; rows as in `frame`.

        Raises:
            HarvestError: the harvest is in progress.
        """
        return self._finished("correlations").correlations

    @property
    def token_stats(self) -> TokenStatsStorage:
        """Token counts and probability mass, memory-mapped; rows as in `frame`.

        Raises:
            HarvestError: the harvest is in progress.
        """
        return self._finished("token_stats").token_stats

    def compare(
        self, other: Harvest | str | Path, *, rows: int | None = None, top: int = DEFAULT_TOP
    ) -> PlottedComparison:
        """This harvest and another of the same rows: `.summary`, `.layers`, `.pairs`, `.plot`.

        Args:
            other: the other harvest, or what `harvest_assets.open` takes.
            rows: rows to count pairs over; see `harvest_assets.comparison.compare`.
            top: matches of each component.

        Raises:
            NotComparableError: the harvests are of different rows.
            HarvestError: one is not finished, or the pairs cannot be counted here.
        """
        from harvest_assets.comparison import compare
        from harvest_assets.notebook.opening import paths_of
        from harvest_assets.notebook.plots.of_comparison import PlottedComparison

        paths = HarvestLayout(other.path) if isinstance(other, Harvest) else paths_of(other)
        found = compare(HarvestLayout(self.path), paths, rows=rows, top=top)
        return PlottedComparison.of(found)

    def prompt(
        self,
        text: str | Sequence[int],
        *,
        component: str | Component | None = None,
        at: int | None = None,
        top: int = 50,
        predictions: int = 10,
    ) -> Prompt:
        """Which components fire on a text, and which tokens the model predicts next.

        The first question opens the run's model in this process, on HARVEST_DEVICE; it stays open
        until another run is asked.

        Args:
            text: tokenized as the rows of the harvest were; or the ids of its tokens.
            component: whose values are given at every token.
            at: list components and predictions of this token alone, from the end if negative.
            top: components listed for each token, at most.
            predictions: next tokens listed for each token.

        Raises:
            HarvestError: the run's files are not here, or the text or an option is not valid.
        """
        from harvest_assets.notebook.asking import prompt

        key = None if component is None else self._key_of(component)
        options = {"component": key, "at": at, "top": top, "predictions": predictions}
        return prompt(self._harvest, text, **options)

    def ablate(
        self,
        text: str | Sequence[int],
        without: Keys | None = None,
        *,
        only: Keys | None = None,
        only_firing: bool = False,
        with_rest: bool = False,
        at: int | None = None,
        top: int = 10,
    ) -> Ablation:
        """What an SPD run's model predicts for a text with components taken out.

        Args:
            text: as for `prompt`.
            without: components that are taken out, or their keys, also several in a text.
            only: those that are kept, instead.
            only_firing: keep those that fire, at each token, instead.
            with_rest: keep the part of the weights that no component explains, where components
                are kept and in the CI-masked model.
            at: list tokens at this position alone, from the end if negative.
            top: tokens in each list.

        Raises:
            HarvestError: there is no such component, this is no SPD run, or as for `prompt`.
        """
        from harvest_assets.notebook.asking import ablate

        return ablate(
            self._harvest,
            text,
            without=self._keys_of(without),
            only=self._keys_of(only),
            only_firing=only_firing,
            with_rest=with_rest,
            at=at,
            top=top,
        )

    def __repr__(self) -> str:
        return "\n".join(harvest_lines(self._harvest, len(self.labels)))

    def _repr_html_(self) -> str:
        harvest = self._harvest
        density, mean_ci = (harvest.frame[name].to_numpy() for name in ("density", "mean_ci"))
        cells = charts.ci_against_density(density, mean_ci, words=harvest.words)
        return rendered(
            "notebook_harvest.html",
            harvest=harvest,
            lines=repr(self).splitlines(),
            density_image=charts.data_address(charts.density_histogram(density)),
            ci_image=charts.data_address(cells),
        )

    def _keys_of(self, components: Keys | None) -> tuple[str, ...]:
        from harvest_assets.live.ablation import split_keys

        if components is None:
            return ()
        given = [components] if isinstance(components, (str, Component)) else components
        keys: list[str | Component] = []
        for it in given:
            keys += split_keys([it]) if isinstance(it, str) else [it]
        return tuple(map(self._key_of, keys))

    def _key_of(self, component: str | Component) -> str:
        if not isinstance(component, Component):
            return self[component].key
        folder = component.harvest_path
        if folder.resolve() != self.path.resolve():
            raise HarvestError(
                f"{component.key} is a component of another harvest, {folder}, not of {self.path}; "
                "give its key if the component of that key is meant."
            )
        return component.key

    def _finished(self, name: str) -> FinishedHarvest:
        if not isinstance(self._harvest, FinishedHarvest):
            raise HarvestError(
                f"{name} is there once the harvest of {self.run} is finished. Until then its "
                "components have reads(), predicts() and fires_with()."
            )
        return self._harvest
