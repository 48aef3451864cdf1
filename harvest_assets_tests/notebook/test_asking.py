"""Questions of a notebook to a model: the answers of `live`, as values, text and frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import harvest_assets
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.ablation import AblateQuestion, answer_ablation
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptQuestion, answer_prompt
from harvest_assets.live.weights import WeightsQuestion, answer_weights
from harvest_assets.notebook import asking
from harvest_assets.notebook.harvest import Harvest
from harvest_assets_tests.tiny_harvest import FINISHED

KEY, OTHER = "h.0.mlp.up_proj:0", "h.1.mlp.up_proj:3"
TEXT = "merge the rows"


@pytest.fixture
def harvest(finished_out: Path, monkeypatch: pytest.MonkeyPatch) -> Harvest:
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    return harvest_assets.open(FINISHED)


@pytest.fixture
def run(harvest: Harvest) -> OpenedRun:
    return OpenedRun(HarvestLayout(harvest.path))


def test_the_answers_are_those_of_the_model(harvest: Harvest, run: OpenedRun):
    fires = answer_prompt(run, PromptQuestion(text=TEXT, component=KEY, top=3))
    asked = harvest.prompt(TEXT, component=harvest[KEY], top=3)
    rows = [(i, it) for i, at in enumerate(fires.positions) for it in at.firing]
    frame = asked.frame()
    assert frame["position"].to_list() == [i for i, _ in rows]
    assert frame["component_key"].to_list() == [it.component for _, it in rows]
    assert frame["strength"].to_list() == [it.strength for _, it in rows]
    assert [it.strength for it in asked.positions] == [it.strength for it in fires.positions]
    assert harvest.prompt(asked.token_ids, component=KEY, top=3) == asked

    without = answer_ablation(run, AblateQuestion(text=TEXT, without=(KEY, OTHER), top=2))
    taken_out = harvest.ablate(TEXT, [KEY, harvest[OTHER]], top=2)
    assert taken_out.changed == without.changed
    assert without.changed is not None
    frame = taken_out.frame()
    assert frame["kl"].to_list() == [it.kl for it in without.changed.positions]
    assert frame["kl_ci_masked"].to_list() == [it.kl for it in without.ci_masked.positions]
    assert harvest.ablate(TEXT).frame()["kl"].null_count() == len(frame)
    assert harvest.ablate(TEXT, None) == harvest.ablate(TEXT)
    assert harvest.ablate(TEXT, f"{KEY}, {OTHER}", top=2).changed == without.changed
    assert harvest.ablate(TEXT, only=KEY).changed != without.changed

    said = answer_weights(run, WeightsQuestion(component=KEY, top=4))
    found = harvest[KEY].weights(4)
    assert said.reads is not None
    assert found.frame().filter(direction="input")["token_id"].to_list() == [
        it.token_id for it in (*said.reads.highest, *said.reads.lowest[::-1])
    ]
    assert found.neighbours()["cosine"].to_list() == [
        it.cosine for it in (*said.same_layer, *said.other_layers)
    ]
    for answer, word in ((asked, KEY), (taken_out, "KL"), (found, KEY)):
        lines = repr(answer).splitlines()
        assert word in repr(answer)
        assert len(lines) <= 21
        assert max(map(len, lines)) <= 100
        again = type(answer).model_validate_json(answer.model_dump_json())
        assert again.model_dump() == answer.model_dump()
        assert len(again.frame()) == len(answer.frame())
        assert repr(again)
    last = asked.positions[-1]
    assert str(asked).splitlines()[-1].split()[0] == last.firing[-1].component
    assert len(str(asked).splitlines()) > len(repr(asked).splitlines())
    assert asking._opened.cache_info().currsize == 1


def test_a_misspelt_question_is_refused(harvest: Harvest, tmp_path: Path):
    copy = shutil.copytree(harvest.path, tmp_path / "copy")
    theirs = harvest_assets.open(copy)[KEY]
    with pytest.raises(HarvestError, match=str(copy)):
        harvest.ablate(TEXT, theirs)
    for ask in (
        lambda: harvest.prompt(3),
        lambda: harvest.prompt(b"abc"),
        lambda: harvest.prompt([0.5]),
        lambda: harvest.prompt(TEXT, top=0),
        lambda: harvest.ablate(TEXT, ["nowhere:0"]),
        lambda: harvest.ablate(TEXT, [KEY], only_firing=True),
        lambda: harvest[KEY].weights(-1),
    ):
        with pytest.raises(HarvestError):
            ask()
