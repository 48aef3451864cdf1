"""What pages need from a whole harvest: computed once, by a process of its own, and kept.

A process, so that pages stay quick meanwhile and its memory is returned. What it made is a folder
below `cache/`, whose name has the version of the harvest's files; where that cannot be written, it
is a temporary one that ends with the server. The process ends with the server too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import abandoned, remove, sweep, temporary_beside
from harvest_assets.files.layout import viewer_cache_root
from harvest_assets.files.sanitize import presentable
from harvest_assets.system.stopping import end_with_stdin

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

T = TypeVar("T")
Kind = Literal["contexts", "map"]
# The module whose function `build` fills the folder.
_BUILDERS: dict[str, str] = {
    "contexts": "harvest_assets.viewer.contexts.build",
    "map": "harvest_assets.viewer.component_map.build",
}
_AT_ONCE = 2
_ERROR = "error: "  # begins the line that says what went wrong
_NICE = 5
_TEMPORARY = "harvest_assets-viewer"


class DamagedFolderError(HarvestError):
    """A folder is not as it was computed."""


@contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Report whatever reading a folder raises.

    Raises:
        DamagedFolderError: it is damaged.
    """
    try:
        yield
    except (OSError, EOFError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise DamagedFolderError(
            f"{folder} is damaged; remove it, and it is made again."
        ) from error


@dataclass
class Work:
    """A folder that is being computed.

    Args:
        share: how much of it is done, from 0 to 1.
        error: what went wrong, in a sentence.
        ended: whether computing has ended.
        process: that computes it, once started.
    """

    share: float = 0.0
    error: str = ""
    ended: bool = False
    process: subprocess.Popen[str] | None = None


class Derived:
    """The folders computed from harvests; safe to share between threads."""

    def __init__(self) -> None:
        self._work: dict[Path, Work] = {}
        self._lock = threading.Lock()
        self._temporary: Path | None = None
        self._removed: set[Path] = set()
        self._closed = False

    def folder(self, harvest: Harvest, kind: Kind) -> Path | Work:
        """The folder of this kind; while it is computed, how much is done.

        Computing begins with the first call. Of more than a few at once, some wait.

        Raises:
            HarvestError: it could not be computed; the next call tries again.
        """
        if harvest.progress is not None:
            raise HarvestError(f"{harvest.name} is in progress; come back when it is complete.")
        with self._lock:
            for root in self._roots():
                folder = folder_of(root, harvest, kind)
                if folder.is_dir():
                    return folder
            folder = folder_of(self._writable(harvest), harvest, kind)
            work = self._work.get(folder)
            if work is not None and work.ended:
                del self._work[folder]
                raise HarvestError(work.error or "It could not be computed; try again.")
            if work is None:
                if sum(not other.ended for other in self._work.values()) >= _AT_ONCE:
                    return Work()
                work = Work()
                threading.Thread(
                    target=self._compute, args=(harvest.name, kind, folder, work), daemon=True
                ).start()
                self._work[folder] = work
            return work

    def opened(self, harvest: Harvest, kind: Kind, read: Callable[[Path], T]) -> T | Work:
        """What a function reads from the folder of this kind; a damaged one is computed again.

        Args:
            harvest: a finished one.
            kind: of the folder.
            read: raises `DamagedFolderError` for a damaged folder.

        Raises:
            HarvestError: see `folder`; or the folder is damaged again.
        """
        folder = self.folder(harvest, kind)
        if not isinstance(folder, Path):
            return folder
        try:
            return read(folder)
        except DamagedFolderError:
            with self._lock:
                known = folder in self._removed
                if known or folder != folder_of(self._writable(harvest), harvest, kind):
                    raise
                self._removed.add(folder)
                remove(folder)
        again = self.folder(harvest, kind)
        return read(again) if isinstance(again, Path) else again

    def close(self) -> None:
        """Compute nothing more: end the processes, and remove what they have not finished."""
        with self._lock:
            self._closed = True
            running = [(folder, work.process) for folder, work in self._work.items()]
        for folder, process in running:
            if process is not None:
                process.kill()
                process.wait()
                with suppress(OSError):
                    sweep(folder.parent)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _roots(self) -> list[Path]:
        mine = [] if self._temporary is None else [self._temporary]
        return [viewer_cache_root(), *mine]

    def _writable(self, harvest: Harvest) -> Path:
        """The cache, or a temporary folder where that cannot be written."""
        root = viewer_cache_root()
        try:
            if any(path.is_symlink() for path in (root.parent, root, root / harvest.name)):
                raise OSError("nothing is written through a link")
            (root / harvest.name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root / harvest.name):
                return root
        except OSError:
            if self._temporary is None:
                self._temporary = _new_temporary()
            return self._temporary

    def _compute(self, name: str, kind: Kind, folder: Path, work: Work) -> None:
        """Fill a folder with a process; note how much is done, or why it cannot be."""
        try:
            work.error = self._run([kind, name, str(folder)], work)
        except OSError as error:
            work.error = f"It could not be computed: {reason_of(error)}."
        finally:
            with self._lock:
                work.ended = True
                if not work.error:
                    self._work.pop(folder, None)

    def _run(self, arguments: list[str], work: Work) -> str:
        """Run the process to its end; returns what went wrong, or nothing."""
        with self._lock:
            if self._closed:
                return "The viewer is being stopped."
            process = work.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *arguments],
                stdin=subprocess.PIPE,  # the process ends when this one has closed it
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        lines: list[str] = []
        with process:
            for line in process.stdout or ():
                try:
                    work.share = float(line)
                except ValueError:
                    lines = [*lines[-20:], line.strip()]
        if process.returncode == 0:
            return ""
        ours = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        last = lines[-1] if lines else f"the process ended with status {process.returncode}"
        return ours[-1] if ours else f"It could not be computed: {last}"


def _new_temporary() -> Path:
    """A private temporary folder; those of servers that have died are removed."""
    named = Path(tempfile.gettempdir(), _TEMPORARY)
    for path in abandoned(named.parent):
        if path.name.startswith(f".{_TEMPORARY}."):
            with suppress(OSError):  # of another user
                remove(path)
    folder = temporary_beside(named)
    folder.mkdir(mode=0o700)
    return folder


def folder_of(root: Path, harvest: Harvest, kind: str) -> Path:
    """The folder below a cache for the harvest as it is, with the vocabulary that it has now."""
    return root / harvest.name / f"{kind}-{harvest.version}-{harvest.vocabulary.size:x}"


def read_array(path: Path, kinds: str, ndim: int) -> NDArray[Any]:
    """An array that a builder wrote, memory-mapped: anybody may have replaced it since.

    Args:
        path: of the file.
        kinds: of its numbers, as NumPy's `dtype.kind`.
        ndim: dimensions.

    Raises:
        ValueError: it is missing, damaged, or another array.
    """
    if not path.is_file():  # opening a pipe would wait
        raise ValueError(f"{path.name} is missing")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the reader of a damaged header raises what it runs into
        raise ValueError(f"{path.name}: {reason_of(error)}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"{path.name} is another array")
    return array


def compute(harvest: Harvest, kind: str, folder: Path, progress: Callable[[float], None]) -> None:
    """Fill a new folder, which appears complete or not at all; older ones of its kind are removed.

    Args:
        harvest: a finished one.
        kind: one of `Kind`.
        folder: to make.
        progress: called with the share that is done, from 0 to 1.

    Raises:
        HarvestError: the harvest is damaged.
        OSError: the folder cannot be written.
    """
    sweep(folder.parent)
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        import_module(_BUILDERS[kind]).build(harvest, temporary, progress)
        older = [path for path in folder.parent.glob(f"{kind}-*") if path != folder]
        if not folder.exists():  # else another server made it meanwhile
            temporary.rename(folder)
        for path in older:
            remove(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(kind: str, name: str, folder: str) -> int:
    """The process: prints the shares that are done, and an error in a line that begins as ours."""
    import os

    from harvest_assets.viewer.library import Library

    os.nice(_NICE)
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if share - last >= 0.01:  # noqa: PLR2004
            last = share
            print(f"{share:.2f}", flush=True)

    try:
        harvest = Library().get(name)
        if folder_of(Path(), harvest, kind).name != Path(folder).name:
            raise HarvestError(f"The files of {name} have just changed; try again.")
        compute(harvest, kind, Path(folder), progress)
    except (HarvestError, OSError, MemoryError) as error:
        print(f"{_ERROR}{presentable(str(error) or 'There is too little memory.')}")
        return 1
    return 0


if __name__ == "__main__":
    end_with_stdin()
    sys.exit(main(*sys.argv[1:]))
