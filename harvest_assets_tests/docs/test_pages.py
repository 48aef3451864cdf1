"""The pages of the documentation: links, navigation, reference and lists of errors."""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import pytest

from harvest_assets_tests.docs import errors
from harvest_assets_tests.docs.stage import DOCS, ROOT, links, target_of

PAGES = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "harvest_assets").rglob("*.md")]
_REFERENCE = re.compile(r"^::: (harvest_assets\S+)$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, where the site and GitHub spell them alike."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)|[^\w\s-]", r"\1", it).lower() for it in headings)
    return {
        it.replace(" ", "-")
        for it in plain
        if it == re.sub(r"[\s-]+", lambda m: m[0][0], it.strip())
    }


def test_links_between_files_lead_somewhere():
    dead = []
    for page in PAGES:
        for link in links(page):
            target, anchor = target_of(page, link), link["anchor"]
            missing = anchor and target.suffix == ".md" and anchor[1:] not in _anchors(target)
            if not target.exists() or missing:
                dead.append(f"{page.relative_to(ROOT)}: {link[0]}")
    assert not dead


def _files(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from _files(part)


def test_each_page_is_in_the_navigation_once():
    config = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))
    listed = [it for it in _files(config["project"]["nav"]) if not it.startswith("repository/")]
    notebooks = [it.with_suffix(".md") for it in DOCS.rglob("*.ipynb")]
    pages = [it.relative_to(DOCS).as_posix() for it in [*DOCS.rglob("*.md"), *notebooks]]
    assert sorted(listed) == sorted(pages)


def _object(name: str) -> griffe.Object | griffe.Alias:
    """A module, or what it defines, read without an import."""
    file = ROOT / f"{name.replace('.', '/')}.py"
    if file.is_file():
        return griffe.load(file.stem, search_paths=[file.parent], submodules=False)
    module, _, member = name.rpartition(".")
    return _object(module)[member]


def _public(shown: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    yield shown
    for member in shown.members.values():
        if not member.name.startswith("_") and not member.is_alias and not member.is_attribute:
            yield from _public(member)


def test_each_name_of_the_reference_has_a_docstring_that_parses(caplog: pytest.LogCaptureFixture):
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    names = [it for name in _REFERENCE.findall(pages) for it in _public(_object(name))]
    assert "load_components_frame" in {it.name for it in names}
    with caplog.at_level(logging.WARNING):
        for each in names:
            assert each.docstring is not None, each.path
            each.docstring.parse("google")
    assert not caplog.messages


def test_the_page_of_errors_lists_what_the_package_raises():
    page = errors.PAGE.read_text("utf-8")
    assert errors.updated(page) == page, "run `make errors`"
    assert page.count("\n- `") > 300
