"""What is known of the run that a `harvest.db` is of: its tokenizer, and the length of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import run_cache_dirs
from harvest_assets.files.untrusted import read_json, text_of
from harvest_assets.files.yaml_file import read_mapping
from harvest_assets.sharing.harvest_db_rows import DbSettings
from harvest_assets.store.harvest_name import HarvestReference
from harvest_assets.store.registry import registration_of


def tokenizer_of(name: str | None, harvest: HarvestReference | None) -> RecordedTokenizer | None:
    """The tokenizer of this name; else that of the run's files, or of its first harvest."""
    if name is not None:
        return RecordedTokenizer.in_use(name)
    if harvest is None:
        return None
    try:
        return RecordedTokenizer.in_use(text_of(_run_config(harvest)["tokenizer_name"]))
    except (HarvestError, KeyError, TypeError):
        pass
    try:
        first = registration_of(harvest.run.name.key).layout
        recorded = RecordedTokenizer.of(read_json(first.config))
        source = recorded.open(first.tokenizer).source
    except (HarvestError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return replace(recorded, folder=source) if Path(source).is_dir() else recorded


def trained_length(harvest: HarvestReference | None) -> int | None:
    """Tokens of a row in the run's training; None where not known."""
    task = None if harvest is None else _run_config(harvest).get("task_config")
    length = task.get("max_seq_len") if isinstance(task, dict) else None
    return length if type(length) is int else None


def _run_config(harvest: HarvestReference) -> dict[str, Any]:
    """The config of the run, if its files are here; else empty."""
    run = harvest.run.name
    for folder in run_cache_dirs(run.project, run.run_id):
        try:
            return dict(read_mapping(folder / "final_config.yaml"))
        except (HarvestError, OSError):
            continue
    return {}


@dataclass(frozen=True)
class RowLength:
    """How many tokens a row has.

    The number of batches in the database is that which was asked for; there may have been fewer.

    Args:
        settings: of the database.
        longest: tokens of the longest example.
        trained: tokens of a row in the run's training; None where not known.
    """

    settings: DbSettings
    longest: int
    trained: int | None

    def length(self, n_tokens: int) -> int | None:
        """Tokens of a row; None where not known, or where something contradicts it."""
        found = self.settings.row_length(n_tokens)
        if found is None or found < self.longest or self.trained not in (None, found):
            return None
        return found

    def note(self, n_tokens: int) -> str | None:
        """What is not certain about it, in a sentence; None if nothing is."""
        found, length = self.settings.row_length(n_tokens), self.length(n_tokens)
        if found is not None and length is None:
            return (
                f"By n_batches and batch_size a row would have {counted(found, 'token')}, which "
                "cannot be; its length is not known."
            )
        if length is not None and self.trained is None:
            return (
                f"Rows are taken to have {counted(length, 'token')}, as n_batches and batch_size "
                "say if all batches were seen."
            )
        return None
