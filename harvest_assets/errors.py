"""The exception for bad input, which says what to do about it."""

from __future__ import annotations

_MAX_REASON = 300  # characters


class HarvestError(Exception):
    """Bad input, described in one clear sentence that names the file or the value.

    The command prints the sentence and exits with a status that is not 0; an asset fails with it
    and is not retried. The sentence may quote what others wrote: whoever shows it passes it through
    `files.sanitize.presentable`.
    """


class TransientError(HarvestError):
    """A fault that may be transient, such as W&B not answering.

    Unattended, an asset that fails with it is tried again a few times.
    """


class HarvestNotFoundError(HarvestError):
    """A name that matches no harvest, or several; the message lists the existing ones."""


def reason_of(error: BaseException) -> str:
    """What another library's error says, as a part of a sentence: its first line, not too long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].rstrip(".")
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, in the plural unless it is 1: `1 run`, `2,000 runs`.

    Args:
        n: the number.
        noun: in the singular.
        plural: of the noun; by default with an s.
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or noun + 's'}"


def innermost(error: BaseException) -> BaseException:
    """The error at the end of the chain of causes, or the first that is ours."""
    seen = {id(error)}
    while (
        error.__cause__ is not None
        and id(error.__cause__) not in seen
        and not isinstance(error, HarvestError)
    ):
        error = error.__cause__
        seen.add(id(error))
    return error


def cause_of(error: BaseException) -> str:
    """The innermost cause of an error, as a part of a sentence: one line, not too long."""
    cause = innermost(error)
    text = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
