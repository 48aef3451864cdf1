"""Try the wheel with the lowest and the highest versions it allows: `make rehearsal-versions`.

Builds sdist and wheel, installs the wheel into a new environment for each Python and each end of
the ranges, outside the repository, and uses it there: the demo, `verify`, and the quick tests of
readers, results, store, pages, command line, and of whole tiny harvests through Dagster. Prints
the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TESTS = (
    "test_loaders.py",
    "test_oracle.py",
    "results",
    "store",
    "viewer",
    "cli",
    "data",
    "decompositions",
    "files",
)
# Chosen lowest only where it is named: the newest fsspec would rule out old versions of datasets.
_CONSTRAINTS = "fsspec<=2024.6.1\n"

_ENDS = ("lowest", "highest")
_SHOWN = ("dagster", "datasets", "numpy", "polars", "pyarrow", "pydantic", "torch", "transformers")


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Args:
        folder: of the environment.
        home: `HOME` and `SPD_OUT_DIR` of what runs in it.
    """

    folder: Path
    home: Path

    def run(self, name: str, *arguments: str, cwd: Path | None = None, check: bool = True) -> str:
        """The output of a program of the environment; what it prints is shown too."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        } | {"HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        environment.pop("DAGSTER_HOME", None)
        environment["SPD_OUT_DIR"] = str(self.home / "spd_out")
        done = subprocess.run(
            [str(self.folder / "bin" / name), *arguments],
            cwd=cwd or self.home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode and check:
            sys.exit(f"{name} {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def pip(self, *arguments: str) -> None:
        self.run("python", "-m", "pip", "install", "--quiet", *arguments)


def _new(python: str, folder: Path) -> Environment:
    if python == sys.executable:
        venv.create(folder, with_pip=True)
    else:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    home = folder / "home"
    home.mkdir()
    return Environment(folder, home)


def _built(tools: Environment, folder: Path) -> Path:
    """The wheel, built from the sdist."""
    tools.run("python", "-m", "build", "--outdir", str(folder), str(REPOSITORY))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _lowest(tools: Environment, version: str, torch: str, folder: Path) -> Path:
    """Requirements of the lowest versions; torch is installed apart."""
    constraints, found = folder / "constraints.txt", folder / "lowest.txt"
    constraints.write_text(f"{_CONSTRAINTS}{torch}\n", encoding="utf-8")
    setup = str(REPOSITORY / "setup.cfg")
    tools.run(
        *("uv", "pip", "compile", setup, "--extra", "test", "--python-version", version),
        *("--resolution", "lowest-direct", "--no-header", "--no-annotate"),
        *("--constraint", str(constraints), "--output-file", str(found)),
    )
    lines = found.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.match(r"(torch|triton|nvidia-|cuda-)", line)]
    found.write_text("\n".join(kept), encoding="utf-8")
    return found


def _tried(environment: Environment, tests: Path) -> str:
    """The last line of the tests."""
    environment.run("harvest-assets", "demo", "--quiet")
    (demo,) = json.loads(environment.run("harvest-assets", "list", "--json"))
    environment.run("harvest-assets", "verify", demo["name"])
    selected = [str(tests / "harvest_assets_tests" / name) for name in TESTS]
    output = environment.run(
        *("python", "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *selected),
        cwd=tests,
        check=False,
    )
    print(output, file=sys.stderr)
    return re.sub(r" in .*|=", "", output.strip().splitlines()[-1]).strip()


def _rows(python: str, folder: Path, torch: str, ends: Sequence[str]) -> Iterator[str]:
    tools = _new(sys.executable, folder / "tools")
    tools.pip("build", "uv")
    wheel = _built(tools, folder)
    version = subprocess.check_output(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    ).strip()
    tests = folder / "tests"
    for name in ("harvest_assets_tests", "benchmarks", "docs"):
        shutil.copytree(REPOSITORY / name, tests / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tests)
    for end in ends:
        environment = _new(python, folder / end)
        environment.pip(torch, "setuptools>=77")
        if end == "lowest":
            requirements = _lowest(tools, version, torch, folder)
            environment.pip("--no-deps", "--requirement", str(requirements), str(wheel))
        else:
            environment.pip(f"{wheel}[test]")
        environment.run("python", "-m", "pip", "check")
        found = dict(
            line.split("==", 1)
            for line in environment.run("python", "-m", "pip", "freeze").splitlines()
            if "==" in line
        )
        versions = ", ".join(f"{name} {found[name]}" for name in _SHOWN)
        yield f"| {version} | {end} | {versions} | {_tried(environment, tests)} |"
        shutil.rmtree(environment.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    parser.add_argument("--ends", nargs="+", choices=_ENDS, default=_ENDS, help="of the ranges")
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    (torch,) = re.findall(r"^torch==.*$", constraints, re.MULTILINE)
    print("| Python | ends of the ranges | versions | tests |\n|---|---|---|---|")
    given = parser.parse_args()
    for python in given.pythons:
        with tempfile.TemporaryDirectory(prefix="versions-") as folder:
            for row in _rows(python, Path(folder), torch, given.ends):
                print(row, flush=True)


if __name__ == "__main__":
    main()
