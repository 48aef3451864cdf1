"""A harvest that was received, checked beside its place and then renamed into it.

What is there stays: a folder of the same name is left as it is, and only compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import abandoned, fsync_path, remove, temporary_beside
from harvest_assets.files.free_space import require_free
from harvest_assets.files.layout import HarvestLayout, harvest_root, is_folder_name
from harvest_assets.files.records import damage
from harvest_assets.files.untrusted import read_bytes
from harvest_assets.sharing.contents import (
    CONTENTS,
    MAX_ENCODED_BYTES,
    Contents,
    Watch,
    check_complete,
    contents_of,
    first_difference,
)
from harvest_assets.sharing.some_layers import some_layers


@dataclass(frozen=True)
class Received:
    """Where a harvest is.

    Args:
        paths: of the harvest.
        was_there: an equal one was there already, and nothing was written.
    """

    paths: HarvestLayout
    was_there: bool


def receive(
    contents: Contents,
    out_name: str | None,
    source: str,
    fill: Callable[[Path], None],
    watch: Watch,
    layers: Sequence[str] = (),
    *,
    continues: bool = True,
) -> Received:
    """Put a harvest into its folder below `harvest/`, complete or not at all.

    Args:
        contents: its files.
        out_name: the folder below `harvest/`; None for the name that it had.
        source: where it comes from, for messages.
        fill: writes the files into a folder; some may be there from an attempt that was killed.
        watch: is shown the progress.
        layers: patterns of the layers that are kept; without any all are.
        continues: `fill` leaves out what is there: where only `layers` is wrong, the files stay for
            the next attempt.

    Raises:
        HarvestError: another harvest is in the folder, the disk is too small, the files are not
            those of `contents` or not one finished harvest, or a pattern matches no layer.
    """
    name = out_name or contents.name
    if not is_folder_name(name):
        raise HarvestError(
            f"{name[:200]!r} is not a valid --out-name; expected the plain name of a folder."
        )
    paths = HarvestLayout.of(name)
    if paths.root.exists() or paths.root.is_symlink():
        if layers:
            raise HarvestError(
                f"{paths.root} exists, and was left as it is; choose another folder for the layers "
                "with --out-name."
            )
        _check_equal(paths, contents, source)
        return Received(paths, was_there=True)
    require_free(paths.root, contents.n_bytes)
    staging = _staging(paths, contents)
    if damage(staging, contents.files):  # an earlier attempt may have ended after all was there
        fill(staging)
    watch("checking", 0, 0)
    try:
        _check(staging, contents, source)
    except HarvestError:
        remove(staging)  # the same attempt would end the same way
        raise
    if not layers:
        publish(staging, paths, contents, source)
        return Received(paths, was_there=False)
    (staging / CONTENTS).write_bytes(contents.encoded)  # with it, the next attempt knows the files
    try:
        with some_layers(HarvestLayout(staging), layers, watch, staging.parent) as chosen:
            publish(chosen.root, paths, contents_of(chosen, watch), source)
    except HarvestError:
        if not continues:
            remove(staging)
        raise
    remove(staging)
    return Received(paths, was_there=False)


def _check_equal(paths: HarvestLayout, contents: Contents, source: str) -> None:
    different = first_difference(paths, contents)
    if different is not None:
        raise HarvestError(
            f"{paths.root} holds another harvest than {source} ({different} differs), and was "
            "left as it is; choose another folder with --out-name."
        )


def _staging(paths: HarvestLayout, contents: Contents) -> Path:
    """The folder that a killed process was filling with the same files; else an empty one."""
    staging = temporary_beside(paths.root)
    staging.parent.mkdir(parents=True, exist_ok=True)
    for left in abandoned(harvest_root()):
        if left.name.startswith(f".{paths.root.name}.") and _is_of(left, contents):
            try:
                return left.rename(staging)
            except OSError:  # another process was faster
                continue
    staging.mkdir()
    (staging / CONTENTS).write_bytes(contents.encoded)
    return staging


def _is_of(folder: Path, contents: Contents) -> bool:
    try:
        return read_bytes(folder / CONTENTS, MAX_ENCODED_BYTES) == contents.encoded
    except (OSError, ValueError):
        return False


def _check(staging: Path, contents: Contents, source: str) -> None:
    """Check the files and remove whatever else is there, such as notes of a client."""
    wanted = {staging / name for name in contents.files}
    folders = {path.parent for path in wanted}
    for path in (*staging.iterdir(), *(it for folder in folders for it in _entries(folder))):
        if path.is_symlink() or path not in wanted | folders:
            remove(path)
    problems = damage(staging, contents.files)
    if problems:
        raise HarvestError(f"{source} is damaged: {' '.join(problems)}".replace(f"{staging}/", ""))
    try:
        check_complete(HarvestLayout(staging), contents)
    except HarvestError as error:
        raise HarvestError(f"{source} is not a sound harvest: {error}") from None


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def publish(staging: Path, paths: HarvestLayout, contents: Contents, source: str) -> None:
    """Rename a complete folder into its place.

    Args:
        staging: holds the files.
        paths: of the harvest.
        contents: the files.
        source: where they come from, for messages.

    Raises:
        HarvestError: another harvest is there.
    """
    for name in contents.files:
        fsync_path(staging / name)
    for folder in {(staging / name).parent for name in contents.files}:
        fsync_path(folder)
    try:
        staging.rename(paths.root)
    except OSError:  # another process was faster
        if not paths.root.exists():
            raise
        remove(staging)
        _check_equal(paths, contents, source)
    fsync_path(paths.root.parent)
