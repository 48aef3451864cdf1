"""Accumulate the statistics of a harvest, batch by batch.

For each batch of tokens with its causal importances (CI), next-token probabilities and component
activations:

1. A component *fires* at a position where its CI is strictly above the threshold.
2. Co-firings, input tokens and firings are counted in integers; probability mass and CI are summed
   in float64. These are sums over positions, so any split of the rows adds up to the same.
3. Each firing draws a pseudo-random priority from (seed, row, position, component). A component
   keeps the k firings of lowest priority: a uniform sample that does not depend on how the rows
   were cut into batches or shards (bottom-k sampling, Cohen & Kaplan 2007,
   https://doi.org/10.1145/1281100.1281133).
4. In the same way it keeps the 20 firings of highest (CI, |activation|), and the 20 of largest
   (|activation|, CI); ties go to the lower priority.
5. Positions are worked through in chunks, so memory is bounded however densely components fire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.profiler import record_function

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.accumulate import add_cofirings, add_output_mass
from harvest_assets.harvester.batch import Batch
from harvest_assets.harvester.counters import add_occurrences, narrowest
from harvest_assets.harvester.firing_list import FiringList
from harvest_assets.harvester.gpu.choice import uses_kernels
from harvest_assets.harvester.gpu.download import counts_to_host, to_host, upper_to_host
from harvest_assets.harvester.histogram import N_BINS, count_bins
from harvest_assets.harvester.priorities import (
    firing_priorities,
    highest_activation_first,
    highest_ci_first,
    lowest_activation,
    lowest_ci,
    position_hashes,
)
from harvest_assets.harvester.reservoir import ExampleTable, ReservoirSampler
from harvest_assets.harvester.state import N_HIGHEST, HarvesterSettings, HarvesterState
from harvest_assets.settings import SampleSettings

# Positions x components multiplied together: the bigger, the fewer passes over the sums.
_CHUNK_ELEMENTS = 1 << 25
_CHUNK_POSITIONS = 8192
_GPU_CHUNK_ELEMENTS = 1 << 28
# Firings listed together, about 150 bytes each while they are added.
_LISTED_FIRINGS = 1 << 19
# The names of the phases in a profile; benchmarks report their times.
PHASES = ("firing statistics", "co-occurrence", "input tokens", "output tokens", "examples")
# The two lists: field of the state, value that a firing needs at least, and priority.
_HIGHEST = (
    ("highest_ci", lowest_ci, highest_ci_first),
    ("highest_activation", lowest_activation, highest_activation_first),
)
_DEFAULTS = SampleSettings()
_INT32_MAX = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class _Firings:
    """The firings of a chunk of positions, by component, then by position."""

    component: torch.Tensor  # int64 [n]
    position: torch.Tensor  # int64 [n], flat position in the batch
    ci: torch.Tensor  # float32 [n]
    act: torch.Tensor  # float32 [n]
    priority: torch.Tensor  # int64 [n]

    def select(self, index: torch.Tensor) -> _Firings:
        """The firings at `index`, in its order."""
        return _Firings(
            **{name: column.index_select(0, index) for name, column in vars(self).items()}
        )


class Harvester:
    """Accumulates batches; everything stays on `device` until a state is requested.

    Args:
        layers: (layer, C) in flat order; C_total is the sum of the C.
        vocab_size: width of the next-token probabilities.
        ci_threshold: a component fires where its causal importance is strictly above.
        max_examples_per_component: firings sampled of each component.
        context_tokens_per_side: tokens kept left and right of a sampled firing.
        seed: of the sample.
        cooccurrence: count which components fire together.
        device: where to accumulate.
        kernels: use the Triton kernels; None: on a GPU, if they work there.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, int]],
        vocab_size: int,
        ci_threshold: float = _DEFAULTS.ci_threshold,
        max_examples_per_component: int = _DEFAULTS.activation_examples_per_component,
        context_tokens_per_side: int = _DEFAULTS.activation_context_tokens_per_side,
        seed: int = _DEFAULTS.seed,
        device: str | torch.device = "cpu",
        *,
        cooccurrence: bool = True,
        kernels: bool | None = None,
    ) -> None:
        self.settings = HarvesterSettings.from_flat(
            {
                "layers": layers,
                "vocab_size": vocab_size,
                "ci_threshold": ci_threshold,
                "max_examples_per_component": max_examples_per_component,
                "context_tokens_per_side": context_tokens_per_side,
                "seed": seed,
                "cooccurrence": cooccurrence,
            }
        )
        self.device = torch.device(device)
        self._kernels = uses_kernels(self.device) if kernels is None else kernels
        self.total_tokens_processed = 0
        n, v, window = self.settings.n_components, vocab_size, self.settings.window

        def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self._ci_sums = zeros(torch.float64, n)
        self._ci_histogram = zeros(torch.int64, n, N_BINS)
        # No count exceeds the positions seen: int32 until those pass 2^31, then int64.
        self._count_ij = zeros(torch.int32, self.settings.n_paired, self.settings.n_paired)
        self._input_counts = zeros(torch.int32, n, v)
        self._input_totals = zeros(torch.int64, v)
        self._output_mass = zeros(torch.float64, n, v)
        self._output_totals = zeros(torch.float64, v)
        # By the names of the fields of a state.
        self._samplers = {
            "sample": ReservoirSampler(n, max_examples_per_component, window, self.device),
            "highest_ci": ReservoirSampler(n, N_HIGHEST, window, self.device, seed),
            "highest_activation": ReservoirSampler(n, N_HIGHEST, window, self.device, seed),
        }
        # First row of the first invalid batch; -1: none.
        self._bad_row = torch.full((), -1, dtype=torch.int64, device=self.device)

    @classmethod
    def from_settings(
        cls, settings: HarvesterSettings, device: str | torch.device = "cpu"
    ) -> Harvester:
        """A harvester that has seen nothing."""
        return cls(**settings.flat(), device=device)

    @classmethod
    def from_state(cls, state: HarvesterState, device: str | torch.device = "cpu") -> Harvester:
        """A harvester that continues from a state."""
        harvester = cls(**state.settings.flat(), device=device)
        harvester._restore(state)
        return harvester

    def process_batch(
        self,
        tokens: torch.Tensor,
        ci: torch.Tensor,
        output_probs: torch.Tensor,
        component_acts: torch.Tensor,
        first_row: int,
    ) -> None:
        """Add a batch of B rows of S tokens.

        Args:
            tokens: int [B, S], in [0, vocab_size).
            ci: float [B, S, C_total], causal importances; in examples they are kept as float32.
            output_probs: float [B, S, vocab_size], the model's next-token probabilities.
            component_acts: float [B, S, C_total], component activations.
            first_row: index of the first row in the whole harvest; no row may be added twice.

        Raises:
            HarvestError: a wrong shape; or a NaN, an infinity or a token outside the vocabulary,
                named by its rows. Nothing of the batch is then added. On a GPU the error is raised
                only when a state is requested, and no state is returned.
        """
        batch = Batch.of(
            self.settings, self.device, tokens, ci, output_probs, component_acts, first_row
        )
        n_positions = batch.tokens.numel()
        self._make_room(n_positions)
        if self._kernels:
            self._add_with_kernels(batch)
        else:
            self._add_plainly(batch)
        add_occurrences(self._input_totals, batch.tokens.flatten())
        self.total_tokens_processed += n_positions

    @property
    def n_bytes(self) -> int:
        """Bytes of the large sums; about the size of a saved state."""
        return sum(
            sums.numel() * sums.element_size()
            for sums in (self._count_ij, self._input_counts, self._output_mass)
        )

    def first_bad_row(self) -> int | None:
        """First row of the first batch with a NaN, an infinity or a token outside the vocabulary.

        Always None on the CPU, where such a batch is refused at once.
        """
        row = int(self._bad_row)
        return row if row >= 0 else None

    def state(self) -> HarvesterState:
        """A snapshot of what has been accumulated."""
        return self._as_state(copy=True)

    def borrowed_state(self) -> HarvesterState:
        """A snapshot without a copy of the large sums; valid until a batch is added."""
        return self._as_state(copy=False)

    def build_results(self) -> HarvesterState:
        """What has been accumulated, moved to the CPU.

        The state takes over the harvester's memory, so the harvester must not be used afterwards;
        use `state` for a snapshot.
        """
        return self._as_state(copy=False)

    def _as_state(self, *, copy: bool) -> HarvesterState:
        bad_row = self.first_bad_row()
        if bad_row is not None:
            raise HarvestError(
                f"The batch that begins at row {bad_row} of the harvest has a NaN, an infinity "
                "or a token outside the vocabulary."
            )

        on_cpu = self.device.type == "cpu"

        def out(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to("cpu", copy=copy) if on_cpu else to_host(tensor)

        def table(sampler: ReservoirSampler) -> ExampleTable:
            return sampler.borrowed_table() if on_cpu and not copy else sampler.host_table()

        counts = self._input_counts
        return HarvesterState(
            settings=self.settings,
            total_tokens_processed=self.total_tokens_processed,
            ci_sums=out(self._ci_sums),
            ci_histogram=out(self._ci_histogram),
            cooccurrence=upper_to_host(self._count_ij),
            input_counts=out(narrowest(counts)) if on_cpu else counts_to_host(counts),
            input_token_totals=out(self._input_totals),
            output_token_prob_mass=out(self._output_mass),
            output_token_prob_totals=out(self._output_totals),
            **{name: table(sampler) for name, sampler in self._samplers.items()},
        )

    def _restore(self, state: HarvesterState) -> None:
        n = self.settings.n_components
        self.total_tokens_processed = state.total_tokens_processed
        self._make_room(0)
        self._ci_sums.copy_(state.ci_sums)
        self._ci_histogram.copy_(state.ci_histogram)
        self._count_ij.copy_(state.count_ij)
        self._input_counts.copy_(state.input_counts)
        self._input_totals.copy_(state.input_token_totals)
        self._output_mass.copy_(state.output_token_prob_mass)
        self._output_totals.copy_(state.output_token_prob_totals)
        k, seed = self.settings.sample.activation_examples_per_component, self.settings.sample.seed
        self._samplers = {"sample": ReservoirSampler.of(state.sample, n, k, self.device)}
        for name in ("highest_ci", "highest_activation"):
            if (table := getattr(state, name)) is not None:
                sampler = ReservoirSampler.of(table, n, N_HIGHEST, self.device, seed)
                self._samplers[name] = sampler

    def _add_checked_sums(self, batch: Batch, ci_sums: torch.Tensor) -> None:
        """Add the CI and probability sums of the batch, which is checked for invalid values."""
        prob_totals = batch.prob_totals()
        problems = batch.problems(ci_sums, prob_totals)
        if self.device.type == "cpu":
            for what, found in problems.items():
                if found:
                    raise HarvestError(f"There is {what} in {batch.rows}.")
        else:
            bad = torch.stack(list(problems.values())).any() & (self._bad_row < 0)
            self._bad_row.masked_fill_(bad, batch.first_row)
        self._ci_sums += ci_sums
        self._output_totals += prob_totals

    def _make_room(self, n_positions: int) -> None:
        """Widen the counters before they could overflow."""
        if self.total_tokens_processed + n_positions > _INT32_MAX:
            self._count_ij = self._count_ij.to(torch.int64)
            self._input_counts = self._input_counts.to(torch.int64)

    def _add_with_kernels(self, batch: Batch) -> None:
        from harvest_assets.harvester.gpu.accumulation import Totals, add_batch

        totals = Totals(
            self._ci_histogram,
            self._count_ij,
            self._input_counts,
            self._output_mass,
            self._samplers,
        )
        ci_sums = add_batch(batch, totals)
        with record_function("firing statistics"):
            self._add_checked_sums(batch, ci_sums)

    def _add_plainly(self, batch: Batch) -> None:
        with record_function("firing statistics"):
            self._add_checked_sums(batch, batch.ci_sums())
        on_cpu = self.device.type == "cpu"
        elements = _CHUNK_ELEMENTS if on_cpu else _GPU_CHUNK_ELEMENTS
        step = max(1, elements // self.settings.n_components)
        if on_cpu:
            step = min(step, _CHUNK_POSITIONS)
        n_positions = batch.tokens.numel()
        for start in range(0, n_positions, step):
            self._add_positions(batch, start, min(start + step, n_positions))

    def _add_positions(self, batch: Batch, start: int, stop: int) -> None:
        """Add the flat positions from `start` to `stop` of the batch."""
        ci = batch.ci.flatten(0, 1)[start:stop]
        with record_function("firing statistics"):
            firing = ci > self.settings.sample.ci_threshold
            listed = FiringList.if_sparse(firing)
        if self.settings.cooccurrence:
            with record_function("co-occurrence"):
                add_cofirings(self._count_ij, firing, listed)
        with record_function("output tokens"):
            probs = batch.output_probs.flatten(0, 1)[start:stop]
            add_output_mass(self._output_mass, firing, probs, listed)
        if listed is not None:
            self._add_listed(batch, listed, ci, start)
        else:
            for block in _blocks_of_firings(firing):
                listed = FiringList.of(firing[block])
                self._add_listed(batch, listed, ci[block], start + block.start)

    def _add_listed(self, batch: Batch, listed: FiringList, ci: torch.Tensor, start: int) -> None:
        """Add what is counted per firing, for positions from `start` on."""
        with record_function("examples"):
            width = batch.tokens.shape[1]
            positions = torch.arange(start, start + len(ci), device=self.device)
            hashes = position_hashes(
                self.settings.sample.seed, positions // width + batch.first_row, positions % width
            )
        acts = batch.component_acts.flatten(0, 1)[start : start + len(ci)]
        for first in range(0, len(listed.flat), _LISTED_FIRINGS):
            part = slice(first, first + _LISTED_FIRINGS)
            component, offset = listed.component[part], listed.position[part]
            firings = _Firings(
                component=component,
                position=offset + start,
                # Faster than indexing.
                ci=ci.flatten().index_select(0, listed.flat[part]).float(),
                act=acts.flatten().index_select(0, listed.flat[part]),
                priority=firing_priorities(hashes.index_select(0, offset), component),
            )
            self._add_firings(batch, firings)

    def _add_firings(self, batch: Batch, firings: _Firings) -> None:
        n = self.settings.n_components
        with record_function("firing statistics"):
            self._ci_histogram += count_bins(firings.ci, firings.component, n)
        with record_function("input tokens"):
            tokens = batch.tokens.flatten().index_select(0, firings.position)
            cells = firings.component * self.settings.vocab_size + tokens
            one = torch.ones((), dtype=self._input_counts.dtype, device=self.device)
            self._input_counts.view(-1).index_add_(0, cells, one.expand(len(cells)))
        with record_function("examples"):
            self._add_examples(self._samplers["sample"], batch, firings, firings.priority)
            values = (firings.ci, firings.act.abs())
            for (name, lowest, first), value in zip(_HIGHEST, values, strict=True):
                sampler = self._samplers.get(name)
                if sampler is not None:
                    # Most firings are dropped before their priorities are computed.
                    enough = value >= lowest(sampler.bound).index_select(0, firings.component)
                    rest = firings.select(enough.nonzero().squeeze(1))
                    self._add_examples(sampler, batch, rest, first(rest.ci, rest.act))

    def _add_examples(
        self,
        sampler: ReservoirSampler,
        batch: Batch,
        firings: _Firings,
        priority: torch.Tensor,
    ) -> None:
        def gather(chosen: torch.Tensor) -> ExampleTable:
            return batch.windows(
                firings.component[chosen], firings.position[chosen], priority[chosen]
            )

        sampler.add(firings.component, priority, gather, firings.priority)


def _blocks_of_firings(firing: torch.Tensor) -> Iterator[slice]:
    """Cut positions so that about `_LISTED_FIRINGS` firings, or one position, are in each block.

    Args:
        firing: bool [n, C].
    """
    up_to = firing.sum(dim=1).cumsum(dim=0)
    levels = torch.tensor(range(_LISTED_FIRINGS, int(up_to[-1]), _LISTED_FIRINGS))
    cuts = torch.searchsorted(up_to, levels.to(up_to), right=True).tolist()
    for start, stop in pairwise(sorted({0, *cuts, len(firing)})):
        yield slice(start, stop)
