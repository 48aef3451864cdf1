"""Which harvest a name or a path means, opened for a notebook."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.notebook.harvest import Harvest
from harvest_assets.store.lookup import find_harvest, folder_named, is_harvest
from harvest_assets.viewer import library
from harvest_assets.wandb_client.run_name import is_run_name


def open(run: str | Path) -> Harvest:  # noqa: A001 - as Polars and PIL name it
    """Open a harvest, finished or in progress.

    No tensors are read, and torch is not imported, until counts or examples are asked for.

    Args:
        run: its folder below `harvest/`, any name of the run, with `@name` at the end for a further
            harvest of it, or a path: to the run, or to the folder of a harvest anywhere.

    Raises:
        HarvestNotFoundError: there is no such harvest, or the run has several.
        HarvestError: it is damaged.
    """
    opened = library.open_harvest(paths_of(run))
    for warning in opened.warnings:
        warnings.warn(presentable(warning), stacklevel=2)
    return Harvest(opened)


def paths_of(run: str | Path) -> HarvestLayout:
    """The files of the harvest that `open` would open.

    Raises:
        HarvestNotFoundError: there is none, or the run has several.
    """
    text = os.fspath(run)
    if folder_named(text) is None and not is_run_name(text):
        paths = HarvestLayout(Path(text).expanduser().absolute())
        if is_harvest(paths):
            return paths
    return find_harvest(text)
