"""The names of the stages of a harvest and of the assets that each of them makes.

Dagster serializes exact strings only: it gets the `.value` of a member.
"""

from __future__ import annotations

from enum import StrEnum


class Asset(StrEnum):
    """The nodes of the graph."""

    RUN_CHECKPOINT = "run_checkpoint"
    HARVEST_PLAN = "harvest_plan"
    TOKEN_ROWS = "token_rows"  # noqa: S105
    HARVEST_SHARD = "harvest_shard"
    COMPONENT_CORRELATIONS = "component_correlations"
    TOKEN_STATS = "token_stats"  # noqa: S105
    ACTIVATION_CONTEXTS = "activation_contexts"
    MERGED_STATE = "merged_state"
    COMPONENT_SCORES = "component_scores"
    COMPONENT_LABELS = "component_labels"
    LABEL_SCORES = "label_scores"


class Stage(StrEnum):
    """The stages of a harvest, in order; each is a Dagster job of this name."""

    PREPARE = "prepare"
    HARVEST = "harvest"
    MERGE = "merge"

    @property
    def assets(self) -> tuple[Asset, ...]:
        """The assets of this stage, in order."""
        return _ASSETS[self]


# Made only when somebody asks for them: no stage, and so no harvest, includes them.
ON_REQUEST = (Asset.COMPONENT_SCORES, Asset.COMPONENT_LABELS, Asset.LABEL_SCORES)

_ASSETS = {
    Stage.PREPARE: (Asset.RUN_CHECKPOINT, Asset.HARVEST_PLAN, Asset.TOKEN_ROWS),
    Stage.HARVEST: (Asset.HARVEST_SHARD,),
    Stage.MERGE: (
        Asset.COMPONENT_CORRELATIONS,
        Asset.TOKEN_STATS,
        Asset.ACTIVATION_CONTEXTS,
        Asset.MERGED_STATE,
    ),
}
