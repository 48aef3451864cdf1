"""Some components of a harvest: a sequence, and a frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, counted
from harvest_assets.notebook.component import Component
from harvest_assets.notebook.lines import line
from harvest_assets.notebook.plots.of_components import ComponentsPlots
from harvest_assets.suggestions import close_matches, did_you_mean, key_hint, listed, quoted
from harvest_assets.viewer.export import token_texts
from harvest_assets.viewer.interpreted import interpreted
from harvest_assets.viewer.table import TableQuery, order

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.viewer.harvest import Harvest as ViewedHarvest

_SHOWN = 8
_ROWS = 20  # in a notebook
_COLUMNS = (
    "component_key",
    "layer",
    "component_idx",
    "flat_index",
    "firing_count",
    "density",
    "mean_ci",
    "informativeness",
)


class Components:
    """Components in the order of their places, or as they were searched for.

    Args:
        harvest: whose.
        places: their flat indices, int64 [n].
    """

    def __init__(self, harvest: ViewedHarvest, places: NDArray[np.int64]) -> None:
        self._harvest = harvest
        self._places = places

    @property
    def frame(self) -> pl.DataFrame:
        """A row for each component.

        Columns: component_key, layer, component_idx, flat_index, firing_count, density (firings per
        token), mean_ci, informativeness, and reads and predicts: the texts of the tokens that a
        firing is most informative about; null where not known. Where anything was written about
        components, also label, note, tags, `score_<method>` and so on.
        """
        rows = self._harvest.frame[self._places]
        texts = [token_texts(self._harvest, rows[name]) for name in ("reads", "predicts")]
        written = interpreted(self._harvest)
        more = written.frame[self._places].get_columns() if written.history else []
        return rows.select(*_COLUMNS).with_columns(*texts, *more)

    @property
    def labels(self) -> pl.DataFrame:
        """The components that have a label: component_key, label, who gave it, and its scores."""
        import polars as pl

        written = interpreted(self._harvest).frame[self._places]
        keys = self._harvest.frame["component_key"][self._places]
        return written.insert_column(0, keys).filter(pl.col("label").is_not_null())

    @property
    def plot(self) -> ComponentsPlots:
        """Figures of them, drawn by matplotlib."""
        return ComponentsPlots(self._harvest, self._places, self._place_of)

    @property
    def keys(self) -> list[str]:
        """Their keys."""
        return self._harvest.frame["component_key"][self._places].to_list()

    @property
    def alive(self) -> Components:
        """Those that fired."""
        return self._chosen(self._harvest.firing_counts[self._places] > 0)

    def layer(self, name: str) -> Components:
        """Those of one layer.

        Raises:
            HarvestError: there is no such layer.
        """
        here = self._layers == name
        if not here.any():
            known = list(dict.fromkeys(self._layers.tolist()))
            raise HarvestError(
                f"There is no layer {quoted(name)} here."
                f"{did_you_mean(close_matches(str(name), known))} Layers are {listed(known)}."
            )
        return self._chosen(here)

    def search(self, text: str) -> Components:
        """Those that a text is found in, the most informative first.

        Args:
            text: part of the key, dots and dashes left out or not; or of the label, the note, the
                tags; or of a token among the most informative ones (in double quotes: the whole
                token). Upper and lower case count as the same.
        """
        everything = TableQuery(dead=True)
        queries = (
            replace(everything, q=text),
            replace(everything, label=text),
            replace(everything, token=text),
        )
        found = np.concatenate([order(self._harvest, query) for query in queries])
        ordered = order(self._harvest, everything)
        here = np.isin(ordered, found) & np.isin(ordered, self._places)
        return Components(self._harvest, ordered[here])

    def to_pandas(self) -> Any:
        """`frame` as a DataFrame of pandas.

        Raises:
            HarvestError: pandas is not installed.
        """
        try:
            return self.frame.to_pandas()
        except ImportError as error:
            raise HarvestError(
                "pandas is not installed; run `pip install pandas`, or use `frame`, a DataFrame of "
                "Polars."
            ) from error

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Component]:
        return (Component(self._harvest, place) for place in self._places.tolist())

    def __contains__(self, item: object) -> bool:
        key = item.key if isinstance(item, Component) else item
        place = self._harvest.places.get(key) if isinstance(key, str) else None
        if place is None or place not in self._places:
            return False
        return item in (key, Component(self._harvest, place))

    @overload
    def __getitem__(self, which: str | int) -> Component: ...

    @overload
    def __getitem__(self, which: slice) -> Components: ...

    def __getitem__(self, which: str | int | slice) -> Component | Components:
        """A component by its key or an unambiguous part of it, or by its place; or a slice.

        Raises:
            HarvestError: there is no such component, or there are several.
            IndexError: there are not as many components.
        """
        if isinstance(which, slice):
            return Components(self._harvest, self._places[which])
        if isinstance(which, str):
            return Component(self._harvest, self._place_of(which))
        try:
            return Component(self._harvest, int(self._places[which]))
        except IndexError:
            raise IndexError(f"There are {len(self):,} components, not one at {which}.") from None

    def __repr__(self) -> str:
        first = ", ".join(self._harvest.frame["component_key"][self._places[:_SHOWN]])
        more = ", …" if len(self) > _SHOWN else ""
        shown = f": {first}{more}" if first else ""
        return line(f"{counted(len(self), 'component')} of {self._harvest.run}{shown}")

    def _repr_html_(self) -> str:
        shown = self[:_ROWS].frame.drop("layer", "component_idx", "flat_index")
        first = f", the first {_ROWS}" if len(self) > _ROWS else ""
        title = f"{counted(len(self), 'component')} of {self._harvest.run}{first}"
        return f"<p>{escape(title)}</p>{shown._repr_html_()}"

    @cached_property
    def _layers(self) -> NDArray[np.object_]:
        return self._harvest.frame["layer"][self._places].to_numpy()

    def _chosen(self, here: NDArray[np.bool_]) -> Components:
        return Components(self._harvest, self._places[here])

    def _place_of(self, key: str) -> int:
        place = self._harvest.places.get(key)
        if place is not None and place in self._places:
            return place
        if place is not None and self._harvest.firing_counts[place] == 0:
            raise HarvestError(
                f"{key} is not among these {counted(len(self), 'component')}: it never fired. The "
                "harvest itself has it."
            )
        found = order(self._harvest, TableQuery(q=key, dead=True, sort="layer"))
        found = found[np.isin(found, self._places)] if key.strip() else found[:0]
        if len(found) == 1:
            return int(found[0])
        keys = self._harvest.frame["component_key"][found].to_list()
        if keys:
            raise HarvestError(
                f"{quoted(key)} is part of {counted(len(keys), 'key')}: {listed(keys)}. Give more "
                "of one of them, or use search()."
            )
        raise HarvestError(f"There is no component {quoted(key)} here.{key_hint(key, self.keys)}")
