"""Writes the folder `activation_contexts`: lines, summary and tables, component by component."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import FileDigest
from harvest_assets.results.component_tables import ComponentTables
from harvest_assets.results.components_jsonl import LINE_PREFIX
from harvest_assets.results.side_by_side import in_order
from harvest_assets.schemas import ComponentSummary, ComponentTokenPMI

if TYPE_CHECKING:
    from harvest_assets.harvester.reservoir import ExampleTable


@dataclass(frozen=True)
class HarvestedComponent:
    """Everything that is written for one component.

    Args:
        layer: path of the decomposed module.
        component_idx: index in the layer.
        firing_count: 0 for a component that gets no line.
        mean_ci: over all positions.
        ci_histogram: int64 [64], sums to `firing_count`; None where not known.
        examples: the uniform sample, in order of priority.
        highest_ci: the examples of highest CI, highest first.
        input_token_pmi: tokens on which it fires.
        output_token_pmi: tokens that the model then predicts.
        informativeness: of its firings; see `analysis`.
        informative_input_tokens: the tokens read that a firing is most informative about; see
            `pmi.informative_tokens`.
        informative_output_tokens: the same for the predicted tokens.
        highest_activation: those of largest activation, largest first; None for all components of
            a harvest that version 0.1 began.
    """

    layer: str
    component_idx: int
    firing_count: int
    mean_ci: float
    ci_histogram: NDArray[np.int64] | None
    examples: ExampleTable
    highest_ci: ExampleTable
    input_token_pmi: ComponentTokenPMI
    output_token_pmi: ComponentTokenPMI
    informativeness: float = 0.0
    informative_input_tokens: Sequence[int] = ()
    informative_output_tokens: Sequence[int] = ()
    highest_activation: ExampleTable | None = None

    @property
    def key(self) -> str:
        """`layer:index`."""
        return f"{self.layer}:{self.component_idx}"


def write_contexts(
    paths: HarvestLayout, components: Iterable[HarvestedComponent], config: dict[str, Any]
) -> dict[Path, FileDigest]:
    """Write the folder `activation_contexts` of a harvest, all files complete and on the disk.

    Lines are formatted by several threads and written in order.

    Args:
        paths: of the folder to fill; the caller publishes it.
        components: all of them in flat order, including those that never fired.
        config: the content of `config.json`.

    Returns:
        The digests of the lines and of the tables.

    Raises:
        HarvestError: a value is not finite.
    """
    paths.activation_contexts.mkdir(parents=True, exist_ok=True)
    summary: dict[str, ComponentSummary] = {}
    with HashedFile(paths.components) as lines, ComponentTables(paths) as tables:
        for component, line in in_order(_with_line, components):
            tables.add(component, lines.tell(), len(line))
            lines.write(line)
            if line:
                summary[component.key] = ComponentSummary(
                    component.layer, component.component_idx, component.mean_ci
                )
        tables.set_lines(lines.digest)
    write_summary_and_config(paths, summary, config)
    for path in paths.activation_contexts.iterdir():
        fsync_path(path)
    return {paths.components: lines.digest, **tables.digests}


def write_summary_and_config(
    paths: HarvestLayout, summary: Mapping[str, ComponentSummary], config: dict[str, Any]
) -> None:
    """Write `summary.json`, the components that fired by key, and `config.json`."""
    entries = {
        key: {
            "layer": component.layer,
            "component_idx": component.component_idx,
            "idx": component.component_idx,
            "mean_ci": component.mean_ci,
        }
        for key, component in summary.items()
    }
    for path, value in ((paths.summary, entries), (paths.config, config)):
        path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _with_line(component: HarvestedComponent) -> tuple[HarvestedComponent, bytes]:
    """A component and its line; without a line if it never fired."""
    _check_finite(component)
    return component, _line(component) if component.firing_count else b""


def _check_finite(component: HarvestedComponent) -> None:
    """JSON cannot represent NaN and infinity; orjson would write null."""
    scores = [
        score
        for lists in (component.input_token_pmi, component.output_token_pmi)
        for _, score in (*lists.top, *lists.bottom)
    ]
    windows = [
        values
        for table in (component.examples, component.highest_ci, component.highest_activation)
        if table is not None
        for values in (table.ci_values, table.component_acts)
    ]
    if not math.isfinite(component.mean_ci):
        what = "a mean CI"
    elif not all(map(math.isfinite, scores)):
        what = "a PMI"
    elif not all(values.isfinite().all() for values in windows):
        what = "an example with a value"
    else:
        return
    raise HarvestError(f"{component.key} has {what} that is not finite.")


def _line(component: HarvestedComponent) -> bytes:
    examples = component.examples
    # orjson writes float32 with its shortest digits, from contiguous rows.
    columns = (examples.token_ids, examples.ci_values, examples.component_acts)
    rows = zip(*(column.contiguous().numpy() for column in columns), strict=True)
    rest = orjson.dumps(
        {
            "layer": component.layer,
            "component_idx": component.component_idx,
            "mean_ci": component.mean_ci,
            "activation_examples": [
                {"token_ids": tokens, "ci_values": ci, "component_acts": acts}
                for tokens, ci, acts in rows
            ],
            "input_token_pmi": _lists(component.input_token_pmi),
            "output_token_pmi": _lists(component.output_token_pmi),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    # Readers find a component by the first bytes of its line, with a blank after the colon.
    return b"".join((LINE_PREFIX, orjson.dumps(component.key), b", ", rest[1:], b"\n"))


def _lists(pmi: ComponentTokenPMI) -> dict[str, list[tuple[int, float]]]:
    return {"top": pmi.top, "bottom": pmi.bottom}
