"""Addresses of shared harvests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harvest_assets.errors import HarvestError

_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", re.ASCII)
_WANDB = re.compile(r"wandb://([\w.-]+)/([\w.-]+)/([\w.-]+)(?::([\w.-]+))?/?", re.ASCII)


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


@dataclass(frozen=True)
class WandbArtifact:
    """An artifact on W&B.

    Args:
        entity: user or team.
        project: project.
        artifact: name of the artifact.
        version: `v0`, or an alias; None for the newest.
    """

    entity: str
    project: str
    artifact: str
    version: str | None = None

    @property
    def name(self) -> str:
        """As the client names it, without a version."""
        return f"{self.entity}/{self.project}/{self.artifact}"

    def __str__(self) -> str:
        return f"wandb://{self.name}" + (f":{self.version}" if self.version else "")


def parse_address(text: str) -> HubDataset | WandbArtifact:
    """Read the address of a shared harvest.

    Raises:
        HarvestError: it is not one.
    """
    if hub := _HUB.fullmatch(text.strip()):
        return HubDataset(hub[1], hub[2])
    if wandb := _WANDB.fullmatch(text.strip()):
        return WandbArtifact(*wandb.groups())
    raise HarvestError(
        f"{text[:200]!r} is not a valid address; expected hf://datasets/OWNER/NAME[@REVISION] or "
        "wandb://ENTITY/PROJECT/NAME[:VERSION]."
    )
