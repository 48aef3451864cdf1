"""Text and errors as they may leave the process: without secrets, without control characters.

Errors, logs and pages quote what others wrote, and a server may echo the key that it was sent. Each
place at which text leaves the process (command line, Dagster, workers, pages) calls `presentable`.
"""

from __future__ import annotations

import base64
import logging
import netrc
import os
import re
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

_MAX_CHARACTERS = 10_000
MAX_TRACEBACK = 1_000_000
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
# A shorter one would be found in words that mean something else.
_MIN_SECRET = 6
# The start of a text that spreadsheets take for a formula, or of one that was marked as text.
FORMULA = r"\A('*[=+\-@\t\r])"
_MARKUP = re.compile(r"[^\w .,:/-]")
_USER_OF_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+@")


def presentable(text: str, limit: int = _MAX_CHARACTERS) -> str:
    """The text without secrets and control characters, cut where it would fill pages.

    Args:
        text: to be shown.
        limit: in characters.
    """
    shown = plain_text(without_secrets(text))
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


class RedactedError(Exception):
    """Takes the place of an error whose text must not be shown."""


def presentable_error(error: Exception) -> Exception:
    """An error that may be shown with all its causes and its traceback.

    Returns:
        The error itself, unless it or one of its causes has text that must not be shown: then a
        `RedactedError` with the same traceback and with presentable causes.
    """
    chain = _chain(error)
    shown_as_it_is = all(text == presentable(text) for text in map(_text, chain))
    return error if shown_as_it_is else _redacted(chain)


def presentable_traceback(error: BaseException) -> str:
    """The traceback of an error with those of its causes, as Python prints it."""
    return presentable("".join(traceback.format_exception(error)), MAX_TRACEBACK)


def redact_uncaught_errors() -> None:
    """From here on, errors that nobody catches are printed without secrets."""

    def print_error(
        _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
    ) -> None:
        sys.stderr.write(presentable_traceback(error))

    sys.excepthook = print_error
    threading.excepthook = lambda args: print_error(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


class RedactingFilter(logging.Filter):
    """Makes log records presentable."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message, and the traceback if there is one; nothing is dropped."""
        record.msg, record.args = presentable(record.getMessage()), ()
        if record.exc_info and record.exc_info[1]:
            record.exc_text = presentable_traceback(record.exc_info[1])
        return True


def _source(error: BaseException) -> BaseException | None:
    """What a traceback shows an error to come from."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and all that it comes from."""
    chain, seen = [error], {id(error)}
    while (source := _source(chain[-1])) is not None and id(source) not in seen:
        chain.append(source)
        seen.add(id(source))
    return chain


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _redacted(chain: list[BaseException]) -> RedactedError:
    """A presentable copy of a chain of errors."""
    copy = RedactedError(presentable(_text(chain[0]))).with_traceback(chain[0].__traceback__)
    copy.__cause__ = _redacted(chain[1:]) if chain[1:] else None
    return copy


def plain_text(text: str, kept: str = "") -> str:
    r"""The text with what cannot be printed written out: ESC is `\x1b`; line breaks stay.

    Terminals act on such characters, hidden ones mislead, and lone surrogates cannot be written.

    Args:
        text: to be shown.
        kept: characters that stay although they cannot be printed.
    """
    kept += "\n"
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def csv_text(text: str) -> str:
    """A text for a cell of a CSV file, which no spreadsheet takes for a formula.

    One that could be gets a `'` before it, which `text_of_csv` takes away.
    """
    return re.sub(FORMULA, r"'\1", text)


def text_of_csv(cell: str) -> str:
    """The text that `csv_text` was given."""
    return cell[1:] if cell.startswith("'") and re.match(FORMULA, cell) else cell


def markdown_cell(value: object) -> str:
    """A value as text in a cell of a Markdown table, where nothing of it is markup."""
    text = plain_text(str(value)).replace("\n", " ")
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def without_secrets(text: str) -> str:
    """The text with `***` in place of the secrets that this process knows.

    These are the values of environment variables whose name says so (`WANDB_API_KEY`, `HF_TOKEN`),
    passwords of `~/.netrc`, where the W&B client keeps its key, the token that `hf auth login`
    stored, and users in addresses.
    """
    for secret in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USER_OF_ADDRESS.sub("***@", text)


def _known_secrets() -> set[str]:
    known = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    known |= _netrc_passwords() | _hub_tokens()
    known = {secret for secret in known if len(secret) >= _MIN_SECRET}
    return known | {_in_a_header(secret) for secret in known}


def _hub_tokens() -> set[str]:
    """What the hub's client has stored; it is not imported for this."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH", f"{home}/token")).expanduser()
    try:
        return {file.read_text(encoding="utf-8").strip()}
    except (OSError, ValueError):
        return set()


def _in_a_header(key: str) -> str:
    """As the W&B client sends it, and as a server may say it back."""
    return base64.b64encode(b"api:" + os.fsencode(key)).decode()


def _netrc_passwords() -> set[str]:
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return set()
    return {password for _, _, password in hosts.values() if password}
