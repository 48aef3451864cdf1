"""From the states of all shards to the result files, one block of components at a time.

Memory holds a block of rows of every shard, never a whole matrix; the matrices grow in files that
are mapped into memory and saved from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import markdown_cell
from harvest_assets.harvester.counters import mirror, total_sum, unpack_rows
from harvest_assets.harvester.reservoir import ExampleTable, ReservoirSampler
from harvest_assets.harvester.state import N_HIGHEST, HarvesterState, common_settings, rows_between
from harvest_assets.results.components_jsonl import ExampleBlock, HarvestedComponent, write_contexts
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.pmi import telling, top_bottom_pmi
from harvest_assets.schemas import ComponentTokenPMI

# What a block holds of a matrix, and in memory of examples.
_BLOCK_ENTRIES = 1 << 20
_BLOCK_EXAMPLE_BYTES = 1 << 26
# Of each sampled firing its keys, its place in the order, and what sorting them takes.
_SORTED_BYTES = 100
_TELLING_TOKENS = 5


@dataclass(frozen=True)
class MergedCorrelations:
    """`component_correlations.pt`, merged while it is written."""

    states: Sequence[HarvesterState]
    plan_digest: str

    def write(self, directory: Path) -> None:
        """Write the file into a harvest folder."""
        path = HarvestLayout(directory).component_correlations
        path.parent.mkdir(parents=True, exist_ok=True)
        merge_correlations(self.states, path)


@dataclass(frozen=True)
class MergedTokenStats:
    """`token_stats.pt`, merged while it is written."""

    states: Sequence[HarvesterState]
    plan_digest: str

    def write(self, directory: Path) -> None:
        """Write the file into a harvest folder."""
        path = HarvestLayout(directory).token_stats
        path.parent.mkdir(parents=True, exist_ok=True)
        merge_token_stats(self.states, path)


@dataclass(frozen=True)
class MergedContexts:
    """The folder `activation_contexts`, merged while it is written.

    Args:
        states: of all shards.
        plan_digest: of the plan that they were harvested for.
        config: goes into `config.json`.
        pmi_top_k: tokens in each PMI list.
        token_limit: only token ids below it are listed: readers look them up in the tokenizer.
    """

    states: Sequence[HarvesterState]
    plan_digest: str
    config: dict[str, Any]
    pmi_top_k: int
    token_limit: int

    def write(self, directory: Path) -> None:
        """Write the files into a harvest folder."""
        components = merged_components(
            self.states, pmi_top_k=self.pmi_top_k, token_limit=self.token_limit
        )
        write_contexts(HarvestLayout(directory), components, self.config)


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

    def table(self) -> str:
        """The layers as a Markdown table."""
        lines = ["| layer | C | alive | L0 |", "|---|---|---|---|"]
        lines += [
            f"| {markdown_cell(name)} | {c:,} | {alive:,} | {l0:.3f} |"
            for name, c, alive, l0 in self.layers
        ]
        return "\n".join(lines)


def firing_overview(states: Sequence[HarvesterState]) -> FiringOverview:
    """Count what fires, layer by layer.

    Raises:
        HarvestError: the states do not add up.
    """
    settings = common_settings(states)
    n_tokens = sum(s.total_tokens_processed for s in states)
    by_layer = torch.split(
        total_sum([s.firing_counts for s in states]), [c for _, c in settings.layers]
    )
    return FiringOverview(
        tuple(
            (layer, c, int((firings > 0).sum()), int(firings.sum()) / max(1, n_tokens))
            for (layer, c), firings in zip(settings.layers, by_layer, strict=True)
        ),
        n_tokens,
    )


@contextmanager
def scratch(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """A matrix that lies in a file and goes when the block ends.

    Raises:
        OSError: the disk has no room for it; without the reservation that would be found while
            writing to mapped memory, where it kills the process.
    """
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shape[0] * shape[1] * dtype.itemsize))
        flat = torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=dtype)
        yield flat.view(tuple(shape))
    finally:
        path.unlink(missing_ok=True)


def _blocks(n: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def merge_correlations(states: Sequence[HarvesterState], path: Path) -> None:
    """Write `component_correlations.pt`.

    Raises:
        HarvestError: the states do not add up.
    """
    settings = common_settings(states)
    n = settings.n_components
    with scratch(path.with_suffix(".scratch"), (n, n), torch.int64) as count_ij:
        for block in _blocks(n, _BLOCK_ENTRIES // n):
            count_ij[block] = total_sum(
                unpack_rows(s.cooccurrence, n, block.start, block.stop) for s in states
            )
        mirror(count_ij)
        CorrelationStorage(
            component_keys=settings.component_keys,
            count_i=total_sum([s.firing_counts for s in states]),
            count_ij=count_ij,
            count_total=sum(s.total_tokens_processed for s in states),
        ).save(path)


def merge_token_stats(states: Sequence[HarvesterState], path: Path) -> None:
    """Write `token_stats.pt`.

    Raises:
        HarvestError: the states do not add up.
    """
    settings = common_settings(states)
    n, v = settings.n_components, settings.vocab_size
    with (
        scratch(path.with_suffix(".input"), (n, v), torch.int64) as input_counts,
        scratch(path.with_suffix(".output"), (n, v), torch.float32) as output_counts,
    ):
        for block in _blocks(n, _BLOCK_ENTRIES // v):
            input_counts[block] = total_sum([s.input_counts[block] for s in states])
            output_counts[block] = sum_rows(states, block)
        TokenStatsStorage(
            component_keys=settings.component_keys,
            vocab_size=v,
            n_tokens=sum(s.total_tokens_processed for s in states),
            input_counts=input_counts,
            input_totals=total_sum([s.input_token_totals for s in states]).double(),
            output_counts=output_counts,
            output_totals=_output_totals(states),
            firing_counts=total_sum([s.firing_counts for s in states]).double(),
        ).save(path)


def sum_rows(states: Sequence[HarvesterState], block: slice) -> torch.Tensor:
    """Probability mass of a block of components, float64 [block, V]."""
    total = states[0].output_token_prob_mass[block].clone()
    for state in states[1:]:
        total += state.output_token_prob_mass[block]
    return total


def _output_totals(states: Sequence[HarvesterState]) -> torch.Tensor:
    return torch.stack([s.output_token_prob_totals for s in states]).sum(dim=0)


def round_significant(value: float, digits: int = 7) -> float:
    """The value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def merged_components(
    states: Sequence[HarvesterState], *, pmi_top_k: int, token_limit: int
) -> Iterator[HarvestedComponent]:
    """All components in flat order, those that never fired too.

    Args:
        states: of all shards.
        pmi_top_k: tokens in each PMI list.
        token_limit: only token ids below it are listed.

    Raises:
        HarvestError: the states do not add up.
    """
    settings = common_settings(states)
    n_positions = sum(s.total_tokens_processed for s in states)
    input_totals = total_sum([s.input_token_totals for s in states]).double().numpy()
    output_totals = _output_totals(states).numpy()
    firings = total_sum([s.firing_counts for s in states]).tolist()
    histogram = total_sum([s.ci_histogram for s in states]).numpy()
    ci_sums = torch.stack([s.ci_sums for s in states]).sum(dim=0).tolist()
    places = [(layer, index) for layer, c in settings.layers for index in range(c)]
    kept, offered = (settings.max_examples_per_component * n for n in (1, len(states)))
    # Windows are of 12 bytes a token, and held twice while they are gathered.
    example_bytes = kept * settings.window * 12 * 2 + offered * _SORTED_BYTES
    step = min(_BLOCK_ENTRIES // settings.vocab_size, _BLOCK_EXAMPLE_BYTES // max(1, example_bytes))

    def pmi(counts: np.ndarray, flat: int, totals: np.ndarray) -> ComponentTokenPMI:
        return top_bottom_pmi(counts, firings[flat], totals, n_positions, pmi_top_k, token_limit)

    def told(counts: np.ndarray, flat: int, totals: np.ndarray) -> tuple[list[int], float]:
        return telling(counts, firings[flat], totals, n_positions, _TELLING_TOKENS, token_limit)

    def merged(block: slice) -> _MergedBlock:
        return _MergedBlock(
            block,
            total_sum(s.input_counts[block] for s in states).numpy(),
            sum_rows(states, block).numpy(),
            _Examples([s.sample for s in states], block, settings.max_examples_per_component),
            _Examples([s.highest for s in states], block, N_HIGHEST),
        )

    for block, input_counts, output_mass, sample, highest in _one_ahead(
        merged, _blocks(settings.n_components, step)
    ):
        for flat in range(block.start, block.stop):
            here = flat - block.start
            layer, index = places[flat]
            reads, nats_read = told(input_counts[here], flat, input_totals)
            predicts, nats_predicted = told(output_mass[here], flat, output_totals)
            yield HarvestedComponent(
                layer=layer,
                component_idx=index,
                firing_count=firings[flat],
                mean_ci=round_significant(ci_sums[flat] / max(1, n_positions)),
                ci_histogram=histogram[flat],
                examples=sample.of(flat),
                highest_ci=highest.of(flat),
                input_token_pmi=pmi(input_counts[here], flat, input_totals),
                output_token_pmi=pmi(output_mass[here], flat, output_totals),
                telling=round_significant(
                    float(np.log1p(firings[flat])) * max(nats_read, nats_predicted)
                ),
                telling_input_tokens=reads,
                telling_output_tokens=predicts,
            )


class _MergedBlock(NamedTuple):
    """What is merged of a block of components."""

    block: slice
    input_counts: np.ndarray  # int64 [block, V]
    output_mass: np.ndarray  # float64 [block, V]
    sample: _Examples
    highest: _Examples


def _one_ahead(
    merge: Callable[[slice], _MergedBlock], blocks: Iterable[slice]
) -> Iterator[_MergedBlock]:
    """The merged blocks; while one is used the next is made."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming: Future[_MergedBlock] | None = None
        for block in blocks:
            ready, coming = coming, worker.submit(merge, block)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


class _Examples:
    """The merged examples of a block of components."""

    def __init__(self, tables: list[ExampleTable], block: slice, k: int) -> None:
        parts = [t.select(rows_between(t, block.start, block.stop)) for t in tables]
        self._table = ReservoirSampler.merge(parts, k)

    def of(self, flat: int) -> ExampleBlock:
        """The examples of one component, in order of priority."""
        t = self._table.select(rows_between(self._table, flat, flat + 1))
        return ExampleBlock(
            token_ids=t.token_ids.numpy(),
            ci_values=t.ci_values.numpy(),
            component_acts=t.component_acts.numpy(),
            rows=t.row.numpy(),
            positions=t.position.numpy(),
        )
