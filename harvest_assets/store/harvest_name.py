"""The names of harvests: a run's first harvest has the run's name, any further one `run@name`."""

from __future__ import annotations

from dataclasses import dataclass

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import is_folder_name
from harvest_assets.wandb_client.run_name import (
    RunName,
    RunReference,
    is_run_name,
    is_run_path,
    is_safe_part,
    parse_run,
)

_AT = "@"


@dataclass(frozen=True)
class HarvestReference:
    """A harvest as the user named it.

    Args:
        run: the run that is harvested.
        name: of a further harvest of the run; None for the first.

    Raises:
        HarvestError: the name cannot be that of a folder, or holds `@`, `|`, `,`, `[`, `]` or
            `...`.
    """

    run: RunReference
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not _is_valid(self.name):
            raise HarvestError(
                f"{self.name[:200]!r} is not a valid name of a harvest; expected the plain name of "
                "a folder, without '@', '|', ',', '[', ']' and '...', and of at most 180 bytes."
            )

    @property
    def key(self) -> str:
        """`entity/project/run_id`, followed by `@name` for a further harvest: the partition key."""
        return self.run.name.key + self._suffix

    @property
    def default_folder(self) -> str:
        """The folder below `harvest/` unless another is chosen."""
        return self.run.name.run_id + self._suffix

    @property
    def _suffix(self) -> str:
        return "" if self.name is None else f"{_AT}{self.name}"

    @classmethod
    def from_key(cls, key: str) -> HarvestReference:
        """The harvest that has this partition key.

        Raises:
            HarvestError: the key names no harvest.
        """
        run, name = _split_key(key)
        return cls(RunReference(RunName.from_key(run), None), name)


def parse_harvest(text: str) -> HarvestReference:
    """Read any accepted spelling of a run, and `@name` at its end for a further harvest.

    The last `@` divides the text if what is before it is a run and what follows is a valid name.
    In a name it always divides, and in a page's address directly after the run id, nowhere else; a
    path that exists as it is written, with the `@`, is one path.

    Raises:
        HarvestError: the text names no run, or what follows the `@` is not a valid name.
    """
    text = text.strip()
    run, at, name = text.rpartition(_AT)
    if is_run_name(text):  # an address may hold an `@` after the run id
        return HarvestReference(parse_run(text))
    if at and is_run_name(run) and _is_valid(name):
        return HarvestReference(parse_run(run), name)
    if not at or is_run_path(text):
        return HarvestReference(parse_run(text))
    return HarvestReference(parse_run(run), name)


def run_of_key(key: str) -> str:
    """The run's part of the partition key of a harvest."""
    return _split_key(key)[0]


def is_further(key: str) -> bool:
    """Whether the partition key is that of a further harvest of its run."""
    return _split_key(key)[1] is not None


def _split_key(key: str) -> tuple[str, str | None]:
    """The run's part and the name; the project of a local run may hold an `@` too."""
    run, at, name = key.rpartition(_AT)
    return (run, name) if at and "/" not in name else (key, None)


def _is_valid(name: str) -> bool:
    return (
        _AT not in name
        and is_safe_part(name)
        and is_folder_name(name)
        and len(name.encode()) <= 180  # noqa: PLR2004 - with the run id it names a folder
    )
