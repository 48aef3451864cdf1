"""Writes `version_0_1.tar.xz`: what the commands of version 0.1 leave on disk.

git worktree add ../version-0.1 e4cce96
python -m harvest_assets_tests.upgrade.make_version_0_1 ../version-0.1
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from harvest_assets_tests.upgrade.old_disk import (
    ARCHIVE,
    INTERRUPTED_SETTINGS,
    SETTINGS,
    replace_texts,
    unpack_inputs,
)

_RUN = "old/versions/s-0000000{}"


class _Version:
    """Runs commands of a version in a folder.

    Args:
        code: the repository, with that version checked out.
        root: names in the runs' configs are relative to it.
    """

    def __init__(self, code: Path, root: Path) -> None:
        self._root = root
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self._environment = {
            **kept,
            "HOME": str(root / "home"),
            "SPD_OUT_DIR": str(root / "spd_out"),
            "DAGSTER_HOME": str(root / "dagster"),
            "PYTHONPATH": str(code),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "harvest_assets", *arguments],
            cwd=self._root,
            env={**self._environment, **environment},
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> None:
        process = self.start(*arguments, **environment)
        assert process.wait() == 0, arguments


def _options(settings: dict[str, int]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def _wait_for_progress(shards: Path) -> None:
    """Until a shard has been worked on since this call."""
    begun = time.time()
    for _ in range(60_000):
        if any(path.stat().st_mtime > begun for path in shards.glob("*/progress.json")):
            return
        time.sleep(0.01)
    raise TimeoutError(shards)


def _interrupted(version: _Version, root: Path) -> None:
    """Stopped by Ctrl-C, which saves states, then continued and killed."""
    shards = root / "spd_out/harvest/s-00000002/shards"
    options = _options(INTERRUPTED_SETTINGS)
    for end in (signal.SIGINT, signal.SIGKILL):
        process = version.start(_RUN.format(2), *options)
        try:
            _wait_for_progress(shards)
            os.killpg(process.pid, end)
            assert process.wait(600) != 0
        finally:
            _end(process.pid, wait=end is signal.SIGINT)
    assert list(shards.parent.glob("leases/*")), "the leases of the killed command"
    assert list(shards.glob("*/saved/current.json")), "an unfinished shard"


def _end(group: int, *, wait: bool) -> None:
    """Kill what is left of a process group, at once or when it has had time to save."""
    with suppress(ProcessLookupError):
        for _ in range(600 * wait):
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    code = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        unpack_inputs(root)
        inputs = {path for path in root.rglob("*") if path.is_file()}
        version = _Version(code, root)
        version.run(_RUN.format(1), *_options({**SETTINGS, "n_batches": 40, "batch_size": 8}))
        _interrupted(version, root)
        version.run("register", _RUN.format(3))
        replace_texts(
            root, {str(root): "@ROOT@", str(code): "@CODE@", os.uname().nodename: "@HOST@"}
        )
        replace_texts(
            root, {sys.executable: "@PYTHON@", sys.prefix: "@PREFIX@", sys.base_prefix: "@BASE@"}
        )
        telemetry = {root / "dagster/.telemetry", root / "dagster/logs"}
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for path in sorted(root.rglob("*")):
                ours = not telemetry & {path, *path.parents} and path not in inputs
                if ours and "home" not in path.parts and _is_leaf(path):
                    archive.add(path, path.relative_to(root), filter=_anonymous, recursive=False)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


def _is_leaf(path: Path) -> bool:
    return path.is_file() or not any(path.iterdir())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
