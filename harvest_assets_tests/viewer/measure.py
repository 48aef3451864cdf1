"""How long people wait for the viewer: `python -m harvest_assets_tests.viewer.measure FOLDER NAME`.

Starts `view` on the harvest `FOLDER/harvest/NAME` and drives a headless Chromium: first paint of
the overview, then components drawn at random, each requested once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from harvest_assets.files.layout import HarvestLayout
from harvest_assets_tests.viewer.test_browser import CHROMIUM, started

TIMES = """() => {
  const [load] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return [load.responseEnd - load.requestStart, paint ? paint.startTime : load.loadEventEnd];
}"""


def times(page: Page, address: str) -> tuple[float, float]:
    """Milliseconds until the answer was there, and until something was painted."""
    page.goto(address)
    page.wait_for_function(
        "() => performance.getEntriesByName('first-contentful-paint').length > 0"
    )
    answer, paint = page.evaluate(TIMES)
    return answer, paint


def report(what: str, values: list[float]) -> None:
    values = sorted(values)
    middle, most = statistics.median(values), values[-1]
    nearly_all = values[int(0.99 * (len(values) - 1))]
    print(
        f"{what:>34}: median {middle:4.0f} ms, 99% within {nearly_all:4.0f} ms, "
        f"highest of {len(values)} {most:4.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--components", type=int, default=200)
    options = parser.parse_args()
    import pyarrow.parquet as pq

    index = HarvestLayout(options.folder / "harvest" / options.name).component_index
    keys = pq.read_table(index, columns=["component_key"])["component_key"].to_pylist()
    drawn = random.Random(0).sample(keys, min(options.components, len(keys)))
    begun = time.monotonic()
    for address in started(options.name, options.folder):
        print(f"{'command until it answers':>34}: {1000 * (time.monotonic() - begun):.0f} ms")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = chromium.new_page()
            page.goto(f"{address}/static/icon.svg")  # a browser that has been started
            run = f"{address}/run/{options.name}"
            report("overview, first paint, first time", [times(page, run)[1]])
            report("overview, first paint", [times(page, run)[1] for _ in range(10)])
            measured = [times(page, f"{run}/component/{key}") for key in drawn]
            report("a component, answered", [answer for answer, _ in measured])
            report("a component, painted", [paint for _, paint in measured])
            sorts = [f"{run}?sort={s}&reverse={r}" for s in ("density", "reads") for r in (0, 1)]
            report("the table in another order", [times(page, sort)[0] for sort in sorts])
            report(
                "a token searched", [times(page, f"{run}?token=word{i}")[0] for i in (1, 22, 333)]
            )
            chromium.close()


if __name__ == "__main__":
    main()
