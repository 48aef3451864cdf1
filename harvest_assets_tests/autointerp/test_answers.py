"""Scripted models behind a server: what is answered counts, and nothing is lost or asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from harvest_assets.autointerp.model import ChatModel
from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.autointerp.task import Report, Task, estimated, run, run_all
from harvest_assets.autointerp.trials import Method
from harvest_assets.autointerp.work import TrialWork
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import LeaseHeldError, hold_lease
from harvest_assets.interpretations.entries import Label
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.autointerp.one_token_each import KEYS, write_one_token_each
from harvest_assets_tests.autointerp.test_prompts import INJECTIONS
from harvest_assets_tests.loopback_model import LoopbackModel, Request, Scripted
from harvest_assets_tests.viewer.hostile import TEXTS

SECRET = "sk-plantedPlantedPlanted"  # noqa: S105
N_INTRUDER = 10 * len(KEYS)
GOOD = '{"intruder": 1}'


def settings_for(server: LoopbackModel, **more: object) -> ModelSettings:
    return ModelSettings(endpoint=server.endpoint, model="scripted", retries=2, **more)


def score(
    paths: HarvestLayout,
    server: LoopbackModel,
    method: Method | None = Method.INTRUDER,
    choice: ComponentChoice | None = None,
    **more: object,
) -> Report:
    settings = settings_for(server, **more)
    return run(Task(paths, choice or ComponentChoice(), method), settings, ChatModel(settings))


def right_answers(paths: HarvestLayout, method: Method) -> dict[str, str]:
    """What a model would answer that knows the truth, for each question."""
    answers = {}
    for group in Task(paths, ComponentChoice(), method).groups():
        for work in group:
            assert isinstance(work, TrialWork)
            for trial, question in zip(work.trials, work.questions, strict=True):
                if method is Method.INTRUDER:
                    answer: dict[str, object] = {"intruder": trial.truth.index(True) + 1}
                else:
                    answer = {"verdicts": trial.truth}
                answers[question.prompt.question] = json.dumps(answer)
    return answers


def label_all(paths: HarvestLayout) -> None:
    Interpretations(paths).add([Label(k, f"token {k}", 0.5, "", "person", "me") for k in KEYS])


@pytest.mark.parametrize("method", list(Method))
def test_a_perfect_model_scores_one(paths: HarvestLayout, method: Method):
    label_all(paths)
    answers = right_answers(paths, method)
    with LoopbackModel(lambda request, _: Scripted(answers[request.question])) as server:
        report = score(paths, server, method)
        assert report.scores == {method.value: [1.0] * len(KEYS)}
        assert report.tally.calls == len(server.requests) == method.n_trials * len(KEYS)
        score(paths, server, method)
        assert len(server.requests) == report.tally.calls
    stored = Interpretations(paths).scores()
    assert stored["component_key"].to_list() == KEYS
    assert stored["high"].to_list() == [1.0] * len(KEYS)
    assert set(stored["author"]) == {"scripted"}


def random_answer(request: Request, _: int) -> Scripted:
    draw, n = Random(request.question), request.question.count("\n") + 1
    if "intruder" in request.instructions:
        return Scripted(json.dumps({"intruder": draw.randint(1, n)}))
    return Scripted(json.dumps({"verdicts": [draw.random() < 0.5 for _ in range(n - 1)]}))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(Method))
def test_a_random_model_scores_at_chance(paths: HarvestLayout, method: Method):
    label_all(paths)
    with LoopbackModel(random_answer) as server:
        score(paths, server, method)
    scores = Interpretations(paths).scores()
    covered = [low <= method.chance <= high for low, high in scores[["low", "high"]].iter_rows()]
    assert sum(covered) >= len(KEYS) - 2
    assert abs(scores["score"].mean() - method.chance) < 0.1


@pytest.mark.slow
def test_one_bad_answer_costs_one_trial(paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    answers = right_answers(paths, Method.INTRUDER)
    faults: dict[str, Scripted] = {}
    kinds = [
        Scripted("I am not sure."),
        Scripted('{"intruder": 3, "reas'),
        Scripted('{"intruder": 9}'),
        Scripted(f"your key is {SECRET}"),
        Scripted("busy", status=429),
        Scripted(f"broken, {SECRET}", status=500),
        Scripted(raw=b"<html>not JSON"),
        Scripted(raw=b"null"),
        Scripted(raw=b"[" * 100_000),
        Scripted(raw=b'{"id": "1", "object": "chat.completion", "created": 1, "choices": []}'),
        Scripted(GOOD, seconds=1.5),
    ]
    for n, question in enumerate(answers):
        if n % 5 == 3:  # two trials of each component
            faults[question] = kinds[n // 5 % len(kinds)]

    def script(request: Request, earlier: int) -> Scripted:
        fault = faults.get(request.question)
        passes = fault is not None and fault.status == 429 and earlier == 1
        return fault if fault and not passes else Scripted(answers[request.question])

    with LoopbackModel(script) as server:
        report = score(paths, server, timeout_seconds=0.5)
        tally = report.tally
        assert tally.unusable >= 4
        assert tally.unanswered >= 2
        assert tally.asked + tally.unanswered == N_INTRUDER
        assert report.stored + report.unfinished == len(KEYS)
        assert set(report.scores["intruder"]) == {1.0}
        # Once the server is well again, only what had no answer is asked.
        asked = len(server.requests)
        server.script = lambda request, _: Scripted(answers[request.question])
        again = score(paths, server)
        assert len(server.requests) - asked == tally.unanswered
        assert again.unfinished == 0
        assert again.stored + again.already == len(KEYS)
    failed = Interpretations(paths).scores()["n_failed"].to_list()
    assert len(failed) == len(KEYS)
    assert sum(failed) == tally.unusable
    assert max(failed) <= 2
    assert all(
        request.headers["authorization"] == f"Bearer {SECRET}" for request in server.requests
    )
    written = [path for path in paths.root.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in repr(report)


def test_a_model_may_be_shown_what_is_wrong(paths: HarvestLayout):
    answers = right_answers(paths, Method.INTRUDER)

    def script(request: Request, earlier: int) -> Scripted:
        return Scripted(answers[request.question] if earlier else '{"intruder": 7}')

    with LoopbackModel(script) as server:
        report = score(paths, server, choice=ComponentChoice(components=2), reasks=1)
        assert report.scores == {"intruder": [1.0, 1.0]}
        assert report.tally.calls == len(server.requests) == 40
        assert "7" in json.dumps(server.requests[-1].body["messages"][-1])


@pytest.mark.parametrize(("status", "name"), [(401, "MY_KEY"), (404, "scripted")])
def test_an_endpoint_that_refuses_ends_the_work_at_once(
    paths: HarvestLayout, status: int, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", SECRET)
    with LoopbackModel(lambda *_: Scripted(f"no {SECRET}", status=status)) as server:
        with pytest.raises(HarvestError, match=name) as caught:
            score(paths, server, key_variable="MY_KEY")
        assert len(server.requests) <= 8
    assert SECRET not in str(caught.value)


def test_prompts_follow_no_redirect(paths: HarvestLayout):
    with LoopbackModel(lambda *_: Scripted(GOOD)) as other:
        target = f"{other.endpoint}/chat/completions"
        with LoopbackModel(lambda *_: Scripted(status=307, location=target)) as server:
            with pytest.raises(HarvestError, match=server.endpoint):
                score(paths, server)
            assert server.requests
        assert not other.requests


@pytest.mark.parametrize(
    "refusal",
    [Scripted(status=400), Scripted(status=422), Scripted(None, finish_reason="length")],
)
def test_a_refused_question_costs_one_trial(paths: HarvestLayout, refusal: Scripted):
    answers = right_answers(paths, Method.INTRUDER)
    refused = set(list(answers)[::10])  # the first of each component

    def script(request: Request, _: int) -> Scripted:
        return refusal if request.question in refused else Scripted(answers[request.question])

    with LoopbackModel(script) as server:
        report = score(paths, server, concurrency=1)
        assert (report.tally.unusable, report.tally.unanswered) == (len(KEYS), 0)
        assert report.tally.calls == len(server.requests) == N_INTRUDER
        assert score(paths, server).already == len(KEYS)
        assert len(server.requests) == N_INTRUDER
    assert set(Interpretations(paths).scores()["n_failed"]) == {1}


def test_an_endpoint_that_refuses_every_question_is_asked_a_few_times(paths: HarvestLayout):
    with LoopbackModel(lambda *_: Scripted(status=400)) as server:
        with pytest.raises(HarvestError, match="400"):
            score(paths, server)
        assert len(server.requests) < N_INTRUDER
        assert not list(paths.answers.glob("*"))  # the questions are asked again


def test_an_endpoint_that_is_down_is_asked_a_few_times(paths: HarvestLayout):
    with LoopbackModel(lambda *_: Scripted(status=503)) as server:
        with pytest.raises(HarvestError, match="503"):
            score(paths, server)
        assert len(server.requests) < N_INTRUDER


def test_limits_are_kept(paths: HarvestLayout):
    answers = right_answers(paths, Method.INTRUDER)
    with LoopbackModel(lambda request, _: Scripted(answers[request.question])) as server:
        report = score(paths, server, max_calls=25)
        assert len(server.requests) == 25
        assert "25 calls" in report.tally.stopped
        assert (report.stored, report.unfinished) == (2, len(KEYS) - 2)
        # 100 tokens in and 10 out are 0.00012 a call.
        prices = {"price_in": 1.0, "price_out": 2.0}
        before = len(server.requests)
        report = score(paths, server, max_cost=0.003, **prices, max_tokens=20)
        spent = len(server.requests) - before
        assert spent * 0.00012 <= 0.003
        assert 5 < spent < N_INTRUDER - 25
        assert report.tally.stopped
        assert score(paths, server).unfinished == 0
    assert max(Counter(server.questions).values()) == 1


def test_repeated_calls_count_against_the_limit(paths: HarvestLayout):
    with LoopbackModel(lambda *_: Scripted(status=503)) as server:
        with pytest.raises(HarvestError, match="limit of 2 calls"):
            score(paths, server, max_calls=2, concurrency=1)
        assert len(server.requests) == 2


def test_what_ends_the_work_is_in_its_report(paths: HarvestLayout):
    def full(_: Report) -> None:
        raise OSError("the disk is full")

    with LoopbackModel(random_answer) as server:
        settings = settings_for(server)
        task = Task(paths, ComponentChoice(components=1), Method.INTRUDER)
        with pytest.raises(OSError, match="full"):
            run(task, settings, ChatModel(settings), full)
    (report,) = paths.autointerp_reports.glob("*.json")
    assert "full" in json.loads(report.read_bytes())["report"]["tally"]["stopped"]


def test_methods_share_the_limit(paths: HarvestLayout):
    label_all(paths)
    with LoopbackModel(random_answer) as server:
        settings = settings_for(server, max_calls=45)
        methods = [Method.DETECTION, Method.FUZZING]
        reports = run_all(paths, ComponentChoice(), settings, methods)
        assert len(server.requests) == 45 == sum(report.tally.calls for report in reports)


def test_the_estimate_counts_what_would_be_asked(paths: HarvestLayout):
    answers = right_answers(paths, Method.INTRUDER)
    with LoopbackModel(lambda request, _: Scripted(answers[request.question])) as server:
        settings = settings_for(server, price_in=2.0, price_out=0.0)
        task = Task(paths, ComponentChoice(), Method.INTRUDER)
        found = estimated(task, settings)
        assert found.calls == N_INTRUDER
        assert found.cost == pytest.approx(found.input_tokens * 2e-6)
        assert not server.requests
        assert not paths.interpretations.exists()
        score(paths, server, max_calls=30)
        assert estimated(task, settings).calls == N_INTRUDER - 30
        assert estimated(task, ModelSettings(model="another")).calls == N_INTRUDER


@pytest.mark.slow
def test_hostile_contexts_change_nothing(out_dir: Path):
    paths = write_one_token_each(out_dir / "harvest" / "s-bbbbbbbb", [*TEXTS, *INJECTIONS])
    answers = right_answers(paths, Method.INTRUDER)
    with LoopbackModel(lambda request, _: Scripted(answers[request.question])) as server:
        report = score(paths, server)
    assert report.scores == {"intruder": [1.0] * len(KEYS)}
    assert {question.count("\n") for question in server.questions} == {4}


def test_damaged_answers_are_asked_again(paths: HarvestLayout):
    answers = right_answers(paths, Method.INTRUDER)
    with LoopbackModel(lambda request, _: Scripted(answers[request.question])) as server:
        score(paths, server)
        (file,) = paths.answers.glob("*.jsonl")
        lines = file.read_bytes().splitlines(keepends=True)
        lines[0] = lines[0][:-20]  # torn, and so is the line that it is joined to
        lines[5] = b'{"prompt_sha256": 3}\n'
        lines[9] = b"\xff\n"
        file.write_bytes(b"".join(lines))
        os.mkfifo(paths.answers / "pipe.jsonl")
        asked = len(server.requests)
        report = score(paths, server)
        assert len(server.requests) - asked == 4
        assert any(str(paths.answers) in note for note in report.notes)
    assert report.unfinished == 0


def test_a_second_process_asks_nothing(paths: HarvestLayout):
    with (
        LoopbackModel(lambda *_: Scripted(GOOD)) as server,
        hold_lease(paths.autointerp_lease, "the test"),
    ):
        with pytest.raises(LeaseHeldError):
            score(paths, server)
        assert not server.requests


def test_labels_are_stored_and_asked_once(paths: HarvestLayout):
    answer = {"reason": "All texts have it.", "label": "one token\x1b[31m", "confidence": 0.75}
    with LoopbackModel(lambda *_: Scripted(json.dumps(answer))) as server:
        report = score(paths, server, None)
        assert report.stored == len(KEYS)
        score(paths, server, None)
        assert len(server.requests) == len(KEYS)
    labels = Interpretations(paths).labels()
    assert labels["component_key"].to_list() == KEYS
    assert set(labels["label"]) == {"one token\\x1b[31m"}
    assert set(labels["confidence"]) == {0.75}
    assert set(labels["prompt_sha256"].str.len_chars()) == {64}


def labelled(paths: HarvestLayout, server: LoopbackModel, model: str) -> Report:
    settings = ModelSettings(endpoint=server.endpoint, model=model)
    return run(Task(paths, ComponentChoice(), None), settings, ChatModel(settings))


def test_two_endpoints_may_share_the_name_of_a_model(paths: HarvestLayout):
    def saying(label: str) -> LoopbackModel:
        return LoopbackModel(lambda *_: Scripted(json.dumps({"label": label, "confidence": 1})))

    with saying("one") as first, saying("two") as second:
        for server, label in ((first, "one"), (second, "two"), (first, "one")):
            labelled(paths, server, "same")
            assert set(Interpretations(paths).current()["label"]) == {label}
        assert len(first.requests) == len(second.requests) == len(KEYS)


def test_going_back_to_an_earlier_model_makes_its_labels_current(paths: HarvestLayout):
    def script(request: Request, _: int) -> Scripted:
        return Scripted(json.dumps({"label": request.body["model"], "confidence": 1}))

    with LoopbackModel(script) as server:
        for model, stored in (("a", 8), ("b", 8), ("a", 8), ("a", 0)):
            assert labelled(paths, server, model).stored == stored
            assert set(Interpretations(paths).current()["label"]) == {model}
        assert len(server.requests) == 2 * len(KEYS)


def test_labels_must_exist_to_be_tried(paths: HarvestLayout):
    with pytest.raises(HarvestError, match="label"):
        Task(paths, ComponentChoice(), Method.DETECTION)
    Interpretations(paths).add([Label(KEYS[3], "three", None, "", "person", "me")])
    task = Task(paths, ComponentChoice(), Method.DETECTION)
    assert {question.component_key for question in task.questions()} == {KEYS[3]}
    assert task.skipped.total() == len(KEYS) - 1


PROGRAM = """
import sys
from harvest_assets.cli.main import cli
cli(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_without_asking_twice(
    paths: HarvestLayout, sent: signal.Signals, tmp_path: Path
):
    answers = right_answers(paths, Method.INTRUDER)

    def script(request: Request, _: int) -> Scripted:
        return Scripted(answers[request.question], seconds=0.1)

    with LoopbackModel(script) as server:
        command = [sys.executable, "-c", PROGRAM, "score", paths.root.name, "--method", "intruder"]
        command += ["--endpoint", server.endpoint, "--model", "scripted", "--concurrency", "2"]
        environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
        first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while len(server.requests) < 30:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(sent)
        said = first.communicate()[1]
        assert first.returncode != 0
        assert "Traceback" not in said
        asked = Counter(server.questions)
        report = score(paths, server)
        assert report.unfinished == 0
        assert report.scores == {"intruder": [1.0] * len(KEYS)}
    twice = [question for question, n in Counter(server.questions).items() if n > 1]
    assert len(twice) <= 2  # those that were being answered
    assert len(asked) < N_INTRUDER
