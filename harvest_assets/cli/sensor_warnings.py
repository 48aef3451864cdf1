"""Warnings about sensors whose ticks fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harvest_assets.files.sanitize import presentable

if TYPE_CHECKING:
    from dagster import DagsterInstance


def warn_of_failing_sensors(instance: DagsterInstance) -> None:
    """Print a line on stderr for each of them."""
    from harvest_assets.orchestration.failing_sensors import failing_sensors

    for sentence in failing_sensors(instance):
        click.echo(f"Warning: {presentable(sentence)}", err=True)
