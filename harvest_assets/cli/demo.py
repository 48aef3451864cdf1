"""`harvest-assets demo`: a finished harvest of the built-in run."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvesting import harvest_runs, without_finished
from harvest_assets.cli.options import complete_settings, device_option
from harvest_assets.cli.where import require_place


@click.command()
@device_option
@json_option
@debug_option
def demo(*, debug: bool) -> None:
    """Harvest the built-in run and print its ten most informative components.

    \b
    The run is a language model of two layers, trained on the docstrings of Python's standard
    library and decomposed into a thousand components. Nothing is downloaded: the docstrings are
    read from this Python. The results stay in $SPD_OUT_DIR like those of any other run.
    """
    with errors_reported(debug=debug):
        from harvest_assets.demo.built_in import SETTINGS, lay_out_demo

        settings = complete_settings(SETTINGS)
        require_place("here")

        from rich.console import Console

        from harvest_assets.printed.component import print_informative_components
        from harvest_assets.store.registry import register
        from harvest_assets.wandb_client.run_name import parse_run

        registration = register(parse_run(str(lay_out_demo())), None)
        if without_finished([registration], settings, None):
            harvest_runs([registration], settings, None, "here")
        click.echo("\nThe ten components most informative about the tokens around them:\n")
        print_informative_components(registration.out_name, 10, Console())
        click.echo(_next_steps(registration.out_name))


def _next_steps(out_name: str) -> str:
    return f"""\
Next:
  harvest-assets view {out_name:<26} its components in a browser
  harvest-assets ui                              the harvest in Dagster's own UI
  harvest-assets entity/project/run_id --dry-run what a run of yours would take
  harvest-assets entity/project/run_id           and its harvest

In Python: import harvest_assets
           harvest_assets.open({out_name!r})"""
