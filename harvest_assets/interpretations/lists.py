"""Lists of components that people share: a JSON file with a title and keys.

Files in `interpretations/lists/` are shown by the viewer, whoever wrote them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import write_json
from harvest_assets.files.sanitize import plain_text, presentable
from harvest_assets.files.untrusted import as_record, read_json

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout

MAX_TITLE = 200
_SUFFIX = ".json"


@dataclass(frozen=True)
class ComponentList:
    """A list.

    Args:
        title: what the components have in common.
        run: whose they are.
        component_keys: in the order in which they are listed.
    """

    title: str
    run: str
    component_keys: tuple[str, ...]

    def __post_init__(self) -> None:
        title = plain_text(" ".join(self.title.split()))
        if not 0 < len(title) <= MAX_TITLE:
            raise HarvestError(
                f"The title of a list has {len(title)} characters; expected 1 to 200."
            )
        object.__setattr__(self, "title", title)

    def content(self) -> dict[str, object]:
        """The fields of the file."""
        return asdict(self)


def open_list(paths: HarvestLayout, name: str) -> ComponentList:
    """The list in a file of `interpretations/lists/`.

    Raises:
        HarvestError: there is none, or it is not valid.
    """
    if name not in names(paths):
        raise HarvestError(f"{paths.interpretation_lists} has no list {name[:200]!r}.")
    path = paths.interpretation_lists / f"{name}{_SUFFIX}"
    try:
        return as_record(read_json(path), ComponentList, ignore_unknown=True)
    except (OSError, ValueError, HarvestError) as error:
        raise HarvestError(f"{path} is not a list of components: {reason_of(error)}.") from error


def names(paths: HarvestLayout) -> list[str]:
    """The names of all lists, sorted; each is that of its file."""
    folder = paths.interpretation_lists
    files: Sequence[Path] = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(
        file.name.removesuffix(_SUFFIX)
        for file in files
        if file.name.endswith(_SUFFIX) and not file.name.startswith(".")
    )


def list_titles(paths: HarvestLayout) -> dict[str, str]:
    """The titles of all lists by name; what is wrong with a damaged one instead of its title."""
    titles = {}
    for name in names(paths):
        try:
            titles[name] = open_list(paths, name).title
        except HarvestError as error:
            titles[name] = presentable(str(error))
    return titles


def keep(paths: HarvestLayout, listed: ComponentList) -> str:
    """Write a list into a new file of `interpretations/lists/`, and return its name.

    Raises:
        HarvestError: a folder of the harvest is a link, or its name was taken meanwhile.
        OSError: it cannot be written.
    """
    paths.check_links()
    slug = re.sub(r"[^a-z0-9]+", "-", listed.title.lower()).strip("-")[:60] or "list"
    for name in (slug, f"{slug}-{uuid.uuid4().hex[:8]}"):
        with suppress(FileExistsError):  # another list has this title
            write_json(paths.interpretation_lists / f"{name}{_SUFFIX}", listed.content(), new=True)
            return name
    raise HarvestError(f"A list {name!r} exists already; keep this one again.")
