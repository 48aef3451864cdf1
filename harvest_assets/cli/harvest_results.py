"""What a command prints about a harvest that is complete."""

from __future__ import annotations

import shlex

import click
from rich.console import Console

from harvest_assets.cli.invocation import current
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration


def print_result(registration: Registration, seconds: float | None, *, several: bool) -> None:
    """Print where the results of a harvest are, and on stderr its warnings.

    Args:
        registration: the run and its folder.
        seconds: that it took; None if nothing was left to do.
        several: leave out the list of its files.
    """
    paths = registration.layout
    n_shards = HarvestPlan.open(paths.root).n_shards
    warnings = harvest_warnings(paths)
    record = {
        "key": registration.key,
        "run": registration.reference.name.key,
        "harvest": paths.root.name,
        "path": str(paths.root),
        "seconds": seconds,
        "n_shards": n_shards,
        "files": _sizes(paths),
        "warnings": warnings,
    }
    current().add("harvests", record)
    shards = counted(n_shards, "shard")
    how = f"already harvested ({shards})"
    if seconds is not None:
        how = f"harvested ({seconds:,.1f} s, {shards})"
    where = f" {paths.root}" if several else f"\n{paths.root}\n{_files_of(paths)}"
    Console(soft_wrap=True, highlight=False, markup=False).print(
        f"{registration.key} is {how}:{where}"
    )
    for warning in warnings:
        click.echo(presentable(f"Warning: {warning}"), err=True)


def harvest_warnings(paths: HarvestLayout) -> list[str]:
    """Warnings for the user who started this harvest."""
    plan = HarvestPlan.open(paths.root)
    return open_decomposition(paths.root).warnings(plan.ci_threshold, plan.context_length)


def _sizes(paths: HarvestLayout) -> dict[str, int]:
    """Bytes of the five files, and of kept firings."""
    files = [*paths.five_files, *([paths.firings] if paths.firings.exists() else [])]
    return {str(file.relative_to(paths.root)): file.stat().st_size for file in files}


def _files_of(paths: HarvestLayout) -> str:
    """The five files with their sizes, and how to read them."""
    sizes = "\n".join(f"  {name:46}{size:>16,} bytes" for name, size in _sizes(paths).items())
    name = paths.root.name
    return (
        f"{sizes}\n\n"
        "View it in a browser:\n"
        f"  harvest-assets view {shlex.quote(name)}\n"
        "or read it in Python:\n"
        "  from harvest_assets.loaders import load_components_frame\n"
        f"  load_components_frame({name!r})"
    )
