"""The page of one's own text, and its JSON."""

from __future__ import annotations

import bisect
import gc
import math
import re
import threading
import weakref
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.loaders import load_activation_context_single, load_components_frame
from harvest_assets.viewer import answering, asking
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.typicality import Typicality
from harvest_assets_tests.tiny_harvest import FINISHED

PAGE = f"/run/{FINISHED}/prompt"
API = f"/api/run/{FINISHED}/prompt"


class InThisProcess:
    """Takes the place of the live process: the same answers without one."""

    may_answer = threading.Event()
    runs: dict = {}  # noqa: RUF012 - opened once for all tests

    def ask(self, paths, kind, question):
        assert self.may_answer.wait(20)
        if paths.root not in self.runs:
            self.runs[paths.root] = OpenedRun(paths)
        return kind.handle(self.runs[paths.root], question)

    def is_open(self, paths) -> bool:
        return paths.root in self.runs

    def close(self) -> None:
        pass


@pytest.fixture
def client(finished_out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    monkeypatch.setattr(asking, "LiveModel", InThisProcess)
    InThisProcess.may_answer.set()
    with TestClient(make_app(Library(), FINISHED), base_url="http://127.0.0.1:3100") as client:
        yield client
    InThisProcess.may_answer.set()


def test_a_page_shows_what_its_json_says(client: TestClient):
    found = client.get(API, params={"text": "harvest the shard", "at": 1}).json()
    at = found["positions"][1]
    assert at["firing"]
    key = at["firing"][0]["component"]
    query = {"text": "harvest the shard", "at": 1, "component": key, "text_b": "sum"}
    page = client.get(PAGE, params=query).text
    for firing in at["firing"]:
        assert f">{firing['component']}</a>" in page
    assert all(f"token {it['token_id']}" in page for it in found["positions"])
    assert 'class="t hot s' in page
    assert "at_b=" in page
    shaded = client.get(API, params={"text": "harvest the shard", "component": key}).json()
    assert shaded["positions"][1]["strength"] == at["firing"][0]["strength"]


def test_percentiles_are_those_of_the_harvested_firings(client: TestClient):
    frame = load_components_frame(FINISHED)
    found = client.get(API, params={"text": "harvest the shard", "top": 1000}).json()
    edges = [10 ** (-6 + 6 * i / 62) for i in range(63)]
    checked = 0
    for firing in (it for position in found["positions"] for it in position["firing"]):
        place = frame["component_key"].to_list().index(firing["component"])
        histogram = frame["ci_histogram"][place].to_list()
        at = bisect.bisect_right(edges, firing["strength"])
        expected = (sum(histogram[:at]) + histogram[at] / 2) / sum(histogram)
        assert firing["percentile"] == pytest.approx(expected)
        checked += 1
    assert checked > 10

    key = found["positions"][0]["firing"][0]["component"]
    harvest = Library().get(FINISHED)
    harvest.config["kind"] = "dictionaries"  # whose strengths have no fixed range
    examples = load_activation_context_single(FINISHED, key).activation_examples
    values = [e.ci_values[len(e.ci_values) // 2] for e in examples]
    middle = sorted(values)[len(values) // 2]
    expected = sum((v < middle) + (v == middle) / 2 for v in values) / len(values)
    typicality = Typicality(harvest)
    assert typicality.percentile(harvest.places[key], middle) == pytest.approx(expected)
    assert typicality.percentile(harvest.places[key], math.inf) == 1.0


def test_a_page_says_that_it_waits_and_is_loaded_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 0.1)
    InThisProcess.may_answer.clear()
    query = {"text": "not asked before", "text_b": "harvest " * 3000}
    waiting = client.get(PAGE, params=query)
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 10)
    assert "data-again" in waiting.text  # by the script, unless somebody types
    assert '<noscript><meta http-equiv="refresh"' in waiting.text
    assert "spinner" in waiting.text
    assert client.get(f"/run/{FINISHED}").status_code == 200  # other pages go on
    InThisProcess.may_answer.set()
    answered = client.get(PAGE, params=query)
    assert "data-again" not in answered.text
    assert "refresh" not in answered.text
    assert "likeliest" in answered.text
    assert "at most" in answered.text  # what is wrong with the second text
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_the_answers_that_are_kept_take_little_memory(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    ask = InThisProcess.ask
    monkeypatch.setattr(InThisProcess, "ask", lambda *given: asked.append(given[3]) or ask(*given))

    def times(ids: str) -> int:
        before = len(asked)
        assert client.get(API, params={"ids": ids}).status_code == 200
        return len(asked) - before

    assert [times(ids) for ids in ("41", "42", "41", "42")] == [1, 1, 0, 0]
    monkeypatch.setattr(asking, "_MAX_KEPT_BYTES", 10)  # the last one is kept whatever its size
    assert [times(ids) for ids in ("43", "43", "42", "43")] == [1, 0, 1, 1]


@pytest.mark.usefixtures("client")
def test_a_harvest_is_freed_with_what_it_was_compared_with():
    harvest = Library().get(FINISHED)
    assert harvest.typicality.percentile(0, 0.5) is not None
    freed = weakref.ref(harvest)
    del harvest
    gc.collect()
    assert freed() is None


def test_bad_questions_and_hostile_texts_get_a_sentence_or_an_answer(client: TestClient):
    hostile = "<script>alert(1)</script>\u202e"
    page = client.get(PAGE, params={"text": hostile})
    assert "<script>alert" not in page.text
    assert "\u202e" not in re.sub(r"<textarea.*?</textarea>", "", page.text, flags=re.DOTALL)
    for query, status in (
        ({"text": "harvest " * 3000}, 400),
        ({"ids": "1 2 99999"}, 400),
        ({"ids": "one"}, 400),
        ({"text": "a", "at": "7"}, 400),
        ({"text": "a b", "at": "1 0"}, 400),
        ({"text": "a", "component": "<b>:1"}, 400),
        ({"text": "a", "ids": "1"}, 400),
    ):
        assert client.get(API, params=query).status_code == status
        assert client.get(API, params=query).json()["error"].endswith(".")
        page = client.get(PAGE, params=query)
        assert page.status_code == status
        assert 'role="alert"' in page.text
        assert "<b>:1" not in page.text
    assert client.get("/api/run/nowhere/prompt", params={"text": "a"}).status_code == 404
    assert client.get(PAGE).status_code == 200
    assert client.get(API, params={"text": "a"}, headers={"origin": "http://x"}).status_code == 403
    assert client.post(API, data={"text": "a"}).status_code == 403


def test_too_many_waiting_questions_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "_MAX_WAITING", 1)
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 0.1)
    InThisProcess.may_answer.clear()
    assert "spinner" in client.get(PAGE, params={"text": "one"}).text
    refused = client.get(API, params={"text": "two"})
    assert refused.status_code == 503
    InThisProcess.may_answer.set()
    assert client.get(API, params={"text": "one", "at": -1}).status_code == 200
    assert client.get(API, params={"text": "two"}).status_code == 200
