"""The memory and disk that a harvest needs, in bytes, estimated before it starts.

`estimate_resources` is an upper bound, to report. `min_disk` and `min_memory` are lower bounds: a
harvest is refused if not even these fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.store.plan import HarvestPlan

# A token, a CI and an activation as JSON text.
_TEXT_OF_A_TOKEN = 26


@dataclass(frozen=True)
class ResourceEstimate:
    """Bytes that a harvest needs.

    Args:
        memory: of one running shard, apart from the model's weights.
        shards: of all shards' states on disk.
        results: of the five files and the tables beside them on disk.
    """

    memory: int
    shards: int
    results: int

    @property
    def peak_disk(self) -> int:
        """While results are written the shards are still there, and so is an older result."""
        return self.shards + 2 * self.results


def estimate_resources(
    plan: HarvestPlan, checkpoint: Decomposition, n_tokens: int
) -> ResourceEstimate:
    """What a plan needs.

    Args:
        plan: the settings.
        checkpoint: what is harvested.
        n_tokens: positions of the whole harvest.
    """
    c, v = checkpoint.n_components, checkpoint.vocab_size
    window = 2 * plan.activation_context_tokens_per_side + 1
    # No more firings can be kept than there are positions.
    examples = c * min(plan.activation_examples_per_component, n_tokens)
    sample = examples * (12 * window + 28)
    pairs = _pairs(plan, checkpoint)
    counts = 4 * pairs + 4 * c * v + 8 * c * v
    rows = plan.rows_per_forward(checkpoint.tokens_per_forward)
    forward = rows * plan.context_length * (8 * v + 12 * c + checkpoint.extra_bytes_per_token)
    state = 2 * pairs + 12 * c * v + sample
    return ResourceEstimate(
        memory=counts + 2 * sample + forward,
        shards=plan.n_shards * state,
        results=8 * pairs + 12 * c * v + examples * window * _TEXT_OF_A_TOKEN,
    )


def min_disk(plan: HarvestPlan, checkpoint: Decomposition, n_shards: int) -> int:
    """Bytes of the states of this many shards, their sum and the tables, without examples.

    Args:
        plan: the settings.
        checkpoint: what is harvested.
        n_shards: shards that are still to be harvested.
    """
    n, v, pairs = checkpoint.n_components, checkpoint.vocab_size, _pairs(plan, checkpoint)
    state = n * v * (8 + 1) + pairs // 2
    results = n * v * (8 + 4) + pairs * 8
    return (n_shards + 1) * state + results


def min_memory(plan: HarvestPlan, checkpoint: Decomposition) -> int:
    """Bytes of the counts of a running shard, without examples, model and batch.

    Args:
        plan: the settings.
        checkpoint: what is harvested.
    """
    n, v = checkpoint.n_components, checkpoint.vocab_size
    return n * v * (8 + 4) + _pairs(plan, checkpoint) * 4


def _pairs(plan: HarvestPlan, checkpoint: Decomposition) -> int:
    """Entries of the matrix of co-firings."""
    return checkpoint.n_components**2 if plan.cooccurrence else 0
