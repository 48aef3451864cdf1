"""`harvest-assets ablate RUN TEXT`: what a model predicts with components taken out."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import device_option
from harvest_assets.cli.prompt import read_stdin


@click.command(
    short_help="Show predictions for a text with components taken out.",
    help=f"""Show what an SPD run's model predicts for TEXT with components taken out.

Beside the full model are the changed one and the CI-masked one, which has each component times its
causal importance. For each token of TEXT the KL divergence from the full model's prediction is
listed in nats, with the tokens whose probability grows and falls most. `-` reads TEXT from stdin.
Several components are separated by commas, or given by several options.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("text", required=False)
@click.option("--ids", metavar="LIST", help="Token ids instead of TEXT: '12 7 300'.")
@click.option("--without", metavar="KEY", multiple=True, help="Take these components out.")
@click.option("--only", metavar="KEY", multiple=True, help="Keep these components alone.")
@click.option(
    "--list",
    "listed",
    metavar="NAME",
    default="",
    help="Take the components of a list out too, or keep them with --only.",
)
@click.option("--only-firing", is_flag=True, help="Keep those that fire, at each token.")
@click.option(
    "--with-rest",
    is_flag=True,
    help="Keep the part of the weights that no component explains, with --only, --only-firing and "
    "in the CI-masked model.",
)
@click.option("--at", type=int, help="List this token alone, from 0; -1 is the last.")
@click.option(
    "--top", type=click.IntRange(1, 1000), default=3, show_default=True, help="Tokens in each list."
)
@device_option
@json_option
@debug_option
def ablate(
    run: str,
    text: str | None,
    ids: str | None,
    without: tuple[str, ...],
    only: tuple[str, ...],
    listed: str,
    at: int | None,
    top: int,
    *,
    only_firing: bool,
    with_rest: bool,
    debug: bool,
) -> None:
    """Show what a model predicts for a text with components taken out."""
    with errors_reported(debug=debug):
        from rich.console import Console

        from harvest_assets.live.ablation import AblateQuestion, answer_ablation
        from harvest_assets.live.opened_run import OpenedRun
        from harvest_assets.live.prompt import whole_numbers
        from harvest_assets.printed.asked import print_ablation
        from harvest_assets.viewer.answering import chosen_keys, with_tokens
        from harvest_assets.viewer.library import Library

        paths = harvest_to_read(run)
        question = AblateQuestion(
            text=read_stdin() if text == "-" else text,
            ids=None if ids is None else whole_numbers(ids),
            **chosen_keys(paths, listed, without, only),
            only_firing=only_firing,
            with_rest=with_rest,
            at=at,
            top=top,
        )
        answer = answer_ablation(OpenedRun(paths), question)
        harvest = Library().get(paths.root.name)
        current().result = with_tokens(harvest, answer)
        console = Console(highlight=False, markup=False, soft_wrap=True)
        print_ablation(answer, harvest.vocabulary, console)
