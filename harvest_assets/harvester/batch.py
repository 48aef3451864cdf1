"""One batch on the harvester's device: its checks, its column sums and its example windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.harvester.state import HarvesterSettings

# Rows converted to float64 and summed together, so that they stay in a CPU's cache.
_SUMMED_ROWS = 256


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens and what the model computed for them."""

    settings: HarvesterSettings
    tokens: torch.Tensor  # int64 [B, S]
    ci: torch.Tensor  # float [B, S, C]
    output_probs: torch.Tensor  # float [B, S, V]
    component_acts: torch.Tensor  # float32 [B, S, C]
    first_row: int
    foreign_tokens: torch.Tensor  # bool [], whether tokens were outside the vocabulary

    @classmethod
    def of(
        cls,
        settings: HarvesterSettings,
        device: torch.device,
        tokens: torch.Tensor,
        ci: torch.Tensor,
        output_probs: torch.Tensor,
        component_acts: torch.Tensor,
        first_row: int,
    ) -> Self:
        """The batch on a device; arguments as in `Harvester.process_batch`.

        Raises:
            HarvestError: a wrong shape, type or row.
        """
        integers = not tokens.dtype.is_floating_point and tokens.dtype != torch.bool
        if tokens.ndim != 2 or not integers:  # noqa: PLR2004
            raise HarvestError(
                f"tokens must be integers [B, S], not {tokens.dtype} {list(tokens.shape)}."
            )
        if first_row < 0:
            raise HarvestError(f"first_row is {first_row}; it must not be negative.")
        n, v = settings.n_components, settings.vocab_size
        for name, value, width in (
            ("ci", ci, n),
            ("output_probs", output_probs, v),
            ("component_acts", component_acts, n),
        ):
            if value.shape != (*tokens.shape, width):
                raise HarvestError(
                    f"{name} must be {[*tokens.shape, width]}, not {list(value.shape)}."
                )
        tokens = tokens.to(device, torch.int64)
        foreign_tokens = ((tokens < 0) | (tokens >= v)).any()
        if device.type != "cpu":
            # Keeps indices in bounds; the counts of such a batch are never returned.
            tokens = tokens.clamp(0, v - 1)
        return cls(
            settings,
            tokens,
            ci.detach().to(device),
            output_probs.detach().to(device),
            component_acts.detach().to(device, torch.float32),
            first_row,
            foreign_tokens,
        )

    @property
    def rows(self) -> str:
        """The rows, for messages."""
        return f"rows {self.first_row} to {self.first_row + len(self.tokens) - 1} of the harvest"

    def ci_sums(self) -> torch.Tensor:
        """Causal importances summed over all positions, float64 [C]."""
        return _column_sums(self.ci.flatten(0, 1))

    def prob_totals(self) -> torch.Tensor:
        """Output probabilities summed over all positions, float64 [V]."""
        return _column_sums(self.output_probs.flatten(0, 1))

    def problems(self, ci_sums: torch.Tensor, prob_totals: torch.Tensor) -> dict[str, torch.Tensor]:
        """For each kind of invalid value, whether the batch has one, bool [] on the device.

        Args:
            ci_sums: float64 [C], summed over all positions.
            prob_totals: float64 [V], likewise.
        """
        acts = self.component_acts
        finite = [extreme.isfinite() for extreme in (acts.aminmax() if acts.numel() else ())]
        # A sum in float64 is finite if and only if all its float32 parts are.
        return {
            "a causal importance that is not finite": ~ci_sums.float().sum().isfinite(),
            "a probability that is not finite": ~prob_totals.sum().isfinite(),
            "a component activation that is not finite": ~torch.stack(
                finite or [torch.ones((), dtype=torch.bool, device=acts.device)]
            ).all(),
            f"a token outside the vocabulary of {self.settings.vocab_size}": self.foreign_tokens,
        }

    def windows(
        self, component: torch.Tensor, position: torch.Tensor, priority: torch.Tensor
    ) -> ExampleTable:
        """The windows around firings.

        Args:
            component: int64 [n], flat component indices.
            position: int64 [n], flat positions in the batch.
            priority: int64 [n].
        """
        width = self.tokens.shape[1]
        row, centre = position // width, position % width
        side = self.settings.sample.activation_context_tokens_per_side
        at = centre[:, None] + torch.arange(-side, side + 1, device=position.device)
        # Few windows cross the ends of their row: only these are masked token by token.
        crossing = ((centre < side) | (centre >= width - side)).nonzero().squeeze(1)
        outside = (at[crossing] < 0) | (at[crossing] >= width)
        at.clamp_(0, width - 1)

        def masked(values: torch.Tensor, fill: int) -> torch.Tensor:
            values[crossing] = values[crossing].masked_fill_(outside, fill)
            return values

        where = (row[:, None], at, component[:, None])
        return ExampleTable(
            component=component,
            priority=priority,
            row=row + self.first_row,
            position=centre.int(),
            token_ids=masked(self.tokens.int()[where[:2]], -1),
            ci_values=masked(self.ci[where].float(), 0),
            component_acts=masked(self.component_acts[where].float(), 0),
        )


def _column_sums(values: torch.Tensor) -> torch.Tensor:
    """Sums over the rows of [n, M], float64 [M]."""
    if values.device.type != "cpu":
        return values.sum(dim=0, dtype=torch.float64)
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    for start in range(0, len(values), _SUMMED_ROWS):
        total += values[start : start + _SUMMED_ROWS].double().sum(dim=0)
    return total
