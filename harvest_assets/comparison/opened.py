"""One of two harvests that are compared, opened."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import read
from harvest_assets.files.untrusted import read_json
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.count_tensors import TokenStatsStorage
from harvest_assets.store.imported import require_harvested
from harvest_assets.store.registry import owner_of
from harvest_assets.store.shared_rows import SharedTokenRows

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.decompositions.protocol import Decomposition

SCORE = "score_"


@dataclass(frozen=True)
class OpenedHarvest:
    """A finished harvest.

    Args:
        paths: of the harvest.
        config: its `config.json`.
        frame: its components in flat order: component_key, layer, firing_count, density (firings
            per token), informativeness (null where not known), and `score_<method>` for each method
            that components were scored by.
        token_stats: its token counts, memory-mapped.
        identity: a digest of the results; None for those of other writers, which have no digests.
    """

    paths: HarvestLayout
    config: dict[str, Any]
    frame: pl.DataFrame
    token_stats: TokenStatsStorage
    identity: str | None

    @classmethod
    def of(cls, paths: HarvestLayout) -> OpenedHarvest:
        """Open the results of a harvest.

        Raises:
            HarvestError: they are missing or damaged.
        """
        missing = [file.name for file in paths.five_files if not file.exists()]
        if missing:
            raise HarvestError(
                f"{paths.root} is not a finished harvest: it has no {', '.join(missing)}. Only "
                "finished harvests are compared."
            )
        identity = identity_of(paths)  # before what it identifies
        stats = TokenStatsStorage.load(paths.token_stats)
        return cls(paths, _config(paths), _frame(paths, stats), stats, identity)

    @property
    def name(self) -> str:
        """The folder below `harvest/`."""
        return self.paths.root.name

    @property
    def run(self) -> str:
        """The run as people name it; the folder's name where its files do not say."""
        return owner_of(self.paths) or self.name

    @property
    def kind(self) -> str:
        """The kind of decomposition."""
        return str(self.config.get("kind") or "spd")

    @property
    def target(self) -> str | None:
        """The model that was decomposed, in words; None where the files do not say."""
        try:
            return self.decomposition().model_name()
        except HarvestError:
            return None

    @property
    def n_tokens(self) -> int:
        """Positions seen."""
        return self.token_stats.n_tokens

    @property
    def threshold(self) -> float | None:
        """A component fires where its strength is above; None where the files do not say."""
        value = self.config.get("ci_threshold")
        if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
            return None
        return float(value)

    @property
    def tokenizer_sha256(self) -> str | None:
        """The digest of its tokenizer; None where the files do not say."""
        digest = self.config.get("tokenizer_sha256")
        return digest if isinstance(digest, str) else None

    @property
    def row_length(self) -> int | None:
        """Tokens of a row; None where the files do not say."""
        length = self.config.get("context_length")
        return length if type(length) is int and length > 0 else None

    @property
    def n_rows(self) -> int:
        """Rows harvested; 0 where their length is not known."""
        return 0 if self.row_length is None else self.n_tokens // self.row_length

    @property
    def not_computable(self) -> str | None:
        """Why its firings cannot be computed again, in a sentence; None if nothing is known."""
        try:
            require_harvested(self.paths, "computed again, so pairs are not counted")
        except HarvestError as error:
            return str(error)
        return None

    def expected_firings(self, n_rows: int) -> int:
        """Firings that so many rows have, about."""
        return round(float(self.frame["firing_count"].sum()) * n_rows / max(1, self.n_rows))

    def decomposition(self) -> Decomposition:
        """What was harvested.

        Raises:
            HarvestError: the files do not say, or are damaged.
        """
        from harvest_assets.decompositions.registry import open_decomposition

        return open_decomposition(self.paths.root)

    def shared_rows(self) -> SharedTokenRows | None:
        """Where its rows are stored; None where that is not known."""
        try:
            return SharedTokenRows.open(self.paths.root)
        except HarvestError:
            return None

    @property
    def scored_by(self) -> list[str]:
        """The methods by which components were scored."""
        names = [name for name in self.frame.columns if name.startswith(SCORE)]
        return [name.removeprefix(SCORE) for name in names]


def identity_of(paths: HarvestLayout) -> str | None:
    """A digest of the results that are there; None where the manifest names none."""
    digests = {name: entry.sha256 for name, entry in read(paths).items()}
    if not digests:
        return None
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _config(paths: HarvestLayout) -> dict[str, Any]:
    try:
        config = read_json(paths.config)
    except (OSError, ValueError) as error:
        raise HarvestError(f"{paths.config} is missing or damaged: {error}.") from error
    return config if isinstance(config, dict) else {}


def _frame(paths: HarvestLayout, stats: TokenStatsStorage) -> pl.DataFrame:
    import polars as pl

    from harvest_assets.interpretations.storage import Interpretations

    keys, firings = stats.component_keys, stats.firing_counts.numpy().astype(np.int64)
    frame = pl.DataFrame(
        {
            "component_key": keys,
            "layer": [key.rpartition(":")[0] for key in keys],
            "firing_count": firings,
            "density": firings / max(1, stats.n_tokens),
            "informativeness": _informativeness(paths, keys),
        },
        schema_overrides={"component_key": pl.String, "layer": pl.String},
    )
    if not paths.interpretations.is_dir():
        return frame
    now = Interpretations(paths).history().current()
    scores = [name for name in now.columns if name.startswith(SCORE)]
    return frame.join(
        now.select("component_key", *scores),
        on="component_key",
        how="left",
        maintain_order="left",
    )


def _informativeness(paths: HarvestLayout, keys: list[str]) -> pl.Series:
    import polars as pl

    unknown = pl.Series([None] * len(keys), dtype=pl.Float64)
    if ComponentIndex.open(paths) is None:  # of another writer
        return unknown
    index = read_index(paths)
    if index["component_key"].to_pylist() != keys:
        raise HarvestError(f"The files in {paths.root} are of several harvests; harvest it again.")
    return pl.Series(index["telling"].to_pylist(), dtype=pl.Float64)
