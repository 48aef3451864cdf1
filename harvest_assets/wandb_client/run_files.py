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
from harvest_assets.wandb_client.module_path import file_and_name, is_module, is_object_path
from harvest_assets.wandb_client.run_name import DICTIONARIES, RunName, RunReference

logger = logging.getLogger(__name__)

# Names of the config, the first that is there wins: runs of param-decomp have one of the others.
CONFIGS = ("final_config.yaml", "run_meta.yaml", "experiment_config.yaml")
_TARGET_OWN_CONFIG = "final_config.yaml"
TARGET_CONFIG = "model_config.yaml"
TARGET_EXTRAS = ("tokenizer.json", "ln-stds.json")

_NUMBERED = re.compile(r"model_([0-9]{1,18})\.pth")
_ORBAX = re.compile(r"orbax|ocdbt|_CHECKPOINT_METADATA", re.IGNORECASE)
_TARGET_NUMBERED = re.compile(r"model_step_([0-9]{1,18})\.pt")


@dataclass(frozen=True)
class RunFiles:
    """The two files of a run that a harvest reads.

    Args:
        name: what the run is called.
        config: its `final_config.yaml`, or one of the other `CONFIGS`, or `dictionaries.yaml`, or
            `<file>.py:<name>`.
        checkpoint: the state dict; of dictionaries, which name their files, the config again; of an
            object in a module, the module's file.
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
    if (reference.path / DICTIONARIES).is_file():
        return _dictionaries_in(reference.name, reference.path, step)
    if reference.path.is_dir():
        return _files_in(reference.name, reference.path, step)
    if is_object_path(reference.path):
        return _module_of(reference.name, reference.path, step)
    return _files_of_checkpoint(reference.name, reference.path, step)


def is_here(reference: RunReference) -> bool:
    """Whether files of a run are on this machine: at its path or in the run cache."""
    if reference.path is not None:
        path = reference.path
        return path.exists() or (is_object_path(path) and is_module(file_and_name(path)[0]))
    name = reference.name
    return any(folder.exists() for folder in layout.run_cache_dirs(name.project, name.run_id))


def fetch_target(name: RunName) -> Path:
    """The folder with the files of a W&B target model, downloaded if it is in neither cache.

    `final_config.yaml` and `model_config.yaml` are always there; the newest `model_step_<n>.pt`,
    `tokenizer.json` and `ln-stds.json` only if the run has them.

    Raises:
        HarvestError: the run or one of the two is not there or cannot be fetched.
    """
    folder = layout.run_cache_dir(name.project, name.run_id)
    for cached in (folder, layout.pretrain_cache_dir(name.project, name.run_id)):
        if (cached / _TARGET_OWN_CONFIG).is_file() and (cached / TARGET_CONFIG).is_file():
            return cached
    files = list_files(name)
    missing = [needed for needed in (TARGET_CONFIG, _TARGET_OWN_CONFIG) if needed not in files]
    if missing:
        raise HarvestError(
            f"{name.key} is not a target model: it lacks {' and '.join(missing)} on W&B."
        )
    newest = _highest(_TARGET_NUMBERED, files)
    extras = [extra for extra in (newest, *TARGET_EXTRAS) if extra is not None and extra in files]
    download_files(name, files, [*extras, TARGET_CONFIG, _TARGET_OWN_CONFIG], folder)
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


def config_of(names: Iterable[str]) -> str | None:
    """The config to take among these file names, None if there is none."""
    there = set(names)
    return next((config for config in CONFIGS if config in there), None)


def _fetch_named(name: RunName, step: int | None) -> RunFiles:
    folder = layout.run_cache_dir(name.project, name.run_id)
    for cached in layout.run_cache_dirs(name.project, name.run_id):
        if config_of(_file_names(cached)) and _checkpoint_in(cached, step) is not None:
            return _files_in(name, cached, step)
    files = list_files(name)
    config, checkpoint = config_of(files), choose_checkpoint(files, step)
    if config is None or checkpoint is None:
        raise _incomplete(f"{name.key} on W&B", list(files), step)
    download_files(name, files, [checkpoint, config], folder)
    return RunFiles(name, folder / config, folder / checkpoint, checkpoint_step(checkpoint))


def _files_in(name: RunName, folder: Path, step: int | None) -> RunFiles:
    names = _file_names(folder)
    config, checkpoint = config_of(names), _checkpoint_in(folder, step)
    if config is None or checkpoint is None:
        raise _incomplete(str(folder), [*names, *_folder_names(folder)], step)
    return RunFiles(name, folder / config, folder / checkpoint, checkpoint_step(checkpoint))


def _dictionaries_in(name: RunName, folder: Path, step: int | None) -> RunFiles:
    config = folder / DICTIONARIES
    if step is not None:
        raise HarvestError(f"{config} has no training steps: leave out the step {step}.")
    return RunFiles(name, config, config, None)


def _module_of(name: RunName, path: Path, step: int | None) -> RunFiles:
    file, _ = file_and_name(path)
    if not is_module(file):
        raise HarvestError(f"{file} does not exist.")
    if step is not None:
        raise HarvestError(f"{path} has no training steps: leave out the step {step}.")
    return RunFiles(name, path, file, None)


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
    if not checkpoint.is_file():
        raise HarvestError(f"{checkpoint} does not exist.")
    config = config_of(_file_names(checkpoint.parent))
    if config is None:
        raise HarvestError(f"{checkpoint} has no {CONFIGS[0]} beside it, so its run is unknown.")
    own_step = checkpoint_step(checkpoint.name)
    if step is not None and step != own_step:
        raise HarvestError(
            f"{checkpoint} is not the checkpoint of step {step}: leave out one of the two."
        )
    return RunFiles(name, checkpoint.parent / config, checkpoint, own_step)


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


def _folder_names(folder: Path) -> list[str]:
    return (
        [f"{entry.name}/" for entry in folder.iterdir() if entry.is_dir()]
        if folder.is_dir()
        else []
    )


def _incomplete(where: str, names: list[str], step: int | None) -> HarvestError:
    if config_of(names) is None:
        others = f", {', '.join(CONFIGS[1:-1])} or {CONFIGS[-1]}"
        return HarvestError(f"{where} cannot be harvested: it has no {CONFIGS[0]}{others}.")
    weights = sorted(name for name in names if name.endswith(".pth"))
    if not weights and any(_ORBAX.search(name) for name in names):
        return HarvestError(
            f"{where} is a run in JAX: its orbax checkpoints do not hold the target model; only "
            "runs in PyTorch, with a model_<integer>.pth, can be harvested."
        )
    wanted = "model_<integer>.pth" if step is None else f"model_{step}.pth"
    there = ", ".join(weights) or "none"
    return HarvestError(f"{where} has no checkpoint {wanted}; the .pth files there: {there}.")
