"""Which harvest a name means.

The name of a folder below `harvest/` means that folder. Any name of a run, or a path to one, means
the harvest whose own files name that run, whatever its folder is called, and never another run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.files.layout import HarvestLayout, harvest_root, is_folder_name
from harvest_assets.store.registry import has_damaged_owner, owner_of, registration_of
from harvest_assets.wandb_client.run_name import RunName, parse_run

_MAX_LISTED = 10
_CLOSE = 0.6  # the similarity from which a name counts as a misspelling of another


def find_harvest(text: str) -> HarvestLayout:
    """The harvest that a name means.

    Args:
        text: a folder below `harvest/`, any accepted spelling of a run's name, or a path to a run.

    Raises:
        HarvestNotFoundError: there is none, or the run has several.
    """
    text = text.rstrip("/") or text  # as the shell completes the name of a folder
    if is_folder_name(text) and HarvestLayout.of(text).root.is_dir():
        return HarvestLayout.of(text)
    try:
        name = parse_run(text).name
    except HarvestError as error:
        why = f"{harvest_root()} has no folder {text!r}." if is_folder_name(text) else str(error)
        raise HarvestNotFoundError(f"{why} {_available(text)}") from None
    return HarvestLayout(_folder_of(name))


def harvest_folders() -> list[Path]:
    """The folders of all harvests, sorted by name."""
    root = harvest_root()
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.name[0] != "." and path.is_dir())


def _folder_of(name: RunName) -> Path:
    """The folder whose files name a run; else the one that it would be harvested into.

    All folders are read only where the run may have been harvested into another than its own.
    """
    own = HarvestLayout.of(name.run_id).root
    registered = _registered_folder(name)
    if registered == own and owner_of(HarvestLayout(own)) == name.key:
        return own
    owners = {folder: owner_of(HarvestLayout(folder)) for folder in harvest_folders()}
    named = [folder for folder, owner in owners.items() if owner == name.key]
    if len(named) > 1:
        newest_first = sorted(named, key=_modified, reverse=True)
        raise HarvestNotFoundError(
            f"{name.key} has {len(named)} harvests; name the folder of one of them instead: "
            f"{_listed(newest_first)}."
        )
    unnamed = [folder for folder in (registered, own) if folder in owners and _unnamed(folder)]
    for folder in (*named, *unnamed):
        return folder
    raise HarvestNotFoundError(
        f"{name.key} has not been harvested. {_available(name.run_id, owners)}"
    )


def _unnamed(folder: Path) -> bool:
    """Whether a folder's files name no run, as those of other writers; damaged ones might."""
    paths = HarvestLayout(folder)
    return owner_of(paths) is None and not has_damaged_owner(paths)


def _registered_folder(name: RunName) -> Path | None:
    try:
        return registration_of(name.key).layout.root
    except HarvestError:  # a damaged registration hides no harvest
        return None


def _available(wanted: str, owners: Mapping[Path, str | None] | None = None) -> str:
    """A sentence that lists harvests: close matches first, then the newest.

    Args:
        wanted: what the folder or the run might be called.
        owners: the runs that the files in folders name, where they have been read.
    """
    folders = harvest_folders()
    if not folders:
        return f"There are no harvests in {harvest_root()}."
    wanted = wanted.rpartition("/")[2].lower()
    similarity = SequenceMatcher(b=wanted)

    def closeness(folder: Path) -> float:
        if ((owners or {}).get(folder) or "").rpartition("/")[2] == wanted:
            return 1.0
        similarity.set_seq1(folder.name.lower())
        close = similarity.quick_ratio() >= _CLOSE and similarity.ratio() >= _CLOSE
        return similarity.ratio() if close else 0.0

    ranked = sorted(folders, key=lambda it: (closeness(it), _modified(it)), reverse=True)
    return f"Harvests in {harvest_root()}: {_listed(ranked)}."


def _listed(folders: Sequence[Path]) -> str:
    """Names of folders, each with the run that its files name, as many as fit in a sentence."""
    listed = []
    for folder in folders[:_MAX_LISTED]:
        owner = owner_of(HarvestLayout(folder))
        listed.append(f"{folder.name} ({owner})" if owner else folder.name)
    more = len(folders) - len(listed)
    return ", ".join(listed) + (f", and {more:,} more" if more else "")


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
