"""The kinds of decomposition, and which of them a run is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.decompositions.dictionaries.dictionary_set import DictionarySet
from harvest_assets.decompositions.own_model.own_model import OwnModel
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_json

if TYPE_CHECKING:
    from harvest_assets.wandb_client.run_files import RunFiles
    from harvest_assets.wandb_client.run_name import RunReference

# SPD comes last: it takes every config that no other kind recognises, and reports its faults.
KINDS: tuple[type[Decomposition], ...] = (OwnModel, DictionarySet, RunCheckpoint)


def check_config(config: Path) -> None:
    """Check the config file of a run of any kind.

    Raises:
        HarvestError: a run with this config cannot be harvested.
    """
    _kind_of(config).check_config(config)


def verify(files: RunFiles) -> Decomposition:
    """Open the files of a run of any kind and check that they make a model.

    Raises:
        HarvestError: they do not.
    """
    return _kind_of(files.config).verify(files)


def open_decomposition(directory: Path) -> Decomposition:
    """The decomposition that `run_checkpoint.json` in a directory describes.

    Raises:
        HarvestError: the file is missing, damaged, or of an unknown kind.
    """
    path = HarvestLayout(directory).run_checkpoint
    recorded = _recorded_kind(path)
    for kind in KINDS:
        if kind.kind == recorded:
            return kind.open(directory)
    raise HarvestError(
        f"{path} has the kind {str(recorded)[:100]!r}; expected one of "
        f"{', '.join(kind.kind for kind in KINDS)}. Update harvest_assets to read it."
    )


def open_registered(directory: Path, reference: RunReference) -> Decomposition:
    """As `open_decomposition`, so that its model can be opened.

    Opening an object in a module executes that module. Results may have been received from anybody,
    so this is possible only where the run is registered on this machine with the same module.

    Args:
        directory: holds `run_checkpoint.json`.
        reference: of the run's registration.

    Raises:
        HarvestError: as `open_decomposition`.
    """
    opened = open_decomposition(directory)
    return opened.registered_at(reference.path) if isinstance(opened, OwnModel) else opened


def _kind_of(config: Path) -> type[Decomposition]:
    return next(kind for kind in KINDS if kind.recognises(config))


def _recorded_kind(path: Path) -> object:
    """The key `kind`. SPD leaves it out; where the file is damaged, SPD's `open` says how."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        record = None
    named = isinstance(record, dict) and "kind" in record
    return record["kind"] if named else RunCheckpoint.kind
