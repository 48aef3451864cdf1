"""The command line: `harvest-assets` with its commands.

A command's module is imported when the command is used, and imports what it needs when it runs.
"""

from __future__ import annotations

import click

from harvest_assets import __version__
from harvest_assets.cli.command_group import CommandOrRun
from harvest_assets.cli.common_options import CONTEXT_SETTINGS, EXIT_STATUSES


@click.group(
    cls=CommandOrRun,
    names=(
        "harvest",
        "demo",
        "register",
        "unregister",
        "backfill",
        "ui",
        "list",
        "status",
        "view",
        "prompt",
        "ablate",
        "weights",
        "find",
        "label",
        "score",
        "labels",
        "compare",
        "verify",
        "pack",
        "unpack",
        "push",
        "pull",
        "export",
        "import",
        "clean",
        "completion",
    ),
    context_settings=CONTEXT_SETTINGS,
    epilog=EXIT_STATUSES,
)
@click.version_option(__version__, prog_name="harvest_assets")
def cli() -> None:
    """Harvest what the components of a decomposed language model do.

    \b
      harvest-assets demo                a finished harvest of a built-in run
      harvest-assets RUN                 harvest a run here (same as: harvest RUN)
      harvest-assets RUN --dry-run       what that would do, take and need
      harvest-assets RUN --n_batches 50  try a few batches first
      harvest-assets RUN@NAME            a further harvest of the run, with settings of its own
      harvest-assets register RUN        add the run to the Dagster UI (unregister removes it)
      harvest-assets backfill            harvest the registered runs not harvested yet
      harvest-assets ui                  watch, start and inspect harvests in a browser
      harvest-assets list                all harvests here; `status RUN` shows one in detail
      harvest-assets view RUN            view its components in a browser
      harvest-assets prompt RUN TEXT     which components fire on a text of yours
      harvest-assets ablate RUN TEXT     what it predicts for a text without some components
      harvest-assets weights RUN KEY     what the weights of a component say, without data
      harvest-assets find RUN TEXT       where a text occurs in its contexts, and what fires there
      harvest-assets label RUN           ask a language model what its components mean
      harvest-assets score RUN           score its components and labels, --method baseline offline
      harvest-assets labels export RUN F labels, scores and notes as a file; `labels import RUN F`
      harvest-assets compare A B         two harvests of the same rows: numbers, best matches
      harvest-assets verify RUN          check that all files on disk are consistent
      harvest-assets pack RUN            a finished harvest as one file; `unpack FILE` elsewhere
      harvest-assets push RUN ADDRESS    a finished harvest to the HF hub or W&B; `pull ADDRESS`
      harvest-assets export RUN FOLDER   a finished harvest in a form that other programs read
      harvest-assets import PATH         a harvest.db of SPD's newer code, to view and score here
      harvest-assets clean               delete files that are no longer needed
      harvest-assets completion SHELL    what bash, zsh or fish needs to complete all this

    Results go to $SPD_OUT_DIR/harvest/<run_id>/ (SPD_OUT_DIR is ~/spd_out unless set).
    """
