"""What is answered about a text is what the model itself computes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.live_model import files_of
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptAnswer, PromptQuestion, answer_prompt
from harvest_assets.store import preflight, reopened
from harvest_assets_tests.tiny_harvest import FINISHED as TINY
from harvest_assets_tests.tiny_run import N_CTX, VOCAB

TEXT = "harvest the shard, then merge"


@pytest.fixture
def paths(finished_out: Path, monkeypatch: pytest.MonkeyPatch) -> HarvestLayout:
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    return HarvestLayout.of(TINY)


@pytest.fixture
def run(paths: HarvestLayout) -> OpenedRun:
    return OpenedRun(paths)


def ask(run: OpenedRun, **question) -> PromptAnswer:
    return answer_prompt(run, PromptQuestion(**question))


def test_an_answer_is_what_the_model_computes(run: OpenedRun, finished_out: Path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(finished_out.parent / "world/tokenizer")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert 5 < len(ids) <= N_CTX
    decomposition = open_decomposition(run.paths.root)
    computed = decomposition.open_model("cpu")(torch.tensor([ids]))
    strengths = computed.firing_strengths[0].numpy()
    acts = computed.second_values[0].numpy()
    probs = computed.output_probs[0].numpy()
    keys = [f"{name}:{i}" for name, c in decomposition.layers for i in range(c)]
    key = keys[3]

    answer = ask(run, text=TEXT, component=key, top=1000, predictions=VOCAB)
    assert [it.token_id for it in answer.positions] == ids
    for it, ci, act, p in zip(answer.positions, strengths, acts, probs, strict=True):
        fires = {keys[c]: (ci[c], act[c]) for c in range(len(keys)) if ci[c] > answer.threshold}
        assert {f.component: (f.strength, f.second) for f in it.firing} == fires
        assert [f.strength for f in it.firing] == sorted((v for v, _ in fires.values()))[::-1]
        assert (it.n_firing, it.strength, it.second) == (len(fires), ci[3], act[3])
        assert [q.probability for q in it.predictions] == sorted(p.tolist())[::-1]
        assert all(p[q.token_id] == np.float32(q.probability) for q in it.predictions)
    fired = strengths > answer.threshold
    sums = np.where(fired, strengths, 0).astype(np.float64).sum(axis=0)
    assert answer.n_components == fired.any(axis=0).sum()
    assert {it.component: it.n_firings for it in answer.components} == {
        key: n for key, n in zip(keys, fired.sum(axis=0), strict=True) if n
    }
    listed = [sums[keys.index(it.component)] for it in answer.components]
    assert listed == pytest.approx(sorted(listed)[::-1], abs=1e-5)

    shorter = ask(run, ids=ids, at=-2, top=2, predictions=3)
    (only,) = [it for it in shorter.positions if it.predictions or it.firing]
    full = answer.positions[-2]
    assert only == shorter.positions[-2]
    assert (only.firing, only.predictions) == (full.firing[:2], full.predictions[:3])


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ({"text": ""}, "no tokens"),
        ({"text": "harvest " * 3000}, f"at most {N_CTX}"),
        ({"text": "x" * 100_001}, "100,001"),
        ({"text": "a\udcffb"}, "U\\+DCFF"),
        ({"ids": [1, VOCAB]}, str(VOCAB)),
        ({"ids": [-1]}, "-1"),
        ({"ids": [10**30]}, "10{30}"),
        ({"ids": [1, 2], "at": 2}, "position 2"),
        ({"ids": [1], "component": "h.9.nothing:1"}, "h.9.nothing:1"),
        ({"ids": [1], "text": "a"}, "either"),
        ({"ids": [1], "top": 0}, "top"),
    ],
)
def test_what_cannot_be_computed_is_refused(run: OpenedRun, question: dict, named: str):
    with pytest.raises(HarvestError, match=named):
        ask(run, **question)


def test_texts_that_look_dangerous_are_only_texts(run: OpenedRun):
    for text in ("<b>a</b>", "\u202eabc", "a\0b", "\n\n", "[EOS]"):
        assert ask(run, text=text).positions


def test_a_model_that_computes_no_number_is_reported(run: OpenedRun):
    computed = run.activations([1, 2])
    for field in ("ci", "output_probs"):
        values = getattr(computed, field).clone()
        values[0, -1, 0] = torch.nan
        run.model = Mock(return_value=computed._replace(**{field: values}))
        with pytest.raises(HarvestError, match="NaN"):
            ask(run, ids=[1, 2])


def test_a_run_that_does_not_fit_or_is_elsewhere_is_refused(
    paths: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(preflight, "available_memory", lambda _device, **_: 1_000_000)
    with pytest.raises(HarvestError, match=r"1\.0 MB free"):
        OpenedRun(paths).activations([1])

    out = tmp_path / "out"
    shutil.copytree(paths.root, out / "harvest" / paths.root.name)
    monkeypatch.setenv("SPD_OUT_DIR", str(out))
    received = HarvestLayout.of(paths.root.name)
    here = RunCheckpoint.open(paths.root)
    dataclasses.replace(here, checkpoint_path="/nowhere/weights").write(received.root)
    with pytest.raises(HarvestError, match="/nowhere/weights"):
        OpenedRun(received)
    weights = tmp_path / "weights"
    weights.write_text("1")
    dataclasses.replace(here, checkpoint_path=str(weights)).write(received.root)
    before = files_of(received)
    assert files_of(received) == before
    weights.write_text("other")
    assert files_of(received) != before  # so that the open model is replaced
    with monkeypatch.context() as patch:
        patch.setattr(reopened, "is_repeatable", lambda _: False)
        with pytest.raises(HarvestError, match="identity"):
            OpenedRun(received)
    received.run_checkpoint.unlink()
    with pytest.raises(HarvestError, match=received.root.name):
        OpenedRun(received)
