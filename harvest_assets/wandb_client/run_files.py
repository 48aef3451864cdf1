"""The files of a run and of its target model; on W&B, they are fetched first."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.wandb_client.files import download_files, list_files
from harvest_assets.wandb_client.run_name import RunName, RunReference

logger = logging.getLogger(__name__)

CONFIG = "final_config.yaml"
TARGET_CONFIG = "model_config.yaml"
TARGET_EXTRAS = ("tokenizer.json", "ln-stds.json")

_NUMBERED = re.compile(r"model_([0-9]{1,18})\.pth")
_TARGET_NUMBERED = re.compile(r"model_step_([0-9]{1,18})\.pt")


@dataclass(frozen=True)
class RunFiles:
    """The two files of a run that a harvest reads.

    Args:
        name: what the run is called.
        config: its `final_config.yaml`.
        checkpoint: the state dict.
        step: the number in the checkpoint's name, None if it has none.
    """

    name: RunName
    config: Path
    checkpoint: Path
    step: int | None


def fetch_run(reference: RunReference, step: int | None = None) -> RunFiles:
    """The files of a run: those at its path, those in the run cache, else those on W&B.

    Args:
        reference: the run as the user named it.
        step: which checkpoint; None for the newest, of a run in progress the newest complete one.

    Raises:
        HarvestError: the run, its config or its checkpoint is not there or cannot be fetched.
    """
    if reference.path is None:
        return _fetch_named(reference.name, step)
    if reference.path.is_dir():
        return _files_in(reference.name, reference.path, step)
    return _files_of_checkpoint(reference.name, reference.path, step)


def fetch_target(name: RunName) -> Path:
    """The folder with the files of a W&B target model, downloaded if it is in neither cache.

    `final_config.yaml` and `model_config.yaml` are always there; the newest `model_step_<n>.pt`,
    `tokenizer.json` and `ln-stds.json` only if the run has them.

    Raises:
        HarvestError: the run or one of the two is not there or cannot be fetched.
    """
    folder = layout.run_cache_dir(name.project, name.run_id)
    for cached in (folder, layout.pretrain_cache_dir(name.project, name.run_id)):
        if (cached / CONFIG).is_file() and (cached / TARGET_CONFIG).is_file():
            return cached
    files = list_files(name)
    missing = [needed for needed in (TARGET_CONFIG, CONFIG) if needed not in files]
    if missing:
        raise HarvestError(
            f"{name.key} is not a target model: it lacks {' and '.join(missing)} on W&B."
        )
    newest = _highest(_TARGET_NUMBERED, files)
    extras = [extra for extra in (newest, *TARGET_EXTRAS) if extra is not None and extra in files]
    download_files(name, files, [*extras, TARGET_CONFIG, CONFIG], folder)
    return folder


def choose_checkpoint(names: Iterable[str], step: int | None = None) -> str | None:
    """The checkpoint to take among these file names, None if there is none.

    The highest `model_<integer>.pth`, compared as numbers, or the one with the number `step`. Where
    no name is numbered and no step requested, another `model*.pth` counts if it is the only one.
    """
    # W&B also lists files in folders.
    named = (name for name in names if name.startswith("model") and name.endswith(".pth"))
    candidates = [name for name in named if layout.is_folder_name(name)]
    if step is not None:
        candidates = [name for name in candidates if checkpoint_step(name) == step]
    numbered = _highest(_NUMBERED, candidates)
    if numbered is not None:
        return numbered
    return candidates[0] if len(candidates) == 1 else None


def checkpoint_step(name: str) -> int | None:
    """The number in `model_<integer>.pth`, None for another name."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def _fetch_named(name: RunName, step: int | None) -> RunFiles:
    folder = layout.run_cache_dir(name.project, name.run_id)
    if (folder / CONFIG).is_file() and _checkpoint_in(folder, step) is not None:
        return _files_in(name, folder, step)
    files = list_files(name)
    checkpoint = choose_checkpoint(files, step)
    if CONFIG not in files or checkpoint is None:
        where = f"{name.key} on W&B"
        raise _incomplete(where, list(files), step)
    download_files(name, files, [checkpoint, CONFIG], folder)
    return RunFiles(name, folder / CONFIG, folder / checkpoint, checkpoint_step(checkpoint))


def _files_in(name: RunName, folder: Path, step: int | None) -> RunFiles:
    names = _file_names(folder)
    checkpoint = _checkpoint_in(folder, step)
    if CONFIG not in names or checkpoint is None:
        raise _incomplete(str(folder), names, step)
    return RunFiles(name, folder / CONFIG, folder / checkpoint, checkpoint_step(checkpoint))


def _checkpoint_in(folder: Path, step: int | None) -> str | None:
    """The checkpoint to take in a folder, where a run may be in progress.

    The newest one that is written to its end; where none is, the newest, so that what is wrong with
    it is reported when it is opened.
    """
    names = _file_names(folder)
    newest = choose_checkpoint(names, step)
    steps = {checkpoint_step(name): name for name in names}
    wanted = sorted((n for n in steps if n is not None and step in (None, n)), reverse=True)
    for number in wanted:
        # `torch.save` writes the directory of the archive last.
        if zipfile.is_zipfile(folder / steps[number]):
            if steps[number] != newest:
                logger.warning("%s is incomplete; using %s instead.", newest, steps[number])
            return steps[number]
    return newest


def _files_of_checkpoint(name: RunName, checkpoint: Path, step: int | None) -> RunFiles:
    config = checkpoint.parent / CONFIG
    if not checkpoint.is_file():
        raise HarvestError(f"{checkpoint} does not exist.")
    if not config.is_file():
        raise HarvestError(f"{checkpoint} has no {CONFIG} beside it, so its run is unknown.")
    own_step = checkpoint_step(checkpoint.name)
    if step is not None and step != own_step:
        raise HarvestError(
            f"{checkpoint} is not the checkpoint of step {step}: leave out one of the two."
        )
    return RunFiles(name, config, checkpoint, own_step)


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise HarvestError(f"{folder} cannot be read: {error.strerror}.") from error


def _highest(pattern: re.Pattern[str], names: Iterable[str]) -> str | None:
    found = [(int(match[1]), match[0]) for name in names if (match := pattern.fullmatch(name))]
    return max(found)[1] if found else None


def _incomplete(where: str, names: list[str], step: int | None) -> HarvestError:
    if CONFIG not in names:
        return HarvestError(f"{where} cannot be harvested: it has no {CONFIG}.")
    there = ", ".join(sorted(name for name in names if name.endswith(".pth"))) or "none"
    wanted = "model_<integer>.pth" if step is None else f"model_{step}.pth"
    return HarvestError(f"{where} has no checkpoint {wanted}; the .pth files there: {there}.")
