"""The interface of whatever drives whole harvests, and the progress it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harvest_assets.errors import HarvestError
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration


@dataclass(frozen=True)
class HarvestProgress:
    """The state of the harvests that a runner was given.

    Args:
        stage: of the run being harvested; None where several are harvested at once.
        harvested: seconds that each complete harvest took, by run.
        failed: why others failed, by run.
        texts_done: rows of the dataset that are tokenized.
        texts: rows of the dataset; 0 while unknown.
        tokens_done: tokens harvested by the shards at work, or before them.
        tokens: tokens of these shards; 0 while unknown.
        tokens_per_second: of these shards together.
        merge_seconds: that merging takes after them, about; 0 while unknown.
        changes: what new plans change and what is harvested again, by run.
    """

    stage: Stage | None = None
    harvested: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, HarvestError] = field(default_factory=dict)
    texts_done: int = 0
    texts: int = 0
    tokens_done: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    merge_seconds: float = 0.0
    changes: Mapping[str, str] = field(default_factory=dict)


Watch = Callable[[HarvestProgress], None]


class Runner(Protocol):
    """Drives whole harvests: prepare, shards, merge."""

    def run(
        self,
        registrations: Sequence[Registration],
        settings: Mapping[str, Any],
        step: int | None,
        watch: Watch,
    ) -> Mapping[str, HarvestError]:
        """Harvest runs; one that fails does not stop the others.

        Args:
            registrations: the runs and their folders.
            settings: of `HarvestSettings`; what is omitted stays as in the stored plans.
            step: of the checkpoints; see `prepare_config`.
            watch: called about once a second or more often, and at the end of each harvest.

        Returns:
            Why runs were not harvested, by their keys; the five files of the others are complete.

        Raises:
            HarvestError: none of them could be started, or nothing is known about them any more.
        """
