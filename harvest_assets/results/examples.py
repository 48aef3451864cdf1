"""The examples of a component with row and position, from its line and the tables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.component_index import ComponentIndex, ComponentRows
from harvest_assets.results.component_tables import HIGHEST_SCHEMA, POSITIONS_SCHEMA
from harvest_assets.results.components_jsonl import read_component
from harvest_assets.schemas import ActivationExample, ExampleOrder, LocatedExample


class StoredExamples:
    """The examples of a harvest's result files; a table is opened when it is first needed.

    Args:
        paths: of the harvest.
        index: of its lines; None where there is none.
    """

    def __init__(self, paths: HarvestLayout, index: ComponentIndex | None) -> None:
        self._paths = paths
        self._index = index

    def of(self, component_key: str, order: ExampleOrder) -> list[LocatedExample] | None:
        """The examples of one component; None if it never fired.

        Args:
            component_key: of the component.
            order: `ci` gives the firings of highest CI, `activation` those of largest activation;
                where they are not stored or cannot be read, the uniform sample in that order.

        Raises:
            HarvestError: the line of the component is damaged.
        """
        if order != "sample" and (rows := self._rows(self._highest[order], component_key)):
            return [_highest(row) for row in rows]
        component = read_component(self._paths, component_key, self._index)
        if component is None:
            return None
        rows = self._rows(self._positions, component_key)
        return by_value(_located(component.activation_examples, rows), order)

    @property
    def has_highest_activation(self) -> bool:
        """Whether the firings of largest activation are stored."""
        return self._highest["activation"] is not None

    @cached_property
    def _positions(self) -> ComponentRows | None:
        return ComponentRows.open(self._paths.example_positions, POSITIONS_SCHEMA, self._index)

    @cached_property
    def _highest(self) -> dict[ExampleOrder, ComponentRows | None]:
        paths: dict[ExampleOrder, Path] = {
            "ci": self._paths.highest_ci_examples,
            "activation": self._paths.highest_activation_examples,
        }
        return {
            order: ComponentRows.open(path, HIGHEST_SCHEMA, self._index)
            for order, path in paths.items()
        }

    def _rows(self, table: ComponentRows | None, component_key: str) -> list[dict[str, Any]] | None:
        flat_index = None if self._index is None else self._index.flat_index(component_key)
        return None if table is None or flat_index is None else table.of(flat_index)


def by_value(examples: list[LocatedExample], order: ExampleOrder) -> list[LocatedExample]:
    """Examples by falling CI or |activation| of their firing; `sample` keeps their order."""
    if order == "sample":
        return examples

    def key(example: LocatedExample) -> tuple[float, float]:
        middle = len(example.ci_values) // 2
        ci, act = -example.ci_values[middle], -abs(example.component_acts[middle])
        return (ci, act) if order == "ci" else (act, ci)

    return sorted(examples, key=key)


def _located(
    examples: Sequence[ActivationExample], rows: list[dict[str, Any]] | None
) -> list[LocatedExample]:
    """Examples of a line with the row and position of each, if there are as many rows."""
    places = [(row["row"], row["position"]) for row in rows or ()]
    if len(places) != len(examples):
        places = [(None, None)] * len(examples)
    return [
        LocatedExample(e.token_ids, e.ci_values, e.component_acts, *place)
        for e, place in zip(examples, places, strict=True)
    ]


def _highest(row: dict[str, Any]) -> LocatedExample:
    ci_values, component_acts = _shortest(row["ci_values"]), _shortest(row["component_acts"])
    return LocatedExample(row["token_ids"], ci_values, component_acts, row["row"], row["position"])


def _shortest(values: list[float]) -> list[float]:
    """Float32 values as the lines have them: 0.1, not 0.10000000149011612."""
    array = np.asarray(values, dtype=np.float32)
    return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))  # type: ignore[no-any-return]
