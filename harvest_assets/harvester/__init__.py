"""Batches in, `HarvesterState` out: the statistics, exact and mergeable. Knows tensors only."""

from harvest_assets.harvester.harvester import Harvester
from harvest_assets.harvester.reservoir import ReservoirSampler
from harvest_assets.harvester.state import HarvesterSettings, HarvesterState

__all__ = ["Harvester", "HarvesterSettings", "HarvesterState", "ReservoirSampler"]
