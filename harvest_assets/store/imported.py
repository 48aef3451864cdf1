"""Harvests that were imported from another program's files: they are read, and never continued.

They have no plan. Where others have the plan's digest, in `config.json` and the manifest, they have
one of the files that they were made from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import as_record, read_json
from harvest_assets.store.plan import HarvestPlan

IMPORTED = "imported"  # the key in `config.json`


@dataclass(frozen=True)
class Source:
    """The files that a harvest was imported from.

    Args:
        database: name of the database.
        sha256: of the database.
        counts: SHA-256 of the two `.pt` files, by name.
    """

    database: str
    sha256: str
    counts: dict[str, str]

    @property
    def digest(self) -> str:
        """Identifies the files, as the digest of a plan identifies what it gave."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def as_config(self) -> dict[str, Any]:
        """The value in `config.json`."""
        return asdict(self)


def source_of(paths: HarvestLayout) -> Source | None:
    """What a harvest was imported from; None of one that was not.

    Raises:
        HarvestError: its `config.json` is damaged.
    """
    if paths.plan.exists() or not paths.config.exists():
        return None
    try:
        config = read_json(paths.config)
        stored = config.get(IMPORTED) if isinstance(config, dict) else None
        return None if stored is None else as_record(stored, Source)
    except (OSError, ValueError, TypeError) as error:
        raise HarvestError(f"{paths.config} cannot be read: {reason_of(error)}.") from error


def require_harvested(paths: HarvestLayout, what: str) -> None:
    """Check that a harvest was not imported.

    Args:
        paths: of the harvest.
        what: what an imported harvest cannot be, such as "resumed or extended".

    Raises:
        HarvestError: it was.
    """
    source = source_of(paths)
    if source is not None:
        raise HarvestError(
            f"{paths.root} was imported from {source.database[:200]} and cannot be {what}; harvest "
            "the run itself, under another name (RUN@NAME)."
        )


def results_digest(paths: HarvestLayout) -> str:
    """What the manifest must name for each result: the digest of the plan, or of the source.

    Raises:
        HarvestError: the plan is missing or damaged.
    """
    source = source_of(paths)
    return HarvestPlan.open(paths.root).digest if source is None else source.digest
