"""The memory and disk that a harvest needs, in bytes, estimated before it starts.

`estimate_resources` is an upper bound, to report. `min_disk` and `min_memory` are lower bounds: a
harvest is refused if not even these fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    plan: HarvestPlan, n_components: int, vocab_size: int, n_tokens: int
) -> ResourceEstimate:
    """What a plan needs.

    Args:
        plan: the settings.
        n_components: C_total.
        vocab_size: width of the logits.
        n_tokens: positions of the whole harvest.
    """
    c, v = n_components, vocab_size
    window = 2 * plan.activation_context_tokens_per_side + 1
    # No more firings can be kept than there are positions.
    examples = c * min(plan.activation_examples_per_component, n_tokens)
    sample = examples * (12 * window + 28)
    counts = 4 * c * c + 4 * c * v + 8 * c * v
    forward = plan.rows_per_forward * plan.context_length * (8 * v + 12 * c)
    state = 2 * c * c + 12 * c * v + sample
    return ResourceEstimate(
        memory=counts + 2 * sample + forward,
        shards=plan.n_shards * state,
        results=8 * c * c + 12 * c * v + examples * window * _TEXT_OF_A_TOKEN,
    )


def min_disk(layers: Sequence[tuple[str, int]], vocab_size: int, n_shards: int) -> int:
    """Bytes of the states of this many shards, their sum and the tables, without examples.

    Args:
        layers: names and numbers of components.
        vocab_size: width of the logits.
        n_shards: shards that are still to be harvested.
    """
    n = sum(c for _, c in layers)
    state = n * vocab_size * (8 + 1) + n * n // 2
    results = n * vocab_size * (8 + 4) + n * n * 8
    return (n_shards + 1) * state + results


def min_memory(layers: Sequence[tuple[str, int]], vocab_size: int) -> int:
    """Bytes of the counts of a running shard, without examples, model and batch.

    Args:
        layers: names and numbers of components.
        vocab_size: width of the logits.
    """
    n = sum(c for _, c in layers)
    return n * vocab_size * (8 + 4) + n * n * 4
