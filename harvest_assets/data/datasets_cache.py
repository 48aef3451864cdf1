"""Where the `datasets` library keeps what it converts."""

from __future__ import annotations

import os
from pathlib import Path

from harvest_assets.files.layout import out_dir

_VARIABLE = "HF_DATASETS_CACHE"


def choose_datasets_cache() -> None:
    """Have `datasets` write below `SPD_OUT_DIR` if its cache folder cannot be written.

    It needs one for local files as well. It reads the variable when it is imported: call this
    before.
    """
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = Path(os.environ.get("HF_HOME") or Path(shared, "huggingface"))
    cache = Path(os.environ.get(_VARIABLE) or hub / "datasets").expanduser().absolute()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        os.environ[_VARIABLE] = str(out_dir() / "huggingface" / "datasets")
