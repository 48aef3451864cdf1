"""What `label` and `score` share: their options, how they run, and what they print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harvest_assets.autointerp.intervals import binned
from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import add_options
from harvest_assets.errors import HarvestError, counted
from harvest_assets.settings import options_of

if TYPE_CHECKING:
    from harvest_assets.autointerp.asking import Estimate, Tally
    from harvest_assets.autointerp.task import Report, Task, Watch

F = TypeVar("F", bound=Callable[..., Any])

_BINS = 10
_BAR = 30  # characters of the longest
_FILE = click.Path(path_type=Path, dir_okay=False)


def interpretation_options(command: F) -> F:
    """Add the options of both commands."""
    for option in (
        click.option(
            "--retry-unusable", is_flag=True, help="Ask again where an answer was of no use."
        ),
        click.option(
            "--answers",
            type=_FILE,
            help="Call no model; take the answers of --model from this file of JSON lines.",
        ),
        click.option(
            "--export", type=_FILE, help="Call no model; write the prompts into this file."
        ),
        click.option(
            "--dry-run", is_flag=True, help="Show calls, tokens and cost; nothing is sent."
        ),
    ):
        command = option(command)
    command = add_options(command, options_of(ModelSettings()))
    return add_options(command, options_of(ComponentChoice()))


def settings_of(
    given: Mapping[str, Any], *, calls: bool = True
) -> tuple[ComponentChoice, ModelSettings]:
    """The settings among the options of a command.

    Args:
        given: the options.
        calls: whether a model is called unless an option says otherwise.

    Raises:
        HarvestError: one is not valid, or the model is missing that would be called.
    """
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    choice, model = (
        {name: value for name, value in chosen.items() if name in kind.model_fields}
        for kind in (ComponentChoice, ModelSettings)
    )
    settings = ModelSettings(**model)
    _check_combination(given)
    if given["answers"] is not None and settings.model is None:
        raise HarvestError("Give the --model whose answers these are.")
    if calls and not any(given[name] for name in ("dry_run", "export", "answers")):
        settings.require_model()
    return ComponentChoice(**choice), settings


def _check_combination(given: Mapping[str, Any]) -> None:
    ways = [name for name in ("export", "dry_run", "answers") if given[name]]
    ways += ["retry_unusable"] if given["retry_unusable"] and ways not in ([], ["dry_run"]) else []
    if len(ways) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in ways)
        raise HarvestError(f"{options} exclude each other; give one of them.")


def interpret(task: Task, settings: ModelSettings, options: Mapping[str, Any]) -> None:
    """Do what the options of a command ask for.

    Args:
        task: the labels or scores.
        settings: of the model.
        options: `dry_run`, `export`, `answers` and `retry_unusable`.

    Raises:
        HarvestError: the endpoint refuses all questions, or left some without an answer.
    """
    from harvest_assets.autointerp import task as tasks

    if options["export"] is not None:
        n = tasks.export(task, options["export"])
        _print({"prompts": n, "file": str(options["export"])}, f"{n:,} prompts.")
    elif options["dry_run"]:
        print_estimate(tasks.estimated(task, settings, retry_unusable=options["retry_unusable"]))
    elif options["answers"] is not None:
        with progress_bar() as watch:
            report = tasks.run_imported(task, settings, options["answers"], watch)
        print_report(report, settings)
    else:
        from harvest_assets.autointerp.model import ChatModel

        model = ChatModel(settings)
        with progress_bar() as watch:
            report = tasks.run(
                task, settings, model, watch, retry_unusable=options["retry_unusable"]
            )
        print_report(report, settings)
        _check_answered(report.tally)


def print_estimate(found: Estimate) -> None:
    """Print what a command would do."""
    _print(asdict(found), _estimate_text(found))


def print_report(report: Report, settings: ModelSettings | None) -> None:
    """Print what was done; notes and problems go to stderr."""
    tally = report.tally
    cost = None if settings is None else tally.cost(settings)
    _print({**asdict(report), "cost": cost}, "\n".join(_lines(report, settings, cost)))
    for note in report.notes:
        click.echo(note, err=True)
    for problem, n in tally.problems.items():
        click.echo(f"{counted(n, 'time')}: {problem}", err=True)


def _lines(report: Report, settings: ModelSettings | None, cost: float | None) -> Iterator[str]:
    tally = report.tally
    yield (
        f"{report.what}: {report.stored:,} of {counted(report.components, 'component')} stored, "
        f"{report.already:,} were before, {report.unfinished:,} unfinished, "
        f"{report.failed:,} without a usable answer"
    )
    for why, n in report.skipped.items():
        yield f"{counted(n, 'component')} left out, {why}"
    if settings is not None:
        yield (
            f"{counted(tally.calls, 'call')}, {tally.input_tokens:,} tokens in, "
            f"{tally.output_tokens:,} out, {_cost_text(cost)}"
        )
    if tally.stopped:
        yield f"stopped: {tally.stopped}; the same command continues"
    for method, values in report.scores.items():
        yield f"\n{method}: mean {sum(values) / len(values):.3f} of {counted(len(values), 'value')}"
        yield from distribution(values)


def distribution(values: list[float]) -> Iterator[str]:
    """The values between 0 and 1 in tenths, a line each."""
    counts = binned(values, _BINS)
    for place, n in enumerate(counts):
        yield f"  {place / _BINS:.1f}  {'█' * round(_BAR * n / max(counts))} {n:,}"


def _estimate_text(found: Estimate) -> str:
    return (
        f"{counted(found.calls, 'call')}, about {found.input_tokens:,} tokens in and "
        f"{found.output_tokens:,} out (more if the model thinks first), {_cost_text(found.cost)}; "
        "nothing was sent"
    )


def _cost_text(cost: float | None) -> str:
    if cost is None:
        return "cost not known (needs --price-in, --price-out and an endpoint that counts tokens)"
    return f"cost {cost:.4g}"


def _print(content: Mapping[str, Any], text: str) -> None:
    current().result = content
    click.echo(text)


def _check_answered(tally: Tally) -> None:
    if tally.unanswered:
        raise HarvestError(
            f"{counted(tally.unanswered, 'question')} had no answer; the same command asks again."
        )


@contextmanager
def progress_bar() -> Iterator[Watch]:
    """A live bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("components, {task.fields[answers]:,} answers"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task("", total=None, answers=0)

        def watch(report: Report) -> None:
            bar.update(
                shown,
                description=report.what,
                completed=report.done,
                total=report.components,
                answers=report.tally.asked,
            )

        yield watch
