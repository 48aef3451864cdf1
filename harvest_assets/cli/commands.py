"""The command line: harvest a run, register runs for the UI, open the UI.

`python -m harvest_assets RUN` is short for `python -m harvest_assets harvest RUN`.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from harvest_assets import __version__
from harvest_assets.cli.command_group import CommandOrRun
from harvest_assets.errors import HarvestError
from harvest_assets.files.unwritable import advice
from harvest_assets.system.stopping import exit_status, interrupted_by_signals, last_words

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from harvest_assets.store.plan import HarvestPlan
    from harvest_assets.store.registry import Registration
    from harvest_assets.wandb_client.run_name import RunReference

F = TypeVar("F", bound=Callable[..., Any])
_Settings = dict[str, float | None]
_Where = Literal["slurm", "daemon", "here"]
_PLACES: dict[_Where, str] = {
    "slurm": "as jobs of the cluster",
    "daemon": "by the Dagster daemon",
    "here": "on this machine",
}

_EXIT_BAD_INPUT = 1

_RUN_HELP = """
RUN is any name of an SPD run, or a path to its folder or checkpoint:

\b
  goodfire/spd/s-d2ec3bfe
  goodfire/spd/runs/s-d2ec3bfe
  wandb:goodfire/spd/runs/s-d2ec3bfe
  https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe
  ./runs/my-run            (final_config.yaml and model_<step>.pth lie in it)
"""


_HARVEST_HELP = f"""{_RUN_HELP}
or, where a run has several harvests, the folder of one of them:

\b
  x-1a2b3c4d               (a folder of $SPD_OUT_DIR/harvest)
"""


def _either_spelling(name: str) -> str:
    """`--n_batches` is `--n-batches`."""
    return name.replace("_", "-")


@click.group(
    cls=CommandOrRun,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="harvest_assets")
def cli() -> None:
    """Harvest what the components of a decomposed language model do.

    \b
      python -m harvest_assets demo                a finished harvest of a built-in run
      python -m harvest_assets RUN                 harvest a run here (same as: harvest RUN)
      python -m harvest_assets RUN --dry-run       what that would do, take and need
      python -m harvest_assets RUN --n_batches 50  a first look at a few batches
      python -m harvest_assets register RUN        let the Dagster UI know the run
      python -m harvest_assets backfill            harvest what is registered and not harvested
      python -m harvest_assets ui                  watch, start and inspect harvests in a browser
      python -m harvest_assets view RUN            look at its components in a browser
      python -m harvest_assets verify RUN          check everything on disk against itself
      python -m harvest_assets clean               free what nobody needs any more

    Results go to $SPD_OUT_DIR/harvest/<run_id>/ (SPD_OUT_DIR is ~/spd_out unless set).
    """


def _debug_option(command: F) -> F:
    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)


def _settings_options(command: F) -> F:
    """An option for every field of `HarvestConfig`, with the deployment's default in its help."""
    try:
        from harvest_assets.store.settings import HarvestConfig
    except HarvestError as error:  # a variable of the environment holds no number
        sys.exit(f"Error: {error}")
    for name, field in reversed(HarvestConfig.model_fields.items()):
        option = f"--{name.replace('_', '-')}"
        default = "" if field.default is None else f"  [default: {field.default}]"
        help_text = f"{field.description}{default}"
        if field.annotation is bool:
            spelled = f"{option}/--no-{option.removeprefix('--')}"
            command = click.option(spelled, name, default=None, help=help_text)(command)
            continue
        kind = float if field.annotation is float else int
        command = click.option(option, name, type=kind, help=help_text)(command)
    return command


def _every_setting(given: Mapping[str, float | None]) -> _Settings:
    """The settings of a command: options that were left out are defaults, not the stored plan's."""
    from harvest_assets.store.settings import HarvestConfig

    asked = {name: value for name, value in given.items() if value is not None}
    return HarvestConfig.model_validate(asked).model_dump()


@cli.command(
    context_settings={"token_normalize_func": _either_spelling},
    help=f"""Harvest one run on this machine.

{_RUN_HELP}

\b
Examples:
  python -m harvest_assets goodfire/spd/s-d2ec3bfe
  python -m harvest_assets ./runs/my-run --n_batches 100 --batch_size 64
  python -m harvest_assets goodfire/spd/s-d2ec3bfe --n_shards 4
  python -m harvest_assets goodfire/spd/s-d2ec3bfe --dry-run

Every option has a default that a deployment can set: HARVEST_N_BATCHES=2000 and so on.
""",
)
@click.argument("run")
@_settings_options
@click.option("--step", type=int, help="Training step of the checkpoint; omitted: the newest.")
@click.option("--out-name", help="Folder below harvest/, if the run id is taken by another run.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print model, data, memory, disk and time of the harvest; write nothing of it.",
)
@click.option(
    "--slurm/--local",
    "on_cluster",
    default=False,
    help="As jobs of the cluster, or on this machine (the default).",
)
@_debug_option
def harvest(
    run: str,
    step: int | None,
    out_name: str | None,
    *,
    dry_run: bool,
    on_cluster: bool,
    debug: bool,
    **settings: float | None,
) -> None:
    """Harvest one run on this machine."""
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.wandb_client.run_name import parse_run

        reference = parse_run(run)
        given = _every_setting(settings)
        if dry_run:
            _tell_dry_run(reference, out_name, given, step)
        else:
            _harvest(reference, out_name, given, step, on_cluster=on_cluster)


def _harvest(
    reference: RunReference,
    out_name: str | None,
    settings: _Settings,
    step: int | None,
    *,
    on_cluster: bool = False,
) -> Registration:
    from harvest_assets.cli.progress import HarvestDisplay
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.store.registry import register as register_run

    work = _cluster_work() if on_cluster else _local_work()
    registration = register_run(reference, out_name)
    with open_instance() as instance, HarvestDisplay(registration.key) as display:
        plan = work(registration, instance, settings, step, display.show)
    display.finish(registration.layout, plan)
    return registration


def _local_work() -> Callable[..., HarvestPlan]:
    from harvest_assets.runners.local import harvest_locally

    return harvest_locally


def _cluster_work() -> Callable[..., HarvestPlan]:
    """Work on the cluster, whose settings are looked at before anything is begun."""
    from harvest_assets.orchestration.slurm.settings import SlurmSettings, slurm_is_here
    from harvest_assets.runners.slurm import harvest_on_cluster

    if SlurmSettings.from_environment().cluster == "slurm" and not slurm_is_here():
        msg = "No SLURM is set up on this machine (sbatch and its configuration); use --local."
        raise HarvestError(msg)
    return harvest_on_cluster


def _tell_dry_run(
    reference: RunReference,
    out_name: str | None,
    settings: _Settings,
    step: int | None,
) -> None:
    from rich.console import Console

    from harvest_assets.cli.dry_run import dry_run
    from harvest_assets.cli.dry_run_text import print_dry_run
    from harvest_assets.store.registry import registration_for

    with Console(stderr=True).status("opening the run and its data, computing a few rows"):
        result = dry_run(registration_for(reference, out_name), settings, step)
    print_dry_run(result, Console())


@cli.command()
@_debug_option
def demo(*, debug: bool) -> None:
    """Harvest the built-in run and print its ten most telling components.

    \b
    The run is a language model of two layers, trained on the docstrings of Python's standard
    library and decomposed into a thousand components. Nothing is downloaded: the docstrings are
    read from this Python. The results stay in $SPD_OUT_DIR like those of any other run.
    """
    with _told_in_one_sentence(debug=debug):
        from rich.console import Console

        from harvest_assets.cli.component_text import print_telling_components
        from harvest_assets.demo.built_in import SETTINGS, lay_out_demo
        from harvest_assets.wandb_client.run_name import parse_run

        folder = lay_out_demo()
        registration = _harvest(parse_run(str(folder)), None, _every_setting(SETTINGS), None)
        click.echo("\nThe ten components whose firings tell most of the tokens around them:\n")
        print_telling_components(registration.out_name, 10, Console())
        click.echo(_after_the_demo(registration.out_name))


def _after_the_demo(out_name: str) -> str:
    return f"""\
Next:
  python -m harvest_assets view {out_name:<26} its components in a browser
  python -m harvest_assets ui                              the harvest in Dagster's own UI
  python -m harvest_assets entity/project/run_id --dry-run what a run of yours would take
  python -m harvest_assets entity/project/run_id           and its harvest

In Python: from harvest_assets.loaders import load_components_frame
           load_components_frame({out_name!r})"""


@cli.command(
    help=f"""Add runs as partitions, so that the Dagster UI and `dagster asset materialize` know
them. Prints the commands that harvest them step by step.

{_RUN_HELP}
""",
)
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option("--out-name", help="Folder below harvest/, if the run id is taken by another run.")
@click.option("--project", help="Add all finished runs of a W&B project: entity/project.")
@click.option("--since", default="", help="Of the project, runs created from this date on.")
@_debug_option
def register(
    runs: tuple[str, ...], out_name: str | None, project: str | None, since: str, *, debug: bool
) -> None:
    """Add runs as partitions."""
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.orchestration.instance import add_run, dagster_home, open_instance
        from harvest_assets.store.registry import register as register_run
        from harvest_assets.wandb_client.run_name import parse_run

        if out_name and len(runs) > 1:
            msg = "--out_name names the folder of one run; register the others by themselves."
            raise HarvestError(msg)
        if not runs and not project:
            msg = "Name the runs to be registered, or a --project."
            raise HarvestError(msg)
        references = [parse_run(run) for run in runs]
        with open_instance() as instance:
            for reference in references:
                registration = register_run(reference, out_name)
                add_run(instance, registration.key)
                click.echo(_materialize_lines(registration.key, str(dagster_home())))
            if project:
                _register_project(instance, project, since)


def _register_project(instance: DagsterInstance, project: str, since: str) -> None:
    from harvest_assets.orchestration.instance import add_run
    from harvest_assets.orchestration.wandb.project import harvestable_runs

    n_added = n_left = 0
    for key, reason in harvestable_runs(instance, project, since):
        if reason is None:
            add_run(instance, key)
            n_added += 1
            click.echo(f"{key} is registered.")
        else:
            n_left += 1
            click.echo(f"Left out: {reason}")
    click.echo(
        f"{n_added} runs of {project} were registered, {n_left} left out. They are harvested by "
        "harvest_automation, where it is on, or by: python -m harvest_assets backfill"
    )


@cli.command()
@click.option(
    "--include-changed",
    is_flag=True,
    help="Also runs whose plan or checkpoint has changed since they were harvested.",
)
@click.option("--dry-run", is_flag=True, help="Only tell where the harvest of each run stands.")
@_debug_option
def backfill(*, include_changed: bool, dry_run: bool, debug: bool) -> None:
    """Harvest all registered runs whose harvest is missing.

    \b
    The Dagster daemon does it, where one is running; else this command, run after run.
    What is queued, in progress or has failed is left out; harvest a failed run by its name.
    """
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.definitions import defs
        from harvest_assets.orchestration.harvests import look_at_harvests, unharvested
        from harvest_assets.orchestration.instance import open_instance
        from harvest_assets.store.registry import registration_of

        with open_instance() as instance:
            _warn_of_failing_sensors(instance)
            graph = defs.resolve_asset_graph()
            if dry_run:
                for it in look_at_harvests(instance, graph):
                    click.echo(f"{it.key}: {it.status.value}")
            keys = unharvested(instance, graph, include_changed=include_changed)
            runs = f"{len(keys)} run{'s' * (len(keys) > 1)}" if keys else "No registered run"
            click.echo(f"{runs} {'would' if dry_run else 'will'} be harvested.")
            if keys and not dry_run:
                owners = [registration_of(key) for key in keys]
                _harvest_all(owners, {}, None, _where(None), anew=False)


def _warn_of_failing_sensors(instance: DagsterInstance) -> None:
    from harvest_assets.orchestration.failing_sensors import failing_sensors

    for sentence in failing_sensors(instance):
        click.echo(f"Warning: {sentence}", err=True)


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
      --select component_correlations,token_stats,activation_contexts

Settings go to the plan, with the first command; omitted, they stay as in the stored plan:
  --config-json '{{"ops": {{"harvest_plan": {{"config": {{"n_batches": 50}}}}}}}}'
"""


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="0: any that is free.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@_debug_option
def ui(port: int, host: str, *, debug: bool) -> None:
    """Open the Dagster UI with its daemon, on the instance where harvests are recorded.

    \b
    Add a run there under Assets > harvest_shard > Materialize > Add partition,
    or before that with: python -m harvest_assets register RUN
    """
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.orchestration.dagster_dev import run_dagster_dev
        from harvest_assets.orchestration.instance import make_room_for_shards, open_instance
        from harvest_assets.system.ports import check_free, url_of

        port = check_free(host, port)
        with open_instance() as instance:
            _warn_of_failing_sensors(instance)
            make_room_for_shards(instance)
        click.echo(f"{url_of(host, port)} (Ctrl-C ends it)")
        sys.exit(run_dagster_dev(host, port))


@cli.command(
    help=f"""Look at the components of a run in a browser, also while it is being harvested.

A small server on this machine reads the harvest's files where they are; nothing is copied, and
no other machine is asked for anything. Every choice stands in the address, which can be sent.

{_HARVEST_HELP}
""",
)
@click.argument("run")
@click.option("--port", type=click.IntRange(0, 65535), default=3100, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--browser/--no-browser", default=True, help="Open a browser.", show_default=True)
@_debug_option
def view(run: str, port: int, host: str, *, browser: bool, debug: bool) -> None:
    """Look at the components of a run in a browser."""
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.store.lookup import find_harvest
        from harvest_assets.viewer.serve import serve

        name = find_harvest(run).root.name
        serve(name, host, port, browser=browser, tell=click.echo)


@cli.command(
    help=f"""Check everything that the harvest of a run left on disk against itself.

Digests, symmetry and diagonals of the counts, marginals, the index against the lines, and the
states that are kept. Exit status 0 only if everything agrees.

{_HARVEST_HELP}
""",
)
@click.argument("run")
@_debug_option
def verify(run: str, *, debug: bool) -> None:
    """Check what a harvest left on disk."""
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.store.lookup import find_harvest
        from harvest_assets.store.verification import problems_of

        paths = find_harvest(run)
        problems = problems_of(paths, lambda what: click.echo(f"looking at {what}", err=True))
        if problems:
            raise HarvestError("\n       ".join(problems))
        click.echo(f"{paths.root}: everything agrees.")


@cli.command()
@click.option("--older-than", default="0s", help="Only what is older: 30d, 12h, 90m, 2w.")
@click.option("--dry-run", is_flag=True, help="Only list what would be freed.")
@_debug_option
def clean(older_than: str, *, dry_run: bool, debug: bool) -> None:
    """List and free what nobody needs any more.

    Shards that were folded into a merged state, what killed processes left, and token rows that no
    harvest names. Results and merged states stay, and so does whatever somebody works on.
    """
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.store.garbage import free, parse_age, removable

        items = removable(parse_age(older_than))
        for item in items:
            click.echo(f"{item.n_bytes:>15,} bytes  {item.path}  ({item.why})")
        gone = [] if dry_run else free(items)
        told = f"{sum(item.n_bytes for item in (items if dry_run else gone)):,} bytes"
        click.echo(f"{told} {'would be' if dry_run else 'were'} freed.")


@contextmanager
def _told_in_one_sentence(*, debug: bool) -> Iterator[None]:
    """Bad input ends the command with its sentence on stderr, and a status that is not 0."""
    try:
        with interrupted_by_signals():
            yield
    except KeyboardInterrupt:
        last_words(
            "Stopped; nothing half-written was left where a reader would look. "
            "The same command goes on from what was saved."
        )
        sys.exit(exit_status())
    except (HarvestError, OSError) as error:
        if debug:
            traceback.print_exception(error)
        click.echo(f"Error: {_sentence(error)}", err=True)
        sys.exit(_EXIT_BAD_INPUT)


def _sentence(error: Exception) -> str:
    """An error of the operating system told by what is wrong and with which file."""
    if isinstance(error, OSError) and error.strerror:
        told = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
        return f"{told}{advice(error)}"
    return str(error)


def main() -> None:
    """`python -m harvest_assets` and `harvest-assets`."""
    cli(prog_name="python -m harvest_assets")


@click.command(
    context_settings={
        "token_normalize_func": _either_spelling,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    help=f"""Harvest runs: on the cluster's SLURM, where there is one, else on this machine.

Where a Dagster daemon is running on this machine's instance, it does the work.

{_RUN_HELP}

\b
Examples:
  spd-harvest goodfire/spd/s-d2ec3bfe
  spd-harvest goodfire/spd/s-d2ec3bfe goodfire/spd/s-1a2b3c4d --n_batches 1000
  spd-harvest ./runs/my-run --local

Ctrl-C ends this command, and so do SIGTERM and a closed terminal. What the daemon does goes on;
jobs of the cluster are cancelled; what was done is saved, and the same command goes on from there.
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@_settings_options
@click.option("--step", type=int, help="Training step of the checkpoint; omitted: the newest.")
@click.option("--out-name", help="Folder below harvest/, if the run id is taken by another run.")
@click.option(
    "--slurm/--local",
    "on_cluster",
    default=None,
    help="As jobs of the cluster, or by this command on this machine; omitted: SLURM where it is, "
    "else the Dagster daemon where one is running, else on this machine.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print model, data, memory, disk and time of the harvests; write nothing of them.",
)
@_debug_option
def spd_harvest_command(
    runs: tuple[str, ...],
    step: int | None,
    out_name: str | None,
    *,
    on_cluster: bool | None,
    dry_run: bool,
    debug: bool,
    **settings: float | None,
) -> None:
    """Harvest runs, and say where."""
    with _told_in_one_sentence(debug=debug):
        from harvest_assets.store.registry import register as register_run
        from harvest_assets.wandb_client.run_name import parse_run

        if out_name and len(runs) > 1:
            msg = "--out_name names the folder of one run; harvest the others by themselves."
            raise HarvestError(msg)
        where = _where(on_cluster)
        click.echo(f"Harvesting {_PLACES[where]}.", err=True)
        references = [parse_run(run) for run in dict.fromkeys(runs)]
        given = _every_setting(settings)
        if dry_run:
            for reference in references:
                _tell_dry_run(reference, out_name, given, step)
            return
        registrations = [register_run(reference, out_name) for reference in references]
        _harvest_all(registrations, given, step, where)


def _where(on_cluster: bool | None) -> _Where:
    """Who works; None: SLURM where it is set up, else a daemon that lives, else this command."""
    from harvest_assets.orchestration.backfills import daemon_is_alive
    from harvest_assets.orchestration.instance import open_instance
    from harvest_assets.orchestration.slurm.settings import slurm_is_here

    if on_cluster is None and not slurm_is_here():
        with open_instance() as instance:
            return "daemon" if daemon_is_alive(instance) else "here"
    return "here" if on_cluster is False else "slurm"


def _harvest_all(
    registrations: list[Registration],
    settings: _Settings,
    step: int | None,
    where: _Where,
    *,
    anew: bool = True,
) -> None:
    """Harvest runs by SLURM, by the daemon or here; one that fails stops no other.

    Raises:
        HarvestError: some of them failed.
    """
    from harvest_assets.orchestration.instance import open_instance

    with open_instance() as instance:
        if where == "daemon":
            failed = _harvest_by_daemon(instance, registrations, settings, step, anew=anew)
        else:
            failed = {}
            for owner in registrations:
                try:
                    _harvest(
                        owner.reference, owner.out_name, settings, step, on_cluster=where == "slurm"
                    )
                except HarvestError as error:
                    if len(registrations) == 1:
                        raise
                    failed[owner.key] = str(error)
                    click.echo(f"{owner.key}: {error}", err=True)
    if failed:
        told = "\n       ".join(f"{key}: {reason}" for key, reason in failed.items())
        raise HarvestError(told)


def _harvest_by_daemon(
    instance: DagsterInstance,
    registrations: list[Registration],
    settings: _Settings,
    step: int | None,
    *,
    anew: bool,
) -> dict[str, str]:
    from harvest_assets.cli.progress import BackfillDisplay, harvest_warnings
    from harvest_assets.definitions import defs
    from harvest_assets.runners.daemon import hand_over, wait_for

    graph = defs.resolve_asset_graph()
    number = hand_over(registrations, instance, graph, settings, step, anew=anew)
    click.echo(f"This is backfill {number}; python -m harvest_assets ui shows it.", err=True)
    try:
        with BackfillDisplay(len(registrations)) as display:
            failed = wait_for(registrations, instance, graph, number, display.show)
    except KeyboardInterrupt:
        last_words(
            f"Stopped watching; the daemon goes on with backfill {number}.\n"
            "  python -m harvest_assets ui                  shows it, and can end it\n"
            "  python -m harvest_assets backfill --dry-run  tells where each run stands"
        )
        sys.exit(exit_status())
    for owner in registrations:
        if owner.key not in failed:
            click.echo(f"{owner.key} is harvested: {owner.layout.root}")
            for warning in harvest_warnings(owner.layout):
                click.echo(f"Warning: {warning}", err=True)
    return failed


def spd_harvest() -> None:
    """`spd-harvest RUN...`."""
    spd_harvest_command(prog_name="spd-harvest")
