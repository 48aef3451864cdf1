"""Every page in a real browser, with tokens that try to break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.test_in_progress import interrupted, small  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUN = "/run/hostile"


def started(name: str, out: Path) -> Iterator[str]:
    """The address of `view`, started as people start it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harvest_assets", "view", name, "--no-browser", "--port", "0"],
        env={**os.environ, "SPD_OUT_DIR": str(out)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split(" ")[0].rstrip("/")
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(address, timeout=10).read()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def address(hostile_out: Path) -> Iterator[str]:
    yield from started("hostile", hostile_out)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address: str) -> Iterator:
    """A page that must not complain, ask elsewhere, open a window or run what tokens brought."""
    context = browser.new_context(base_url=address, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    context.on("page", lambda _: wrong.append("a window"))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    yield page
    assert page.evaluate("window.pwned") is None
    assert not wrong
    assert requested
    assert all(url.startswith(f"{address}/") for url in requested)
    context.close()


@pytest.fixture
def key(paths) -> str:
    """The most informative component that fired often."""
    frame = FinishedHarvest(paths).frame
    frame = frame.filter(frame["firing_count"] > 1000)
    return frame.sort("informativeness", descending=True)["component_key"][0]


def test_the_overview(page, paths):
    frame = FinishedHarvest(paths).frame
    page.goto(RUN)
    assert page.locator("table.components tbody tr").count() == 50
    alive = int((frame["firing_count"] > 0).sum())
    page.get_by_role("heading", name=f"Components {alive}").wait_for()
    page.get_by_role("link", name="density", exact=True).click()
    page.wait_for_url("**sort=density**")
    first = page.locator("table.components td.key a").first
    densest = frame.sort("density", descending=True)["component_key"][0]
    assert first.text_content() == densest
    page.go_back()
    page.locator("th[aria-sort]", has_text="informativeness").wait_for()
    page.keyboard.press("/")
    page.keyboard.type(densest)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/component/{densest}*")
    page.go_back()
    page.locator("svg.chart a").first.click()
    page.wait_for_url("**min=**")
    shown = page.locator("table.components tbody tr").count()
    heading = page.locator("#table h2").text_content()
    assert heading == f"Components {shown} of {alive}"


def test_tokens_are_shown_as_what_they_are(page, key: str):
    page.goto(f"{RUN}/component/{key}?lines=full")
    shown = page.locator(".examples").text_content()
    for text in TEXTS[:7]:
        assert text in shown
    for sign in ("U+202E", "U+200B", "U+0000", "⏎", "…10,000 characters", "שלום", "👩‍👩‍👧‍👦"):
        assert sign in shown
    assert page.locator(".examples bdi").count() > 300
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1300


def test_a_component_by_keyboard(page, paths, key: str):
    frame = FinishedHarvest(paths).frame.filter(FinishedHarvest(paths).frame["firing_count"] > 0)
    by_informativeness = frame.sort("informativeness", descending=True)["component_key"].to_list()
    page.goto(RUN)
    page.keyboard.press("j")
    page.wait_for_url(f"**/component/{key}")
    page.keyboard.press("j")
    page.wait_for_url(f"**/component/{by_informativeness[1]}")
    page.keyboard.press("k")
    page.wait_for_url(f"**/component/{key}")
    for choice in ("ci", "activation", "intervals"):
        page.keyboard.press("e")
        page.wait_for_url(f"**examples={choice}**")
    page.keyboard.press("s")
    page.wait_for_url("**shade=act**")
    page.keyboard.press("l")
    page.wait_for_url("**lines=full**")
    page.reload()
    assert page.locator('nav.switch a[aria-current="true"]').all_text_contents() == [
        "by interval",
        "activation",
        "full",
    ]
    page.locator("[data-example]").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#tip")
    lit = page.locator(".lit").get_attribute("data-v").split(" ")
    assert tip.text_content() == f"CI {lit[0]}   activation {lit[1]}   token {lit[2]}"
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    page.wait_for_url(f"**{RUN}#table")


def test_values_on_hover_are_the_harvests(page, paths, key: str):
    harvest = FinishedHarvest(paths)
    example = harvest.examples(harvest.places[key], "sample")[1]
    page.goto(f"{RUN}/component/{key}")
    token = page.locator("[data-example]").nth(1).locator(".fires")
    token.hover()
    tip = page.locator("#tip").text_content()
    middle = len(example.token_ids) // 2
    assert f"CI {example.ci_values[middle]:.4g}" in tip
    assert f"activation {example.component_acts[middle]:.4g}" in tip
    assert f"token {example.token_ids[middle]}" in tip


def test_examples_are_paged(page, key: str):
    page.goto(f"{RUN}/component/{key}")
    before = page.locator(".examples").text_content()
    page.keyboard.press("n")
    page.wait_for_url("**page=2**")
    assert page.locator(".examples").text_content() != before
    page.goto(f"{RUN}/component/{key}?page=3")
    assert page.locator("[data-example]").count() == 5
    page.goto(f"{RUN}/component/{key}?page=99")
    page.get_by_text("There are no more examples.").wait_for()


def test_two_are_selected_and_compared(page):
    page.goto(RUN)
    export = page.get_by_role("button", name="Export selected")
    compare = page.get_by_role("button", name="Compare two")
    assert export.is_disabled()
    for i in range(2):
        assert compare.is_disabled()
        page.get_by_role("checkbox", name="select").nth(i).check()
    keys = page.locator("table.components td.key a").all_text_contents()[:2]
    compare.click()
    page.wait_for_url("**/compare?**")
    for key in keys:
        page.get_by_role("heading", name=key).wait_for()
    page.locator('select[name="run_b"]').select_option("other")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("the same key need not be the same component").wait_for()
    page.get_by_role("heading", name="Settings that differ").wait_for()


def test_an_export_is_self_contained(page, browser, key: str, tmp_path: Path):
    page.goto(f"{RUN}/component/{key}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as one HTML file").click()
    file = tmp_path / "export.html"
    download.value.save_as(file)
    context = browser.new_context(offline=True)
    alone = context.new_page()
    wrong: list[str] = []
    alone.on("console", lambda message: wrong.append(message.text))
    alone.on("request", lambda r: wrong.append(r.url) if not r.url.startswith("file:") else None)
    alone.goto(file.as_uri())
    assert alone.evaluate("window.pwned") is None
    assert alone.get_by_role("heading", name=key).count() == 1
    assert alone.locator("[data-example]").count() == 45 + 20 + 20
    assert alone.evaluate("getComputedStyle(document.querySelector('.s12')).backgroundColor") != (
        "rgba(0, 0, 0, 0)"
    )
    assert not wrong
    context.close()


CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 360])
def test_contrast_names_and_narrow_screens(page, key: str, scheme: str, width: int):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    compare = f"/compare?run_a=hostile&a={key}&run_b=other&b={key}"
    component = f"{RUN}/component/{key}"
    intervals = f"{component}?shade=act&examples=intervals"
    for where in (RUN, component, intervals, compare):
        page.goto(where)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = "all => all.filter(e => !e.labels?.length && !e.ariaLabel).map(e => e.name)"
        fields = "main input:not([type=hidden]), main select"
        assert page.eval_on_selector_all(fields, nameless) == []
        assert page.locator("h1").count() == 1


def test_a_harvest_in_progress_updates_itself(browser, small, out_dir: Path):  # noqa: F811
    interrupted(small, "00", 20)
    for address in started("aaaaaaaa", out_dir):
        page = browser.new_page()
        page.goto(address)
        banner = page.locator(".banner strong")
        before = banner.text_content()
        assert before.startswith("In progress:")
        small.shard("00")
        page.wait_for_function(
            "t => document.querySelector('.banner strong').textContent != t", arg=before
        )
        assert banner.text_content() == "In progress: 50.0% saved."
        small.shard("01")
        small.merge()
        page.wait_for_function("() => !document.querySelector('.banner')")
        page.close()
