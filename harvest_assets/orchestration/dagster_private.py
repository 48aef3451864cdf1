"""What is taken from Dagster's private modules, all of it; another version may not have it."""

from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._grpc.impl import core_execute_run
from dagster._utils.hosted_user_process import recon_job_from_origin

__all__ = [
    "EngineEventData",
    "LaunchRunContext",
    "ReconstructableRepository",
    "RunQueueConfig",
    "core_execute_run",
    "recon_job_from_origin",
]
