"""`harvest-assets register RUN...`: add runs as partitions."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.common_options import RUN_HELP, debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_make
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import out_name_option, require_one_run
from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.sanitize import presentable

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from harvest_assets.store.registry import Registration
    from harvest_assets.wandb_client.run_name import RunReference


@click.command(
    help=f"""Add runs as partitions, so that the Dagster UI and `dagster asset materialize` know
them. Prints the commands that harvest them step by step.

{RUN_HELP}
""",
)
@click.argument("runs", nargs=-1, metavar="RUN...")
@out_name_option
@click.option("--project", help="Add all finished runs of a W&B project: entity/project.")
@click.option(
    "--since", default="", help="With --project: only runs created on or after this date."
)
@json_option
@debug_option
def register(
    runs: tuple[str, ...], out_name: str | None, project: str | None, since: str, *, debug: bool
) -> None:
    """Add runs as partitions."""
    with errors_reported(debug=debug):
        registrations = _checked(runs, out_name, project, since)

        from harvest_assets.orchestration.instance import add_run, dagster_home, open_instance
        from harvest_assets.store.registry import store_registration

        current().result = {"registered": [], "skipped": []}
        with open_instance() as instance:
            for registration in registrations:
                _check_can_be_opened(registration.reference)
                store_registration(registration)
                add_run(instance, registration.key)
                current().add("registered", {"key": registration.key})
                click.echo(_materialize_lines(registration.key, str(dagster_home())))
            if project:
                _register_project(instance, project, since)


def _checked(
    runs: tuple[str, ...], out_name: str | None, project: str | None, since: str
) -> list[Registration]:
    """The harvests, where all arguments are valid.

    Raises:
        HarvestError: they are not.
    """
    from harvest_assets.orchestration.wandb.settings import check_project, parse_since

    require_one_run(runs, out_name, "register")
    if project:
        check_project(project)
        parse_since(since, "--since")
    elif since:
        raise HarvestError("--since chooses among the runs of a --project; give one.")
    elif not runs:
        raise HarvestError("Name the runs to be registered, or a --project.")
    return [harvest_to_make(run, out_name) for run in runs]


def _check_can_be_opened(reference: RunReference) -> None:
    """Check the config of a run, here or on W&B, so that no mistyped name becomes a partition.

    Raises:
        HarvestError: there is no such run, or it cannot be harvested.
    """
    from harvest_assets.decompositions.registry import check_config
    from harvest_assets.orchestration.wandb.inspection import OTHER, inspect_run
    from harvest_assets.wandb_client.run_files import fetch_run, is_here
    from harvest_assets.wandb_client.run_name import LOCAL_ENTITY

    if is_here(reference) or reference.name.entity == LOCAL_ENTITY:
        check_config(fetch_run(reference).config)
        return
    finding = inspect_run(reference.name.key)
    if finding.kind == OTHER:
        raise HarvestError(finding.reason)


def _register_project(instance: DagsterInstance, project: str, since: str) -> None:
    from harvest_assets.orchestration.instance import add_run
    from harvest_assets.orchestration.wandb.project import harvestable_runs

    n_added = n_skipped = 0
    for key, reason in harvestable_runs(instance, project, since):
        if reason is None:
            add_run(instance, key)
            n_added += 1
            current().add("registered", {"key": key})
            click.echo(f"{key} is registered.")
        else:
            n_skipped += 1
            current().add("skipped", {"run": key, "reason": presentable(reason)})
            click.echo(f"Skipped: {presentable(reason)}")
    click.echo(
        f"{counted(n_added, 'run')} of {project} registered, {n_skipped} skipped. Registered runs "
        "are harvested by harvest_automation if it is on, else by: harvest-assets backfill"
    )


def _materialize_lines(key: str, home: str) -> str:
    base = "dagster asset materialize -m harvest_assets.definitions"
    run, first_shard = shlex.quote(key), shlex.quote(f"{key}|00")
    return f"""\
{key} is registered. In the UI it is a partition; on the command line:

  export DAGSTER_HOME={shlex.quote(home)}
  {base} --partition {run} \\
      --select run_checkpoint,harvest_plan,token_rows
  {base} --partition {first_shard} \\
      --select harvest_shard        # and '|01' ... for each shard of the plan
  {base} --partition {run} \\
      --select component_correlations,token_stats,activation_contexts,merged_state

Settings go to the plan, with the first command; omitted, they stay as in the stored plan:
  --config-json '{{"ops": {{"harvest_plan": {{"config": {{"n_batches": 50}}}}}}}}'
"""
