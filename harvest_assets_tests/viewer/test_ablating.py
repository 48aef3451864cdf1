"""The pages and the JSON of components taken out and of weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.lists import ComponentList, keep
from harvest_assets.live.ablation import AblateQuestion, answer_ablation
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.weights import WeightsQuestion, answer_weights
from harvest_assets.viewer import answering, asking
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.viewer.test_prompting import InThisProcess

PAGE = f"/run/{FINISHED}/ablate"
API = f"/api/run/{FINISHED}/ablate"
KEYS = ("h.0.mlp.up_proj:0", "h.1.attn.q_proj:1")
TEXT = "harvest the shard"


@pytest.fixture
def client(finished_out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    monkeypatch.setattr(asking, "LiveModel", InThisProcess)
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 20)
    InThisProcess.may_answer.set()
    with TestClient(make_app(Library(), FINISHED), base_url="http://127.0.0.1:3100") as client:
        yield client


def _without_tokens(value):
    """JSON values as an answer has them, without the texts of tokens beside their ids."""
    if isinstance(value, list):
        return [_without_tokens(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {k: _without_tokens(v) for k, v in value.items() if k not in ("token", "run")}


def test_the_json_is_the_answer_and_the_page_shows_it(client: TestClient):
    run = OpenedRun(HarvestLayout.of(FINISHED))
    for params, question in (
        ({"without": KEYS}, {"without": KEYS}),
        ({"only": KEYS, "with_rest": "1"}, {"only": KEYS, "with_rest": True}),
        ({"mode": "only", "key": " ".join(KEYS), "at": 1}, {"only": KEYS, "at": 1}),
        ({"only_firing": "1"}, {"only_firing": True, "top": 3}),
        ({}, {}),
    ):
        expected = answer_ablation(run, AblateQuestion(text=TEXT, **question))
        found = client.get(API, params={"text": TEXT, **question}).json()
        assert _without_tokens(found) == expected.model_dump(mode="json")
        page = client.get(PAGE, params={"text": TEXT, **params}).text
        changed = expected.changed or expected.ci_masked
        kl = [it.kl for it in changed.positions]
        assert all(f'title="{value:.4g} nats' in page for value in kl)
        at = question.get("at", kl.index(max(kl)))
        assert f"position {at};" in page
        assert 'class="t hot s12' in page
        boxes = set(re.findall(r'name="key" value="([^"]*)" aria-label="[^"]*" checked', page))
        firing = {it.component for it in expected.firing}
        assert boxes == firing.intersection(KEYS if question.keys() & {"only", "without"} else ())
        typed = re.search(r'components <input name="key" value="([^"]*)"', page)[1].split()
        assert boxes | set(typed) == (set(KEYS) if question.keys() & {"only", "without"} else set())


def test_the_components_of_a_list_are_chosen(
    client: TestClient, finished_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = client.get(API, params={"text": TEXT, "without": KEYS}).json()
    shutil.copytree(finished_out, tmp_path / "out")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    name = keep(HarvestLayout.of(FINISHED), ComponentList("Two <b>", FINISHED, KEYS))
    assert client.get(API, params={"text": TEXT, "list": name}).json() == expected
    page = client.get(PAGE, params={"text": TEXT, "list": name})
    assert "Two &lt;b&gt;" in page.text
    assert client.get(API, params={"text": TEXT, "list": "../none"}).status_code == 400


def test_weights_are_shown_as_they_are_answered(client: TestClient):
    run = OpenedRun(HarvestLayout.of(FINISHED))
    path = f"run/{FINISHED}/weights/{KEYS[0]}"
    expected = answer_weights(run, WeightsQuestion(component=KEYS[0], top=4))
    found = client.get(f"/api/{path}", params={"top": 4}).json()
    assert _without_tokens(found) == expected.model_dump(mode="json")
    page = client.get(f"/{path}").text
    for neighbour in (*expected.same_layer, *expected.other_layers):
        assert f">{neighbour.component}</a>" in page
    assert "not known to write" in page
    component = client.get(f"/run/{FINISHED}/component/{KEYS[0]}").text
    assert f'href="/{path}"' in component
    assert f'href="{PAGE}?key=' in component


def test_bad_questions_and_hostile_texts_get_a_sentence_or_an_answer(client: TestClient):
    page = client.get(PAGE, params={"text": "<b>\u202e"})
    assert page.status_code == 200
    assert "<b>" not in page.text
    assert "\u202e" not in re.sub(r"<textarea.*?</textarea>", "", page.text, flags=re.DOTALL)
    for query in (
        {"text": "harvest " * 3000},
        {"ids": "1 2 99999"},
        {"ids": "one"},
        {"text": "a", "at": "7"},
        {"text": "a", "without": "<b>:1"},
        {"text": "a", "ids": "1"},
        {"text": "a", "without": KEYS[0], "only": KEYS[1]},
        {"text": "a", "mode": "<b>"},
    ):
        refused = client.get(API, params=query)
        assert refused.status_code == 400
        assert refused.json()["error"].endswith(".")
        page = client.get(PAGE, params=query)
        assert page.status_code == 400
        assert 'role="alert"' in page.text
        assert "<b>" not in page.text
    for key in ("<b>:1", "h.0.mlp.up_proj:99"):
        assert client.get(f"/run/{FINISHED}/weights/{key}").status_code == 400
        assert client.get(f"/api/run/{FINISHED}/weights/{key}").json()["error"].endswith(".")
    assert client.get("/api/run/nowhere/ablate", params={"text": "a"}).status_code == 404
    assert client.get("/api/run/nowhere/weights/a:1").status_code == 404
    assert client.get(API, params={"text": "a"}, headers={"origin": "http://x"}).status_code == 403
    assert client.post(API, data={"text": "a"}).status_code == 403
