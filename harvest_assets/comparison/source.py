"""One run that was harvested, opened to compute its firings again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.filesize import decimal

from harvest_assets.comparison.firings import Firings
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.harvester.kept_firings import list_firings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.preflight import available_memory
from harvest_assets.store.reopened import reopened
from harvest_assets.store.resource_estimate import estimate_resources
from harvest_assets.system.gpus import first_device

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from harvest_assets.comparison.opened import OpenedHarvest
    from harvest_assets.data.token_rows import TokenRows
    from harvest_assets.harvester.state import HarvesterSettings


@dataclass(frozen=True)
class RunSource:
    """What computes the firings of one harvest again."""

    harvest: OpenedHarvest
    plan: HarvestPlan
    checkpoint: Decomposition

    @classmethod
    def of(cls, harvest: OpenedHarvest) -> RunSource:
        """The run that was harvested, as it was registered here.

        Raises:
            HarvestError: it is not known here, or cannot compute the same again.
        """
        if harvest.not_computable:
            raise HarvestError(harvest.not_computable)
        return cls(harvest, *reopened(harvest.paths))

    def firings(self, rows: TokenRows, n_rows: int, progress: Callable[[int], None]) -> Firings:
        """The firings at the first `n_rows` rows; the errors are those of `harvest_rows`."""
        import torch

        from harvest_assets.harvester.stream import harvest_rows
        from harvest_assets.store.harvester_settings import harvester_settings

        plan, device = self.plan, torch.device(first_device())
        self._require_memory(device)
        recorder = _Recorder(harvester_settings(plan, self.checkpoint), device)
        harvest_rows(
            recorder,
            self.checkpoint.open_model(device, ci_noise=plan.ci_noise, bf16=plan.bf16),
            rows,
            range(n_rows),
            batch_size=plan.batch_size,
            rows_per_forward=plan.rows_per_forward(self.checkpoint.tokens_per_forward),
            on_progress=progress,
        )
        return recorder.firings()

    def _require_memory(self, device: torch.device) -> None:
        # `on_gpu`: nothing is packed, as on a CPU when a state is stored.
        needs = estimate_resources(self.plan, self.checkpoint, None, on_gpu=True)
        needed, available = needs.weights + needs.working, available_memory(device, leased=True)
        if needed > available:
            raise HarvestError(
                f"The model of {self.harvest.name} and a group of its rows need "
                f"{decimal(needed)} of memory, but {device} has {decimal(available)} free; "
                "compare on a machine or GPU that has more."
            )


class _Recorder:
    """Takes the place of a `Harvester`: lists firings instead of adding them up."""

    def __init__(self, settings: HarvesterSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self._per_position: list[NDArray[np.int64]] = []
        self._component: list[NDArray[np.int32]] = []

    def process_batch(
        self,
        tokens: torch.Tensor,  # noqa: ARG002
        ci: torch.Tensor,
        output_probs: torch.Tensor,  # noqa: ARG002
        component_acts: torch.Tensor,  # noqa: ARG002
        first_row: int,  # noqa: ARG002 - rows come in order
    ) -> None:
        """See `RowConsumer`."""
        length = ci.shape[1]
        for listed in list_firings(ci, None, self.settings.sample.ci_threshold):
            n_rows = len(listed.per_row)
            place = np.repeat(np.arange(n_rows) * length, listed.per_row) + listed.position
            self._per_position.append(np.bincount(place, minlength=n_rows * length))
            self._component.append(listed.component)

    def first_bad_row(self) -> int | None:
        """See `RowConsumer`; values that are no numbers do not fire."""
        return None

    def firings(self) -> Firings:
        """All of them."""
        n = self.settings.n_components
        return Firings.joined(n, self._per_position, self._component)
