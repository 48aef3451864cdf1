"""What the shards of a harvest left on disk, what was merged of them, and what is still to do.

A state covers a range of rows. The merged state of earlier work covers the rows from 0 on; the
shards of a plan share the rows after those. So a harvest that was extended, or whose shards have
been compacted, is opened in the same way as a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harvest_assets.data.token_rows import check_order
from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import remove
from harvest_assets.files.commit import commit_directory, committed_directory
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Record
from harvest_assets.files.untrusted import read_json
from harvest_assets.settings import MAX_SHARDS
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import owner_of
from harvest_assets.store.shared_rows import SharedTokenRows

if TYPE_CHECKING:
    from harvest_assets.harvester import HarvesterState
    from harvest_assets.harvester.kept_firings import FiringBlocks
    from harvest_assets.harvester.state_sum import StateSum

SHARD_KEYS = tuple(f"{shard:02d}" for shard in range(MAX_SHARDS))
# What the merged state is called beside the shards.
MERGED = "merged"
FORMAT_VERSION = 2

_META_FILE = "shard.json"
STATE_FOLDER = "state"
FIRINGS_FOLDER = "firings"
_STATE_META_FILE = "state.json"
_FIRINGS_META_FILE = "firings.json"

_Row = Annotated[int, Field(ge=0, lt=1 << 62)]


@dataclass(frozen=True)
class _ShardMeta:
    """What `shard.json` holds: the fields of `ShardResult`, the range of rows in two."""

    plan_digest: str
    sums: str  # the compatibility digest; the name is the key in the file
    shard: str
    first_row: _Row
    last_row: _Row

    def __post_init__(self) -> None:
        if self.first_row > self.last_row:
            raise ValueError(f"its rows end at {self.last_row}, before {self.first_row}")


_META = Record(_ShardMeta, "the description of a shard's state", FORMAT_VERSION)


@dataclass(frozen=True)
class ShardResult:
    """What was harvested of a range of rows.

    Args:
        plan_digest: of the plan it was harvested for.
        compatibility_digest: equal for states that add up; see `HarvestPlan.compatibility_digest`.
        shard: `00` to `15`, or `merged`.
        rows: what has been harvested.
        state: the statistics; None where there are no rows.
        is_stored: it is on disk already, complete, and is not written again.
        firings: every firing of those rows whose firings are kept; None if none are.
    """

    plan_digest: str
    compatibility_digest: str
    shard: str
    rows: range
    state: HarvesterState | None
    is_stored: bool = False
    firings: FiringBlocks | None = None

    def write(self, directory: Path) -> None:
        """Write the state into a new directory, `shard.json` last."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.state is not None:
            self.state.save(directory / STATE_FOLDER)
        if self.firings is not None:
            self.firings.save(directory / FIRINGS_FOLDER)
        self.write_description(directory)

    def write_description(self, directory: Path) -> None:
        """Write `shard.json` into a directory whose state is complete."""
        meta = _ShardMeta(
            self.plan_digest,
            self.compatibility_digest,
            self.shard,
            self.rows.start,
            self.rows.stop,
        )
        _META.write(directory / _META_FILE, meta)


@dataclass(frozen=True)
class StoredState:
    """A state on disk, described but not opened.

    Args:
        directory: where it is stored.
        plan_digest, compatibility_digest, rows: as in `ShardResult`.
    """

    directory: Path
    plan_digest: str
    compatibility_digest: str
    rows: range

    @classmethod
    def find(cls, current: Path) -> StoredState | None:
        """The state that a pointer names; None if there is none.

        Raises:
            HarvestError: it is damaged, or of another format version.
        """
        directory = committed_directory(current)
        if directory is None:
            return None
        meta = _META.read(directory / _META_FILE)
        return cls(directory, meta.plan_digest, meta.sums, range(meta.first_row, meta.last_row))

    def begins(self, share: range, compatibility_digest: str) -> bool:
        """Whether it covers the first rows of a share, and can be added to others."""
        return (
            self.compatibility_digest == compatibility_digest
            and self.rows.start == share.start
            and share.start < self.rows.stop <= share.stop
        )

    def open(self, *, trusted: bool = False) -> HarvesterState:
        """The statistics, memory-mapped, all bytes compared with their digests.

        Args:
            trusted: without that comparison.

        Raises:
            HarvestError: they are damaged.
        """
        from harvest_assets.harvester import HarvesterState

        return HarvesterState.load(self.directory / STATE_FOLDER, trusted=trusted)

    @property
    def has_firings(self) -> bool:
        """Whether the firings of some of its rows are stored too."""
        return (self.directory / FIRINGS_FOLDER / _FIRINGS_META_FILE).exists()

    def keeps_what(self, plan: HarvestPlan) -> bool:
        """Whether the firings that a plan keeps of its rows are stored; files are not read."""
        if not plan.keep_firings:
            return True
        wanted, there = plan.rows_with_firings(self.rows), self.rows_with_firings
        return there is not None and (there == wanted or wanted == there[: len(wanted)])

    @property
    def rows_with_firings(self) -> range | None:
        """The rows whose firings are stored; None if none are. The files are not read."""
        try:
            return range(*read_json(self.directory / FIRINGS_FOLDER / _FIRINGS_META_FILE)["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def firings(self) -> FiringBlocks:
        """The firings that are kept, all bytes compared with their digests.

        Raises:
            HarvestError: there are none, or they are damaged.
        """
        from harvest_assets.harvester.kept_firings import FiringBlocks

        blocks = FiringBlocks.load(self.directory / FIRINGS_FOLDER)
        if problems := blocks.problems():
            raise HarvestError(" ".join(problems))
        return blocks

    def is_whole(self) -> bool:
        """Whether the files of the state have their recorded sizes; their bytes are not read."""
        lists = [self.directory / STATE_FOLDER / _STATE_META_FILE]
        if self.has_firings:
            lists.append(self.directory / FIRINGS_FOLDER / _FIRINGS_META_FILE)
        try:
            return all(
                (path.parent / name).stat().st_size == file["size"]
                for path in lists
                for name, file in read_json(path)["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def damage(self) -> list[str]:
        """What is wrong with the files, in sentences."""
        from harvest_assets.harvester.kept_firings import FiringBlocks
        from harvest_assets.harvester.state import state_damage

        if not self.rows:
            return []
        try:
            problems = state_damage(self.directory / STATE_FOLDER)
            if self.has_firings:
                problems += FiringBlocks.load(self.directory / FIRINGS_FOLDER).problems()
            return problems
        except HarvestError as error:
            return [str(error)]


@dataclass(frozen=True)
class Work:
    """What a plan has to do, apart from what has been merged already.

    Args:
        compatibility_digest: of the plan and its data.
        n_rows: rows of the whole harvest.
        merged: the state of the first rows, if one is kept that can be added to.
        shares: the rows of each shard of the plan, after those of `merged`.
    """

    compatibility_digest: str
    n_rows: int
    merged: StoredState | None
    shares: tuple[range, ...]

    @classmethod
    def of(cls, paths: HarvestLayout, plan: HarvestPlan) -> Work:
        """The work that is left, given what is kept in the folder of a harvest.

        Raises:
            HarvestError: the token rows are missing.
        """
        rows = SharedTokenRows.open(paths.root)
        digest = plan.compatibility_digest(rows.fingerprint)
        n_rows = plan.batches_seen(rows.n_rows) * plan.batch_size
        merged = _find_sound(paths.merged_current)
        if merged is not None and (
            merged.compatibility_digest != digest
            or merged.rows.stop > n_rows
            or not merged.keeps_what(plan)
        ):
            merged = None
        done = merged.rows.stop if merged else 0
        shares = tuple(plan.share(s, rows.n_rows, done) for s in range(plan.n_shards))
        return cls(digest, n_rows, merged, shares)

    def share(self, shard: str) -> range:
        """The rows of one shard; empty for a shard that the plan does not need."""
        number = int(shard)
        return self.shares[number] if number < len(self.shares) else range(0)

    def reusable(self, paths: HarvestLayout, plan: HarvestPlan, shard: str) -> StoredState | None:
        """The stored result of a shard, if it is undamaged and was made for this plan."""
        stored = _find_sound(paths.shard_current(shard))
        if stored is None or not self.is_result(stored, plan, self.share(shard)):
            return None
        return None if stored.damage() else stored

    def is_result(self, stored: StoredState, plan: HarvestPlan, rows: range) -> bool:
        """Whether a stored state is the result of these rows for this plan."""
        return (stored.plan_digest, stored.compatibility_digest, stored.rows) == (
            plan.digest,
            self.compatibility_digest,
            rows,
        ) and stored.keeps_what(plan)


@dataclass(frozen=True)
class ShardResults:
    """The states of one run, opened when asked for."""

    paths: HarvestLayout

    def open(self, plan: HarvestPlan) -> StateSum:
        """The sum of the states that are the harvest of a plan, memory-mapped and undamaged.

        Raises:
            HarvestError: as `find`, or a state is damaged.
        """
        from harvest_assets.harvester.state_sum import StateSum
        from harvest_assets.results.side_by_side import in_order

        def opened(found: tuple[str, StoredState]) -> HarvesterState:
            name, stored = found
            with self._naming(plan, name):
                return stored.open()

        return StateSum(in_order(opened, self.find(plan).items()))

    def firings(self, plan: HarvestPlan) -> FiringBlocks | None:
        """The firings that a plan keeps, in files undamaged; None if it keeps none.

        Raises:
            HarvestError: as `find`, or files of firings are missing or damaged.
        """
        if not plan.keep_firings:
            return None
        from harvest_assets.harvester.kept_firings import FiringBlocks

        found = []
        for name, stored in self.find(plan).items():
            with self._naming(plan, name):
                found.append(stored.firings())
        n_rows = len(plan.rows_with_firings(range(Work.of(self.paths, plan).n_rows)))
        return FiringBlocks.of_states(found).of_first(n_rows)

    def find(self, plan: HarvestPlan) -> dict[str, StoredState]:
        """The states that are the harvest of a plan, by shard; `merged` is the one of earlier work.

        Raises:
            HarvestError: shards are missing, were harvested for another plan, or of rows that are
                not in the order of training.
        """
        check_order(SharedTokenRows.open(self.paths.root).directory)
        work = Work.of(self.paths, plan)
        names = [name for name, rows in zip(SHARD_KEYS, work.shares, strict=False) if rows]
        missing = [name for name in names if not self.paths.shard_current(name).exists()]
        if missing:
            raise HarvestError(
                f"Shards {', '.join(missing)} of {self._owner(plan)} have not been harvested."
            )
        found = {} if work.merged is None else {MERGED: work.merged}
        for name in names:
            with self._naming(plan, name):
                stored = StoredState.find(self.paths.shard_current(name))
                if stored is None:
                    raise HarvestError("its state is missing.")
                if not work.is_result(stored, plan, work.share(name)):
                    raise HarvestError("it was harvested for another plan or checkpoint.")
                found[name] = stored
        return found

    def _owner(self, plan: HarvestPlan) -> str:
        """The key of the harvest, for messages."""
        return owner_of(self.paths) or plan.run

    @contextmanager
    def _naming(self, plan: HarvestPlan, name: str) -> Iterator[None]:
        """Errors inside the block say which state they are about, and what to do."""
        try:
            yield
        except HarvestError as error:
            owner = self._owner(plan)
            what, remedy = f"Shard {name} of {owner}", "materialize it again"
            if name == MERGED:
                what, remedy = f"The merged state of {owner}", f"remove {self.paths.merged}"
            raise HarvestError(
                f"{what} cannot be summed: {str(error).rstrip('.')}; {remedy}."
            ) from error

    def without_result(self, plan: HarvestPlan) -> list[str]:
        """The shards of a plan whose results are not stored; no state is opened.

        Raises:
            HarvestError: the token rows are missing.
        """
        work = Work.of(self.paths, plan)
        names = []
        for name, rows in zip(SHARD_KEYS, work.shares, strict=False):
            stored = _find_sound(self.paths.shard_current(name))
            if rows and (stored is None or not work.is_result(stored, plan, rows)):
                names.append(name)
        return names

    def saved_so_far(self, work: Work) -> dict[str, StoredState]:
        """The states stored for the work of a plan, by shard; `merged` is that of the first rows.

        For a shard that is not finished, the state that it saved last.
        """
        found = {} if work.merged is None else {MERGED: work.merged}
        for name, share in zip(SHARD_KEYS, work.shares, strict=False):
            for current in (self.paths.shard_current(name), self.paths.shard_saved(name)):
                stored = _find_sound(current)
                if stored is not None and stored.begins(share, work.compatibility_digest):
                    found[name] = stored
                    break
        return found


def has_saved_states(paths: HarvestLayout) -> bool:
    """Whether any state, of a shard or merged, is stored in the folder of a harvest."""
    pointers = [paths.merged_current]
    for name in SHARD_KEYS:
        pointers += [paths.shard_current(name), paths.shard_saved(name)]
    return any(pointer.exists() for pointer in pointers)


def commit_shard(paths: HarvestLayout, result: ShardResult) -> int:
    """Publish a shard's result, and remove what was saved on the way.

    Returns:
        Bytes written.
    """
    written = 0
    if not result.is_stored:
        written = commit_directory(paths.shard_current(result.shard), result)
    remove(paths.shard_saved(result.shard).parent)
    return written


def _find_sound(current: Path) -> StoredState | None:
    """The state that a pointer names; None also if it is damaged or of another version."""
    try:
        return StoredState.find(current)
    except HarvestError:
        return None
