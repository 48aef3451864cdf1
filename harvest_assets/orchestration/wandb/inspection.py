"""Checks whether a run on W&B can be harvested: lists its files and reads its config."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.decompositions.registry import check_config
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.wandb_client.files import (
    MalformedAnswerError,
    RunNotOnWandbError,
    RunRefusedError,
    download_files,
    list_files,
)
from harvest_assets.wandb_client.run_files import (
    CONFIGS,
    checkpoint_step,
    choose_checkpoint,
    config_of,
)
from harvest_assets.wandb_client.run_name import RunName

HARVESTABLE, UNFINISHED, OTHER = "harvestable", "unfinished", "other"


@dataclass(frozen=True)
class Finding:
    """The result of inspecting a run.

    Args:
        kind: `harvestable`; `unfinished` if files are missing that may still appear; or `other`.
        step: step of the newest checkpoint.
        reason: a sentence saying why it cannot be harvested.
    """

    kind: str
    step: int | None = None
    reason: str = ""


def inspect_run(key: str) -> Finding:
    """Check whether a run on W&B can be harvested.

    Args:
        key: `entity/project/run_id`.

    Raises:
        TransientError: W&B cannot be reached or does not answer at the moment.
        HarvestError: there is no API key, W&B refuses access, or its answer is malformed.
    """
    try:
        return _inspect_run(key)
    except (MalformedAnswerError, RunRefusedError) as error:  # a poll goes on to the next run
        raise HarvestError(str(error)) from None
    except HarvestError:
        raise
    except Exception as error:  # noqa: BLE001  malformed fields raise anything in the client
        raise HarvestError(f"W&B's answer about {key} is malformed: {reason_of(error)}.") from None


def _inspect_run(key: str) -> Finding:
    name = RunName.from_key(key)
    try:
        files = list_files(name)
    except RunNotOnWandbError:
        return Finding(OTHER, reason=f"{key} is no longer on W&B.")
    if not files:
        return Finding(UNFINISHED, reason=f"{key} has no files.")
    config = config_of(files)
    if config is None:
        return Finding(OTHER, reason=f"{key} cannot be harvested: it has no {CONFIGS[0]}.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        download_files(name, files, [config], folder)
        try:
            check_config(folder / config)
        except HarvestError as error:
            return Finding(OTHER, reason=str(error).replace(str(folder), key))
    checkpoint = choose_checkpoint(files)
    if checkpoint is None:
        return Finding(UNFINISHED, reason=f"{key} has no checkpoint.")
    return Finding(HARVESTABLE, step=checkpoint_step(checkpoint))
