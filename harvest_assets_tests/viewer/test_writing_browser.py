"""Labels written in a real browser, with and without JavaScript."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.viewer.test_browser import RUN, address, browser  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "h.0.mlp.c_fc:1"


@pytest.fixture(autouse=True)
def clean(paths) -> Iterator[None]:
    yield
    shutil.rmtree(paths.interpretations, ignore_errors=True)


def write(page, person: str, label: str) -> None:
    page.get_by_label("your label").fill(label)
    page.get_by_label("your name").fill(person)
    page.get_by_role("button", name="Keep").click()
    page.wait_for_url("**#meaning")


@pytest.mark.parametrize("script", [True, False])
def test_a_label_is_written_found_and_removed(browser, address, script: bool):  # noqa: F811
    context = browser.new_context(base_url=address, java_script_enabled=script)
    page = context.new_page()
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.goto(f"{RUN}/component/{KEY}?sort=density")
    page.get_by_label("tags").fill("syntax")
    page.get_by_label("star", exact=True).check()
    write(page, "Ann", "plural nouns")
    assert "sort=density" in page.url
    assert page.locator("#meaning .label").text_content() == "plural nouns"
    page.get_by_role("link", name="table").click()
    page.get_by_label("label", exact=True).fill("plural")
    page.get_by_label("starred").check()
    page.get_by_role("button", name="Show").click()
    row = page.locator("table.components tbody tr")
    row.get_by_text("plural nouns").wait_for()
    assert row.count() == 1
    page.get_by_label("Keep these").fill("Nouns")
    page.get_by_role("button", name="Keep").click()
    page.wait_for_url("**listed=nouns**")
    assert row.count() == 1
    row.get_by_role("link").first.click()
    assert page.get_by_label("your name").input_value() == "Ann"
    write(page, "Ann", "")
    assert page.get_by_text("It has no label.").count() == 1
    page.locator("summary").click()
    assert page.get_by_role("cell", name="plural nouns").is_visible()
    assert not wrong
    context.close()


def test_two_browsers_at_once(browser, address, paths):  # noqa: F811
    contexts = [browser.new_context(base_url=address) for _ in range(2)]
    one, two = (context.new_page() for context in contexts)
    for page in (one, two):
        page.goto(f"{RUN}/component/{KEY}")
    write(one, "Ann", "first")
    two.get_by_label("note").fill("from the other")
    two.get_by_label("your name").fill("Bob")
    two.get_by_role("button", name="Keep").click()
    two.wait_for_url("**#meaning")
    row = Interpretations(paths).current().row(0, named=True)
    assert (row["label"], row["note"]) == ("first", "from the other")
    for context in contexts:
        context.close()


def test_a_page_elsewhere_cannot_write(browser, address, paths, tmp_path: Path):  # noqa: F811
    context = browser.new_context(base_url=address)
    own = context.new_page()
    own.goto(f"{RUN}/component/{KEY}")
    secret = own.locator('#meaning input[name="form_token"]').input_value()
    theirs = tmp_path / "theirs.html"
    theirs.write_text(
        f'<form method="post" action="{address}{RUN}/component/{KEY}">'
        f'<input name="form_token" value="{secret}"><input name="label" value="theirs">'
        '<input name="person" value="Eve"><button>go</button></form>'
    )
    page = context.new_page()
    page.goto(theirs.as_uri())
    page.get_by_role("button", name="go").click()
    page.get_by_text("does not answer pages of other").wait_for()
    assert not Interpretations(paths).history()
    context.close()
