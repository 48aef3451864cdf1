"""Components taken out in a real browser, with a real process that holds the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.viewer.test_browser import browser, page, started  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def address(finished_out: Path) -> Iterator[str]:
    yield from started(FINISHED, finished_out)


def test_components_are_ticked_and_their_weights_are_shown(page):  # noqa: F811
    page.set_default_timeout(60_000)  # a busy machine opens a model slowly
    page.goto(f"/run/{FINISHED}")
    page.get_by_text("Take components out").click()
    page.locator("textarea[name=text]").fill("harvest <b>")
    page.get_by_role("button", name="Compute").click()
    page.locator(".yours").first.wait_for()
    assert page.locator(".yours").count() == 1  # the CI-masked model alone
    boxes = page.locator("input[type=checkbox][form=ablate]")
    boxes.nth(0).check()
    key = boxes.nth(0).get_attribute("value")
    page.get_by_role("button", name="Compute with the chosen ones").click()
    page.get_by_role("heading", name=f"Losses: without {key}").wait_for()
    assert page.locator(".yours").count() == 2
    assert page.locator(".yours b").count() == 0
    assert page.locator("tr.chosen").inner_text().split()[0] == key
    page.locator(".yours").first.locator("a").nth(1).click()
    page.get_by_text("position 1;").wait_for()
    assert page.locator("tr.chosen").count() == 1  # the choice is kept in the address

    page.get_by_role("link", name=key, exact=True).click()
    page.get_by_role("link", name="What its weights say").click()
    page.get_by_role("heading", name="Nearest in its layer").wait_for()
    assert page.locator("h1").inner_text() == key
