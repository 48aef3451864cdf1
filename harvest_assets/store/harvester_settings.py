"""What a harvester has to know of a plan and of the run that it harvests."""

from __future__ import annotations

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.harvester import HarvesterSettings
from harvest_assets.store.plan import HarvestPlan


def harvester_settings(plan: HarvestPlan, checkpoint: Decomposition) -> HarvesterSettings:
    """The settings of the states of a harvest.

    Args:
        plan: the settings of the harvest.
        checkpoint: the run, restricted to the layers of the plan.
    """
    return HarvesterSettings(
        layers=checkpoint.layers,
        vocab_size=checkpoint.vocab_size,
        sample=plan.sample,
        cooccurrence=plan.cooccurrence,
    )
