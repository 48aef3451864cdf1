"""A whole harvest beside the bare forward and CI pass of its model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from harvest_assets.data.data import sample_data
from harvest_assets.decompositions.registry import verify
from harvest_assets.harvester import Harvester
from harvest_assets.harvester.stream import add_answer
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import RunReference

_WARM_UP = 4


@dataclass(frozen=True)
class WholeMeasured:
    """Seconds a group of rows; medians of interleaved passes.

    Args:
        what: the run and its size.
        n_tokens: of a group.
        forward: of the model's own answer: probabilities, causal importances, activations.
        harvest: of the answer and of counting it.
    """

    what: str
    n_tokens: int
    forward: float
    harvest: float


def measure_whole(
    reference: RunReference, device: str, repeats: int, *, bf16: bool
) -> WholeMeasured:
    """Time groups of rows of a run's own data, with and without a harvester.

    Args:
        reference: to the run.
        device: where to compute.
        repeats: groups that are timed.
        bf16: as in a harvest.
    """
    checkpoint = verify(fetch_run(reference, None))
    model = checkpoint.open_model(device, bf16=bf16)
    length = checkpoint.default_context_length
    rows = sample_data(checkpoint.data_spec(length)).rows
    size = min(len(rows), max(1, checkpoint.tokens_per_forward // length))
    harvester = Harvester(checkpoint.layers, checkpoint.vocab_size, device=device)
    forward, harvest = [], []
    for turn in range(_WARM_UP + repeats):
        first = turn * size % (len(rows) - size + 1)
        tokens = torch.from_numpy(rows[first : first + size])

        def whole(tokens: torch.Tensor = tokens, row: int = turn * size) -> None:
            add_answer(harvester, tokens, model(tokens), row)

        forward.append(_seconds(device, model, tokens))
        harvest.append(_seconds(device, whole))
    return WholeMeasured(
        f"{checkpoint.run}: {checkpoint.n_components:,} components, vocabulary "
        f"{checkpoint.vocab_size:,}",
        size * length,
        median(forward[_WARM_UP:]),
        median(harvest[_WARM_UP:]),
    )


def _seconds(device: str, work: Callable[..., Any], *arguments: Any) -> float:
    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    work(*arguments)
    wait()
    return time.perf_counter() - started
