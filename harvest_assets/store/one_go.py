"""Decompositions that cannot compute the same again: they are harvested in one go."""

from __future__ import annotations

from harvest_assets.decompositions.protocol import Decomposition, is_repeatable
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.plan_change import is_begun


def require_one_go(decomposition: Decomposition, paths: HarvestLayout) -> None:
    """Check that a harvest without an identity is not resumed, extended or begun again.

    Raises:
        HarvestError: something was harvested before, of a decomposition that has none.
    """
    if not is_repeatable(decomposition) and is_begun(paths):
        raise HarvestError(
            f"{decomposition.config_path} has no identity=, so its harvest in {paths.root} can be "
            "neither resumed nor extended; give it an identity, or choose another @name, or remove "
            "that folder."
        )
