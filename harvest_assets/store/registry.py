"""Which folder belongs to which harvest, and where runs without W&B are stored."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout, harvest_folders
from harvest_assets.files.lease import is_held
from harvest_assets.files.ownership import WRITABLE_BY_OTHERS, is_own
from harvest_assets.files.records import Older, Record
from harvest_assets.files.untrusted import read_json
from harvest_assets.store.harvest_name import HarvestReference
from harvest_assets.store.imported import require_harvested
from harvest_assets.wandb_client.module_path import file_and_name, is_object_path
from harvest_assets.wandb_client.run_name import RunReference, parse_run


@dataclass(frozen=True)
class _Entry:
    """What a registration's file holds."""

    path: str | None
    out_name: str


_RECORD = Record(
    _Entry, "a registration", remedy="unregister the run and register it again", older=Older()
)


@dataclass(frozen=True)
class _Owner:
    """What the file holds that names a further harvest."""

    harvest: str


_OWNER = Record(_Owner, "the name of a harvest", remedy="restore it or remove the harvest's folder")


@dataclass(frozen=True)
class Registration:
    """A harvest of a run, as it is made.

    Args:
        reference: the run's name, and its path if it is not on W&B.
        out_name: the folder below `harvest/`.
        name: of a further harvest of the run; None for the first.
    """

    reference: RunReference
    out_name: str
    name: str | None = None

    @property
    def harvest(self) -> HarvestReference:
        """Which harvest of which run."""
        return HarvestReference(self.reference, self.name)

    @property
    def key(self) -> str:
        """The partition key."""
        return self.harvest.key

    @property
    def layout(self) -> HarvestLayout:
        """The paths of its harvest."""
        return HarvestLayout.of(self.out_name)


def registration_for(
    reference: RunReference, out_name: str | None = None, name: str | None = None
) -> Registration:
    """The registration that `register` would write; nothing is written.

    Args:
        reference: the run.
        out_name: the folder below `harvest/`; None is the one registered, or the default, or
            where that holds no harvest the one whose files name it.
        name: of a further harvest. Without it the first harvest is meant, or, where the run has
            its first harvest in another folder than `out_name`, the further one of that name.

    Raises:
        HarvestError: the folder belongs to another harvest, this harvest has another folder or
            several, or `out_name` is not a plain folder name.
    """
    if out_name is not None:
        _check_out_name(out_name)
        if name is None and _is_further(registration_of(reference.name.key), out_name):
            if "@" in out_name:  # no name, but perhaps the folder of another harvest
                check_owner(Registration(reference, out_name))
            name = out_name
    harvest = HarvestReference(reference, name)
    if reference.path is None:
        require_named_here(harvest.key)
    known = registration_of(harvest.key)
    registration = Registration(
        reference if reference.path else known.reference, out_name or _folder_of(known), name
    )
    check_owner(registration)
    _check_not_moved(registration, known)
    return registration


def register(
    reference: RunReference, out_name: str | None = None, name: str | None = None
) -> Registration:
    """Check that the folder is free, and store what the partition key does not contain.

    The arguments and errors are those of `registration_for`.
    """
    registration = registration_for(reference, out_name, name)
    store_registration(registration)
    return registration


def store_registration(registration: Registration) -> None:
    """Store what the partition key does not contain."""
    harvest = registration.harvest
    file = layout.registration_path(harvest.key)
    run = RunReference(registration.reference.name, None)
    default = Registration(run, harvest.default_folder, harvest.name)
    if registration != default or file.exists():
        path = registration.reference.path
        _RECORD.write(file, _Entry(str(path) if path else None, registration.out_name))
        if path and is_object_path(path):
            file.chmod(file.stat().st_mode & ~WRITABLE_BY_OTHERS)


def release_folder(registration: Registration) -> None:
    """Forget the folder chosen for a harvest that was not begun; where its run is stays known."""
    store_registration(replace(registration, out_name=registration.harvest.default_folder))


def remove_damaged_registration(key: str) -> Path | None:
    """Remove the registration of a partition key if it is damaged; returns the file removed."""
    try:
        file = layout.registration_path(HarvestReference.from_key(key).key)
    except HarvestError:  # the key names no harvest, so that no file is its own
        return None
    if not file.is_file() or not _RECORD.is_damaged(file):
        return None
    file.unlink()
    return file


def registration_of(key: str) -> Registration:
    """What is known of a partition key, also of one that was typed into the UI.

    Raises:
        HarvestError: the key does not name a harvest, or its registration is damaged.
    """
    harvest = HarvestReference.from_key(key)
    run = harvest.run
    file = layout.registration_path(key)
    if not file.exists():
        if harvest.name is not None:  # the run is where its first harvest found it
            run = registration_of(run.name.key).reference
        return Registration(run, harvest.default_folder, harvest.name)
    value = _RECORD.read(file)
    _check_out_name(value.out_name)
    path = Path(value.path) if value.path else None
    return Registration(RunReference(run.name, path), value.out_name, harvest.name)


def registered_as(run_id: str) -> set[str]:
    """The keys of the runs with this id that have a registration's file."""
    root = layout.registration_path("_").parent
    files = root.glob(f"*/*/{glob.escape(run_id)}.json")
    return {str(file.relative_to(root).with_suffix("")) for file in files}


def require_named_here(key: str) -> None:
    """Check, before a module is imported, that its path was registered by who runs this.

    Raises:
        HarvestError: others can change the registration or the module, or the registration is
            damaged.
    """
    path = registration_of(key).reference.path
    if path is None or not is_object_path(path):
        return
    run = HarvestReference.from_key(key).run.name.key
    registered = next(it for it in map(layout.registration_path, (key, run)) if it.exists())
    for file, remedy in (
        (registered, "register it yourself: harvest-assets register FILE:NAME"),
        (file_and_name(path)[0], "chmod go-w it if it is yours, else use a copy of your own"),
    ):
        if file.exists() and not is_own(file):
            raise HarvestError(
                f"{path} is not imported, because {file} belongs to another user or can be written "
                f"by others; {remedy}."
            )


def claim_folder(registration: Registration) -> None:
    """Write into the folder of a further harvest which one it is.

    Raises:
        HarvestError: the folder belongs to another harvest.
    """
    check_owner(registration)
    if registration.name is not None:
        name_folder(registration.layout, registration.key)


def name_folder(paths: HarvestLayout, key: str) -> None:
    """Write into a folder which further harvest is in it."""
    _OWNER.write(paths.harvest_name, _Owner(key))


def _is_further(first: Registration, out_name: str) -> bool:
    """Whether a folder would be that of another harvest than the run's first."""
    if out_name == first.out_name or owner_of(HarvestLayout.of(out_name)) == first.key:
        return False
    default = first.harvest.default_folder
    return default not in (first.out_name, out_name) or _exists(first)


def _exists(registration: Registration) -> bool:
    """Whether the files of some folder name the harvest, or a command is beginning it."""
    return is_held(registration.layout.harvest_lease) or bool(_folders_naming(registration.key))


def _folders_naming(key: str) -> list[HarvestLayout]:
    folders = (HarvestLayout(it) for it in harvest_folders())
    return [it for it in folders if owner_of(it) == key]


def _folder_of(known: Registration) -> str:
    """The folder of a harvest, also where that was renamed."""
    found = [] if _is_in_use(known.layout) else _folders_naming(known.key)
    if not found:
        return known.out_name
    (first, *more) = found
    if more or _was_received(first):
        names = " and ".join(it.root.name for it in found)
        raise HarvestError(
            f"{known.key} is in {names}, in {first.root.parent}; name the folder instead, or make "
            f"it where it would be with --out-name {known.out_name}."
        )
    return first.root.name


def _check_not_moved(registration: Registration, known: Registration) -> None:
    """Refuse a second folder for a harvest that has one.

    Version 0.1 made a run's first harvest in several folders; each of those may be chosen.
    """
    if registration.out_name == known.out_name:
        return
    paths = registration.layout
    if owner_of(paths) is None:
        is_elsewhere = registration.name is not None and _exists(known)
    else:
        is_copy = registration.name is not None or _was_received(paths)
        is_elsewhere = is_copy and owner_of(known.layout) == known.key
    if is_elsewhere:
        raise HarvestError(
            f"The harvest {registration.key} is in {known.layout.root}, not in {paths.root}; use "
            "its name without --out-name, or give another harvest another @name."
        )


def _is_in_use(paths: HarvestLayout) -> bool:
    """Whether a folder's files name a harvest, might name one, or hold work or results."""
    work = (paths.manifest, paths.merged, paths.shard("00").parent, *paths.five_files)
    is_named = owner_of(paths) is not None or has_damaged_owner(paths)
    return is_named or any(it.exists() for it in work)


def _was_received(paths: HarvestLayout) -> bool:
    """Whether a folder holds the results of a harvest that was not made there."""
    return paths.manifest.exists() and not paths.token_rows.exists()


def check_owner(registration: Registration) -> None:
    """Check that the folder does not belong to another run or to another harvest of the run.

    Raises:
        HarvestError: it does, or was imported, or the file that says to which harvest is damaged.
    """
    paths = registration.layout
    require_harvested(paths, "resumed or extended")
    owner = owner_of(paths)
    if owner is None:
        check_name(paths, registration.reference.name.key)
    if owner is not None and owner != registration.key:
        raise HarvestError(
            f"{paths.root} holds the harvest of {owner}; give the harvest of "
            f"{registration.key} another folder with --out_name."
        )


def owner_of(paths: HarvestLayout) -> str | None:
    """The key of the harvest that a folder's own files name.

    Returns:
        None if they name none, are missing or cannot be read.
    """
    for file, field in (
        (paths.harvest_name, "harvest"),
        (paths.run_checkpoint, "run"),
        (paths.config, "wandb_path"),
    ):
        try:
            owner = _harvest_named_in(file, field, file_version(file))
        except OSError:
            continue
        # A name that cannot be read might be any harvest's of the run.
        if owner is not None or field == "harvest":
            return owner
    return None


def check_name(paths: HarvestLayout, run: str) -> None:
    """Check the file that names a further harvest, if there is one.

    Raises:
        HarvestError: it is damaged, or names another run.
    """
    if not paths.harvest_name.exists():
        return
    named = HarvestReference.from_key(_OWNER.read(paths.harvest_name).harvest)
    if named.run.name.key != run:
        raise HarvestError(f"{paths.harvest_name} names {named.key}; expected a harvest of {run}.")


def has_damaged_owner(paths: HarvestLayout) -> bool:
    """Whether a file that would name the harvest of a folder is there and cannot be read."""
    for file in (paths.harvest_name, paths.run_checkpoint, paths.config):
        try:
            if not isinstance(read_json(file), dict):
                return True
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return True
    return False


@lru_cache(maxsize=1 << 14)
def _harvest_named_in(
    file: Path,
    field: str,
    version: tuple[int, ...],  # noqa: ARG001 - another content is read again
) -> str | None:
    try:
        if field == "harvest":
            return HarvestReference.from_key(_OWNER.read(file).harvest).key
        return parse_run(read_json(file)[field]).name.key
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HarvestError):
        return None


def _check_out_name(out_name: str) -> None:
    if not layout.is_folder_name(out_name):
        raise HarvestError(
            f"{out_name[:200]!r} is not a valid --out_name; expected the plain name of a folder."
        )
