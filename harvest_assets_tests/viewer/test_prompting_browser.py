"""A text of one's own in a real browser, with a real process that holds the model."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.viewer.test_browser import browser, page, started  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def address(finished_out: Path) -> Iterator[str]:
    yield from started(FINISHED, finished_out)


def test_a_text_is_typed_and_a_token_and_a_component_are_chosen(page):  # noqa: F811
    page.set_default_timeout(60_000)  # a busy machine opens a model slowly
    page.goto(f"/run/{FINISHED}")
    page.get_by_text("Try your own text").click()
    page.locator("textarea[name=text]").fill("harvest <b>the</b> shard\u202e")
    page.locator("textarea[name=text_b]").fill("merge\nthe row")
    page.get_by_role("button", name="Compute").click()
    page.get_by_text("Opening the model").wait_for()
    page.locator(".yours").first.wait_for()
    assert page.locator(".yours").count() == 2
    assert page.locator(".yours b").count() == 0
    assert "\u202e" not in page.locator(".sides").inner_text()

    page.locator(".yours").last.locator("a").nth(1).click()
    assert "at_b=1" in page.url
    page.locator("a.shades").first.click()
    chosen = page.locator("input[name=component]").input_value()
    assert page.locator(".chosen").filter(has_text=chosen).count()
    assert page.locator(".yours .hot").count()
    page.locator(".yours").first.locator("a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "at=0" in url)
    assert page.locator(".yours [aria-current]").first.is_visible()


def test_the_longest_texts_of_the_form_reach_the_server(address: str):
    query = urlencode({"text": "\u6f22" * 10_000, "text_b": "\u6f22" * 10_000})
    url = f"{address}/run/{FINISHED}/prompt?{query}"
    with pytest.raises(urllib.error.HTTPError) as refused:  # as they have too many tokens
        urllib.request.urlopen(urllib.request.Request(url, headers={"referer": url}), timeout=120)
    assert (refused.value.code, b"at most" in refused.value.read()) == (400, True)


def test_twenty_questions_at_once_are_answered_and_other_pages_go_on(address: str):
    def get(path: str) -> bytes:
        return urllib.request.urlopen(f"{address}{path}", timeout=120).read()

    paths = [f"/api/run/{FINISHED}/prompt?ids={i}+{i + 1}+{i + 2}" for i in range(20)]
    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(get, path) for path in paths]
        assert b"components alive" in get(f"/run/{FINISHED}")
        for i, answer in enumerate(asked):
            positions = json.loads(answer.result())["positions"]
            assert [it["token_id"] for it in positions] == [i, i + 1, i + 2]
    models = [
        p
        for p in psutil.Process().children(recursive=True)
        if "harvest_assets.live.process" in p.cmdline()
    ]
    assert len(models) == 1
