"""What a harvest was asked to do: the settings that all its shards and merges share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Record
from harvest_assets.system.gpus import count_gpus

PLAN_VERSION = 3
MAX_SHARDS = 16
# Rows are computed in groups of about this many tokens: enough for matrix products to run at full
# speed, few enough for the outputs of a wide model to fit.
_TOKENS_PER_FORWARD = 8192
_ADD_UP = (
    "run",
    "checkpoint_sha256",
    "context_length",
    "ci_threshold",
    "activation_examples_per_component",
    "activation_context_tokens_per_side",
    "seed",
    "ci_noise",
    "bf16",
)


def default_n_shards() -> int:
    """One shard for each GPU of this machine, but at least 1 and at most 16."""
    return min(MAX_SHARDS, max(1, count_gpus()))


@dataclass(frozen=True)
class HarvestPlan:
    """The settings of one harvest, all resolved.

    Args:
        run: `entity/project/run_id`.
        checkpoint_sha256: digest of the config and the checkpoint that are harvested.
        n_batches: batches asked for; None is the whole dataset.
        batch_size: rows of a batch.
        context_length: tokens of a row.
        ci_threshold: a component fires where its causal importance is strictly above.
        activation_examples_per_component: firings sampled of each component.
        activation_context_tokens_per_side: tokens kept left and right of a sampled firing.
        pmi_token_top_k: tokens in each PMI list.
        seed: of the sample; the data's order follows the run's config.
        n_shards: shards that share the work, 1 to 16.
        ci_noise: causal importances have the noise of the run's training.
        bf16: the model's matrix products are computed in bfloat16.
    """

    run: str
    checkpoint_sha256: str
    n_batches: int | None
    batch_size: int
    context_length: int
    ci_threshold: float
    activation_examples_per_component: int
    activation_context_tokens_per_side: int
    pmi_token_top_k: int
    seed: int
    n_shards: int
    ci_noise: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        at_least_one = ["batch_size", "context_length", "n_shards"]
        if self.n_batches is not None:
            at_least_one.append("n_batches")
        at_least_zero = [
            "activation_examples_per_component",
            "activation_context_tokens_per_side",
            "pmi_token_top_k",
        ]
        for names, least in ((at_least_one, 1), (at_least_zero, 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise HarvestError(
                        f"{name} is {getattr(self, name)}; it must be at least {least}."
                    )
        if self.n_shards > MAX_SHARDS:
            raise HarvestError(
                f"n_shards is {self.n_shards}; at most {MAX_SHARDS} shards can share a harvest."
            )
        if not 0 <= self.ci_threshold < float("inf"):
            raise HarvestError(
                f"ci_threshold is {self.ci_threshold}; it must be a number from 0 upwards."
            )

    @property
    def digest(self) -> str:
        """Names the plan: equal if and only if all settings are."""
        text = json.dumps([PLAN_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def n_rows_wanted(self) -> int | None:
        """Rows that are looked at if the dataset has them; None is all."""
        return None if self.n_batches is None else self.n_batches * self.batch_size

    @property
    def rows_per_forward(self) -> int:
        """Rows that the model computes together, a function of the context length alone."""
        return max(1, _TOKENS_PER_FORWARD // self.context_length)

    def batches_seen(self, n_rows: int) -> int:
        """Whole batches that a dataset of `n_rows` rows yields."""
        there = n_rows // self.batch_size
        return there if self.n_batches is None else min(there, self.n_batches)

    def require_batches(self, n_rows: int, n_ctx: int, dataset_name: str) -> int:
        """The whole batches that a dataset yields, for a plan that needs at least one.

        Args:
            n_rows: rows of the dataset.
            n_ctx: tokens of a row.
            dataset_name: for the message.

        Raises:
            HarvestError: there is none.
        """
        batches = self.batches_seen(n_rows)
        if batches == 0:
            raise HarvestError(
                f"{dataset_name} yields {n_rows} rows of {n_ctx} tokens, less than one batch of "
                f"{self.batch_size}; give a smaller --batch_size."
            )
        return batches

    def share(self, shard: int, n_rows: int, done: int = 0) -> range:
        """The rows of one shard; shards beyond `n_shards` have none.

        Args:
            shard: 0 to 15.
            n_rows: rows of the dataset.
            done: the first so many rows have been harvested before.
        """
        total = self.batches_seen(n_rows) * self.batch_size
        if shard >= self.n_shards or done >= total:
            return range(0)
        batches = -(-(total - done) // self.batch_size)
        first, last = (
            min(total, done + part * batches // self.n_shards * self.batch_size)
            for part in (shard, shard + 1)
        )
        return range(first, last)

    def sums(self, data: str) -> str:
        """Names what must be equal for states to add up.

        Neither the number of batches nor how they were cut is part of it.

        Args:
            data: fingerprint of the token rows.
        """
        told = {name: getattr(self, name) for name in _ADD_UP}
        text = json.dumps([PLAN_VERSION, data, told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, directory: Path) -> None:
        """Write `plan.json` into a directory."""
        _RECORD.write(HarvestLayout(directory).plan, self)

    @classmethod
    def open(cls, directory: Path) -> HarvestPlan:
        """Read `plan.json`.

        Raises:
            HarvestError: it is missing, damaged, changed by hand, or of another version.
        """
        return _RECORD.read(HarvestLayout(directory).plan)


_RECORD = Record(
    HarvestPlan,
    "a harvest plan",
    PLAN_VERSION,
    "plan_version",
    remedy="make the plan again",
    digest_of=lambda plan: plan.digest,
)
