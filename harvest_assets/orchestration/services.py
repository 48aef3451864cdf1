"""`dagster dev` that ends its webserver, daemon and code server on SIGHUP as it does on SIGTERM.

`python -m harvest_assets.orchestration.services dev ...`; without this a closed terminal would end
the parent of these processes alone.
"""

from __future__ import annotations

import runpy

from harvest_assets.stopping import hangup_terminates

if __name__ == "__main__":
    hangup_terminates()
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
