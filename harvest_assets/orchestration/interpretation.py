"""What the assets that label and score components share: config, and metadata of what was done."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import dagster as dg

from harvest_assets.autointerp.intervals import binned
from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, how_to_view, paths_of, table
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.settings import CheckedModel, Option, options_of
from harvest_assets.stages import Asset
from harvest_assets.viewer import charts

if TYPE_CHECKING:
    from harvest_assets.autointerp.task import Report, Watch

P = ParamSpec("P")
T = TypeVar("T")

_ON_REQUEST_TAGS = {"stage": "on_request", "work": "network"}

_KINDS: dict[Any, Any] = {tuple: [str], str: dg.StringSource, int: dg.IntSource}
_BINS = 20


def _fields(defaults: CheckedModel) -> dict[str, dg.Field]:
    return {option.name: _field(option) for option in options_of(defaults)}


def _field(option: Option) -> dg.Field:
    kind = _KINDS.get(option.kind, option.kind)
    return dg.Field(
        dg.Noneable(kind) if option.optional else kind,
        default_value=option.default,
        description=option.description.replace("omitted:", "null:"),
    )


CONFIG = _fields(ComponentChoice()) | _fields(ModelSettings())
BASELINE_CONFIG = {
    "baseline": dg.Field(
        bool, default_value=False, description="Score by token statistics and by embeddings."
    )
}
_NOT_ASKED_FOR = "Nothing was asked for: set endpoint and model, or baseline where there is one."


def settings_of(context: dg.AssetExecutionContext) -> tuple[ComponentChoice, ModelSettings]:
    """The settings in an asset's config.

    Raises:
        HarvestError: one is not valid.
    """
    config: Mapping[str, Any] = context.op_execution_context.op_config

    def of(kind: type[CheckedModel]) -> dict[str, Any]:
        return {name: config[name] for name in kind.model_fields}

    return ComponentChoice(**of(ComponentChoice)), ModelSettings(**of(ModelSettings))


def logged(context: dg.AssetExecutionContext) -> Watch:
    """Log how far the work is whenever another tenth of the components is done."""
    tenth = -1

    def watch(report: Report) -> None:
        nonlocal tenth
        if report.components and report.done * 10 // report.components > tenth:
            tenth = report.done * 10 // report.components
            done = (report.what, report.done, report.components, report.tally.asked)
            context.log.info("%s: %d of %d components, %d answers", *done)

    return watch


def report_metadata(
    reports: list[Report], choice: ComponentChoice, settings: ModelSettings
) -> dict[str, Any]:
    """What was done, in numbers, and the distributions of the scores."""
    tallies = [report.tally for report in reports]
    tokens_in = sum(it.input_tokens for it in tallies)
    tokens_out = sum(it.output_tokens for it in tallies)
    costs = [it.cost(settings) for it in tallies]
    known = [it for it in costs if it is not None]
    metadata: dict[str, Any] = {
        "settings": dg.MetadataValue.json(
            choice.model_dump(mode="json") | settings.model_dump(mode="json")
        ),
        "components": max(report.components for report in reports),
        "calls": sum(it.calls for it in tallies),
        "unusable answers": sum(it.unusable for it in tallies),
        "questions without an answer": sum(it.unanswered for it in tallies),
        "input tokens": tokens_in,
        "output tokens": tokens_out,
        "cost": round(sum(known), 6) if len(known) == len(costs) else "not known",
        "done": table(_DONE, [_row(report) for report in reports]),
    }
    stopped = [f"{it.what}: {it.tally.stopped}" for it in reports if it.tally.stopped]
    notes = [note for report in reports for note in report.notes]
    for name, sentences in (("stopped", stopped), ("notes", notes)):
        if sentences:
            metadata[name] = "\n\n".join(sentences)
    for report in reports:
        for method, values in report.scores.items():
            metadata[f"mean {method}"] = round(sum(values) / len(values), 4)
            metadata[method] = _histogram(values, method)
    return metadata


_DONE = ("what", "components", "stored", "stored before", "unfinished", "without use", "left out")


def _row(report: Report) -> tuple[Any, ...]:
    return (
        report.what,
        report.components,
        report.stored,
        report.already,
        report.unfinished,
        report.failed,
        sum(report.skipped.values()),
    )


def _histogram(values: list[float], name: str) -> dg.MarkdownMetadataValue:
    counts = [float(n) for n in binned(values, _BINS)]
    chart = charts.small_bars(counts, [(0.0, "0"), (0.5, f"{name}, components"), (1.0, "1")])
    return dg.MetadataValue.md(charts.as_image(chart, f"components by {name}"))


def on_request(
    *upstream: Asset, config: Mapping[str, dg.Field] = CONFIG
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorator of a function that is an asset of its own, outside automation and all stages.

    Where the function returns None, nothing is materialized.

    Args:
        upstream: the assets that it reads from.
        config: its fields.
    """

    def decorator(function: Callable[..., Any]) -> dg.AssetsDefinition:
        return dg.asset(
            group_name=GROUP,
            owners=OWNERS,
            tags=_ON_REQUEST_TAGS,
            partitions_def=runs,
            kinds={"parquet"},
            code_version="1",
            config_schema=dict(config),
            output_required=False,
            deps=[asset_key(asset) for asset in upstream],
        )(_only_if_asked(refuses_bad_input(function)))

    return decorator


def _only_if_asked(function: Callable[P, T | None]) -> Callable[P, Iterator[T]]:
    """Decorator of an asset's function that returns None where there is nothing to publish.

    The asset must be declared with `output_required=False`.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        value = function(*args, **kwargs)
        if value is not None:
            yield value

    return wrapped


def interpreted(
    context: dg.AssetExecutionContext,
    work: Callable[[ComponentChoice, ModelSettings, Watch], list[Report]],
) -> dg.MaterializeResult[Any] | None:
    """Do the work of an asset with the settings of its config, and report it.

    Returns:
        None, after a note in the log, where no work was asked for.
    """
    choice, settings = settings_of(context)
    reports = work(choice, settings, logged(context))
    if not reports:
        context.log.warning(_NOT_ASKED_FOR)
        return None
    for report in reports:
        for problem, n in report.tally.problems.items():
            context.log.warning("%d times: %s", n, problem)
    owner = registration(context.partition_key)
    where = {**how_to_view(owner), **paths_of(path=owner.layout.interpretations)}
    return dg.MaterializeResult(metadata=report_metadata(reports, choice, settings) | where)
