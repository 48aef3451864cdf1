"""What a command was asked for by the options that all share, and where its output goes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

_KEY = "harvest_assets.invocation"
_DEVICE = "HARVEST_DEVICE"


@dataclass
class Invocation:
    """One call of a command.

    Args:
        json: print the result as one JSON value on stdout, instead of text.
        quiet: print errors only, and the JSON value.
        verbose: print what is logged, too.
        device: that harvests compute on, instead of the deployment's.
        result: of the command, as JSON.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    device: str | None = None
    result: Any = None

    @contextmanager
    def arranged(self) -> Iterator[None]:
        """While the block runs, output goes where it should, and processes inherit the device."""
        with ExitStack() as stack:
            if self.quiet or self.json:
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
            if self.quiet:
                stack.enter_context(redirect_stderr(nowhere))
            if self.verbose:
                logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
                logging.getLogger("harvest_assets").setLevel(logging.INFO)
            if self.device is not None:
                stack.callback(_set_variable, _DEVICE, os.environ.get(_DEVICE))
                os.environ[_DEVICE] = self.device
            yield

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Append to a list in the result; `name` is the key of the list."""
        self.result = self.result or {}
        self.result.setdefault(name, []).append(record)

    def print_result(
        self, error: str | None = None, write: Callable[[str], None] = click.echo
    ) -> None:
        """Print the JSON value, if it was asked for.

        Args:
            error: why the command failed; it becomes a key of the value.
            write: prints a text and ends the line.
        """
        if self.json:
            value = self.result if error is None else {**(self.result or {}), "error": error}
            write(json.dumps(value, indent=2))


def current() -> Invocation:
    """The invocation of the command that is running; of none, one without options."""
    context = click.get_current_context(silent=True)
    if context is None:
        return Invocation()
    invocation: Invocation = context.meta.setdefault(_KEY, Invocation())
    return invocation


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
