"""Everything that is taken from Dagster's private modules, in one place: they may move.

A test sees that each name is there.
"""

from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from dagster._core.utils import make_new_backfill_id

__all__ = [
    "AssetGraphSubset",
    "AssetKeyPartitionKey",
    "AssetPartitionStatus",
    "BaseAssetGraph",
    "BulkActionStatus",
    "BulkActionsFilter",
    "InstigatorStatus",
    "InstigatorType",
    "PartitionBackfill",
    "make_new_backfill_id",
]
