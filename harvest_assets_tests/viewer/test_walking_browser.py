"""From page to page in a real browser: keys, the map, the contexts, another run."""

from __future__ import annotations

import pytest

from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets_tests.viewer.test_browser import (  # noqa: F401
    CONTRAST,
    address,
    browser,
    page,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUN = "/run/hostile"


def test_a_walk_by_keyboard_and_mouse(page, paths):  # noqa: F811
    frame = FinishedHarvest(paths).frame
    alive = set(frame.filter(frame["firing_count"] > 0)["component_key"])
    page.goto(RUN)
    page.keyboard.press("/")
    page.keyboard.type("h2mlp:3")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{RUN}/component/h.2.mlp.c_fc:3")
    seen = set()
    for _ in range(3):
        before = page.url
        page.keyboard.press("r")
        page.wait_for_url(lambda url, before=before: "/component/" in url and url != before)
        seen.add(page.url.partition("/component/")[2])
    assert len(seen) > 1
    assert seen <= alive
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keyboard").wait_for()
    shown = page.locator("#help").text_content()
    for what in ("Go to a component", "A random component", "Map of", "Find contexts"):
        assert what in shown
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Run", exact=True).select_option("other")
    key = page.url.partition("/component/")[2]
    page.get_by_role("button", name="Go", exact=True).click()
    page.wait_for_url(f"**/run/other/component/{key}")
    page.go_back()
    page.locator(".graph svg a").first.click()
    page.wait_for_url(lambda url: "/component/" in url and not url.endswith(key))

    page.keyboard.press("m")
    canvas = page.locator("#map[data-ready]")
    canvas.wait_for(timeout=60_000)
    assert canvas.get_attribute("data-ready") == str(len(alive))
    spot = page.evaluate(
        """async () => {
          const canvas = document.getElementById("map");
          const it = await (await fetch(canvas.dataset.points)).json();
          const [w, h] = [canvas.clientWidth - 24, canvas.clientHeight - 24];
          return [12 + it.x[0] * w, 12 + it.y[0] * h, it.keys[0]];
        }"""
    )
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + spot[0], box["y"] + spot[1])
    tip = page.locator("#tip").text_content()
    named = tip.partition("\n")[0]
    assert named in alive
    assert "→" in tip
    page.keyboard.press("+")
    page.keyboard.press("0")
    page.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
    page.wait_for_url(f"**/component/{named}")

    page.keyboard.press("x")
    page.wait_for_url("**/contexts")
    page.keyboard.press("f")
    page.keyboard.type("<script>")
    page.keyboard.press("Enter")
    page.locator("mark").first.wait_for(timeout=60_000)
    assert all("<script>" in text for text in page.locator("mark").all_text_contents())
    page.locator(".hits .firing a").first.click()
    page.wait_for_url("**/component/**")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 360)])
def test_contrast_and_narrow_screens(page, scheme: str, width: int):  # noqa: F811
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for where in (f"{RUN}/map", f"{RUN}/contexts?q=the", "/api", f"{RUN}/map?colour=density"):
        page.goto(where)
        page.locator("#map[data-ready], mark, code, .none").first.wait_for(timeout=60_000)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = "all => all.filter(e => !e.labels?.length && !e.ariaLabel).map(e => e.name)"
        fields = "input:not([type=hidden]), select"
        assert page.eval_on_selector_all(fields, nameless) == []
        assert page.locator("h1").count() == 1
