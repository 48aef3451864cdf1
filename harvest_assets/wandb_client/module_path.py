"""Objects of Python modules as runs: `module:name` and `file.py:name`, found and never imported.

An object that exists only in a process has the file `<in memory>.py` in the current folder.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

IN_MEMORY = "<in memory>.py"

_IDENTIFIER = r"[A-Za-z_]\w*"
_MODULE = re.compile(rf"({_IDENTIFIER}(?:\.{_IDENTIFIER})*):({_IDENTIFIER})", re.ASCII)
_FILE = re.compile(rf"(.*\.py):({_IDENTIFIER})", re.ASCII | re.DOTALL)


def object_path(text: str) -> Path | None:
    """The absolute path `<file>.py:<name>` of what a text names; None if it names no module's file.

    A module is searched for in the current folder and in those of `sys.path`.
    """
    if text.startswith("wandb:"):
        return None
    if _FILE.fullmatch(text):
        path = Path(text).expanduser().absolute()
        return path if is_module(file_and_name(path)[0]) else None
    match = _MODULE.fullmatch(text)
    file = None if match is None else _file_of_module(match[1])
    return None if match is None or file is None else file.with_name(f"{file.name}:{match[2]}")


def is_object_path(path: Path) -> bool:
    """Whether a path has the form `<file>.py:<name>`."""
    return _FILE.fullmatch(path.name) is not None


def file_and_name(path: Path) -> tuple[Path, str]:
    """The file and the object's name of a path `<file>.py:<name>`."""
    file, _, name = path.name.rpartition(":")
    return path.with_name(file), name


def is_module(file: Path) -> bool:
    """Whether a file of a module is there; that of objects in memory, which has no content, is."""
    return file.name == IN_MEMORY or file.is_file()


def _file_of_module(module: str) -> Path | None:
    folders: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in module.split("."):
        # Unlike importlib.util.find_spec, this does not import the packages around a module.
        spec = PathFinder.find_spec(part, folders) if folders else None
        if spec is None:
            return None
        found = spec.submodule_search_locations
        folders = None if found is None else list(found)
    origin = None if spec is None else spec.origin
    return Path(origin).absolute() if origin is not None and origin.endswith(".py") else None
