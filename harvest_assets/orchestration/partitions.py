"""The two ways a harvest is divided: by run, and by the run's shards."""

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
    """The partition key of a run, or of one of its shards: `run|shard`."""
    if "|" not in text:
        return text
    return run_shards.get_partition_key_from_str(text)


def run_of(partition_key: str) -> str:
    """The run's part of a partition key of either kind."""
    if isinstance(partition_key, dg.MultiPartitionKey):
        return partition_key.keys_by_dimension[RUN_DIMENSION]
    return partition_key


def shard_of(partition_key: str) -> str:
    """The shard's part of a `run|shard` partition key."""
    assert isinstance(partition_key, dg.MultiPartitionKey)  # noqa: S101
    return partition_key.keys_by_dimension[SHARD_DIMENSION]


def shard_partition(run: str, shard: str) -> dg.MultiPartitionKey:
    """The partition key of one shard of a run."""
    return dg.MultiPartitionKey({RUN_DIMENSION: run, SHARD_DIMENSION: shard})


def registration(partition_key: str) -> Registration:
    """The run of a partition key and the folder of its harvest."""
    return registration_of(run_of(partition_key))


def harvest_lease(owner: Registration) -> Path:
    """Held by a command while it drives the whole harvest of a run."""
    return owner.layout.harvest_lease


def shard_work(context: dg.AssetExecutionContext) -> tuple[Path, str]:
    """The lease of a shard, and what it protects."""
    shard = shard_of(context.partition_key)
    owner = registration(context.partition_key)
    return owner.layout.shard_lease(shard), f"Shard {shard} of {owner.key}"


def merge_work(context: dg.AssetExecutionContext) -> tuple[Path, str]:
    """The lease of the merge of a run, and what it protects."""
    owner = registration(context.partition_key)
    return owner.layout.merge_lease, f"The merge of {owner.key}"
