"""The positions at which components fired, as a list."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

# Measured on CPUs: from three firings in eight on, dense products are faster.
_DENSE_FROM = 3 / 8


@dataclass(frozen=True)
class FiringList:
    """The m firings of a chunk of n positions, by position, then by component.

    Args:
        n_positions: n.
        n_components: C.
        flat: int64 [m], places in a [n, C] matrix, rising.
    """

    n_positions: int
    n_components: int
    flat: torch.Tensor

    @classmethod
    def of(cls, firing: torch.Tensor) -> FiringList:
        """List the firings of bool [n, C]."""
        n, n_components = firing.shape
        return cls(n, n_components, firing.flatten().nonzero().squeeze(1))

    @classmethod
    def if_sparse(cls, firing: torch.Tensor) -> FiringList | None:
        """List the firings of bool [n, C]; None where there are too many for a list to help."""
        if int(torch.count_nonzero(firing)) > _DENSE_FROM * firing.numel():
            return None
        return cls.of(firing)

    @cached_property
    def position(self) -> torch.Tensor:
        """int64 [m]."""
        return self.flat.div(self.n_components, rounding_mode="floor")

    @cached_property
    def component(self) -> torch.Tensor:
        """int64 [m]."""
        return self.flat - self.position * self.n_components

    @cached_property
    def by_component(self) -> torch.Tensor:
        """int64 [m], the firings in order of component, then position."""
        return self.component.int().argsort(stable=True)

    @cached_property
    def per_component(self) -> torch.Tensor:
        """int64 [C], firings of each."""
        return torch.bincount(self.component, minlength=self.n_components)

    @cached_property
    def per_position(self) -> torch.Tensor:
        """int64 [n], firings at each."""
        return torch.bincount(self.position, minlength=self.n_positions)
