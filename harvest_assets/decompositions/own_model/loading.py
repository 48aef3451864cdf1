"""The object that a path `<file>.py:<name>` names: its module is imported, which executes it.

One that exists only in this process is found by the path that `keep_in_memory` gave it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from harvest_assets.decompositions.own_model.source import Source
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.wandb_client.module_path import IN_MEMORY, file_and_name

_in_memory: dict[Path, Source] = {}


def keep_in_memory(source: Source, name: str) -> Path:
    """Have `load_source` find an object in this process, until it ends.

    Args:
        source: the object.
        name: a Python identifier; an object that was kept under it in this folder is replaced.

    Returns:
        The path to load it by.

    Raises:
        HarvestError: the name is not an identifier.
    """
    if not (name.isascii() and name.isidentifier()):
        raise HarvestError(f"name is {name[:100]!r}; expected letters, digits and '_'.")
    path = Path.cwd() / f"{IN_MEMORY}:{name}"
    _in_memory[path] = source
    return path


def load_source(path: Path) -> Source:
    """Import a module and take the object from it.

    Only for a path that a person gave to a command: what results or downloaded files name must
    never come here.

    Raises:
        HarvestError: the module fails, or does not have such an object.
    """
    file, name = file_and_name(path)
    if file.name == IN_MEMORY:
        return _kept(path, name)
    try:
        found = getattr(_module(file), name)
    except HarvestError:
        raise
    except AttributeError as error:
        if getattr(error, "name", None) != name:
            raise _failed(file, error) from error
        raise HarvestError(f"{file} defines no {name}.") from error
    except (Exception, SystemExit) as error:
        raise _failed(file, error) from error
    if isinstance(found, type) or not isinstance(found, Source):
        raise HarvestError(
            f"{path} is of the class {type(found).__name__}; expected an OwnDecomposition, or an "
            "object with the members of harvest_assets.decompositions.protocol.Decomposition."
        )
    return found


def _kept(path: Path, name: str) -> Source:
    if path not in _in_memory:
        raise HarvestError(
            f"{name} was an object in the memory of another process; harvest it there or define it "
            f"again, with harvest_assets.harvest in the folder {path.parent}."
        )
    return _in_memory[path]


def _module(file: Path) -> ModuleType:
    """The module of a file; one in a package by its full name, for relative imports."""
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:  # modules beside it
        sys.path.append(str(root))  # last, so that they hide no library
    if len(parts) == 1:
        return _single_module(file)
    if parts[-1] == "__init__":
        parts.pop()
    module = importlib.import_module(".".join(parts))
    if not file.samefile(str(module.__file__)):
        raise HarvestError(
            f"{file} cannot be imported: Python finds {module.__file__} by the name "
            f"{module.__name__}. Rename its package."
        )
    return module


def _single_module(file: Path) -> ModuleType:
    """A module that is in no package, by a name that no other file has."""
    name = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise HarvestError(f"{file} is not a Python module.")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _failed(file: Path, error: BaseException) -> HarvestError:
    return HarvestError(f"{file} cannot be imported: {type(error).__name__}: {reason_of(error)}.")
