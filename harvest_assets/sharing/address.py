"""Addresses of shared harvests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harvest_assets.errors import HarvestError

_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", re.ASCII)


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face hub.

    Args:
        repo_id: `owner/name`.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.repo_id}{at}"


def parse_address(text: str) -> HubDataset:
    """Read the address of a shared harvest.

    Raises:
        HarvestError: it is not one.
    """
    hub = _HUB.fullmatch(text.strip())
    if hub is None:
        raise HarvestError(
            f"{text[:200]!r} is not a valid address; expected hf://datasets/OWNER/NAME, with "
            "@REVISION if it is not the main branch."
        )
    return HubDataset(hub[1], hub[2])
