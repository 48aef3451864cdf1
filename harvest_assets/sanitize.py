"""Text of strangers as text that may be shown: it acts on no terminal and tells no secret."""

from __future__ import annotations

import base64
import netrc
import os
import re

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
# A shorter one would be found in words that mean something else.
_LEAST_SECRET = 6
_USER_OF_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+@")


def plain_text(text: str) -> str:
    r"""The text with what cannot be printed written out: ESC is `\x1b`; line breaks stay.

    Terminals act on such characters, hidden ones mislead, and lone surrogates cannot be written.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def without_secrets(text: str) -> str:
    """The text with `***` in place of secrets that this process knows.

    Those are values of environment variables whose name says so (`WANDB_API_KEY`, `HF_TOKEN`),
    passwords of `~/.netrc`, where the W&B client keeps its key, and users in addresses.
    """
    for secret in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USER_OF_ADDRESS.sub("***@", text)


def _known_secrets() -> set[str]:
    known = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    known |= _netrc_passwords()
    known = {secret for secret in known if len(secret) >= _LEAST_SECRET}
    return known | {_in_a_header(secret) for secret in known}


def _in_a_header(key: str) -> str:
    """As the W&B client sends it, and as a server may say it back."""
    return base64.b64encode(b"api:" + os.fsencode(key)).decode()


def _netrc_passwords() -> set[str]:
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return set()
    return {password for _, _, password in hosts.values() if password}
