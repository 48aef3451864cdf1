"""Real English text in every Python installation: the standard library's docstrings."""

from __future__ import annotations

import ast
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from harvest_assets.errors import HarvestError

_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}
# The fields that hold statements, in their order in the source.
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read_docstrings() -> list[str]:
    """The docstrings of the standard library of this Python, each once, in the order of its files.

    Raises:
        HarvestError: this installation has no source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for path in sorted(library.rglob("*.py")):
        if not _LEFT_OUT.intersection(path.relative_to(library).parts):
            found.update(dict.fromkeys(_docstrings_in(path)))
    if not found:
        raise HarvestError(
            f"{library} holds no Python sources whose docstrings the demo could read."
        )
    return list(found)


def _docstrings_in(path: Path) -> list[str]:
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    documented = (node for node in _statements(module) if isinstance(node, _DOCUMENTED))
    return [text for node in documented if (text := ast.get_docstring(node))]


def _statements(module: ast.Module) -> Iterator[ast.AST]:
    """The nodes of `ast.walk`, in its order, without expressions, which are most of them."""
    left: deque[ast.AST] = deque([module])
    while left:
        node = left.popleft()
        yield node
        for block in _BLOCKS:
            left.extend(getattr(node, block, ()))
