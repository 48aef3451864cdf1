"""Which tests stay in one process where several work on the suite, and which begin first.

The files that take minutes come first, the longest before the others: near the end there are only
short ones left, and no process works alone. Other files follow in the order of their names.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent
_LONGEST_FIRST = (
    "orchestration/test_unattended.py",
    "orchestration/slurm/test_production.py",
    "orchestration/slurm/test_on_a_cluster.py",
    "faults/test_command_stopped.py",
    "cli/test_several_runs.py",
    "faults/test_command_killed.py",
    "cli/test_command.py",
    "cli/test_ui.py",
    "test_readme.py",
    "cli/test_bad_input.py",
    "demo/test_demo.py",
    "harvester/test_scale.py",
)
# Each test of these makes all that it needs: they may run in different processes.
_INDEPENDENT = {
    "orchestration/test_unattended.py",
    "cli/test_several_runs.py",
    "cli/test_command.py",
    "cli/test_bad_input.py",
}


def arrange(items: list[pytest.Item]) -> None:
    """Sort the tests, and group them for `--dist loadgroup`."""
    for item in items:
        if _name(item) not in _INDEPENDENT:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_place)


def _group(item: pytest.Item) -> str:
    """A file is a group, for its fixtures; all tests of SLURM are one, for they share a cluster."""
    return "slurm" if "slurm" in item.path.parts else _name(item)


def _place(item: pytest.Item) -> int:
    name = _name(item)
    return _LONGEST_FIRST.index(name) if name in _LONGEST_FIRST else len(_LONGEST_FIRST)


def _name(item: pytest.Item) -> str:
    return item.path.relative_to(_ROOT).as_posix()
