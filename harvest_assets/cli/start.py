"""The entry points: Ctrl-C during the imports ends the process without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Run `harvest-assets`, also as `python -m harvest_assets`."""
    _interrupts_end_quietly()
    from harvest_assets.cli.main import cli
    from harvest_assets.files.sanitize import redact_uncaught_errors

    redact_uncaught_errors()
    cli(prog_name="harvest-assets")


def spd_harvest() -> None:
    """Run `spd-harvest`."""
    _interrupts_end_quietly()
    from harvest_assets.cli.spd_harvest import spd_harvest_command
    from harvest_assets.files.sanitize import redact_uncaught_errors

    redact_uncaught_errors()
    spd_harvest_command(prog_name="spd-harvest")


def _interrupts_end_quietly() -> None:
    """Exit: nothing has started yet. Each command sets its own handlers."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
