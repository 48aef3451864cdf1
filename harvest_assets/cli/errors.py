"""Errors and signals end a command with one sentence and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from harvest_assets.cli import invocation
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable, presentable_traceback
from harvest_assets.files.unwritable import advice
from harvest_assets.system.stopping import exit_status, interrupted_by_signals, last_words

_EXIT_BAD_INPUT = 1
_STOPPED = (
    "Stopped; no file was left half-written where readers expect it. "
    "The same command continues from what was saved."
)


@contextmanager
def errors_reported(*, debug: bool) -> Iterator[None]:
    """Exit with a sentence on stderr after bad input, an error of the system, or a signal.

    Output goes where the options of the command say, and the JSON result is printed at the end.

    Args:
        debug: print the traceback of an error too.
    """
    invoked = invocation.current()
    try:
        with invoked.arranged(), interrupted_by_signals():
            yield
        invoked.print_result()
    except KeyboardInterrupt as interrupt:
        last_words(str(interrupt) or _STOPPED)
        invoked.print_result("interrupted", partial(last_words, stream="stdout"))
        sys.exit(exit_status())
    except BrokenPipeError:  # as in `| head`; click ends the command without a word
        raise
    except (HarvestError, OSError) as error:
        if debug:
            click.echo(presentable_traceback(error), err=True, nl=False)
        sentence = presentable(_sentence(error))
        invoked.print_result(sentence)
        click.echo(f"Error: {sentence}", err=True)
        sys.exit(_EXIT_BAD_INPUT)


def _sentence(error: Exception) -> str:
    """The message; for an error of the operating system, its reason and the file."""
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}.{advice(error)}"
    return str(error)
