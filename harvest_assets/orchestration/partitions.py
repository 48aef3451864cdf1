"""The two ways the work is divided: by harvest, and by the harvest's shards.

A run's first harvest has the run's name as its key, any further one `run@name`. The dimension is
called `run`, as in version 0.1, so that its partitions go on.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from harvest_assets.store.registry import Registration, registration_of
from harvest_assets.store.shards import SHARD_KEYS

RUN_DIMENSION = "run"
SHARD_DIMENSION = "shard"

runs = dg.DynamicPartitionsDefinition(name=RUN_DIMENSION)
shards = dg.StaticPartitionsDefinition(list(SHARD_KEYS))
run_shards = dg.MultiPartitionsDefinition({RUN_DIMENSION: runs, SHARD_DIMENSION: shards})


def partition_key(text: str) -> str:
    """The partition key of a harvest, or of one of its shards: `harvest|shard`."""
    if "|" not in text:
        return text
    return run_shards.get_partition_key_from_str(text)


def run_of(partition_key: str) -> str:
    """The harvest's part of a partition key of either kind."""
    if isinstance(partition_key, dg.MultiPartitionKey):
        return partition_key.keys_by_dimension[RUN_DIMENSION]
    return partition_key


def shard_of(partition_key: str) -> str:
    """The shard's part of a `harvest|shard` partition key."""
    assert isinstance(partition_key, dg.MultiPartitionKey)  # noqa: S101
    return partition_key.keys_by_dimension[SHARD_DIMENSION]


def shard_partition(run: str, shard: str) -> dg.MultiPartitionKey:
    """The partition key of one shard of a harvest."""
    return dg.MultiPartitionKey({RUN_DIMENSION: run, SHARD_DIMENSION: shard})


def registration(partition_key: str) -> Registration:
    """The harvest of a partition key and its folder."""
    return registration_of(run_of(partition_key))


def harvest_lease(owner: Registration) -> Path:
    """Held by a command while it drives a whole harvest."""
    return owner.layout.harvest_lease


def shard_work(context: dg.AssetExecutionContext) -> tuple[Path, str]:
    """The lease of a shard, and what it protects."""
    shard = shard_of(context.partition_key)
    owner = registration(context.partition_key)
    return owner.layout.shard_lease(shard), f"Shard {shard} of {owner.key}"


def merge_work(context: dg.AssetExecutionContext) -> tuple[Path, str]:
    """The lease of the merge of a harvest, and what it protects."""
    owner = registration(context.partition_key)
    return owner.layout.merge_lease, f"The merge of {owner.key}"
