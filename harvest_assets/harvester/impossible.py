"""Values that no harvest produces; sums of states that have them would be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harvest_assets.harvester.filled import STATISTICS, filled_parts
from harvest_assets.settings import MAX_COUNT

if TYPE_CHECKING:
    from harvest_assets.harvester.state import HarvesterState

_MAX_ROWS = 1 << 62
_MAX_VALUE = 1e300


def impossible_values(state: HarvesterState) -> Iterator[str]:
    """The problems with the values of a state, as sentences without their subject."""
    for name in STATISTICS:
        # Some sigmoids overshoot, also below 0. Comparisons with NaN are false.
        lowest = -_MAX_VALUE if name == "ci_sums" else 0
        parts = (part for part in filled_parts(state, name) if part.numel())
        if not all(part.min() >= lowest and part.max() <= _MAX_VALUE for part in parts):
            yield f"{name} has a value that is negative or not finite"
    for name, table in state.example_tables.items():
        bounds = {
            "component": (0, state.settings.n_components),
            "row": (0, _MAX_ROWS),
            "position": (0, MAX_COUNT),
            "token_ids": (-1, state.settings.vocab_size),
        }
        for column, (lowest, end) in bounds.items():
            values = getattr(table, column)
            if values.numel() and not (lowest <= int(values.min()) <= int(values.max()) < end):
                yield f"{column} of {name} has a value out of range"
        if len({len(column) for column in table}) > 1:
            yield f"the columns of {name} have different lengths"
        if (table.component[1:] < table.component[:-1]).any():
            yield f"{name} is not in order"
