"""Everything imported from Dagster's private modules, in one place: they may move.

A test checks that each name exists.
"""

from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import EngineEventData
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType, TickStatus
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.utils import make_new_backfill_id
from dagster._grpc.impl import core_execute_run
from dagster._utils.hosted_user_process import recon_job_from_origin

# As `dagster dev` starts its daemon, with `python -m`.
DAEMON_MODULE = "dagster._daemon"
# In the command of the process that has the code.
CODE_SERVER_WORDS = ("api", "grpc")

__all__ = [
    "GRPC_INFO_TAG",
    "AssetBackfillData",
    "AssetGraphSubset",
    "AssetKeyPartitionKey",
    "AssetPartitionStatus",
    "BaseAssetGraph",
    "BulkActionStatus",
    "BulkActionsFilter",
    "EngineEventData",
    "InstigatorStatus",
    "InstigatorType",
    "LaunchRunContext",
    "PartitionBackfill",
    "ReconstructableRepository",
    "RunQueueConfig",
    "TickStatus",
    "core_execute_run",
    "make_new_backfill_id",
    "recon_job_from_origin",
]
