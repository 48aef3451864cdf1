"""The source of the documentation site: `docs/` and what its pages link to.

`python -m harvest_assets_tests.docs.stage FOLDER` copies `docs/` into a folder, and into its folder
`repository/` the files outside `docs/` that pages link to, so that the same relative links work on
the site and in the repository. Markdown files and notebooks become pages, other files are
downloads, and a link to a folder is kept as its text.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from harvest_assets_tests.docs.notebooks import page_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages of the site that no other page needs to link to.
_ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE")
_NOTEBOOK = ".ipynb"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[re.Match[str]]:
    """The links of a page to files and anchors, those in blocks of code left out."""
    text = page.read_text("utf-8")
    code = [block.span() for block in _CODE.finditer(text)]
    found = [it for it in _LINK.finditer(text) if "://" not in it["path"]]
    return [it for it in found if not any(a <= it.start() < b for a, b in code)]


def target_of(page: Path, link: re.Match[str]) -> Path:
    """The file or folder that a link names; a folder with a README means that."""
    target = (page.parent / link["path"]).resolve() if link["path"] else page
    readme = target / "README.md"
    return readme if readme.is_file() else target


def _place(path: Path) -> Path:
    """Where a file of the repository is on the site; a notebook becomes a page."""
    if path.suffix == _NOTEBOOK:
        path = path.with_suffix(".md")
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    return "repository" / path.relative_to(ROOT)


def _staged(page: Path) -> tuple[str, list[Path]]:
    """The text of a page with its links as on the site, and the files that they need."""
    text, needed = page.read_text("utf-8"), []
    for link in reversed(links(page)):
        target = target_of(page, link)
        if target.is_dir():
            new = link["text"]
        elif link["path"]:
            needed.append(target)
            path = os.path.relpath(_place(target), _place(page).parent)
            new = f"{link['image']}[{link['text']}]({path}{link['anchor'] or ''})"
        else:
            continue
        text = text[: link.start()] + new + text[link.end() :]
    return text, needed


def stage(folder: Path) -> None:
    """Write the source of the site into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    waiting = [path for path in DOCS.rglob("*") if path.is_file()]
    waiting += [ROOT / name for name in _ALWAYS]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        copy = folder / _place(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text, needed = _staged(path)
            copy.write_text(text, "utf-8")
            waiting += needed
        elif path.suffix == _NOTEBOOK:
            page_of(path, copy)
        else:
            shutil.copyfile(path, copy)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
