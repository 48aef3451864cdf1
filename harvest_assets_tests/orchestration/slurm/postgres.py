"""A real PostgreSQL server in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "postgres"
_ON_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def missing() -> str | None:
    """Why no server can be started here."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL's server is not installed (Debian: postgresql)"
    return None


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """The variables that `docs/dagster.yaml` reads, for a server that runs while the block does."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    data, password = folder / "data", "a-password"
    (folder / "password").write_text(password)
    # The server refuses to be root's.
    user = _USER if os.getuid() == 0 else None
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        subprocess.run(
            [program, *arguments],
            check=True,
            timeout=120,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    try:
        auth = ["--auth=scram-sha-256", f"--pwfile={folder}/password", f"--username={_USER}"]
        run("initdb", f"--pgdata={data}", *auth)
        options = f"-h 127.0.0.1 -p {port} -k {folder}"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": str(port),
                "DAGSTER_PG_USER": _USER,
                "DAGSTER_PG_PASSWORD": password,
                "DAGSTER_PG_DB": _USER,
            }
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    places = os.pathsep.join([os.environ["PATH"], *map(str, _ON_DEBIAN)])
    return shutil.which(name, path=places)
