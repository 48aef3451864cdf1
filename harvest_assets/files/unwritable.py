"""Which environment variable moves a folder that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from harvest_assets.files.layout import out_dir

_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM)


def advice(error: BaseException) -> str:
    """A sentence, after a space, for an error whose cause is a folder that cannot be written.

    Empty for any other error, and where no variable is known for the folder.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _ERRORS and cause.filename:
            variable = _variable_of(Path(os.fsdecode(cause.filename)))
            return f" Set {variable} to a folder that can be written." if variable else ""
        cause = cause.__cause__ or cause.__context__
    return ""


def _variable_of(path: Path) -> str | None:
    """The variable of the innermost folder that holds a path, or that its creation began with."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folders = {
        "SPD_OUT_DIR": out_dir(),
        "HF_HOME": Path(os.environ.get("HF_HOME") or Path(cache, "huggingface")),
        "DAGSTER_HOME": Path(os.environ.get("DAGSTER_HOME") or "~/.local/share/harvest_assets"),
    }
    expanded = {name: folder.expanduser().absolute() for name, folder in folders.items()}
    held = [name for name, folder in expanded.items() if path.is_relative_to(folder)]
    if held:
        return max(held, key=lambda name: len(expanded[name].parts))
    begun = [name for name, folder in expanded.items() if folder.is_relative_to(path)]
    return begun[0] if len(begun) == 1 else None
