"""A disk on which version 0.1 worked: its runs, harvests, registrations and Dagster instance."""

from __future__ import annotations

import os
import sqlite3
import sys
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

ARCHIVE = Path(__file__).parent / "version_0_1.tar.xz"
_INPUTS = Path(__file__).parents[1] / "store/version_0_1/harvests.tar.xz"
_WRITTEN = ("spd_out/harvest", "spd_out/data")

SETTINGS = {
    "activation_examples_per_component": 6,
    "activation_context_tokens_per_side": 3,
    "pmi_token_top_k": 5,
    "n_shards": 2,
}
# Many small steps: the commands were stopped within them.
INTERRUPTED_SETTINGS = {**SETTINGS, "n_batches": 2200, "batch_size": 1, "context_length": 8}


def unpack_inputs(root: Path) -> None:
    """The runs, their target, tokenizer and dataset, as the other archive has them."""
    with tarfile.open(_INPUTS) as archive:
        members = [
            member for member in archive if not member.name.removeprefix("./").startswith(_WRITTEN)
        ]
        archive.extractall(root, members, filter="data")


def unpack(root: Path) -> None:
    """The same, and what version 0.1 wrote, as if it had done so in `root` on this machine."""
    unpack_inputs(root)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    places = {"@ROOT@": str(root), "@HOST@": os.uname().nodename, "@CODE@": str(root / "code")}
    python = {"@PYTHON@": sys.executable, "@PREFIX@": sys.prefix, "@BASE@": sys.base_prefix}
    replace_texts(root, {**places, **python})


def replace_texts(root: Path, texts: Mapping[str, str]) -> None:
    """Replace texts in JSON files, logs and databases; times of files stay as they are."""
    for path in root.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        stat = path.stat()
        if path.suffix == ".db":
            _replace_in_database(path, texts)
        elif path.suffix in {".json", ".yaml", ".log", ".err", ".out"}:
            old = path.read_text(encoding="utf-8")
            new = _replaced(old, texts)
            if new != old:
                path.write_text(new, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replaced(text: str, texts: Mapping[str, str]) -> str:
    for old, new in texts.items():
        text = text.replace(old, new)
    return text


def _replace_in_database(path: Path, texts: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                if "INT" not in kind.upper():
                    for old, new in texts.items():
                        database.execute(
                            f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) '  # noqa: S608
                            f'WHERE instr("{column}", ?)',
                            (old, new, old),
                        )
