"""`label` and `score` as people use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harvest_assets.autointerp.answers import Question, export_questions
from harvest_assets.autointerp.prompts import Prompt
from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Label
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.autointerp.one_token_each import KEYS
from harvest_assets_tests.loopback_model import LoopbackModel, Scripted

N_INTRUDER = 10 * len(KEYS)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def printed(*arguments: str) -> dict[str, object]:
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def test_what_cannot_be_tried_is_counted(paths: HarvestLayout):
    Interpretations(paths).add([Label(KEYS[3], "three", None, "", "person", "me")])
    prompted = ("score", paths.root.name, "--method", "detection")
    with LoopbackModel(lambda *_: Scripted(json.dumps({"verdicts": [True] * 10}))) as server:
        report = printed(*prompted, "--endpoint", server.endpoint, "--model", "m")
    assert list(report["skipped"].values()) == [len(KEYS) - 1]
    assert report["scores"] == {"detection": [0.5]}
    (kept,) = paths.autointerp_reports.glob("*.json")
    assert json.loads(kept.read_bytes())["report"]["skipped"] == report["skipped"]


def test_a_dry_run_sends_and_writes_nothing(paths: HarvestLayout):
    options = ("--dry-run", "--price-in", "1", "--price_out", "1", "--components", "3")
    assert printed("score", paths.root.name, "--method", "intruder", *options)["calls"] == 30
    found = printed("label", paths.root.name, *options)
    assert found["calls"] == 3
    assert found["cost"] > 0
    assert printed("score", paths.root.name, "--method", "baseline", "--dry-run")["calls"] == 0
    assert not paths.interpretations.exists()


def test_a_dry_run_counts_what_would_be_asked_again(paths: HarvestLayout):
    label = ("label", paths.root.name, "--model", "m")
    with LoopbackModel(lambda *_: Scripted("no idea")) as server:
        endpoint = ("--endpoint", server.endpoint)
        assert printed(*label, *endpoint)["failed"] == len(KEYS)
        assert printed(*label, *endpoint, "--dry-run")["calls"] == 0
        again = printed(*label, *endpoint, "--dry-run", "--retry-unusable")
    assert again["calls"] == len(KEYS)


@pytest.mark.parametrize("counts_tokens", [True, False])
def test_the_cost_is_known_where_the_endpoint_counts_tokens(
    paths: HarvestLayout, *, counts_tokens: bool
):
    answer = Scripted('{"label": "a", "confidence": 1}', counts_tokens=counts_tokens)
    with LoopbackModel(lambda *_: answer) as server:
        model = ("--endpoint", server.endpoint, "--model", "m")
        report = printed("label", paths.root.name, *model, "--price-in", "1", "--price-out", "1")
    assert (report["cost"] is not None) is counts_tokens


def test_prompts_leave_and_answers_come_back(paths: HarvestLayout, tmp_path: Path):
    run, prompts, answers = paths.root.name, tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    intruder = ("score", run, "--method", "intruder")
    assert printed(*intruder, "--export", str(prompts))["prompts"] == N_INTRUDER
    exported = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    own = {key: f"c{i}" for i, key in enumerate(KEYS)}
    lines = []
    for line in exported:
        texts = line["question"].splitlines()
        # The text in which the component's own token is not marked.
        odd = [i for i, text in enumerate(texts, 1) if own[line["component_key"]] not in text]
        answer = {"intruder": odd[0]}
        lines.append({"prompt_sha256": line["prompt_sha256"], "answer": answer})
    lines[0]["answer"] = "no idea"
    lines[1]["answer"] = json.dumps(lines[1]["answer"])
    lines.append({"prompt_sha256": "0" * 64, "answer": "of another harvest"})
    answers.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    report = printed(*intruder, "--answers", str(answers), "--model", "by hand")
    assert report["scores"] == {"intruder": [1.0] * len(KEYS)}
    assert report["notes"]
    scores = Interpretations(paths).scores()
    assert set(scores["author"]) == {"by hand"}
    assert sorted(scores["n_failed"]) == [*[0] * (len(KEYS) - 1), 1]
    assert command(*intruder, "--export", str(prompts)).exit_code == 1  # the file stays as it is


def test_an_export_that_is_interrupted_leaves_no_file(tmp_path: Path):
    def questions() -> Iterator[Question]:
        yield Question(KEYS[0], Prompt("label it", "a"), "label", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_questions(questions(), tmp_path / "prompts.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_damaged_are_refused_whole(paths: HarvestLayout, tmp_path: Path):
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    command("label", paths.root.name, "--export", str(prompts))
    first = json.loads(prompts.read_text(encoding="utf-8").splitlines()[0])["prompt_sha256"]
    good = {"prompt_sha256": first, "answer": {"label": "a", "confidence": 1}}
    answers.write_text(f'{json.dumps(good)}\n{{"answer": 1}}\n', encoding="utf-8")
    result = command("label", paths.root.name, "--answers", str(answers), "--model", "m")
    assert result.exit_code == 1
    assert "Line 2" in result.stderr
    assert str(answers) in result.stderr
    assert Interpretations(paths).labels().is_empty()
    assert not list(paths.answers.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "--endpoint"),
        (["--answers", "answers.jsonl"], "--model"),
        (["--endpoint", "localhost:8000", "--model", "m"], "endpoint"),
        (["--endpoint", "http://[::1", "--model", "m"], "must be an address"),
        (["--endpoint", "http://me:secret12@h/v1", "--model", "m"], "endpoint"),
        (["--endpoint", "http://h/v1", "--model", "m", "--key-variable", "sk-secret12"], "key"),
        (["--endpoint", "http://h/v1", "--model", "m", "--key-variable", "HARVEST_KEY"], "key"),
        (["--endpoint", "http://h/v1", "--model", "m", "--max-cost", "1"], "price"),
        (["--min-density", "2", "--dry-run"], "min_density"),
        (["--export", "prompts.jsonl", "--dry-run"], "--dry-run"),
        (["--answers", "a.jsonl", "--model", "m", "--retry-unusable"], "--retry-unusable"),
        (["--export", "prompts.jsonl", "--answers", "a.jsonl", "--model", "m"], "--answers"),
        (["--layers", "no.such", "--dry-run"], "layers"),
    ],
)
def test_bad_options_are_refused(paths: HarvestLayout, arguments: list[str], name: str):
    result = command("label", paths.root.name, *arguments)
    assert result.exit_code == 1
    assert name in result.stderr
    assert "secret12" not in result.output


def test_without_an_answer_the_status_says_so(paths: HarvestLayout):
    def script(request: object, _: int) -> Scripted:
        bad = "c0" in request.question
        return Scripted(status=500) if bad else Scripted('{"label": "a", "confidence": 1}')

    with LoopbackModel(script) as server:
        model = ("--endpoint", server.endpoint, "--model", "m", "--retries", "0")
        result = command("label", paths.root.name, *model)
        assert result.exit_code == 1
        assert "500" in result.stderr
        assert len(Interpretations(paths).labels()) == len(KEYS) - 1
        server.script = lambda *_: Scripted('{"label": "b", "confidence": 1}')
        assert command("label", paths.root.name, *model).exit_code == 0
    assert sorted(Interpretations(paths).labels()["label"]) == [*"a" * (len(KEYS) - 1), "b"]
