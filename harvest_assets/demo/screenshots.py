"""Pictures of the demo's pages: `python -m harvest_assets.demo.screenshots docs` after a demo.

Needs the test requirements (playwright, Pillow) and a Chromium on PATH.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from PIL import Image

from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.store.registry import registration_for
from harvest_assets.system.ports import listening
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.portrait import firing_rows
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets.viewer.view_query import compare_path
from harvest_assets.wandb_client.run_name import parse_run

_SIZE = (1280, 1000)
_TEXTS = {
    "text": "Return the number of items in the list.",
    "text_b": "Raise an error if the list is empty.",
}
_SECONDS_TO_OPEN = 60  # the model


def main() -> None:
    """Write the pictures into the folder that is given."""
    folder = Path(sys.argv[1])
    name = registration_for(parse_run(str(layout.out_dir() / "demo"))).out_name
    harvest = Library().get(name)
    keys = [harvest.frame["component_key"][int(i)] for i in order(harvest, TableQuery())]
    often = max(keys, key=lambda key: harvest.firing_counts[harvest.places[key]])
    run = f"/run/{name}"
    (nearest,) = firing_rows(harvest, harvest.places[keys[6]], "jaccard", 1) or []
    pages = {
        "view-overview": (run, "light"),
        "view-component": (f"{run}/component/{keys[6]}", "light"),
        "view-component-dark": (f"{run}/component/{keys[6]}?examples=ci&shade=act", "dark"),
        "view-compare": (compare_path(name, keys[6], name, nearest.key), "light"),
        "view-prompt": (f"{run}/prompt?{urlencode(_TEXTS | {'component': often})}", "light"),
    }
    with listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(make_app(Library(), name), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _take(f"http://127.0.0.1:{listener.getsockname()[1]}", pages, folder)
        finally:
            server.should_exit = True
            thread.join()


def _take(address: str, pages: dict[str, tuple[str, str]], folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise HarvestError("There is no Chromium on PATH (Debian: apt-get install chromium).")
    width, height = _SIZE
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (where, scheme) in pages.items():
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.goto(address + where)
            page.locator(".waits").wait_for(state="detached", timeout=_SECONDS_TO_OPEN * 1000)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            # A third of the size, for the same to the eye.
            fewer = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            fewer.save(folder / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
