"""Metadata of a harvest for the UI: charts, tables, and the command to view it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import plain_text
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration
from harvest_assets.viewer import charts

if TYPE_CHECKING:
    from harvest_assets.harvester import HarvesterState
    from harvest_assets.harvester.state_sum import StateSum
    from harvest_assets.results.merge import FiringOverview

OWNERS = ["team:interpretability"]
# One group: the UI folds groups of several into boxes, and nobody would see the graph.
GROUP = "harvest"

_TOP = 20
_SHOWN_TOKENS = 5
_MAX_BARS = 60


def stage_tags(stage: Stage, work: str) -> dict[str, str]:
    """Tags of an asset: its stage, and the resource that its work needs."""
    return {"stage": stage.value, "work": work}


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.TableMetadataValue:
    """A table whose cells are shown as text.

    Args:
        columns: their names.
        rows: a cell for each column; strings, or numbers that the UI sorts by.
    """
    records = [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows]
    return dg.MetadataValue.table(records)


def paths_of(**files: Path) -> dict[str, dg.MetadataValue[Any]]:
    """Files and folders, each under its name."""
    return {
        name.replace("_", " "): dg.MetadataValue.path(str(file)) for name, file in files.items()
    }


def how_to_view(owner: Registration) -> dict[str, dg.MetadataValue[Any]]:
    """The command that shows the components of this very harvest of the run."""
    name = shlex.quote(owner.out_name)
    return {"view": dg.MetadataValue.md(f"```sh\nharvest-assets view {name}\n```")}


def firing_metadata(total: StateSum) -> dict[str, Any]:
    """Firing statistics, as numbers that are plotted over runs and as charts."""
    from harvest_assets.results.merge import firing_overview

    overview = firing_overview(total)
    density = total.firing_counts.numpy().astype(np.float64) / max(1, overview.n_tokens)
    dead = 1 - overview.n_alive / max(1, overview.n_components)
    bars = [
        (layer, l0, f"{l0 * overview.n_tokens:,.0f}")
        for layer, _, _, l0 in overview.layers[:_MAX_BARS]
    ]
    return {
        "tokens": overview.n_tokens,
        "components": overview.n_components,
        "components alive": overview.n_alive,
        "dead share": round(dead, 6),
        "mean L0": round(overview.l0, 3),
        "layers": table(
            ("layer", "C", "alive", "L0"),
            [(plain_text(name), c, alive, round(l0, 3)) for name, c, alive, l0 in overview.layers],
        ),
        "firing density": dg.MetadataValue.md(
            charts.as_image(charts.small_density_histogram(density), "components by density")
        ),
        "firings per layer": dg.MetadataValue.md(
            charts.as_image(charts.small_bars(*_by_layer(overview)), "firings per layer")
        ),
        "charts": dg.MetadataValue.md(
            "\n\n".join(
                (
                    charts.as_image(charts.density_histogram(density), "components by density"),
                    charts.as_image(charts.layer_bars(bars, "firings"), "firings per layer"),
                )
            )
        ),
    }


def _by_layer(overview: FiringOverview) -> tuple[list[float], list[tuple[float, str]]]:
    """Firings of the layers in flat order, with the names of the first and the last."""
    names = [layer for layer, _, _, _ in overview.layers]
    return [l0 for *_, l0 in overview.layers], [(0.0, names[0]), (1.0, names[-1])][: len(names)]


def shard_metadata(state: HarvesterState, seconds: float) -> dict[str, Any]:
    """Statistics of one shard, as numbers that are plotted over partitions."""
    tokens = state.total_tokens_processed
    firings = state.firing_counts
    return {
        "tokens": tokens,
        "components alive": int((firings > 0).sum()),
        "mean L0": round(int(firings.sum()) / max(1, tokens), 3),
        "seconds": round(seconds, 2),
        "tokens per second": round(tokens / max(seconds, 1e-9)),
    }


def top_components(owner: Registration) -> dict[str, Any]:
    """The most informative components of a harvest that has just been written, as a table."""
    from harvest_assets.loaders import recorded_tokenizer
    from harvest_assets.results.component_index import read_index

    try:
        vocabulary = recorded_tokenizer(owner.layout).open().vocabulary
        index = read_index(owner.layout).drop_columns(["ci_histogram"])
        n_tokens = json.loads(owner.layout.config.read_text(encoding="utf-8"))["n_tokens"]
    except (HarvestError, OSError, ValueError, KeyError) as error:
        return {"top components": f"They cannot be read: {error}"}

    def shown(ids: Sequence[int] | None) -> str:
        texts = [vocabulary.text(i) for i in (ids or ())[:_SHOWN_TOKENS]]
        return " ".join(json.dumps(text, ensure_ascii=False) for text in texts)

    rows = index.sort_by([("telling", "descending"), ("flat_index", "ascending")])
    records = [
        dg.TableRecord(
            {
                "component": row["component_key"],
                "density": row["firing_count"] / max(1, n_tokens),
                "mean CI": row["mean_ci"],
                "reads": shown(row["telling_input_tokens"]),
                "predicts": shown(row["telling_output_tokens"]),
                "informativeness": round(row["telling"], 2),
            }
        )
        for row in rows.slice(0, _TOP).to_pylist()
        if row["firing_count"]
    ]
    return {"top components": dg.MetadataValue.table(records, schema=_SCHEMA)}


def _column(name: str, kind: str, description: str) -> dg.TableColumn:
    return dg.TableColumn(name, kind, description)


_SCHEMA = dg.TableSchema(
    [
        _column("component", "string", "layer and index"),
        _column("density", "float", "firings per token"),
        _column("mean CI", "float", "over all tokens"),
        _column("reads", "string", "tokens read that a firing is most informative about"),
        _column("predicts", "string", "tokens predicted that a firing is most informative about"),
        _column("informativeness", "float", "nats per firing, times log(1 + firings)"),
    ]
)
