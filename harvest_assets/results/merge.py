"""From the sum of the states of all shards to the result files, one block of components at a time.

Memory holds a block of rows of every shard, never a whole matrix; the matrices grow in files that
are mapped into memory and saved from there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from harvest_assets.files.filesystems import keeps_holes
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import FileDigest
from harvest_assets.harvester.counters import mirror
from harvest_assets.harvester.filled import joined, runs
from harvest_assets.harvester.kept_firings import FiringBlocks
from harvest_assets.harvester.state_sum import StateSum, blocks
from harvest_assets.results.contexts import HarvestedComponent, write_contexts
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.pmi import informative_tokens, top_bottom_pmi
from harvest_assets.results.side_by_side import in_order, n_threads
from harvest_assets.schemas import ComponentTokenPMI

# Entries of a matrix, and bytes of examples, that are merged at a time.
_BLOCK_ENTRIES = 1 << 20
_BLOCK_EXAMPLE_BYTES = 1 << 26
# Bytes; a file of many small parts takes seconds to remove.
_MIN_HOLE = 1 << 20
# Per sampled firing: its keys, its place in the order, and what sorting them takes.
_SORTED_BYTES = 100
_INFORMATIVE_TOKENS = 5


@dataclass(frozen=True)
class MergedCorrelations:
    """`component_correlations.pt`, merged while it is written."""

    total: StateSum
    plan_digest: str

    def write(self, directory: Path) -> dict[Path, FileDigest]:
        """Write the file into a harvest folder, and return its digest."""
        path = HarvestLayout(directory).component_correlations
        path.parent.mkdir(parents=True, exist_ok=True)
        return {path: merge_correlations(self.total, path)}


@dataclass(frozen=True)
class MergedTokenStats:
    """`token_stats.pt`, merged while it is written."""

    total: StateSum
    plan_digest: str

    def write(self, directory: Path) -> dict[Path, FileDigest]:
        """Write the file into a harvest folder, and return its digest."""
        path = HarvestLayout(directory).token_stats
        path.parent.mkdir(parents=True, exist_ok=True)
        return {path: merge_token_stats(self.total, path)}


@dataclass(frozen=True)
class MergedContexts:
    """The folder `activation_contexts`, merged while it is written.

    Args:
        total: of the states of all shards.
        plan_digest: of the plan that they were harvested for.
        config: the content of `config.json`.
        pmi_top_k: tokens in each PMI list.
        token_limit: only token ids below it are listed: readers look them up in the tokenizer.
        firings: every firing of the first rows; None of a harvest that keeps none.
    """

    total: StateSum
    plan_digest: str
    config: dict[str, Any]
    pmi_top_k: int
    token_limit: int
    firings: FiringBlocks | None = None

    def write(self, directory: Path) -> dict[Path, FileDigest]:
        """Write the files into a harvest folder, and return digests of the large ones."""
        paths = HarvestLayout(directory)
        components = merged_components(self.total, self.pmi_top_k, self.token_limit)
        digests = write_contexts(paths, components, self.config)
        if self.firings is not None:
            digests[paths.firings] = self.firings.join(paths.firings)
        return digests


@dataclass(frozen=True)
class FiringOverview:
    """How much fires in a harvest.

    Args:
        layers: per layer its name, C, components alive, and firings per token (L0).
        n_tokens: positions seen.
    """

    layers: tuple[tuple[str, int, int, float], ...]
    n_tokens: int

    @property
    def n_components(self) -> int:
        """Components of all layers."""
        return sum(c for _, c, _, _ in self.layers)

    @property
    def n_alive(self) -> int:
        """Components that fired at least once."""
        return sum(alive for _, _, alive, _ in self.layers)

    @property
    def l0(self) -> float:
        """Components that fire at a token, on average."""
        return sum(l0 for *_, l0 in self.layers)


def firing_overview(total: StateSum) -> FiringOverview:
    """Count what fires, layer by layer."""
    layers, n_tokens = total.settings.layers, total.total_tokens_processed
    by_layer = torch.split(total.firing_counts, [c for _, c in layers])
    return FiringOverview(
        tuple(
            (layer, c, int((firings > 0).sum()), int(firings.sum()) / max(1, n_tokens))
            for (layer, c), firings in zip(layers, by_layer, strict=True)
        ),
        n_tokens,
    )


@contextmanager
def scratch(
    path: Path, shape: Sequence[int], dtype: torch.dtype, filled: Iterable[slice] | None = None
) -> Iterator[torch.Tensor]:
    """A tensor of zeros in a file that is removed when the block ends.

    Args:
        path: of the file.
        shape: of the tensor.
        dtype: of the tensor.
        filled: slices of the first dimension, in order; nothing may be written outside of them,
            which takes no room on a disk where it is long. None: all.

    Raises:
        OSError: the disk has no room for it; without the reservation, writing to the mapped memory
            would kill the process, in a file system in memory also reading from it.
    """
    size = int(np.prod(shape))
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    try:
        with path.open("wb") as file:
            file.truncate(max(1, size * dtype.itemsize))
            parts = [slice(0, shape[0])] if filled is None or not keeps_holes(path) else filled
            for part in joined(parts, _MIN_HOLE // max(1, row_bytes)):
                n_bytes = max(1, (part.stop - part.start) * row_bytes)
                os.posix_fallocate(file.fileno(), part.start * row_bytes, n_bytes)
        flat = torch.from_file(str(path), shared=True, size=size, dtype=dtype)
        yield flat.view(tuple(shape))
    finally:
        path.unlink(missing_ok=True)


def merge_correlations(total: StateSum, path: Path) -> FileDigest:
    """Write `component_correlations.pt`, and return its digest."""
    settings = total.settings
    n = settings.n_components
    if not settings.cooccurrence:
        return CorrelationStorage(
            component_keys=settings.component_keys,
            count_i=total.firing_counts,
            count_ij=None,
            count_total=total.total_tokens_processed,
        ).save(path)
    filled = [*runs(total.fired, _BLOCK_ENTRIES // n)]
    with scratch(path.with_suffix(".scratch"), (n, n), torch.int64, filled) as count_ij:

        def fill(block: slice) -> None:
            total.add_upper_cooccurrence(count_ij[block], block.start)

        deque(in_order(fill, filled), maxlen=0)
        mirror(count_ij, total.fired)
        return CorrelationStorage(
            component_keys=settings.component_keys,
            count_i=total.firing_counts,
            count_ij=count_ij,
            count_total=total.total_tokens_processed,
        ).save(path)


def merge_token_stats(total: StateSum, path: Path) -> FileDigest:
    """Write `token_stats.pt`, and return its digest."""
    settings = total.settings
    n, v = settings.n_components, settings.vocab_size
    filled = [*runs(total.fired, _BLOCK_ENTRIES // v // n_threads())]
    with (
        scratch(path.with_suffix(".input"), (n, v), torch.int64, filled) as input_counts,
        scratch(path.with_suffix(".output"), (n, v), torch.float32, filled) as output_counts,
    ):

        def fill(block: slice) -> None:
            input_counts[block] = total.input_counts(block)
            output_counts[block] = total.output_mass(block)

        deque(in_order(fill, filled), maxlen=0)
        return TokenStatsStorage(
            component_keys=settings.component_keys,
            vocab_size=v,
            n_tokens=total.total_tokens_processed,
            input_counts=input_counts,
            input_totals=total.input_token_totals.double(),
            output_counts=output_counts,
            output_totals=total.output_token_prob_totals,
            firing_counts=total.firing_counts.double(),
        ).save(path)


def round_significant(value: float, digits: int = 7) -> float:
    """The value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def merged_components(
    total: StateSum, pmi_top_k: int, token_limit: int
) -> Iterator[HarvestedComponent]:
    """All components in flat order, including those that never fired.

    Args:
        total: of the states of all shards.
        pmi_top_k: tokens in each PMI list.
        token_limit: only token ids below it are listed.
    """
    settings = total.settings
    firings = total.firing_counts.tolist()
    ci_sums = total.ci_sums.tolist()
    histogram = total.ci_histogram.numpy()
    n_positions = total.total_tokens_processed
    inputs = TokenCounts(total.input_token_totals, n_positions, pmi_top_k, token_limit)
    outputs = TokenCounts(total.output_token_prob_totals, n_positions, pmi_top_k, token_limit)
    places = [(layer, index) for layer, c in settings.layers for index in range(c)]

    def merged(block: slice) -> list[HarvestedComponent]:
        input_counts = total.input_counts(block).numpy()
        output_mass = total.output_mass(block).numpy()
        sample, highest_ci = total.sample(block), total.highest_ci(block)
        largest = total.highest_activation(block) if total.has_highest_activation else None
        components = []
        for flat in range(block.start, block.stop):
            layer, index = places[flat]
            read = inputs.of(input_counts[flat - block.start], firings[flat])
            predicted = outputs.of(output_mass[flat - block.start], firings[flat])
            components.append(
                HarvestedComponent(
                    layer=layer,
                    component_idx=index,
                    firing_count=firings[flat],
                    mean_ci=round_significant(ci_sums[flat] / max(1, n_positions)),
                    ci_histogram=histogram[flat],
                    examples=sample.of_components(flat, flat + 1),
                    highest_ci=highest_ci.of_components(flat, flat + 1),
                    input_token_pmi=read.pmi,
                    output_token_pmi=predicted.pmi,
                    informativeness=informativeness(firings[flat], read, predicted),
                    informative_input_tokens=read.informative,
                    informative_output_tokens=predicted.informative,
                    highest_activation=(
                        None if largest is None else largest.of_components(flat, flat + 1)
                    ),
                )
            )
        return components

    for components in in_order(merged, blocks(settings.n_components, _block_size(total))):
        yield from components


def _block_size(total: StateSum) -> int:
    """Components whose counts and examples one thread merges together."""
    settings = total.settings
    kept = settings.sample.activation_examples_per_component
    # Windows take 12 bytes a token, and twice as much while they are gathered.
    example_bytes = kept * settings.window * 12 * 2 + kept * total.n_states * _SORTED_BYTES
    fits = min(_BLOCK_ENTRIES // settings.vocab_size, _BLOCK_EXAMPLE_BYTES // max(1, example_bytes))
    return fits // n_threads()


class TokenStatistics(NamedTuple):
    """A component and the tokens that it reads, or those that are predicted."""

    pmi: ComponentTokenPMI
    informative: list[int]  # the tokens a firing is most informative about
    nats: float  # the information of a firing


class TokenCounts:
    """Computes the token statistics of components.

    Args:
        totals: [V], occurrences or probability of each token over all positions.
        n_positions: positions seen.
        pmi_top_k: tokens in each PMI list.
        token_limit: only token ids below it are listed.
    """

    def __init__(
        self, totals: torch.Tensor, n_positions: int, pmi_top_k: int, token_limit: int
    ) -> None:
        self._totals = totals.double().numpy()
        self._n_positions = n_positions
        self._k = pmi_top_k
        self._limit = token_limit

    def of(self, counts: NDArray[np.int64] | NDArray[np.float64], firings: int) -> TokenStatistics:
        """Of a component with the same counts [V] where it fired."""
        given = (counts, firings, self._totals, self._n_positions)
        return TokenStatistics(
            top_bottom_pmi(*given, self._k, self._limit),
            *informative_tokens(*given, _INFORMATIVE_TOKENS, self._limit),
        )


def informativeness(firings: int, read: TokenStatistics, predicted: TokenStatistics) -> float:
    """Informativeness of a component's firings; see `analysis`."""
    nats = max(read.nats, predicted.nats)
    return round_significant(float(np.log1p(firings)) * nats)
