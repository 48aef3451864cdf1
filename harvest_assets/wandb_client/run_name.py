"""The names of a run that people paste, and the one name each of them means."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.module_path import object_path

LOCAL_ENTITY = "local"
CHECKPOINT_SUFFIXES = (".pth", ".pt")
DICTIONARIES = "dictionaries.yaml"  # makes a folder a run

_RUN_ID = re.compile(r"(?:[A-Za-z0-9]-)?[a-z0-9]{8}")
_PATH_STARTS = ("/", ".", "~")
_PREFIX = re.compile(r"(?:\s*wandb:)*")
_PAGE = re.compile(r"https://wandb\.ai/([^/?#]+)/([^/?#]+)/runs/([^/?#]+)(?:[/?#].*)?", re.DOTALL)
_REFUSED = re.compile(r"[|,\[\]/\\]|\.\.\.")  # the first four and `...` mean something to Dagster
_MAX_BYTES = 200  # it names files and folders
_ACCEPTED = (
    "entity/project/run_id, entity/project/runs/run_id, wandb:entity/project/runs/run_id, "
    "https://wandb.ai/entity/project/runs/run_id, a path to a run directory or a checkpoint file "
    "(`./` before it forces a path), or module:name of a decomposition of your own, its module in "
    "the current folder or on PYTHONPATH; a run_id is 8 characters of a-z and 0-9, optionally "
    "after one character and a dash"
)


@dataclass(frozen=True)
class RunName:
    """The three parts that name a run; each is safe as the name of a folder.

    Raises:
        HarvestError: a part is empty, `.` or `..`, has blanks around it, or holds `|`, `,`, `[`,
            `]`, `...`, a slash or a character that cannot be printed, or is longer than 200 bytes;
            or `run_id` is not a valid run id. `@` is refused too, but in the project of a local
            run, which is the name of a folder.
    """

    entity: str
    project: str
    run_id: str

    def __post_init__(self) -> None:
        for part in (self.entity, self.project, self.run_id):
            _check_part(part)
        if "@" in self.entity or ("@" in self.project and self.entity != LOCAL_ENTITY):
            raise HarvestError(
                f"{self.key!r} is not a valid run: '@' may only precede the name of a further "
                "harvest at the end."
            )
        if not _RUN_ID.fullmatch(self.run_id):
            raise HarvestError(
                f"{self.run_id!r} is not a valid run id; expected 8 characters of a-z and 0-9, "
                "optionally after one character and a dash."
            )

    @property
    def key(self) -> str:
        """`entity/project/run_id`, the partition key."""
        return f"{self.entity}/{self.project}/{self.run_id}"

    @property
    def wandb_path(self) -> str:
        """`wandb:entity/project/runs/run_id`."""
        return f"wandb:{self.entity}/{self.project}/runs/{self.run_id}"

    @property
    def url(self) -> str:
        """The address of the run's page."""
        entity, project = quote(self.entity), quote(self.project)
        return f"https://wandb.ai/{entity}/{project}/runs/{self.run_id}"

    @classmethod
    def from_key(cls, key: str) -> RunName:
        """The name that has this partition key.

        Raises:
            HarvestError: the key is not `entity/project/run_id`.
        """
        parts = key.split("/")
        if len(parts) != 3:  # noqa: PLR2004
            raise HarvestError(
                f"{key!r} is not a valid key of a run; expected entity/project/run_id."
            )
        return cls(*parts)


@dataclass(frozen=True)
class RunReference:
    """A run as the user named it.

    Args:
        name: what the run is called.
        path: the run directory or checkpoint file it was given as, or `<file>.py:<name>` of an
            object in a module, absolute; None for a name.
    """

    name: RunName
    path: Path | None


def parse_run(text: str) -> RunReference:
    """Read any accepted spelling of a run; a name is tried before a path.

    Raises:
        HarvestError: the text is neither a name nor a path that exists, or its key is refused.
    """
    stripped = text.strip()
    parts = _name_parts(stripped)
    if parts is not None:
        return RunReference(name=RunName(*parts), path=None)
    path = _existing_path(stripped)
    if path is None:
        if text.startswith(_PATH_STARTS) and not _is_there(text):
            raise HarvestError(
                f"{text[:500]!r} does not exist; expected a folder or a file of a run or harvest."
            )
        raise HarvestError(f"{text[:500]!r} is not a valid run; expected {_ACCEPTED}.")
    return RunReference(name=_path_name(path), path=path)


def _is_there(text: str) -> bool:
    """Whether a path, or the module of an object, exists."""
    try:
        return Path(re.sub(r"(?<=\.py):\w*$", "", text)).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def is_run_name(text: str) -> bool:
    """Whether the text has the form of a run's full name, in any accepted spelling."""
    return _name_parts(text.strip()) is not None


def is_run_path(text: str) -> bool:
    """Whether a text names a run directory, a checkpoint file or an object of a module."""
    return _existing_path(text) is not None


def is_safe_part(part: str) -> bool:
    """Whether a text can be part of a partition key and of a path."""
    return (
        part.strip() == part
        and part.isprintable()
        and part not in ("", ".", "..")
        and len(part.encode(errors="replace")) <= _MAX_BYTES
        and not _REFUSED.search(part)
    )


def _name_parts(text: str) -> tuple[str, str, str] | None:
    """Entity, project and run id, if the text has the form of a name."""
    prefix = _PREFIX.match(text)
    bare = text[prefix.end() if prefix else 0 :].strip()
    page = _PAGE.fullmatch(bare)
    if page:
        parts = [unquote(part) for part in page.groups()]
    else:
        parts = bare.split("/")
        if len(parts) == 4 and parts[2] == "runs":  # noqa: PLR2004
            del parts[2]
    if len(parts) != 3 or not _RUN_ID.fullmatch(parts[2]):  # noqa: PLR2004
        return None
    entity, project, run_id = parts
    if entity in ("", ".", "..", "~") or project in ("", ".", ".."):
        return None
    return entity, project, run_id


def _existing_path(text: str) -> Path | None:
    """The run directory, checkpoint file or object of a module, absolute, if it is there."""
    try:
        path = Path(text).expanduser().absolute()
        if path.name == DICTIONARIES and path.is_file():
            path = path.parent
        is_run = path.is_dir() or (path.suffix in CHECKPOINT_SUFFIXES and path.is_file())
        return path if text and is_run else object_path(text)
    except (OSError, RuntimeError, ValueError):
        return None


def _path_name(path: Path) -> RunName:
    folder = (path if path.is_dir() else path.parent).resolve().name
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    try:
        return RunName(entity=LOCAL_ENTITY, project=folder, run_id=f"x-{digest}")
    except HarvestError as error:
        raise HarvestError(
            f"The run at {str(path)!r} cannot be named after its folder: {error} Rename it."
        ) from error


def _check_part(part: str) -> None:
    if not is_safe_part(part):
        raise HarvestError(
            f"{part[:_MAX_BYTES]!r} cannot be part of a run's name: it must not be empty, '.' or "
            "'..', have blanks around it, hold '|', ',', '[', ']', '...', a slash or a character "
            f"that cannot be printed, or be longer than {_MAX_BYTES} bytes."
        )
