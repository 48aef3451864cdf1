"""The Dagster UI in a real browser: add a run, backfill it by clicking, look at what came of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets.files.layout import HarvestLayout
from harvest_assets_tests.dagster_dev import dagster_dev
from harvest_assets_tests.tiny_run import write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "local/tiny/aaaaaaaa"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    run = write_world(tmp_path / "world")
    cache = tmp_path / "out/runs"
    cache.mkdir(parents=True)
    run.rename(cache / "tiny-aaaaaaaa")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    settings = {"N_BATCHES": "6", "BATCH_SIZE": "8", "N_SHARDS": "2"}
    return {
        **kept,
        "HOME": str(tmp_path),
        "SPD_OUT_DIR": str(tmp_path / "out"),
        **{f"HARVEST_{name}": value for name, value in settings.items()},
    }


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The UI with its daemon."""
    with dagster_dev(environment, tmp_path) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        # The welcome window would hide the graph.
        page.request.post(f"{address}/graphql", data={"query": "mutation { setNuxSeen }"})
        yield page
        browser.close()


def shown(page, address: str, where: str, picture: str, *texts: str) -> None:
    """Open a page, wait for the expected text, keep a screenshot if wanted."""
    page.goto(f"{address}/{where}")
    for text in texts:
        page.get_by_text(text).first.wait_for()
    page.wait_for_timeout(1500)
    screenshot(page, picture)


def screenshot(page, picture: str) -> None:
    folder = os.environ.get("HARVEST_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{picture}.png"))


def test_a_run_is_added_and_backfilled_by_clicking(page, address: str, tmp_path: Path):
    page.goto(f"{address}/asset-groups")
    page.get_by_text("Materialize all").click()
    page.get_by_text("Add a partition").click()
    page.wait_for_timeout(1000)
    page.keyboard.type(KEY)
    page.get_by_role("button", name="Save").click()
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Launch backfill").click()

    paths = HarvestLayout(tmp_path / "out/harvest/aaaaaaaa")
    deadline = time.monotonic() + 600
    while not all(file.exists() for file in paths.five_files):
        assert time.monotonic() < deadline, (tmp_path / "ui.log").read_text()[-5000:]
        time.sleep(2)

    shown(page, address, "asset-groups", "graph", "run_checkpoint", "activation_contexts")
    grid = "assets/harvest_shard?view=partitions"
    shown(page, address, grid, "grid", KEY, "Materialized (16)")
    shard = f"{grid}&partition={KEY.replace('/', '%2F')}%7C00"
    shown(page, address, shard, "shard", "components alive", "tokens per second")
    unplanned = shard.removesuffix("00") + "07"
    shown(page, address, unplanned, "unplanned", "not in the plan (2 shards)")
    merged = f"assets/component_correlations?view=partitions&partition={KEY.replace('/', '%2F')}"
    shown(page, address, merged, "merged", "components alive", "h.0.mlp.up_proj")
    check = "assets/component_correlations?view=checks&checkDetail=counts_are_consistent"
    shown(page, address, check, "check", "counts_are_consistent", "Passed", "components_are_alive")
    page.goto(f"{address}/{merged}")
    pictures = page.locator('img[src^="data:image/svg+xml"]')
    pictures.first.wait_for()
    assert pictures.count() == 2
    assert all(pictures.nth(i).evaluate("image => image.naturalWidth > 100") for i in range(2))
    contexts = merged.replace("component_correlations", "activation_contexts")
    shown(page, address, contexts, "contexts", "harvest-assets view", "top components")

    page.goto(f"{address}/locations/harvest_assets.definitions/jobs/prepare")
    page.get_by_role("button", name="Materialize all").wait_for()
    page.locator("button:right-of(:text('Materialize all'))").first.click()
    page.get_by_text("Open launchpad").click()
    page.get_by_placeholder("Partition").click()
    page.get_by_text(KEY).last.click()
    for setting in ("n_batches: 6", "batch_size: 8", "n_shards: 2", "ci_threshold: 0.000001"):
        page.locator(".CodeMirror-line", has_text=setting).wait_for()
    page.get_by_text("No errors").wait_for()
    screenshot(page, "launchpad")
