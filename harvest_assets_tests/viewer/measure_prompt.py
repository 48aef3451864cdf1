"""How long people wait for answers about a text of their own.

`python -m harvest_assets_tests.viewer.measure_prompt FOLDER NAME` starts `view` on the harvest
`FOLDER/harvest/NAME` and asks as browsers do: once, while the model is being opened, then again and
again with other texts, then 20 times at once.
"""

from __future__ import annotations

import argparse
import random
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

from harvest_assets_tests.viewer.measure import report
from harvest_assets_tests.viewer.test_browser import started


def words(source: random.Random, n: int) -> str:
    texts = "the list of items that is returned by a function if its value has been set to none"
    return " ".join(source.choice(texts.split()) for _ in range(n))


def milliseconds(address: str) -> float:
    begun = time.monotonic()
    with urllib.request.urlopen(address, timeout=120) as answer:
        assert b'class="banner waits"' not in answer.read()
    return 1000 * (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--words", type=int, default=10)
    options = parser.parse_args()
    source = random.Random(0)

    def asked(root: str) -> str:
        return f"{root}?{urlencode({'text': words(source, options.words)})}"

    for address in started(options.name, options.folder):
        page, api = f"{address}/run/{options.name}/prompt", f"{address}/api/run/{options.name}"
        report("until the model is open", [milliseconds(asked(f"{api}/prompt"))])
        report("first page after that", [milliseconds(asked(page))])
        report("a page", [milliseconds(asked(page)) for _ in range(50)])
        report("JSON of all tokens", [milliseconds(asked(f"{api}/prompt")) for _ in range(20)])
        with ThreadPoolExecutor(20) as threads:
            together = list(threads.map(milliseconds, [asked(f"{api}/prompt") for _ in range(20)]))
        report("JSON, 20 at once", together)


if __name__ == "__main__":
    main()
