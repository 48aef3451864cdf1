"""Draw what `demo` prints: `python -m harvest_assets.demo.picture docs/demo.svg` after a demo."""

from __future__ import annotations

import io
import sys

from rich.console import Console

from harvest_assets.files import layout
from harvest_assets.printed.component import print_informative_components
from harvest_assets.store.registry import registration_for
from harvest_assets.wandb_client.run_name import parse_run

_COMPONENTS = 4


def main() -> None:
    """Write the picture to the path that is given."""
    registration = registration_for(parse_run(str(layout.out_dir() / "demo")))
    console = Console(
        record=True, width=104, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    print_informative_components(registration.out_name, _COMPONENTS, console)
    console.save_svg(sys.argv[1], title="harvest-assets demo")


if __name__ == "__main__":
    main()
