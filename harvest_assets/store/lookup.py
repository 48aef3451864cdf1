"""Which harvest a name means.

The name of a folder below `harvest/` means that folder, as does a path to one. A full name,
`run@name`, means the harvest whose own files say so, whatever its folder is called. The name of a
run alone, or a path to one, means its harvest if it has one, and nothing if it has several; never
another run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.files.layout import (
    HarvestLayout,
    harvest_folders,
    harvest_root,
    is_folder_name,
)
from harvest_assets.store.harvest_name import HarvestReference, parse_harvest, run_of_key
from harvest_assets.store.registry import (
    Registration,
    has_damaged_owner,
    owner_of,
    registered_as,
    registration_for,
    registration_of,
)
from harvest_assets.suggestions import did_you_mean
from harvest_assets.wandb_client.run_name import is_run_name

_MAX_LISTED = 10
_CLOSE = 0.6  # the similarity from which a name counts as a misspelling of another


def find_harvest(text: str) -> HarvestLayout:
    """The harvest that a name means.

    Args:
        text: a folder below `harvest/` or a path to it, any accepted spelling of a run's name, or a
            path to a run; `@name` at the end of the last two for a further harvest of the run.

    Raises:
        HarvestNotFoundError: there is none, or the run has several.
    """
    folder = folder_named(text)
    if folder is not None:
        return folder
    text = text.rstrip("/") or text
    path = _path(text)
    if path is not None and not is_run_name(text) and is_harvest(HarvestLayout(path)):
        raise HarvestNotFoundError(f"{path} is a harvest outside of {harvest_root()}.{_how(path)}")
    try:
        harvest = parse_harvest(text)
    except HarvestError as error:
        why = f"{harvest_root()} has no folder {text!r}." if is_folder_name(text) else str(error)
        raise HarvestNotFoundError(f"{why} {_available(text)}") from None
    return HarvestLayout(_folder_of(harvest))


def registration_named(text: str, out_name: str | None = None) -> Registration:
    """The harvest that is to be made under a name; nothing is written.

    Args:
        text: any accepted spelling of a run's name, or a path to a run, for its first harvest;
            with `@name` at the end for a further one; or the folder of a harvest.
        out_name: the folder below `harvest/`; see `registration_for`.

    Raises:
        HarvestError: the text names neither a run nor a harvest, or the folder cannot be used.
    """
    harvest, folder = _harvest_and_folder(text)
    return registration_for(harvest.run, out_name or folder, harvest.name)


def harvest_named(text: str) -> HarvestReference:
    """The harvest that a name means where it need not exist: that of a run means its first.

    Raises:
        HarvestError: the text names neither a run nor a harvest.
    """
    return _harvest_and_folder(text)[0]


def _harvest_and_folder(text: str) -> tuple[HarvestReference, str | None]:
    """The harvest, and its folder if it is named by that; with a slash, a path goes first."""
    folder = folder_named(text)
    if folder is not None and _means(text, folder):
        text = folder.root.name
    owner = None if folder is None else owner_of(folder)
    try:
        harvest = parse_harvest(text)
    except HarvestError as error:
        if owner is None:
            hint = did_you_mean(_full_names(text))
            raise HarvestError(f"{error}{hint}") from None
    else:
        if owner is None or "/" in text:
            return harvest, None
        if owner == harvest.key:  # with the path of its run
            return harvest, text
    return HarvestReference.from_key(owner), text.rstrip("/")


def _means(text: str, folder: HarvestLayout) -> bool:
    """Whether a text, as a path, is the folder of a harvest, as the shell completes it there."""
    path = _path(text if "/" in text.rstrip("/") else f"./{text}")
    return path is not None and path.resolve() == folder.root.resolve()


def _full_names(text: str) -> list[str]:
    """The full names of harvests that a run id or a folder, with or without `@name`, may mean."""
    short, at, name = text.partition("@")
    if not is_folder_name(short) or "@" in name:
        return []
    owners = {folder.name: owner_of(HarvestLayout(folder)) for folder in harvest_folders()}
    harvested = {folder: run_of_key(owner) for folder, owner in owners.items() if owner}
    runs = {run for folder, run in harvested.items() if short in (folder, run.rpartition("/")[2])}
    return sorted(f"{run}{at}{name}" for run in runs | registered_as(short))


def folder_named(text: str) -> HarvestLayout | None:
    """The harvest in the folder below `harvest/` of this name or path, if there is one."""
    text = text.rstrip("/")  # as the shell completes the name of a folder
    path = _path(text)
    if path is not None and path.parent == harvest_root().resolve():
        text = path.name
    paths = HarvestLayout.of(text)
    return paths if is_folder_name(text) and paths.root.is_dir() else None


def _path(text: str) -> Path | None:
    """The path that a text with a slash means, its folder without links; None of any other text."""
    if "/" not in text:
        return None
    try:
        path = Path(text).expanduser().absolute()
        return path.parent.resolve() / path.name
    except (OSError, RuntimeError, ValueError):  # no such user, a null byte, a loop of links
        return None


def _how(path: Path) -> str:
    """A sentence that says how a harvest elsewhere becomes one of these."""
    root = path.parent.resolve()
    if root.name == harvest_root().name:
        return f" Set SPD_OUT_DIR={root.parent} to use it there."
    return f" Move or link it there, or open it in Python: harvest_assets.open({str(path)!r})."


def is_harvest(paths: HarvestLayout) -> bool:
    """Whether a folder has files of a harvest, finished or not."""
    try:
        return any(file.is_file() for file in (paths.manifest, paths.summary, paths.plan))
    except OSError:  # a name that is too long, a folder that may not be read
        return False


def _folder_of(harvest: HarvestReference) -> Path:
    """The folder whose files name a harvest; else the one that it would be made in.

    Copies elsewhere count only where it has no files of its own in the folder in which it is made;
    otherwise only the further harvests are read.
    """
    own = HarvestLayout.of(harvest.default_folder).root
    registered = _registered_folder(harvest)
    if registered is not None and owner_of(HarvestLayout(registered)) == harvest.key:
        folders = [registered, *_further_folders()] if harvest.name is None else [registered]
    else:
        folders = harvest_folders()
    owners = {folder: owner_of(HarvestLayout(folder)) for folder in folders}
    named = [folder for folder, owner in owners.items() if _fits(harvest, owner)]
    if len(named) > 1:
        newest_first = sorted(named, key=_modified, reverse=True)
        raise HarvestNotFoundError(
            f"{harvest.key} has {len(named)} harvests; name one of them by its folder, or a "
            f"further one as run@name: {_listed(newest_first)}."
        )
    unnamed = [folder for folder in (registered, own) if folder in owners and _unnamed(folder)]
    for folder in (*named, *unnamed):
        return folder
    raise HarvestNotFoundError(
        f"{harvest.key} has not been harvested. {_available(harvest.default_folder, owners)}"
    )


def _fits(harvest: HarvestReference, owner: str | None) -> bool:
    """Whether a name means the harvest of this key: that of a run means all of its harvests."""
    return owner is not None and harvest.key in (owner, run_of_key(owner))


def _further_folders() -> list[Path]:
    return [it for it in harvest_folders() if HarvestLayout(it).harvest_name.exists()]


def _unnamed(folder: Path) -> bool:
    """Whether a folder's files name no run, as those of other writers; damaged ones might."""
    paths = HarvestLayout(folder)
    return owner_of(paths) is None and not has_damaged_owner(paths)


def _registered_folder(harvest: HarvestReference) -> Path | None:
    try:
        return registration_of(harvest.key).layout.root
    except HarvestError:  # a damaged registration hides no harvest
        return None


def _available(wanted: str, owners: Mapping[Path, str | None] | None = None) -> str:
    """A sentence that lists harvests: close matches first, then the newest.

    Args:
        wanted: what the folder or the run might be called.
        owners: the harvests that the files in folders name, where they have been read.
    """
    folders = harvest_folders()
    if not folders:
        return f"There are no harvests in {harvest_root()}."
    wanted = wanted.rpartition("/")[2].lower()
    similarity = SequenceMatcher(b=wanted)

    def closeness(folder: Path) -> float:
        owner = (owners or {}).get(folder)
        if owner is not None and run_of_key(owner).rpartition("/")[2] == wanted.partition("@")[0]:
            return 1.0
        similarity.set_seq1(folder.name.lower())
        close = similarity.quick_ratio() >= _CLOSE and similarity.ratio() >= _CLOSE
        return similarity.ratio() if close else 0.0

    close = {it: closeness(it) for it in folders}
    ranked = sorted(folders, key=lambda it: (close[it], _modified(it)), reverse=True)
    meant = f"Did you mean {ranked[0].name}? " if close[ranked[0]] else ""
    return f"{meant}Harvests in {harvest_root()}: {_listed(ranked)}."


def _listed(folders: Sequence[Path]) -> str:
    """Names of folders, each with the harvest that its files name, as many as fit in a sentence."""
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
