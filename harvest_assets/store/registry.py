"""Which folder belongs to which run, and where runs without W&B are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Older, Record
from harvest_assets.files.untrusted import read_json
from harvest_assets.wandb_client.run_name import RunName, RunReference, parse_run


@dataclass(frozen=True)
class _Entry:
    """What a registration's file holds."""

    path: str | None
    out_name: str


_RECORD = Record(_Entry, "a registration", remedy="register the run again", older=Older())


@dataclass(frozen=True)
class Registration:
    """A run as it is harvested.

    Args:
        reference: its name, and its path if it is not on W&B.
        out_name: the folder below `harvest/`.
    """

    reference: RunReference
    out_name: str

    @property
    def key(self) -> str:
        """The partition key."""
        return self.reference.name.key

    @property
    def layout(self) -> HarvestLayout:
        """The paths of its harvest."""
        return HarvestLayout.of(self.out_name)


def registration_for(reference: RunReference, out_name: str | None = None) -> Registration:
    """The registration that `register` would write; nothing is written.

    Raises:
        HarvestError: the folder belongs to another run, or `out_name` is not a plain folder name.
    """
    known = registration_of(reference.name.key)
    registration = Registration(
        reference if reference.path else known.reference, out_name or known.out_name
    )
    _check_out_name(registration.out_name)
    check_owner(registration)
    return registration


def register(reference: RunReference, out_name: str | None = None) -> Registration:
    """Store what the partition key does not contain, and check that the folder is free.

    Raises:
        HarvestError: the folder belongs to another run, or `out_name` is not a plain folder name.
    """
    registration = registration_for(reference, out_name)
    file = _file(reference.name)
    default = Registration(RunReference(reference.name, None), reference.name.run_id)
    if registration != default or file.exists():
        path = registration.reference.path
        _RECORD.write(file, _Entry(str(path) if path else None, registration.out_name))
    return registration


def registration_of(key: str) -> Registration:
    """What is known of a partition key, also of one that was typed into the UI.

    Raises:
        HarvestError: the key does not name a run, or its registration is damaged.
    """
    name = RunName.from_key(key)
    file = _file(name)
    if not file.exists():
        return Registration(RunReference(name, None), name.run_id)
    value = _RECORD.read(file)
    _check_out_name(value.out_name)
    return Registration(
        RunReference(name, Path(value.path) if value.path else None), value.out_name
    )


def check_owner(registration: Registration) -> None:
    """Check that the folder of the harvest does not belong to another run.

    Raises:
        HarvestError: it does.
    """
    owner = owner_of(registration.layout)
    if owner is not None and owner != registration.key:
        raise HarvestError(
            f"{registration.layout.root} holds the harvest of {owner}; give the harvest of "
            f"{registration.key} another folder with --out_name."
        )


def owner_of(paths: HarvestLayout) -> str | None:
    """The key of the run that a folder's own files name.

    Returns:
        None if they name none, are missing or cannot be read.
    """
    for file, field in ((paths.run_checkpoint, "run"), (paths.config, "wandb_path")):
        try:
            owner = _run_named_in(file, field, file_version(file))
        except OSError:
            continue
        if owner is not None:
            return owner
    return None


def has_damaged_owner(paths: HarvestLayout) -> bool:
    """Whether a file that would name the run of a folder is there and cannot be read."""
    for file in (paths.run_checkpoint, paths.config):
        try:
            if not isinstance(read_json(file), dict):
                return True
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return True
    return False


@lru_cache(maxsize=1 << 14)
def _run_named_in(
    file: Path,
    field: str,
    version: tuple[int, ...],  # noqa: ARG001 - another content is read again
) -> str | None:
    try:
        return parse_run(read_json(file)[field]).name.key
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HarvestError):
        return None


def _check_out_name(out_name: str) -> None:
    if not layout.is_folder_name(out_name):
        raise HarvestError(
            f"{out_name[:200]!r} is not a valid --out_name; expected the plain name of a folder."
        )


def _file(name: RunName) -> Path:
    return layout.registration_path(name.entity, name.project, name.run_id)
