"""Which harvest a command makes or reads, and the line on stderr that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harvest_assets.files.sanitize import presentable

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.store.registry import Registration


def harvest_to_make(text: str, out_name: str | None) -> Registration:
    """The harvest that a command makes; see `store.lookup.registration_named`.

    Raises:
        HarvestError: the name or the folder cannot be used.
    """
    from harvest_assets.store.lookup import harvest_named, registration_named
    from harvest_assets.store.registry import owner_of, registration_of

    registration = registration_named(text, out_name)
    if registration.name != harvest_named(text).name:
        run = registration.reference.name.key
        first = registration_of(run).layout.root.name
        _say(f"The first harvest of {run} is in {first}; this is {registration.key}.")
    known = registration_of(registration.key)
    if registration.out_name != known.out_name and owner_of(known.layout) == known.key:
        folders = f"{known.out_name} and in {registration.out_name}"
        _say(f"{known.key} is in {folders}; this is the latter.")
    return registration


def harvest_to_read(text: str) -> HarvestLayout:
    """The harvest that a command reads; see `store.lookup.find_harvest`.

    Raises:
        HarvestNotFoundError: there is none, or the run has several.
    """
    from harvest_assets.store.lookup import find_harvest

    paths = find_harvest(text)
    if text.rstrip("/") != paths.root.name:  # the name of a folder says it
        say_which(paths)
    return paths


def say_which(paths: HarvestLayout) -> None:
    """Print on stderr which harvest is in a folder, if its files name one."""
    from harvest_assets.store.registry import owner_of

    if owner := owner_of(paths):
        _say(f"Harvest {owner}, in {paths.root.name}.")


def _say(line: str) -> None:
    click.echo(presentable(line), err=True)
