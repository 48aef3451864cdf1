from __future__ import annotations

import subprocess
import sys

import pytest

READ = """
import sys
from harvest_assets.errors import HarvestError
try:
    from harvest_assets.store.settings import HarvestConfig
    print(HarvestConfig().ci_noise)
except HarvestError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("text", "told"), [("1", "True"), ("No", "False"), ("", "False")])
def test_a_deployment_says_yes_or_no(text: str, told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_CI_NOISE", text)
    assert _read().stdout.strip() == told


def test_anything_else_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_CI_NOISE", "loud")
    assert _read().stderr.strip().startswith("HARVEST_CI_NOISE is 'loud'; it must be one of 1, ")


def _read() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", READ], capture_output=True, text=True, timeout=60, check=False
    )
