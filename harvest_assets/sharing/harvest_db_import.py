"""A harvest in SPD's newer form becomes one of ours, to be viewed, labelled, scored and shared.

1. `component_correlations.pt` and `token_stats.pt` are copied: their keys are those of our files.
2. Each row of `components` becomes a line, with its windows padded around their firing.
3. `config.json` has the settings that the database names, and says that it was imported. There is
   no plan and there are no states: such a harvest is read, and cannot be resumed or extended.
4. All of it is checked beside its place and then renamed into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets import __version__
from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.atomic import remove, temporary_beside
from harvest_assets.files.commit import publish_files
from harvest_assets.files.free_space import require_free
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import forget_stamps
from harvest_assets.files.records import FileDigest
from harvest_assets.results.contexts import HarvestedComponent, write_contexts
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.merge import TokenCounts, informativeness
from harvest_assets.sharing.contents import Watch, contents_of
from harvest_assets.sharing.harvest_db_rows import (
    DATABASE,
    DbComponent,
    DbExamples,
    DbSettings,
    HarvestDb,
)
from harvest_assets.sharing.imported_run import RowLength, tokenizer_of, trained_length
from harvest_assets.sharing.receive import publish
from harvest_assets.store.harvest_name import HarvestReference
from harvest_assets.store.imported import IMPORTED, Source
from harvest_assets.store.registry import name_folder
from harvest_assets.store.verification import count_problems
from harvest_assets.wandb_client.run_name import is_run_name, parse_run

if TYPE_CHECKING:
    from harvest_assets.harvester.reservoir import ExampleTable

_CHUNK = 1 << 22
# Padding of all windows, in tokens: as many as the database has bytes, or so many if it is small.
_FREE_PADDING = 1 << 20
_PADDED_BYTES = 12  # of a token of padding in a line
_DENSITY = 1e-5  # relative; densities may have been computed in float32


@dataclass
class ImportedHarvest:
    """A harvest that was imported.

    Args:
        paths: of the harvest.
        notes: what is not known of it, in sentences.
    """

    paths: HarvestLayout
    notes: list[str]


def import_harvest(
    path: Path,
    tokenizer_name: str | None,
    out_name: str | None,
    add_scores: Callable[[HarvestLayout, Path], object],
    watch: Watch,
) -> ImportedHarvest:
    """Import a harvest into its folder below `harvest/`, complete or not at all.

    Args:
        path: of `harvest.db`, of its folder, or of a folder of such folders: then of the last.
        tokenizer_name: hub name or path; None: that of the run, if its files or its first harvest
            are here. Without one, tokens are shown as ids.
        out_name: the folder below `harvest/`; None for `<run_id>@<name of the folder>`.
        add_scores: adds the scores of the database to the harvest in a folder; called if it has a
            table of them.
        watch: is shown the progress.

    Raises:
        HarvestError: the files are not such a harvest, are damaged or do not belong together, the
            disk is too small, the folder exists, or there is no such tokenizer.
        OSError: a file cannot be read or written.
    """
    database = _database_in(path)
    with HarvestDb.opened(database) as db:
        harvest = _harvest_of(db.settings, database)
        paths = HarvestLayout.of(
            out_name or (harvest.default_folder if harvest else _name_of(database))
        )
        if paths.root.exists() or paths.root.is_symlink():
            raise HarvestError(
                f"{paths.root} exists, and was left as it is; choose another folder with "
                "--out-name."
            )
        tokenizer = tokenizer_of(tokenizer_name, harvest)
        n_bytes = sum(it.stat().st_size for it in database.parent.iterdir() if it.is_file())
        examples = db.count_examples()
        padding = examples.n * db.settings.window - examples.n_tokens
        if padding > max(_FREE_PADDING, database.stat().st_size):
            raise HarvestError(
                f"{database} has windows of {db.settings.window:,} tokens by its "
                "activation_context_tokens_per_side, but examples of at most "
                f"{examples.longest:,}; expected windows that fit its rows."
            )
        require_free(paths.root, n_bytes + _PADDED_BYTES * max(0, padding))
        with _staged(paths) as staged:
            rows = RowLength(db.settings, examples.longest, trained_length(harvest))
            imported = _Import(db, database, tokenizer, rows, watch, n_bytes)
            publish_files(staged, imported)
            forget_stamps(staged)
            if tokenizer is not None:
                tokenizer.keep(staged.tokenizer)
            if harvest is not None:
                name_folder(staged, harvest.key)
            if db.has_scores:
                add_scores(staged, database)
            publish(staged.root, paths, contents_of(staged, watch), str(database))
    return ImportedHarvest(paths, imported.notes)


def _database_in(path: Path) -> Path:
    """The database that a path means.

    Raises:
        HarvestError: there is none.
    """
    path = path.absolute()
    if not path.is_dir():
        return path
    folders = [path, *sorted(path.glob("h-*"), key=lambda it: it.name, reverse=True)]
    for folder in folders:
        if (folder / DATABASE).is_file():
            return folder / DATABASE
    raise HarvestError(f"{path} has no {DATABASE}; expected a folder h-YYYYMMDD_HHMMSS.")


def _harvest_of(settings: DbSettings, database: Path) -> HarvestReference | None:
    """The harvest by its run and the folder of the database; None if it names no run."""
    if not is_run_name(settings.run):
        return None
    return HarvestReference(parse_run(settings.run), _name_of(database))


def _name_of(database: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", database.parent.name)[:100].strip("-") or "imported"


@contextmanager
def _staged(paths: HarvestLayout) -> Iterator[HarvestLayout]:
    """A folder beside that of a harvest, removed in the end unless it was renamed."""
    staged = HarvestLayout(temporary_beside(paths.root))
    try:
        staged.root.mkdir(parents=True)
        yield staged
    finally:
        remove(staged.root)


class _Import:
    """The result files of an imported harvest.

    Args:
        db: the open database.
        database: its path; the other files are beside it.
        tokenizer: of the run; None where not known.
        rows: what is known of the rows.
        watch: is shown the progress.
        n_bytes: of all files.
    """

    def __init__(
        self,
        db: HarvestDb,
        database: Path,
        tokenizer: RecordedTokenizer | None,
        rows: RowLength,
        watch: Watch,
        n_bytes: int,
    ) -> None:
        self._db, self._database, self._tokenizer = db, database, tokenizer
        self._rows = rows
        self._watch, self._done, self._n_bytes = watch, 0, n_bytes
        self._n_examples = self._n_cut = self._n_uncertain = 0
        self.plan_digest = ""
        self.notes: list[str] = []

    def write(self, directory: Path) -> dict[Path, FileDigest]:
        """Write the files into a harvest folder, and return digests of the large ones."""
        target = HarvestLayout(directory)
        target.correlations.mkdir(parents=True)
        try:
            digests = self._write_counts(target)
            problems = count_problems(target)
            if problems:
                raise HarvestError("\n       ".join(problems))
        except HarvestError as error:
            named = str(error).replace(str(target.correlations), str(self._database.parent))
            raise HarvestError(named) from None
        source = Source(
            self._database.name,
            FileDigest.of(self._database).sha256,
            {path.name: digest.sha256 for path, digest in digests.items()},
        )
        self.plan_digest = source.digest
        config: dict[str, Any] = {}
        counts = CorrelationStorage.load(target.component_correlations)
        tokens = TokenStatsStorage.load(target.token_stats)
        contexts = write_contexts(target, self._components(counts, tokens, config, source), config)
        for table in (target.example_positions, target.highest_ci_examples):
            table.unlink()  # nothing is known of either
            del contexts[table]
        return digests | contexts

    def _advance(self, n: int) -> None:
        self._done += n
        self._watch("importing", min(self._done, self._n_bytes), self._n_bytes)

    def _write_counts(self, target: HarvestLayout) -> dict[Path, FileDigest]:
        """Copy the two `.pt` files; without co-firings, the firings are those of the tokens."""
        digests = {target.token_stats: self._copy(target.token_stats)}
        file = target.component_correlations
        if (self._database.parent / file.name).exists():
            return digests | {file: self._copy(file)}
        tokens = TokenStatsStorage.load(target.token_stats)
        firings = CorrelationStorage(
            tokens.component_keys, tokens.firing_counts.long(), None, tokens.n_tokens
        )
        return digests | {file: firings.save(file)}

    def _copy(self, target: Path) -> FileDigest:
        source = self._database.parent / target.name
        if not source.is_file():
            raise HarvestError(f"{source} is missing: the number of tokens is not known.")
        with source.open("rb") as content, HashedFile(target) as written:
            while chunk := content.read(_CHUNK):
                written.write(chunk)
                self._advance(len(chunk))
        return written.digest

    def _components(
        self,
        counts: CorrelationStorage,
        tokens: TokenStatsStorage,
        config: dict[str, Any],
        source: Source,
    ) -> Iterator[HarvestedComponent]:
        """All components in flat order; after the last one, `config` is filled."""
        keys, n_tokens = counts.component_keys, counts.count_total
        firings, vocab_size = counts.count_i.tolist(), tokens.vocab_size
        inputs = TokenCounts(tokens.input_totals, n_tokens, 1, vocab_size)
        outputs = TokenCounts(tokens.output_totals, n_tokens, 1, vocab_size)
        for place, (key, row_id) in enumerate(zip(keys, self._db.row_ids(keys), strict=True)):
            layer, _, index = key.rpartition(":")
            if not (layer and index.isascii() and index.isdecimal()):
                raise HarvestError(f"{self._database.parent} has a component named {key[:200]!r}.")
            row = self._row(key, row_id, firings[place], tokens)
            read = inputs.of(tokens.input_counts[place].numpy(), firings[place])
            predicted = outputs.of(tokens.output_counts[place].numpy(), firings[place])
            yield HarvestedComponent(
                layer=layer,
                component_idx=int(index),
                firing_count=firings[place],
                mean_ci=row.mean_ci,
                ci_histogram=None,
                examples=_table(row.examples, place),
                highest_ci=_table(DbExamples.none(self._db.settings.window), place),
                input_token_pmi=row.input_token_pmi,
                output_token_pmi=row.output_token_pmi,
                informativeness=informativeness(firings[place], read, predicted),
                informative_input_tokens=read.informative,
                informative_output_tokens=predicted.informative,
            )
        config |= self._config(n_tokens, vocab_size, source)

    def _row(
        self, key: str, row_id: int | None, firings: int, tokens: TokenStatsStorage
    ) -> DbComponent:
        """The row of a component, checked to be of its firings; an empty one if it has none."""
        if row_id is None and not firings:
            return DbComponent.none(self._db.settings.window)
        if row_id is None:
            raise HarvestError(
                f"{self._database} has no row of {key}, which fired {counted(firings, 'time')}."
            )
        length = self._rows.length(tokens.n_tokens)
        row = self._db.component(key, row_id, length, tokens.vocab_size)
        expected = firings / max(1, tokens.n_tokens)
        if not firings or abs(row.firing_density - expected) > _DENSITY * expected:
            raise HarvestError(
                f"{self._database} has the firing_density {row.firing_density:g} of {key}, which "
                f"fired {counted(firings, 'time')} by the .pt files; they are of another harvest."
            )
        if len(row.examples.token_ids) > firings:
            raise HarvestError(f"{self._database} has more examples of {key} than it has firings.")
        self._n_examples += len(row.examples.token_ids)
        self._n_cut += row.examples.n_cut
        self._n_uncertain += row.examples.n_uncertain
        self._advance(row.n_bytes)
        return row

    def _config(self, n_tokens: int, vocab_size: int, source: Source) -> dict[str, Any]:
        """The content of `config.json`: what the database says, and nothing that it does not."""
        settings = self._db.settings
        row_length = self._rows.length(n_tokens)
        self.notes = list(self._notes(n_tokens, vocab_size))
        named = is_run_name(settings.run)
        return {
            **({"wandb_path": parse_run(settings.run).name.wandb_path} if named else {}),
            "n_batches": settings.n_batches,
            "n_tokens": n_tokens,
            "batch_size": settings.batch_size,
            **({"context_length": row_length} if row_length else {}),
            "ci_threshold": settings.ci_threshold,
            "activation_examples_per_component": settings.n_examples,
            "activation_context_tokens_per_side": settings.per_side,
            "pmi_token_top_k": settings.pmi_top_k,
            **(self._tokenizer.as_config() if self._tokenizer else {}),
            "plan": source.digest,
            IMPORTED: source.as_config(),
            "harvest_assets_version": __version__,
            "notes": self.notes,
        }

    def _notes(self, n_tokens: int, vocab_size: int) -> Iterator[str]:
        yield (
            "Imported: rows and positions of examples, histograms and the firings of highest "
            "causal importance are not known, nor whether the examples are a uniform sample."
        )
        run = self._db.settings.run
        if not is_run_name(run):
            yield f"The database names its run {run[:200]!r}, which is not a run's name."
        if self._n_uncertain:
            yield (
                f"{self._n_uncertain:,} of {counted(self._n_examples, 'example')} were cut at an "
                "end of their row and fire at more than one place that may be their middle; they "
                "are taken to be cut at the end."
            )
        if self._tokenizer is None:
            yield (
                "The tokenizer is not known, so tokens are shown as ids; to see texts, remove the "
                "folder of this harvest and import it again with --tokenizer."
            )
        elif (n_ids := self._tokenizer.open().vocabulary.vocab_size) > vocab_size:
            yield (
                f"The tokenizer {self._tokenizer.name[:200]!r} has {n_ids:,} ids, but the counts "
                f"have {vocab_size:,}; it may be another one than the run's."
            )
        if note := self._rows.note(n_tokens):
            yield note
        if self._rows.length(n_tokens) is None and self._n_cut:
            yield "Rows are taken to be longer than the context of an example."


def _table(examples: DbExamples, place: int) -> ExampleTable:
    """Examples as the writer of results takes them; their rows and positions are not written."""
    import torch

    from harvest_assets.harvester.reservoir import ExampleTable

    n = len(examples.token_ids)
    return ExampleTable(
        component=torch.full((n,), place),
        priority=torch.arange(n),
        row=torch.zeros(n, dtype=torch.int64),
        position=torch.zeros(n, dtype=torch.int32),
        token_ids=torch.from_numpy(examples.token_ids),
        ci_values=torch.from_numpy(examples.ci_values),
        component_acts=torch.from_numpy(examples.component_acts),
    )
