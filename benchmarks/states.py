"""States of full shards made of random numbers: what a merge has to go through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from harvest_assets.harvester.counters import narrowest, pack_upper, packed_length
from harvest_assets.harvester.histogram import N_BINS
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.harvester.state import N_HIGHEST, HarvesterSettings, HarvesterState
from harvest_assets.settings import SampleSettings

_LAYERS = 4
_FIRINGS = 1 << 20
# Beside the firing itself most positions of a window are silent.
_SILENT = 0.8


def write_states(
    directory: Path, n_shards: int, n_components: int, vocab_size: int, k: int, silent: float
) -> list[Path]:
    """Write states in which every component that fired has k examples, and return their folders.

    Args:
        directory: of the folders.
        n_shards: states.
        n_components: C.
        vocab_size: V.
        k: examples of each component that fired.
        silent: share of the components that never fired.
    """
    places = []
    for shard in range(n_shards):
        place = directory / f"{shard:02d}"
        if not (place / "state.json").exists():
            state = _state(shard, n_components, vocab_size, k)
            (_silenced(state, silent) if silent else state).save(place)
        places.append(place)
    return places


def _state(shard: int, n_components: int, vocab_size: int, k: int) -> HarvesterState:
    generator = torch.Generator().manual_seed(shard)
    settings = HarvesterSettings(
        layers=tuple((f"h.{i}.mlp.c_fc", n_components // _LAYERS) for i in range(_LAYERS)),
        vocab_size=vocab_size,
        sample=SampleSettings(activation_examples_per_component=k),
    )

    def counts(below: int, *shape: int) -> torch.Tensor:
        return torch.randint(below, shape, generator=generator, dtype=torch.int32)

    histogram = torch.zeros(n_components, N_BINS, dtype=torch.int64)
    histogram[:, 1:] = _FIRINGS // (N_BINS - 1)
    return HarvesterState(
        settings=settings,
        total_tokens_processed=_FIRINGS * n_components // 60,
        ci_sums=torch.rand(n_components, generator=generator, dtype=torch.float64) * _FIRINGS,
        ci_histogram=histogram,
        cooccurrence=narrowest(counts(1 << 15, packed_length(n_components))),
        # Three tokens in four never stand where a component fires.
        input_counts=narrowest((counts(1 << 15, n_components, vocab_size) - 24576).clamp_(0)),
        input_token_totals=counts(1 << 30, vocab_size).long() + (1 << 20),
        output_token_prob_mass=torch.rand(
            n_components, vocab_size, generator=generator, dtype=torch.float64
        ),
        output_token_prob_totals=torch.rand(vocab_size, generator=generator).double() * _FIRINGS,
        sample=_examples(generator, shard, settings, k),
        highest_ci=_examples(generator, shard, settings, N_HIGHEST),
        highest_activation=_examples(generator, shard, settings, N_HIGHEST),
    )


def _silenced(state: HarvesterState, share: float) -> HarvesterState:
    """The state without the firings of a share of the components, the same ones in each state."""
    n = state.settings.n_components
    fired = torch.rand(n, generator=torch.Generator().manual_seed(0)) >= share
    rows = fired[:, None]
    tables = {name: getattr(state, name) for name in ("sample", "highest_ci", "highest_activation")}
    return replace(
        state,
        ci_sums=state.ci_sums * fired,
        ci_histogram=state.ci_histogram * rows,
        cooccurrence=pack_upper(state.count_ij * rows * fired).to(state.cooccurrence.dtype),
        input_counts=state.input_counts * rows,
        output_token_prob_mass=state.output_token_prob_mass * rows,
        **{name: table.select(fired[table.component]) for name, table in tables.items()},
    )


def _examples(
    generator: torch.Generator, shard: int, settings: HarvesterSettings, k: int
) -> ExampleTable:
    n, width = settings.n_components * k, settings.window
    priority = torch.randint(1 << 62, (settings.n_components, k), generator=generator)
    component_acts = torch.randn(n, width, generator=generator)
    ci = torch.rand(n, width, generator=generator)
    ci[torch.rand(n, width, generator=generator) < _SILENT] = 0
    return ExampleTable(
        component=torch.arange(settings.n_components).repeat_interleave(k),
        priority=priority.sort(dim=1).values.flatten(),
        row=torch.randint(1 << 20, (n,), generator=generator) * 16 + shard,
        position=torch.randint(512, (n,), generator=generator, dtype=torch.int32),
        token_ids=torch.randint(
            settings.vocab_size, (n, width), generator=generator, dtype=torch.int32
        ),
        ci_values=ci,
        component_acts=component_acts,
    )
