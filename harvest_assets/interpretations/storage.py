"""Labels, scores and notes of a harvest, in the folder `interpretations` beside its results.

1. To add entries is to write one new immutable file: nobody waits, and nothing is overwritten.
2. To fold, a process holds a lease, writes the three tables with all entries as new files, and
   then removes the files of entries. A table is never replaced: see `generations`.
3. A reader reads the files first and the tables second. An entry whose file disappears in between
   is in the tables; one that is in both has the same id in both and counts once. So a process that
   is killed at any point loses and duplicates nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harvest_assets.errors import HarvestError, counted, reason_of
from harvest_assets.files.atomic import new_path, sweep
from harvest_assets.files.lease import check_held, hold_lease
from harvest_assets.files.untrusted import read_json, text_of
from harvest_assets.interpretations import entry_files, generations
from harvest_assets.interpretations.entries import Entry, field_of_person
from harvest_assets.interpretations.entry_files import Entries

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from harvest_assets.files.layout import HarvestLayout

KINDS = ("labels", "scores", "edits")
# More are folded at once: a table is read much faster.
_MANY_FILES, _MANY_ENTRIES = 256, 2_000

_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class History:
    """All that was written.

    Args:
        labels: columns as the fields of `Label`, with `entry_id` and `checkpoint`, the digest of
            the checkpoint whose components they are about; by rising time.
        scores: those of `Score`.
        edits: those of `Edit`; `value` is JSON.
        checkpoint: the one that the harvest is of; None if not known.
        problems: a sentence for each file that could not be read, and for what does not hold
            because it is of another checkpoint of the run.
    """

    labels: pl.DataFrame
    scores: pl.DataFrame
    edits: pl.DataFrame
    checkpoint: str | None
    problems: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels) + len(self.scores) + len(self.edits)

    def current(self) -> pl.DataFrame:
        """What holds now; see `current.current` for its columns."""
        from harvest_assets.interpretations.current import current

        return current(*self.of_this_checkpoint())

    def of_this_checkpoint(self) -> list[pl.DataFrame]:
        """Labels, scores and edits without those that are about another checkpoint."""
        import polars as pl

        frames = [self.labels, self.scores, self.edits]
        if self.checkpoint is None:
            return frames
        ours = pl.col("checkpoint").fill_null(self.checkpoint) == self.checkpoint
        return [frame.filter(ours) for frame in frames]


class Interpretations:
    """The labels, scores and notes of one harvest.

    Args:
        paths: of the harvest.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self._paths = paths

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep entries, all or none; they are on the disk when this returns.

        What people write is dated after what it replaces, even if another clock is ahead.

        Raises:
            HarvestError: there is no such harvest, a folder of it is a link, or there are too many
                entries for one file.
            OSError: the folder cannot be written.
        """
        new = list(entries)
        if not new:
            return
        if not self._paths.root.is_dir():
            raise HarvestError(f"{self._paths.root} is not a harvest; nothing was kept.")
        self._paths.check_links()
        given = Entries.of(self._after_earlier(new), _checkpoint_of(self._paths))
        entry_files.write(self._folder, given)
        if len(given) > _MANY_ENTRIES or len(self._entry_files()) > _MANY_FILES:
            self._try_to_fold()

    def _try_to_fold(self) -> None:
        import pyarrow as pa

        # It is being done, or its problem is reported to readers; the entries are kept already.
        with suppress(HarvestError, OSError, pa.ArrowException):
            self.fold()

    def fold(self) -> None:
        """Move the entries of all readable files into the tables.

        Raises:
            LeaseHeldError: another process is doing so.
            HarvestError: a table is damaged or of another version, or another process took the
                lease meanwhile; no entry was lost.
            OSError: the folder cannot be written.
        """
        if not self._entry_files():
            return
        lease = self._paths.interpretations_lease
        with hold_lease(lease, f"the tables of {self._paths.interpretations}"):
            for folder in (self._paths.interpretations, self._folder):
                sweep(folder)
            read, rows, _ = self._files()
            stored = {kind: self._stored(kind) for kind in KINDS}
            for kind in KINDS:
                if rows[kind]:
                    path, table = stored[kind]
                    self._write(kind, path, _joined(kind, table, rows[kind]))
            for path in read:
                path.unlink(missing_ok=True)
            for kind in KINDS:
                generations.remove_older(self._paths.interpretations, kind)

    def history(self) -> History:
        """All that was written, and what could not be read."""
        import polars as pl

        _, rows, problems = self._files()
        frames = {}
        for kind in KINDS:
            try:
                _, stored = self._stored(kind)
            except HarvestError as error:
                problems.append(str(error))
                stored = None
            frame = cast("pl.DataFrame", pl.from_arrow(_joined(kind, stored, rows[kind])))
            frames[kind] = frame.sort("written_at", "entry_id")
        history = History(**frames, checkpoint=_checkpoint_of(self._paths), problems=())
        if other := len(history) - sum(map(len, history.of_this_checkpoint())):
            problems.append(
                f"{counted(other, 'entry', 'entries')} in {self._paths.interpretations} are about "
                "another checkpoint of the run: history, and not what holds now."
            )
        more = len(problems) - _MAX_PROBLEMS
        shown = [*problems[:_MAX_PROBLEMS], f"{more:,} more problems."] if more > 0 else problems
        return replace(history, problems=tuple(shown))

    def labels(self) -> pl.DataFrame:
        """All `Label`s ever written, by rising time; warns of damaged files."""
        return self._warned().labels

    def scores(self) -> pl.DataFrame:
        """All `Score`s ever written, by rising time; warns of damaged files."""
        return self._warned().scores

    def edits(self) -> pl.DataFrame:
        """All `Edit`s ever written, by rising time, `value` as JSON; warns of damaged files."""
        return self._warned().edits

    def current(self) -> pl.DataFrame:
        """What holds now, one row a component with entries; warns of damaged files.

        Columns: component_key, label, label_source, label_author, confidence, reason, note,
        starred, tags, and `score_<method>` for each method.
        """
        return self._warned().current()

    def version(self) -> tuple[Any, ...]:
        """Equal as long as nothing is written: a key for caches."""
        names = tuple(path.name for path in self._entry_files())
        return names, *(generations.version(self._paths.interpretations, kind) for kind in KINDS)

    def _warned(self) -> History:
        history = self.history()
        for problem in history.problems:
            warnings.warn(problem, stacklevel=3)
        return history

    def _after_earlier(self, entries: list[Entry]) -> list[Entry]:
        if not any(map(field_of_person, entries)):
            return entries  # no need to read the history
        from harvest_assets.interpretations.current import after_earlier

        history = self.history()
        return after_earlier(entries, history.labels, history.edits)

    def _entry_files(self) -> list[Path]:
        return entry_files.files_in(self._folder)[0]

    @property
    def _folder(self) -> Path:
        return self._paths.interpretation_entries

    def _stored(self, kind: str) -> tuple[Path | None, pa.Table | None]:
        """A table and its file, if there are any.

        Raises:
            HarvestError: the table is damaged, or is a link to nothing.
        """
        from harvest_assets.interpretations import tables

        folder, missing = self._paths.interpretations, None
        while path := generations.newest(folder, kind):
            if path == missing:
                raise HarvestError(f"{path} cannot be opened; remove it if it is a broken link.")
            with suppress(FileNotFoundError):  # a newer one has followed it
                return path, tables.read(path, kind)
            missing = path
        return None, None

    def _write(self, kind: str, old: Path | None, table: pa.Table) -> None:
        """Write the table that follows the one in `old`.

        Raises:
            HarvestError: another process has written the next one.
        """
        from harvest_assets.interpretations import tables

        folder = self._paths.interpretations
        path = generations.after(folder, kind, old)
        try:
            with new_path(path) as temporary:
                tables.write(temporary, table)
                check_held(self._paths.interpretations_lease)
        except FileExistsError:
            raise HarvestError(f"{path} was written by another process meanwhile.") from None
        # Where others have folded and tidied up, the number may have been free again.
        if generations.newest(folder, kind) != path:
            raise HarvestError(f"{path} is older than the table of another process.")

    def _files(self) -> tuple[list[Path], dict[str, list[dict[str, Any]]], list[str]]:
        """The files that can be read, the rows in them, and what is wrong with the others."""
        rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        paths, problems = entry_files.files_in(self._folder)
        read = []
        for path in paths:
            try:
                entries = entry_files.read(path)
            except FileNotFoundError:
                continue
            except (HarvestError, OSError) as error:
                problems.append(f"{reason_of(error)}.")
                continue
            read.append(path)
            for kind, more in entries.rows(path.stem).items():
                rows[kind] += more
        return read, rows, problems


def _checkpoint_of(paths: HarvestLayout) -> str | None:
    """The digest of the checkpoint that the results or, before there are any, the plan is of."""
    for file in (paths.config, paths.plan):
        try:
            return text_of(read_json(file)["checkpoint_sha256"])
        except (OSError, ValueError, TypeError, LookupError):  # older writers do not say
            continue
    return None


def _joined(kind: str, stored: pa.Table | None, rows: list[dict[str, Any]]) -> pa.Table:
    """A table with more rows, without those that it has already."""
    import pyarrow as pa

    from harvest_assets.interpretations import tables

    if stored is None:
        return tables.of_rows(kind, rows)
    known = set(stored["entry_id"].to_pylist()) if rows else ()
    new = [row for row in rows if row["entry_id"] not in known]
    return pa.concat_tables([stored, tables.of_rows(kind, new)])
