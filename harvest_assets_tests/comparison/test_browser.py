"""Two harvests chosen and compared in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harvest_assets.comparison import compare
from harvest_assets_tests.comparison.conftest import Two
from harvest_assets_tests.viewer.test_browser import CONTRAST, browser, started  # noqa: F401


@pytest.fixture
def address(two: Two) -> Iterator[str]:
    yield from started(two.names[0], two.out)


@pytest.mark.slow
def test_two_are_chosen_and_their_pairs_followed(two: Two, address: str, browser):  # noqa: F811
    best = compare(*two.names).pairs.row(0, named=True)
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(f"{address}/harvests")
    compare_two = page.get_by_role("button", name="Compare two")
    assert compare_two.is_disabled()
    for name in two.names:
        page.get_by_label(f"select {name}", exact=True).check()
    compare_two.click()
    page.wait_for_url("**/methods?run_a=*")
    if f"run_a={two.names[0]}" not in page.url:
        page.keyboard.press("s")
        page.wait_for_url(f"**/methods?run_a={two.names[0]}&*")
    for width, scheme in ((1300, "dark"), (360, "light")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.reload()
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("j")
    page.wait_for_url(f"**/run/{two.names[0]}/component/{best['component_a']}")
    assert not wrong
