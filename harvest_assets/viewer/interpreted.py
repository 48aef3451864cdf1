"""What was written about the components of a harvest, as pages show it."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harvest_assets.interpretations.lists import open_list
from harvest_assets.interpretations.storage import History, Interpretations

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.viewer.harvest import Harvest

_SCORE = "score_"
_MAX_METHODS = 8  # columns of the table
_MAX_EVENTS = 100


@dataclass(frozen=True)
class Event:
    """A line of a component's history."""

    when: str
    what: str
    value: str
    author: str


@dataclass(frozen=True)
class Interpreted:
    """What was written, as of the last read.

    Args:
        version: differs once something is written.
        history: all of it.
        frame: what holds for each component, in flat order: the columns of `current` but the key.
    """

    version: Hashable
    history: History
    frame: pl.DataFrame

    @cached_property
    def methods(self) -> list[str]:
        """The methods of the scores, sorted."""
        names = [name for name in self.frame.columns if name.startswith(_SCORE)]
        return [name.removeprefix(_SCORE) for name in names[:_MAX_METHODS]]

    @cached_property
    def tags(self) -> list[str]:
        """All tags in use, sorted."""
        return sorted(set(self.frame["tags"].explode().drop_nulls()))

    def of(self, place: int) -> dict[str, Any]:
        """What holds for one component."""
        return self.frame.row(place, named=True)

    def scores(self, key: str, label: str | None) -> list[dict[str, Any]]:
        """The newest score of a component by each method; see `newest_scores`."""
        import polars as pl

        from harvest_assets.interpretations.current import newest_scores

        _, scores, _ = self.history.of_this_checkpoint()
        mine = scores.filter(pl.col("component_key") == key)
        now = pl.DataFrame({"component_key": [key], "label": pl.Series([label], dtype=pl.String)})
        return newest_scores(mine, now).sort("method").to_dicts()

    def events(self, key: str) -> list[Event]:
        """What was written about a component, the newest first."""
        import polars as pl

        found: list[tuple[Any, Event]] = []
        for kind in (self.history.labels, self.history.scores, self.history.edits):
            for row in kind.filter(pl.col("component_key") == key).to_dicts():
                found.append((row["written_at"], _event(row)))  # noqa: PERF401 - two loops
        found.sort(key=lambda pair: pair[0], reverse=True)
        return [event for _, event in found[:_MAX_EVENTS]]


def interpreted(harvest: Harvest) -> Interpreted:
    """What was written about the components of a harvest until now."""
    stored = Interpretations(harvest.paths)
    version, known = stored.version(), harvest.interpreted
    if known is None or known.version != version:
        from harvest_assets.interpretations.current import joined

        history = stored.history()
        frame = joined(harvest.frame.select("component_key"), history.current())
        known = Interpreted(version, history, frame.drop("component_key"))
        harvest.interpreted = known
    return known


def listed_keys(harvest: Harvest, name: str) -> frozenset[str]:
    """The components of a list.

    Raises:
        HarvestError: there is no such list, or it is not valid.
    """
    return frozenset(open_list(harvest.paths, name).component_keys)


def _event(row: dict[str, Any]) -> Event:
    if "method" in row:
        what, value = row["method"].replace("_", " "), f"{row['score']:.3g}"
    elif "field" in row:
        what, value = row["field"], _shown(json.loads(row["value"]))
    else:
        what, value = "label", _shown(row["label"])
    return Event(f"{row['written_at']:%Y-%m-%d %H:%M}", what, value, row["author"])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text or "(removed)"
