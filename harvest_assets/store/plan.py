"""What a harvest was asked to do: the settings that all its shards and merges share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Record
from harvest_assets.settings import ALL_ROWS, MAX_SHARDS, Count, HarvestSettings, Shards
from harvest_assets.system.gpus import count_gpus

PLAN_VERSION = 3
# What plan.json, digests and config.json always contain, in this order. A setting that is not among
# them is left out while at its default, so that older plans keep their digests.
_ALWAYS_WRITTEN = (
    "run",
    "checkpoint_sha256",
    "n_batches",
    "batch_size",
    "context_length",
    "ci_threshold",
    "activation_examples_per_component",
    "activation_context_tokens_per_side",
    "pmi_token_top_k",
    "seed",
    "n_shards",
    "ci_noise",
    "bf16",
)
# States of plans that differ in these alone add up; whether they keep the firings is asked of them.
_NOT_IN_STATES = frozenset(
    {"n_batches", "batch_size", "pmi_token_top_k", "n_shards", "keep_firings"}
)


def default_n_shards() -> int:
    """One shard for each GPU of this machine, but at least 1 and at most 16."""
    return min(MAX_SHARDS, max(1, count_gpus()))


class HarvestPlan(HarvestSettings):
    """The settings of one harvest, all resolved.

    Args:
        run: `entity/project/run_id`.
        checkpoint_sha256: digest of the config and the checkpoint that are harvested.
        context_length: tokens of a row.
        n_shards: shards that share the work.
    """

    run: str
    checkpoint_sha256: str
    context_length: Count
    n_shards: Shards

    def flat(self) -> dict[str, Any]:
        """The values of `plan.json`, by name."""
        values, fields = self.model_dump(), type(self).model_fields
        always = {name: values.pop(name) for name in _ALWAYS_WRITTEN}
        return always | {k: v for k, v in values.items() if v != fields[k].default}

    @property
    def digest(self) -> str:
        """Identifies the plan: equal if and only if all settings are."""
        text = json.dumps([PLAN_VERSION, self.flat()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def n_rows_wanted(self) -> int | None:
        """Rows to harvest, if the dataset has as many; None for all."""
        return None if self.n_batches is None else self.n_batches * self.batch_size

    def rows_per_forward(self, tokens_per_forward: int) -> int:
        """Rows that the model computes together, as many in each shard and on each machine.

        Args:
            tokens_per_forward: of the decomposition.
        """
        return max(1, tokens_per_forward // self.context_length)

    def batches_seen(self, n_rows: int) -> int:
        """Whole batches that a dataset of `n_rows` rows yields."""
        available = n_rows // self.batch_size
        return available if self.n_batches is None else min(available, self.n_batches)

    def require_batches(self, n_rows: int, n_ctx: int, dataset_name: str) -> int:
        """The whole batches that a dataset yields, for a plan that needs at least one.

        Args:
            n_rows: rows of the dataset.
            n_ctx: tokens of a row.
            dataset_name: for the message.

        Raises:
            HarvestError: the dataset does not fill one batch.
        """
        batches = self.batches_seen(n_rows)
        if batches == 0:
            raise HarvestError(
                f"{dataset_name} yields {counted(n_rows, 'row')} of {n_ctx} tokens, less than "
                f"one batch of {self.batch_size}; give a smaller --batch_size."
            )
        return batches

    def has_shard(self, shard: str) -> bool:
        """Whether a shard, `00` to `15`, is one of those that share the work."""
        return int(shard) < self.n_shards

    def share(self, shard: int, n_rows: int, done: int = 0) -> range:
        """The rows of one shard; shards beyond `n_shards` have none.

        Args:
            shard: 0 to 15.
            n_rows: rows of the dataset.
            done: this many rows, from the first on, have been harvested before.
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

    def rows_with_firings(self, rows: range) -> range:
        """Those of some rows, numbered in the whole harvest, whose firings are all kept."""
        if self.keep_firings == ALL_ROWS:
            return rows
        return range(rows.start, max(rows.start, min(rows.stop, self.keep_firings)))

    def compatibility_digest(self, data: str) -> str:
        """Identifies what must be equal for states to add up.

        Neither the number of batches nor how they were cut is part of it.

        Args:
            data: fingerprint of the token rows.
        """
        values = {k: v for k, v in self.flat().items() if k not in _NOT_IN_STATES}
        text = json.dumps([PLAN_VERSION, data, values], sort_keys=True)
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
    "a valid plan of a harvest",
    PLAN_VERSION,
    "plan_version",
    remedy="make the plan again",
    digest_of=lambda plan: plan.digest,
    fields_of=HarvestPlan.flat,
)
