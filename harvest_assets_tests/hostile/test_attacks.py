"""Every hand-made attack is refused, and the table in the docs lists exactly these attacks."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from harvest_assets_tests.hostile.attacks import (
    ATTACKS,
    CRASHED,
    LET_IN,
    REFUSED,
    Attack,
    outcome,
    registry,
)
from harvest_assets_tests.hostile.table import rows

DOC = Path(__file__).parents[2] / "docs" / "hostile_input.md"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "spd_out"))  # attacks set their own


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_an_attack_is_refused(attack: Attack, tmp_path: Path):
    found, seen = outcome(attack, tmp_path)
    assert found == REFUSED, seen


def test_what_is_let_in_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(_folder: Path) -> bool:
        raise MemoryError

    def waits(_folder: Path) -> bool:
        while True:
            pass

    def grows(_folder: Path) -> bool:
        return bool(bytearray(1 << 29))

    def executes(folder: Path) -> bool:
        return not (folder / "executed").mkdir()

    def writes(folder: Path) -> bool:
        return bool((folder / "outside" / "kept").write_text("mine"))

    def removes(folder: Path) -> bool:
        return not (folder / "outside" / "kept").unlink()

    monkeypatch.setattr(registry, "_SECONDS", 4)  # busy cores take long to fill memory
    expected = {
        crash: CRASHED,
        waits: CRASHED,
        grows: LET_IN,
        executes: LET_IN,
        writes: LET_IN,
        removes: LET_IN,
        lambda _: False: LET_IN,
        lambda _: True: REFUSED,
    }
    for number, (is_refused, found) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert outcome(Attack("", "", is_refused), folder)[0] == found


def test_the_docs_list_these_attacks():
    counts = Counter(attack.kind for attack in ATTACKS)
    table = rows({kind: Counter({REFUSED: n}) for kind, n in counts.items()})
    assert "\n".join(table) in DOC.read_text(encoding="utf-8")


def test_no_two_attacks_have_one_name():
    names = Counter(map(str, ATTACKS))
    assert [name for name, n in names.items() if n > 1] == []
    assert not any(re.search(r"\s{2}", name) for name in names)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
