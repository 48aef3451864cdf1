"""Ages as options have them: 30d, 12h."""

from __future__ import annotations

import re

from harvest_assets.errors import HarvestError

_AGE = re.compile(r"(\d+)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_age(text: str) -> float:
    """Seconds in `30d`, `12h`, `90m`, `45s` or `2w`.

    Raises:
        HarvestError: the text is not an age.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise HarvestError(
            f"{text!r} is not a valid age; expected 30d, 12h, 90m or 2w, for example."
        )
    return float(match[1]) * _SECONDS[match[2]]
