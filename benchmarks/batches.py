"""Random batches of the sizes that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Size:
    """The shape of what is harvested.

    Args:
        name: for tables.
        n_components: C.
        vocab_size: V.
        rows: B, of a batch.
        length: S, tokens of a row.
        firings: components that fire at a token, on average.
    """

    name: str
    n_components: int
    vocab_size: int
    rows: int
    length: int
    firings: int = 60

    @property
    def n_tokens(self) -> int:
        """Positions of a batch."""
        return self.rows * self.length


SIZES = {
    size.name: size
    for size in (
        Size("small", 1000, 1024, 32, 64, 30),
        Size("middle", 4000, 4019, 16, 512),
        Size("simplestories-4l", 9320, 4019, 256, 512),
        Size("gpt2", 27648, 50257, 4, 512),
        Size("paper", 39936, 50304, 16, 512, 150),
    )
}


class Batch(NamedTuple):
    """The arguments of `Harvester.process_batch`."""

    tokens: torch.Tensor
    ci: torch.Tensor
    output_probs: torch.Tensor
    component_acts: torch.Tensor
    first_row: int


def random_batch(size: Size, index: int, rows: int, device: str) -> Batch:
    """Rows `index * rows` and following: firings at random places, a peaked prediction."""
    generator = torch.Generator(device).manual_seed(index)

    def uniform(width: int) -> torch.Tensor:
        shape = (rows, size.length, width)
        return torch.rand(shape, generator=generator, device=device)

    ci = uniform(size.n_components)
    rate = size.firings / size.n_components
    # What is left below the rate is uniform again when it is stretched.
    ci = torch.where(ci < rate, ci.div_(rate), 0)
    # Tokens that are as frequent as those of a text: the n-th has frequency 1 / n.
    tokens = size.vocab_size ** uniform(1)[..., 0].double()
    logits = uniform(size.vocab_size).mul_(12)
    return Batch(
        tokens.long().sub_(1).clamp_(0, size.vocab_size - 1),
        ci,
        torch.softmax(logits, dim=-1),
        uniform(size.n_components).sub_(0.5),
        index * rows,
    )
