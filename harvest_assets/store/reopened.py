"""The run that a harvest is of, opened again to compute what it computed."""

from __future__ import annotations

from harvest_assets.decompositions.protocol import Decomposition, is_repeatable
from harvest_assets.decompositions.registry import open_registered
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import owner_of, registration_of, require_named_here


def reopened(paths: HarvestLayout) -> tuple[HarvestPlan, Decomposition]:
    """The plan of a harvest and its run as it was registered here, restricted to the plan's layers.

    Args:
        paths: of the harvest.

    Raises:
        HarvestError: the run is not known here, or cannot compute the same again.
    """
    root, owner = paths.root, owner_of(paths)
    if owner is None or not paths.run_checkpoint.exists() or not paths.plan.exists():
        raise HarvestError(
            f"{root} does not describe the files of its run, so its model cannot be opened; "
            "harvest the run on this machine first."
        )
    require_named_here(owner)
    opened = open_registered(root, registration_of(owner).reference)
    if not is_repeatable(opened):
        raise HarvestError(
            f"{opened.config_path} has no identity=, so what it computes now may differ from its "
            f"harvest in {root}; give it an identity and harvest it again."
        )
    plan = HarvestPlan.open(root)
    return plan, opened.restricted(plan.layers)
