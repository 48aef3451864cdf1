"""Import and export: which format a file has, and which of its components the harvest has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import sweep
from harvest_assets.files.sqlite_file import MAGIC
from harvest_assets.interpretations.entry_files import Entries
from harvest_assets.interpretations.exchange import (
    autointerp_db,
    csv_table,
    delphi,
    neuronpedia,
)
from harvest_assets.interpretations.exchange.changes import changed
from harvest_assets.interpretations.exchange.imported import Imported
from harvest_assets.interpretations.storage import History, Interpretations
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import read_summary
from harvest_assets.store.registry import owner_of

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout


@dataclass(frozen=True)
class Format:
    """How a kind of file is read and written.

    Args:
        suffixes: of its files.
        read: adds what a file holds.
        write: makes a new file from a history and the run's name; returns the number of components.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, Imported], None]
    write: Callable[[Path, History, str], int]


FORMATS = {
    "csv": Format((".csv",), csv_table.read, csv_table.write),
    "autointerp": Format((".db", ".sqlite"), autointerp_db.read, autointerp_db.write),
    "delphi": Format((), delphi.read, delphi.write),
    "neuronpedia": Format((".json", ".jsonl"), neuronpedia.read, neuronpedia.write),
}


@dataclass(frozen=True)
class Result:
    """What an import kept.

    Args:
        kept: the entries.
        n_unchanged: entries in the file that hold already; they were not written again.
        unknown: keys in the file that are not in the harvest, sorted; their entries were left out.
        ignored: names of columns or files that mean nothing here.
        overridden: for each label that was left out since a later one in the file is of the same
            component, that component's key and the label kept.
        outranked: keys of labels that were kept but are not shown: a person's label comes first.
    """

    kept: Entries
    n_unchanged: int
    unknown: tuple[str, ...]
    ignored: tuple[str, ...]
    overridden: tuple[tuple[str, str], ...]
    outranked: tuple[str, ...]


def import_file(
    paths: HarvestLayout, file: Path, name: str | None = None, person: str | None = None
) -> Result:
    """Keep what is new of the labels, scores and notes in a file: all, or after an error none.

    Args:
        paths: of the harvest.
        file: a file, or a folder for delphi.
        name: one of `FORMATS`; None: found from the content.
        person: whose labels and notes these are, unless the file says; None: an import's.

    Raises:
        HarvestError: the file is missing or not valid, the harvest has no results, or a person's
            label was edited without `person`.
        OSError: the harvest's folder cannot be written.
    """
    known = _component_keys(paths)
    imported = Imported(person, "person") if person else Imported(file.name)
    try:
        FORMATS[name or _format_by_content(file)].read(file, imported)
    except OSError as error:
        raise HarvestError(f"{file} cannot be read: {reason_of(error)}.") from error
    unknown = {entry.component_key for entry in imported.entries} - known
    imported.entries = [it for it in imported.entries if it.component_key not in unknown]
    overridden = imported.keep_last_labels()
    stored = Interpretations(paths)
    new, outranked = changed(imported, stored.history())
    stored.add(new)
    return Result(
        kept=Entries.of(new),
        n_unchanged=len(imported.entries) - len(new),
        unknown=tuple(sorted(unknown)),
        ignored=tuple(imported.ignored),
        overridden=tuple((it.component_key, it.label) for it in overridden),
        outranked=tuple(outranked),
    )


def export_file(paths: HarvestLayout, file: Path, name: str | None = None) -> tuple[int, History]:
    """Write what holds now into a new file.

    Args:
        paths: of the harvest.
        file: to be made; a folder for delphi.
        name: one of `FORMATS`; None: by the file's suffix.

    Returns:
        The number of components written, and the history, whose `problems` name unreadable files.

    Raises:
        HarvestError: the file exists, its format is not clear, or there is nothing to write.
        OSError: it cannot be written.
    """
    name = name or _format_by_suffix(file)
    if file.exists() or file.is_symlink():
        raise HarvestError(f"{file} exists and is not overwritten; name another.")
    history = Interpretations(paths).history()
    if not history:
        raise HarvestError(f"{paths.root} has no labels, scores or notes.")
    sweep(file.parent)
    return FORMATS[name].write(file, history, owner_of(paths) or paths.root.name), history


def _format_by_content(file: Path) -> str:
    if file.is_dir():
        return "delphi"
    with file.open("rb") as opened:
        start = opened.read(4096)
    if start.startswith(MAGIC):
        return "autointerp"
    is_json = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")
    return "neuronpedia" if is_json else "csv"


def _format_by_suffix(file: Path) -> str:
    for name, form in FORMATS.items():
        if file.suffix.lower() in form.suffixes:
            return name
    raise HarvestError(
        f"The format of {file} is not clear from its name; give one of {', '.join(FORMATS)} with "
        "--format."
    )


def _component_keys(paths: HarvestLayout) -> set[str]:
    """All components of a finished harvest; of an older writer's, those that fired."""
    if ComponentIndex.open(paths) is not None:
        return set(read_index(paths)["component_key"].to_pylist())
    if not paths.summary.exists():
        raise HarvestError(f"{paths.root} has no results yet; nothing was kept.")
    return set(read_summary(paths))
