"""What one shard harvested, as it lies on disk, and all shards of a plan as a merge opens them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.atomic import write_json
from harvest_assets.errors import HarvestError
from harvest_assets.layout import HarvestLayout
from harvest_assets.plan import MAX_SHARDS, HarvestPlan

if TYPE_CHECKING:
    from harvest_assets.harvester import HarvesterState

SHARD_KEYS = tuple(f"{shard:02d}" for shard in range(MAX_SHARDS))

_META_FILE = "shard.json"
_STATE_FOLDER = "state"


@dataclass(frozen=True)
class ShardResult:
    """One shard's share of a harvest.

    Args:
        plan_digest: of the plan it was harvested for.
        shard: `00` to `15`.
        rows: the share.
        state: what was harvested; None where the plan has no share for this shard.
    """

    plan_digest: str
    shard: str
    rows: range
    state: HarvesterState | None

    def write(self, directory: Path) -> None:
        """Write the state into a new directory, `shard.json` last."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.state is not None:
            self.state.save(directory / _STATE_FOLDER)
        write_json(
            directory / _META_FILE,
            {
                "plan_digest": self.plan_digest,
                "shard": self.shard,
                "first_row": self.rows.start,
                "last_row": self.rows.stop,
            },
        )


@dataclass(frozen=True)
class ShardResults:
    """The shards of one run, opened when asked for."""

    paths: HarvestLayout

    def open(self, plan: HarvestPlan) -> list[HarvesterState]:
        """The states of all shards that share the work of a plan, memory-mapped.

        Raises:
            HarvestError: shards are missing, or were harvested for another plan.
        """
        from harvest_assets.harvester import HarvesterState

        names = SHARD_KEYS[: plan.n_shards]
        missing = [name for name in names if not self.paths.shard_current(name).exists()]
        if missing:
            msg = f"Shards {', '.join(missing)} of {plan.run} have not been harvested."
            raise HarvestError(msg)
        directories = [self._directory(name) for name in names]
        for name, directory in zip(names, directories, strict=True):
            if _read(directory / _META_FILE)["plan_digest"] != plan.digest:
                msg = (
                    f"Shard {name} of {plan.run} was harvested for another plan or checkpoint; "
                    "materialize it again."
                )
                raise HarvestError(msg)
        return [HarvesterState.load(directory / _STATE_FOLDER) for directory in directories]

    def _directory(self, name: str) -> Path:
        current = self.paths.shard_current(name)
        folder = str(_read(current)["directory"])
        if Path(folder).name != folder:
            msg = f"{current} points out of its folder: {folder!r}."
            raise HarvestError(msg)
        return current.parent / folder


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            msg = "no mapping"
            raise ValueError(msg)
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged; materialize the shard again. ({error})"
        raise HarvestError(msg) from error
    return value
