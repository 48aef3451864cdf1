"""A finished harvest: its index in memory; what a page shows is read from the files."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import HarvestError
from harvest_assets.files.manifest import disagreements
from harvest_assets.files.untrusted import read_json
from harvest_assets.loaders import recorded_tokenizer
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import read_summary, scan_lines
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.examples import StoredExamples
from harvest_assets.store.imported import IMPORTED
from harvest_assets.viewer.harvest import Harvest, page_vocabulary

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.schemas import ExampleOrder, LocatedExample


Counts = TypeVar("Counts", CorrelationStorage, TokenStatsStorage)


class FinishedHarvest(Harvest):
    """The result files of a harvest.

    Args:
        paths: of the harvest.

    Raises:
        HarvestError: a file is missing or damaged.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self._paths = paths
        config = _read_config(paths)
        index = ComponentIndex.open(paths)
        if index is None:
            index, frame = self._scanned()
        else:
            frame = _indexed(paths)
        self._examples = StoredExamples(paths, index)
        n_tokens = config.get("n_tokens") or _counts(paths).count_total
        if type(n_tokens) is not int or not 0 < n_tokens < 1 << 62:
            raise HarvestError(
                f"{paths.config} has n_tokens {str(n_tokens)[:50]}; expected a positive integer."
            )
        warnings = disagreements(paths) if paths.manifest.exists() else []
        vocabulary, doubts = Vocabulary.unknown(), list[str]()
        if IMPORTED not in config or "tokenizer_name" in config:  # else a note says so
            vocabulary, doubts = page_vocabulary(lambda: recorded_tokenizer(paths), paths)
        super().__init__(
            paths.root.name,
            config,
            frame.with_columns(density=frame["firing_count"] / max(1, n_tokens)),
            int(n_tokens),
            vocabulary,
            warnings + doubts,
            paths=paths,
        )
        notes = config.get("notes")
        if self.is_imported and isinstance(notes, list):
            self.warnings += map(str, notes)

    @cached_property
    def correlations(self) -> CorrelationStorage:
        """Co-firing counts, memory-mapped."""
        return self._of_these(_counts(self._paths))

    @cached_property
    def token_stats(self) -> TokenStatsStorage:
        """Token counts, memory-mapped."""
        return self._of_these(TokenStatsStorage.load(self._paths.token_stats))

    def _of_these(self, counts: Counts) -> Counts:
        """Counts opened after the table, checked to be of the same components."""
        if counts.component_keys != self.frame["component_key"].to_list():
            raise HarvestError(
                f"The files in {self._paths.root} are being replaced; load the page again."
            )
        return counts

    def _scanned(self) -> tuple[ComponentIndex, pl.DataFrame]:
        """The index of a harvest whose older writer made none, from its lines."""
        import polars as pl

        index, tokens = scan_lines(self._paths)
        summary, counts = read_summary(self._paths), _counts(self._paths)
        rows = []
        for place, key in enumerate(counts.component_keys):
            layer, _, number = key.rpartition(":")
            mean_ci = summary[key].mean_ci if key in summary else 0.0
            reads, predicts = tokens.get(key, (None, None))
            rows.append((key, layer, int(number), place, float(mean_ci), None, reads, predicts))
        schema: dict[str, Any] = {
            "component_key": pl.String,
            "layer": pl.String,
            "component_idx": pl.Int32,
            "flat_index": pl.Int32,
            "mean_ci": pl.Float64,
            "informativeness": pl.Float64,
            "reads": pl.List(pl.Int32),
            "predicts": pl.List(pl.Int32),
        }
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        return index, frame.with_columns(firing_count=pl.Series(counts.count_i.long().numpy()))

    def ci_histogram(self, place: int) -> NDArray[np.int64] | None:
        """See `Harvest`."""
        if "ci_histogram" not in self.frame.columns:
            return None
        counts = self.frame["ci_histogram"][place]
        return None if counts is None else cast("NDArray[np.int64]", counts.to_numpy())

    @property
    def counts_cofirings(self) -> bool:
        """See `Harvest`."""
        return self.correlations.count_ij is not None

    def together(self, place: int) -> NDArray[np.int64]:
        """See `Harvest`."""
        return cast("NDArray[np.int64]", self.correlations.cofirings()[place].numpy())

    def input_counts(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Harvest`."""
        stats = self.token_stats
        return stats.input_counts[place].numpy(), stats.input_totals.numpy()

    def output_mass(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Harvest`."""
        stats = self.token_stats
        return stats.output_counts[place].numpy(), stats.output_totals.numpy()

    def examples(self, place: int, order: ExampleOrder) -> list[LocatedExample]:
        """See `Harvest`."""
        return self._examples.of(self.frame["component_key"][place], order) or []

    @property
    def has_highest_activation(self) -> bool:
        """See `Harvest`."""
        return self._examples.has_highest_activation


def _counts(paths: HarvestLayout) -> CorrelationStorage:
    return CorrelationStorage.load(paths.component_correlations)


def _indexed(paths: HarvestLayout) -> pl.DataFrame:
    import polars as pl

    # Not by Polars' own reader, which panics on damaged files.
    frame = cast("pl.DataFrame", pl.from_arrow(read_index(paths)))
    return frame.rename(
        {
            "telling": "informativeness",
            "telling_input_tokens": "reads",
            "telling_output_tokens": "predicts",
        }
    )


def _read_config(paths: HarvestLayout) -> dict[str, Any]:
    try:
        config = read_json(paths.config)
    except (OSError, ValueError) as error:
        raise HarvestError(f"{paths.config} is missing or damaged: {error}.") from error
    return config if isinstance(config, dict) else {}
