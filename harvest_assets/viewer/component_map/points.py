"""The map as pages and programs get it: where each component is, its group, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harvest_assets.viewer.charts import layer_colour
from harvest_assets.viewer.derived import damage_reported, read_array
from harvest_assets.viewer.interpreted import interpreted

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.viewer.harvest import Harvest

Colour = Literal["layer", "density", "label", "star"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
_QUIET = "hsl(215 8% 60%)"
_STARRED = "hsl(24 95% 50%)"
_LABELLED = {"person": "hsl(24 95% 50%)", "model": "hsl(212 70% 52%)"}
_DECADES = 6
_TOKENS = 3


@dataclass(frozen=True)
class Group:
    """Components of one colour.

    Args:
        name: as the legend has it.
        colour: in CSS.
        n: how many there are.
    """

    name: str
    colour: str
    n: int


@dataclass(frozen=True)
class Points:
    """All components that fired; A of them.

    Args:
        keys: of each.
        x, y: float64 [A], from 0 to 1.
        group: int64 [A], a place in `groups`.
        groups: those of the legend; the first is drawn first.
        tokens: what each reads and predicts, as pages show it.
    """

    keys: list[str]
    x: list[float]
    y: list[float]
    group: list[int]
    groups: list[Group]
    tokens: list[str]


def points(harvest: Harvest, folder: Path, colour: Colour, *, tokens: bool = True) -> Points:
    """The map that `build` wrote.

    Args:
        harvest: that it is of.
        folder: of the map.
        colour: what the groups are by.
        tokens: whether they are needed, which takes most of the time.

    Raises:
        DamagedFolderError: the folder is damaged.
    """
    with damage_reported(folder):
        places = np.array(read_array(folder / "places.npy", "i", 1))
        xy = read_array(folder / "xy.npy", "f", 2).astype(np.float64).round(4)
        alive = np.flatnonzero(harvest.firing_counts > 0)
        if not np.array_equal(places, alive) or xy.shape != (len(alive), 2):
            raise ValueError("the places are not those of the components that fired")
        if not ((xy >= 0) & (xy <= 1)).all():  # NaN neither
            raise ValueError("a coordinate is not from 0 to 1")
        frame = harvest.frame[places]
    grouped = {"layer": _layers, "density": _densities, "label": _labels, "star": _stars}
    names, colours, group = grouped[colour](harvest, frame, places)
    n = np.bincount(group, minlength=len(names)).tolist()
    return Points(
        keys=frame["component_key"].to_list(),
        x=xy[:, 0].tolist(),
        y=xy[:, 1].tolist(),
        group=group.tolist(),
        groups=[Group(*it) for it in zip(names, colours, n, strict=True)],
        tokens=_tokens(harvest, frame) if tokens else [],
    )


Grouped = tuple[list[str], list[str], NDArray[np.int64]]


def _layers(harvest: Harvest, frame: pl.DataFrame, _places: NDArray[np.int32]) -> Grouped:
    names = harvest.layers["layer"].to_list()
    number = {name: i for i, name in enumerate(names)}
    colours = [layer_colour(i, len(names)) for i in range(len(names))]
    return names, colours, np.array([number[name] for name in frame["layer"]], dtype=np.int64)


def _densities(_harvest: Harvest, frame: pl.DataFrame, _places: NDArray[np.int32]) -> Grouped:
    """By powers of ten, from below 1e-5 to above 10 %."""
    power = np.floor(np.log10(frame["density"].to_numpy())).astype(np.int64)
    group = np.clip(power + _DECADES, 0, _DECADES - 1)
    ends = ["0.001%", "0.01%", "0.1%", "1%", "10%"]
    names = [f"below {ends[0]}", *map("{} to {}".format, ends, ends[1:]), f"{ends[-1]} and more"]
    colours = [f"hsl({260 - 46 * i} 75% {46 + 2 * i}%)" for i in range(_DECADES)]
    return names, colours, group


def _labels(harvest: Harvest, _frame: pl.DataFrame, places: NDArray[np.int32]) -> Grouped:
    source = interpreted(harvest).frame["label_source"].gather(places).to_list()
    kinds = ["person", "model"]
    group = [kinds.index(it) + 1 if it in kinds else 2 if it else 0 for it in source]
    names = ["no label", "label by a person", "label by a model"]
    return names, [_QUIET, *_LABELLED.values()], np.array(group, dtype=np.int64)


def _stars(harvest: Harvest, _frame: pl.DataFrame, places: NDArray[np.int32]) -> Grouped:
    starred = interpreted(harvest).frame["starred"].gather(places).to_numpy()
    return ["no star", "star"], [_QUIET, _STARRED], starred.astype(np.int64)


def _tokens(harvest: Harvest, frame: pl.DataFrame) -> list[str]:
    """Each token is isolated from the text direction of the others."""
    shown: dict[int, str] = {}

    def text(ids: list[int] | None) -> str:
        for i in (ids or ())[:_TOKENS]:
            if i not in shown:
                shown[i] = f"\u2068{harvest.vocabulary.shown(i).text}\u2069"
        return "  ".join(shown[i] for i in (ids or ())[:_TOKENS])

    lists = zip(frame["reads"].to_list(), frame["predicts"].to_list(), strict=True)
    return [f"{text(reads)} → {text(predicts)}" if reads else "" for reads, predicts in lists]
