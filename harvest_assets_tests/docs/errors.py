"""The lists of errors in `docs/errors.md`, made from the source; `make errors` writes them.

The page is written by hand except for its lists. Each follows a comment that names the files whose
errors it has, `<!-- raised in store sharing/hub.py -->`: a file or folder below `harvest_assets/`,
where the most precise name counts. What a line says after its error is kept.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator

from harvest_assets_tests.docs.stage import DOCS, ROOT

PAGE = DOCS / "errors.md"
GAP = "…"  # whatever a message says there: a name, a number, another library's words
_PACKAGE = ROOT / "harvest_assets"
_ROOTS = {"HarvestError", "UsageError", "BadParameter"}
_LIST = re.compile(r"(<!-- raised in ([^>]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_LINE = re.compile(r"^- (`+) ?(.+?) ?\1(?:: (.*))?$", re.MULTILINE)
_WORD = re.compile(r"[a-zA-Z]{3}")


def _text(node: ast.expr) -> str:
    """A message with gaps for what is only known when it is raised."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return GAP


def _exceptions(trees: Collection[ast.AST]) -> set[str]:
    """The names of the exceptions whose messages users read: `_ROOTS` and their subclasses."""
    classes = [it for tree in trees for it in ast.walk(tree) if isinstance(it, ast.ClassDef)]
    names: set[str] = set()
    found = _ROOTS
    while not found <= names:
        names |= found
        found = {it.name for it in classes if names & set(map(_last_name, it.bases))}
    return names


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def raised() -> Iterator[tuple[str, str]]:
    """The messages of the package, each with its file below `harvest_assets/`."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(_PACKAGE.rglob("*.py"))}
    exceptions = _exceptions(trees.values())
    for path, tree in trees.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and _last_name(call.func) in exceptions:
                text = " ".join(_text(call.args[0]).split()) if call.args else ""
                if _WORD.search(text):
                    yield path.relative_to(_PACKAGE).as_posix(), text


def _said(lines: str) -> dict[str, str]:
    """The errors of a list, and what it says about each."""
    return {line[2]: line[3] or "" for line in _LINE.finditer(lines)}


def _place(path: str, places: list[str]) -> str:
    """The most precise of the names that a file belongs to; `.` is the whole package."""
    within = [it for it in places if it == "." or f"{path}/".startswith(f"{it}/")]
    return max(within, key=lambda it: (it != ".", len(it)))


def updated(page: str) -> str:
    """The page with lists that have exactly the errors of the package."""
    places = [name for part in _LIST.finditer(page) for name in part[2].split()]
    found: dict[str, dict[str, None]] = {name: {} for name in places}
    for path, text in raised():
        found[_place(path, places)][text] = None

    def rewritten(part: re.Match[str]) -> str:
        texts = dict.fromkeys(text for name in part[2].split() for text in found[name])
        said = _said(part[3])
        lines = "".join(_line(text, said.get(text, "")) for text in texts)
        return f"{part[1]}\n{lines}\n{part[4]}"

    return _LIST.sub(rewritten, page)


def _line(text: str, said: str) -> str:
    quoted = f"`` {text} ``" if "`" in text else f"`{text}`"
    return f"- {quoted}: {said}\n" if said else f"- {quoted}\n"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
