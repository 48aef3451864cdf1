"""Which tests stay in one process where several work on the suite, and which begin first.

The files that take minutes come first, the longest before the others: near the end there are only
short ones left, and no process works alone. Other files follow in the order of their names.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_LONGEST_FIRST = (
    "orchestration/test_unattended.py",
    "orchestration/slurm/test_production.py",
    "orchestration/slurm/test_on_a_cluster.py",
    "faults/test_command_stopped.py",
    "cli/test_several_runs.py",
    "cli/test_ui.py",
    "test_readme.py",
    "faults/test_command_killed.py",
    "faults/test_disks.py",
    "faults/test_short_forms.py",
    "cli/test_command.py",
    "cli/test_scripting.py",
    "cli/test_several_harvests.py",
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
    "faults/test_disks.py",
    "faults/test_short_forms.py",
}


def sort(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: _place(_file(item.nodeid)))


class Scheduler(LoadScopeScheduling):
    """Gives a process a whole file, for its fixtures, and all tests of SLURM: they share a node."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # would put files of many tests first

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        if "/slurm/" in file:
            return "slurm"
        return nodeid if file in _INDEPENDENT else file


def _place(file: str) -> int:
    return _LONGEST_FIRST.index(file) if file in _LONGEST_FIRST else len(_LONGEST_FIRST)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("harvest_assets_tests/")
