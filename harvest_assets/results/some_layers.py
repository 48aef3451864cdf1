"""The results of some layers, taken from those of all layers of a harvest.

Lines are copied byte by byte, counts and rows of tables are selected, a block at a time: what is
written is what the whole harvest says of these components.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path, remove
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import read
from harvest_assets.files.records import FileDigest
from harvest_assets.results.component_index import read_index
from harvest_assets.results.component_tables import WRITTEN, metadata_of
from harvest_assets.results.components_jsonl import line_at, read_summary
from harvest_assets.results.contexts import write_summary_and_config
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.firings import KeptFirings
from harvest_assets.results.parquet import row_groups
from harvest_assets.schemas import ComponentSummary

if TYPE_CHECKING:
    import torch

# Entries of a matrix that are copied at a time.
_BLOCK_ENTRIES = 1 << 22


def layers_of(paths: HarvestLayout) -> list[tuple[str, int]]:
    """The layers of a harvest's results and the components of each, in flat order.

    Raises:
        HarvestError: the file that names them is missing or damaged.
    """
    sizes: dict[str, int] = {}
    for key in CorrelationStorage.load(paths.component_correlations).component_keys:
        layer = key.rpartition(":")[0]
        sizes[layer] = sizes.get(layer, 0) + 1
    return list(sizes.items())


@dataclass(frozen=True)
class SomeLayers:
    """The result files of some layers, written from those of a harvest.

    Args:
        source: the harvest, whose files agree with its manifest.
        layers: the names of the layers.
        plan_digest: of the plan that has only these layers.
        config: the content of `config.json`.
    """

    source: HarvestLayout
    layers: frozenset[str]
    plan_digest: str
    config: dict[str, Any]

    def write(self, directory: Path) -> dict[Path, FileDigest]:
        """Write the files into a harvest folder, and return digests of the large ones.

        Raises:
            HarvestError: a file of the source is damaged, or two of them do not belong together.
        """
        target = HarvestLayout(directory)
        target.activation_contexts.mkdir(parents=True, exist_ok=True)
        target.correlations.mkdir(parents=True, exist_ok=True)
        counts = CorrelationStorage.load(self.source.component_correlations)
        tokens = TokenStatsStorage.load(self.source.token_stats)
        rows = read_index(self.source)
        for keys in (tokens.component_keys, rows["component_key"].to_pylist()):
            if keys != counts.component_keys:
                raise HarvestError(f"The files in {self.source.root} have different components.")
        chosen = np.flatnonzero([layer in self.layers for layer in rows["layer"].to_pylist()])
        rows = rows.take(chosen)
        lines = self._copy_lines(target, rows)
        digests = {
            target.components: lines,
            target.component_correlations: _select_correlations(
                counts, chosen, target.component_correlations
            ),
            target.token_stats: _select_token_stats(tokens, chosen, target.token_stats),
        }
        if self.source.firings.exists():
            digests[target.firings] = _select_firings(self.source, chosen, target.firings)
        for table in self._example_tables():
            path = target.activation_contexts / table.name
            digests[path] = _select_rows(table, chosen, path, lines)
        write_summary_and_config(target, self._summary(rows), self.config)
        for path in target.activation_contexts.iterdir():
            fsync_path(path)
        return digests

    def _summary(self, rows: pa.Table) -> dict[str, ComponentSummary]:
        """The entries of the components of an index that fired."""
        summary = read_summary(self.source)
        alive = rows.filter(rows["offset"].is_valid())["component_key"].to_pylist()
        missing = [key for key in alive if key not in summary]
        if missing:
            raise HarvestError(f"{self.source.summary} lacks {missing[0]}, which has a line.")
        return {key: summary[key] for key in alive}

    def _example_tables(self) -> Iterable[Path]:
        """The tables beside the index, as the manifest names them."""
        for name in sorted(read(self.source)):
            path = self.source.root / name
            if path.suffix == ".parquet" and path != self.source.component_index:
                yield path

    def _copy_lines(self, target: HarvestLayout, rows: pa.Table) -> FileDigest:
        """Copy the lines of the components of an index, and write an index of the copy."""
        offsets: list[int | None] = []
        with HashedFile(target.components) as out:
            for row in rows.select(["component_key", "offset", "length"]).to_pylist():
                if row["offset"] is None:
                    offsets.append(None)
                    continue
                key = row["component_key"]
                line = line_at(self.source, (row["offset"], row["length"]), key)
                if line is None:
                    raise HarvestError(
                        f"{self.source.components} does not have the line of {key} where its index "
                        "says."
                    )
                offsets.append(out.tell())
                out.write(line)
        for name, values in (("flat_index", range(len(rows))), ("offset", offsets)):
            place = rows.schema.get_field_index(name)
            field = rows.schema.field(name)
            rows = rows.set_column(place, field, pa.array(values, type=field.type))
        rows = rows.replace_schema_metadata(metadata_of(out.digest))
        pq.write_table(rows, target.component_index, **WRITTEN)
        return out.digest


def _select_rows(
    source: Path, chosen: NDArray[np.int64], target: Path, lines: FileDigest
) -> FileDigest:
    """Write the rows of some components, by their new places in flat order."""
    groups = row_groups(source)
    schema = next(groups).schema.with_metadata(metadata_of(lines))
    place = schema.get_field_index("flat_index")
    if place < 0 or schema.field(place).type != pa.int32():
        raise HarvestError(f"{source} is damaged: it does not name the components of its rows.")
    with HashedFile(target) as file, pq.ParquetWriter(file, schema, **WRITTEN) as writer:
        for group in groups:
            kept = group.filter(pc.is_in(group[place], pa.array(chosen, pa.int32())))
            places = np.searchsorted(chosen, kept[place].combine_chunks().to_numpy())
            kept = kept.set_column(place, schema.field(place), pa.array(places, pa.int32()))
            if len(kept):
                writer.write_table(kept.cast(schema))
    return file.digest


def _select_firings(source: HarvestLayout, chosen: NDArray[np.int64], target: Path) -> FileDigest:
    """Write every firing of some components, by their new places in flat order."""
    from harvest_assets.harvester.firing_file import RowsOfFirings
    from harvest_assets.harvester.kept_firings import FiringWriter

    kept = KeptFirings.open(source)
    folder = target.with_suffix(".scratch")
    writer = FiringWriter(folder, 0)
    for block in kept.blocks():
        mine = np.flatnonzero(np.isin(block.component, chosen))
        writer.add(
            RowsOfFirings(
                per_row=np.bincount(block.row[mine] - block.first_row, minlength=block.n_rows),
                position=block.position[mine],
                component=np.searchsorted(chosen, block.component[mine]).astype(np.int32),
                ci=block.ci[mine],
                act=block.act[mine] if kept.has_act else None,
            )
        )
    digest = writer.blocks().join(target)
    remove(folder)
    return digest


def _select_correlations(
    counts: CorrelationStorage, chosen: NDArray[np.int64], path: Path
) -> FileDigest:
    import torch

    from harvest_assets.results.merge import scratch

    index, n = torch.from_numpy(chosen), len(chosen)
    selected = CorrelationStorage(
        component_keys=[counts.component_keys[i] for i in chosen.tolist()],
        count_i=counts.count_i[index],
        count_ij=None,
        count_total=counts.count_total,
    )
    if counts.count_ij is None:
        return selected.save(path)
    with scratch(path.with_suffix(".scratch"), (n, n), counts.count_ij.dtype) as count_ij:
        for block in _blocks(n, len(counts.component_keys)):
            count_ij[block] = counts.count_ij[index[block]][:, index]
        return replace(selected, count_ij=count_ij).save(path)


def _select_token_stats(
    tokens: TokenStatsStorage, chosen: NDArray[np.int64], path: Path
) -> FileDigest:
    import torch

    from harvest_assets.results.merge import scratch

    index = torch.from_numpy(chosen)
    shape = (len(chosen), tokens.vocab_size)

    def fill(target: torch.Tensor, source: torch.Tensor) -> None:
        for block in _blocks(*shape):
            target[block] = source[index[block]]

    with (
        scratch(path.with_suffix(".input"), shape, tokens.input_counts.dtype) as input_counts,
        scratch(path.with_suffix(".output"), shape, tokens.output_counts.dtype) as output_counts,
    ):
        fill(input_counts, tokens.input_counts)
        fill(output_counts, tokens.output_counts)
        return TokenStatsStorage(
            component_keys=[tokens.component_keys[i] for i in chosen.tolist()],
            vocab_size=tokens.vocab_size,
            n_tokens=tokens.n_tokens,
            input_counts=input_counts,
            input_totals=tokens.input_totals,
            output_counts=output_counts,
            output_totals=tokens.output_totals,
            firing_counts=tokens.firing_counts[index],
        ).save(path)


def _blocks(n: int, width: int) -> Iterable[slice]:
    from harvest_assets.harvester.state_sum import blocks

    return blocks(n, _BLOCK_ENTRIES // max(1, width))
