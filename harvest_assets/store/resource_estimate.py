"""The memory and disk that a harvest needs, in bytes, estimated before it starts.

The one estimate that a dry run reports and that a harvest is checked against (`preflight.py`). It
was compared with what real harvests took, from a thousand components to 38,912; see
`docs/performance.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.store.plan import HarvestPlan

# For which the divergence of predictions is computed at once.
POSITIONS_AT_ONCE = 64
# Python, its libraries, and what a shard needs whatever its size.
_PROGRAM = 600_000_000
# Trained components fire, on average, at 0.4% to 4% of the positions.
_FIRING_SHARE = 1 / 32
# A token, a CI and an activation as JSON text.
_TEXT_OF_A_TOKEN = 26
# Position, component, and two values; where there is no second value, 12.
_FIRING_BYTES = 16


@dataclass(frozen=True)
class ResourceEstimate:
    """Bytes that a harvest needs: `weights` to `examples` in memory, the others on disk.

    Args:
        weights: of the target, the components and the CI function.
        working: to compute a group of rows; on a CPU, or to pack the counts when a state is stored,
            whichever is more.
        counts: of one shard.
        examples: of one shard, as many as components of trained runs have.
        state: of one shard on disk.
        results: of the five files and the tables beside them.
        firings: of every firing, where they are kept and were measured.
    """

    weights: int
    working: int
    counts: int
    examples: int
    state: int
    results: int
    firings: int = 0

    def memory(self, n_shards: int = 1) -> int:
        """Of shards that work side by side; they share the weights of a mapped file."""
        return self.weights + n_shards * (_PROGRAM + self.working + self.counts + self.examples)

    def disk(self, n_shards: int) -> int:
        """While results are written: the states of so many shards, their sum, and the results.

        Firings are there in blocks and joined.
        """
        return (n_shards + 1) * self.state + self.results + 2 * self.firings


def estimate_resources(
    plan: HarvestPlan,
    checkpoint: Decomposition,
    n_rows: int | None,
    *,
    on_gpu: bool = False,
    n_examples: int | None = None,
    firings_per_token: float = 0.0,
) -> ResourceEstimate:
    """What a harvest needs.

    Args:
        plan: the settings.
        checkpoint: the run, restricted to the layers of the plan.
        n_rows: rows that the dataset yields; None while that is not known.
        on_gpu: whether the memory is a GPU's. A state leaves it block by block, so that nothing is
            packed there and no window has a second copy.
        n_examples: of all components together; None: as many as trained runs have at most.
        firings_per_token: of all components; 0 while that is not measured.
    """
    c, v = checkpoint.n_components, checkpoint.vocab_size
    pairs = c * c if plan.cooccurrence else 0
    window = 2 * plan.activation_context_tokens_per_side + 1
    examples = c * _examples_per_component(plan, n_rows) if n_examples is None else n_examples
    example_bytes = examples * (12 * window + 28)
    rows = plan.rows_per_forward(checkpoint.tokens_per_forward)
    group = rows * plan.context_length * _bytes_per_token(checkpoint)
    packing = 3 * pairs + 2 * c * v
    return ResourceEstimate(
        weights=checkpoint.weight_bytes,
        working=group if on_gpu else max(group, packing),
        counts=4 * pairs + (4 + 8) * c * v,
        # On a CPU windows are put in order, a column at a time.
        examples=example_bytes if on_gpu else example_bytes * 3 // 2,
        state=pairs + (2 + 8) * c * v + example_bytes,
        results=8 * pairs + (4 + 8) * c * v + examples * window * _TEXT_OF_A_TOKEN,
        firings=round(_tokens_with_firings(plan, n_rows) * firings_per_token) * _FIRING_BYTES,
    )


def _tokens_with_firings(plan: HarvestPlan, n_rows: int | None) -> int:
    """Tokens whose firings are kept; 0 for all of a stream of unknown length."""
    rows = plan.n_rows_wanted if n_rows is None else plan.batches_seen(n_rows) * plan.batch_size
    if rows is None:
        rows = max(0, plan.keep_firings)
    return len(plan.rows_with_firings(range(rows))) * plan.context_length


def memory_to_ask(plan: HarvestPlan, checkpoint: Decomposition) -> int:
    """Bytes of memory that a process needs to compute single rows of a harvest."""
    row = plan.context_length * _bytes_per_token(checkpoint)
    return _PROGRAM + checkpoint.weight_bytes + row


def memory_to_ablate(checkpoint: Decomposition, n_tokens: int) -> int:
    """Bytes of memory to compare predictions of changed models with those of the full one.

    Of each token: log-probabilities of the full model, logits and log-probabilities of a changed
    one and which are finite; causal importances, a mask and which components fire. Divergences are
    computed in float64, of a few tokens at once.
    """
    c, v = checkpoint.n_components, checkpoint.vocab_size
    return n_tokens * (13 * v + 9 * c) + POSITIONS_AT_ONCE * 5 * 8 * v


def _bytes_per_token(checkpoint: Decomposition) -> int:
    """Of what the model computes for a token.

    Probabilities, CI and activations; before the first there are logits, and before the second what
    the model needs for it.
    """
    c, v = checkpoint.n_components, checkpoint.vocab_size
    return 4 * v + 8 * c + max(4 * v, checkpoint.extra_bytes_per_token)


def _examples_per_component(plan: HarvestPlan, n_rows: int | None) -> int:
    wanted = plan.activation_examples_per_component
    rows = min((n for n in (plan.n_rows_wanted, n_rows) if n is not None), default=None)
    if rows is None:
        return wanted
    return min(wanted, 1 + int(rows * plan.context_length * _FIRING_SHARE))
