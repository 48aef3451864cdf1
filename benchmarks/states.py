"""States of full shards made of random numbers: what a merge has to go through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from harvest_assets.harvester.counters import packed_length, packed_offset
from harvest_assets.harvester.histogram import N_BINS
from harvest_assets.harvester.priorities import highest_activation_first, highest_ci_first
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.harvester.state import N_HIGHEST, HarvesterSettings, HarvesterState
from harvest_assets.settings import SampleSettings

CONTEXT_LENGTH = 512
_LAYERS = 4
# Occurrences of a token: so many at least, and at random so many more.
_FEWEST, _MORE = 1 << 17, 1 << 20
# Where a component fires, of a token at most.
_MOST = 1 << 13
# Random rows, of which all others are rotations.
_ROTATED = 64
# Beside the firing itself most positions of a window are silent.
_SILENT = 0.8


def write_states(
    directory: Path, n_shards: int, n_components: int, vocab_size: int, k: int, silent: float
) -> list[Path]:
    """Write the states of shards of one size, and return their folders.

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
            random_state(shard, n_components, vocab_size, k, silent).save(place)
        places.append(place)
    return places


def layers_of(n_components: int) -> tuple[tuple[str, int], ...]:
    """The layers of all states of a size."""
    return tuple((f"h.{i}.mlp.c_fc", n_components // _LAYERS) for i in range(_LAYERS))


def rows_of_shard(vocab_size: int) -> int:
    """Rows of `CONTEXT_LENGTH` tokens that a random state counts."""
    return vocab_size * (_FEWEST + _MORE // 2) // CONTEXT_LENGTH


def random_state(
    shard: int, n_components: int, vocab_size: int, k: int, silent: float
) -> HarvesterState:
    """A state whose numbers agree with each other, as `harvest-assets verify` checks them.

    Every component that fired has k examples, and a quarter of the tokens where it fires.

    Args:
        shard: its number; no two have the same rows.
        n_components: C.
        vocab_size: V.
        k: examples of each component that fired.
        silent: share of the components that never fired.
    """
    generator = torch.Generator().manual_seed(shard)
    settings = HarvesterSettings(
        layers=layers_of(n_components),
        vocab_size=vocab_size,
        sample=SampleSettings(activation_examples_per_component=k),
    )
    # The same components in each shard.
    fired = torch.rand(n_components, generator=torch.Generator().manual_seed(0)) >= silent
    alive = fired.nonzero().squeeze(1)
    totals = torch.randint(_FEWEST, _FEWEST + _MORE, (vocab_size,), generator=generator)
    n_tokens = rows_of_shard(vocab_size) * CONTEXT_LENGTH
    totals += (n_tokens - int(totals.sum())) // vocab_size
    totals[0] += n_tokens - int(totals.sum())
    output_totals = torch.rand(vocab_size, generator=generator, dtype=torch.float64)
    counts, mass = _token_counts(generator, n_components, vocab_size, alive)
    firings = torch.zeros(n_components, dtype=torch.int64)
    firings[alive] = torch.stack([counts[place].sum(dtype=torch.int64) for place in alive])
    histogram = torch.zeros(n_components, N_BINS, dtype=torch.int64)
    histogram[:, 1:] = (firings // (N_BINS - 1))[:, None]
    histogram[:, 1] += firings % (N_BINS - 1)
    return HarvesterState(
        settings=settings,
        total_tokens_processed=n_tokens,
        ci_sums=torch.rand(n_components, generator=generator, dtype=torch.float64) * firings,
        ci_histogram=histogram,
        cooccurrence=_counts_together(generator, alive, firings),
        input_counts=counts,
        input_token_totals=totals,
        output_token_prob_mass=mass,
        output_token_prob_totals=output_totals * (n_tokens / output_totals.sum()),
        sample=_examples(generator, shard, settings, alive, k),
        highest_ci=_ordered(
            _examples(generator, shard, settings, alive, N_HIGHEST), highest_ci_first
        ),
        highest_activation=_ordered(
            _examples(generator, shard, settings, alive, N_HIGHEST), highest_activation_first
        ),
    )


def _zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> torch.Tensor:
    """Zeros that take memory only where something else is written."""
    return torch.from_numpy(np.zeros(shape, dtype))


def _token_counts(
    generator: torch.Generator, n_components: int, vocab_size: int, alive: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Occurrences, int16 [C, V], and next-token probability, float64 [C, V].

    The rows are rotations of a few random ones.
    """
    shape = (n_components, vocab_size)
    counts, mass = _zeros(shape, np.int16), _zeros(shape, np.float64)
    shape = (_ROTATED, vocab_size)
    read = torch.randint(-3 * _MOST, _MOST, shape, generator=generator).clamp_(min=0)
    predicted = torch.rand(shape, generator=generator, dtype=torch.float64)
    predicted *= (read.sum(dim=1) / predicted.sum(dim=1))[:, None]
    read = read.short()
    for number, place in enumerate(alive.tolist()):
        which, shift = number % _ROTATED, 7 * number % vocab_size
        for rows, row in ((counts, read[which]), (mass, predicted[which])):
            rows[place, shift:], rows[place, :shift] = (
                row[: len(row) - shift],
                row[len(row) - shift :],
            )
    return counts, mass


def _counts_together(
    generator: torch.Generator, alive: torch.Tensor, firings: torch.Tensor
) -> torch.Tensor:
    """The packed upper triangle of how often two components fired together, int32."""
    size = len(firings)
    packed = _zeros((packed_length(size),), np.int32)
    most = min(1 << 15, int(firings[alive].min()))
    counts = torch.randint(most, (len(alive),), generator=generator, dtype=torch.int32)
    for number, place in enumerate(alive.tolist()):
        offset = packed_offset(place, size)
        row = packed[offset : offset + size - place]
        row[alive[number:] - place] = counts[: len(alive) - number]
        row[0] = firings[place]
    return packed


def _examples(
    generator: torch.Generator, shard: int, settings: HarvesterSettings, alive: torch.Tensor, k: int
) -> ExampleTable:
    n, width, n_rows = len(alive) * k, settings.window, rows_of_shard(settings.vocab_size)
    priority = torch.randint(1 << 62, (len(alive), k), generator=generator)
    ci = torch.rand(n, width, generator=generator)
    silent = torch.rand(n, width, generator=generator) < _SILENT
    silent[:, width // 2] = False
    tokens = torch.randint(settings.vocab_size, (n, width), generator=generator, dtype=torch.int32)
    return ExampleTable(
        component=alive.repeat_interleave(k),
        priority=priority.sort(dim=1).values.flatten(),
        row=torch.randint(n_rows * shard, n_rows * (shard + 1), (n,), generator=generator),
        position=torch.randint(CONTEXT_LENGTH, (n,), generator=generator, dtype=torch.int32),
        token_ids=tokens,
        ci_values=ci.masked_fill_(silent, 0),
        component_acts=torch.randn(n, width, generator=generator),
    )


def _ordered(
    table: ExampleTable, by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> ExampleTable:
    """The highest examples in their order."""
    middle = table.ci_values.shape[1] // 2
    priority = by(table.ci_values[:, middle], table.component_acts[:, middle])
    order = priority.view(-1, N_HIGHEST).argsort(dim=1)
    order += torch.arange(0, len(priority), N_HIGHEST)[:, None]
    return table._replace(priority=priority).select(order.flatten())
