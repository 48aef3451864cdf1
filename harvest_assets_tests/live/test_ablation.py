"""Predictions without components against NumPy on edited weights."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live import prompt
from harvest_assets.live.ablation import AblateAnswer, AblateQuestion, answer_ablation
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptQuestion, answer_prompt
from harvest_assets.store import preflight
from harvest_assets_tests.decompositions.spd import target_oracles
from harvest_assets_tests.decompositions.spd.random_runs import float64, softmax
from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.tiny_run import VOCAB

IDS = (5, 17, 40, 3, 88, 17)
LAYERS = ("h.0.mlp.up_proj", "h.1.mlp.up_proj", "h.1.attn.q_proj")


@pytest.fixture
def run(finished_out: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedRun:
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    return OpenedRun(HarvestLayout.of(FINISHED))


def ask(run: OpenedRun, **question) -> AblateAnswer:
    return answer_ablation(run, AblateQuestion(**{"ids": IDS, "top": VOCAB, **question}))


def _edited(root: Path, kept: set[str] | None, *, with_rest: bool) -> np.ndarray:
    """Probabilities [S, V] of the target in NumPy, its weights made of these components.

    With None, they stay as they are.
    """
    state = torch.load(root / "tiny_run/model_100.pth", weights_only=True)
    config = yaml.safe_load((root / "target/model_config.yaml").read_text())
    weights = {
        name.removeprefix("target_model."): float64(value)
        for name, value in state.items()
        if name.startswith("target_model.")
    }
    for layer in LAYERS if kept is not None else ():
        v = float64(state[f"_components.{layer.replace('.', '-')}.V"])
        u = float64(state[f"_components.{layer.replace('.', '-')}.U"])
        m = np.array([f"{layer}:{c}" in kept for c in range(len(u))])
        rest = weights[f"{layer}.weight"] - (v @ u).T if with_rest else 0
        weights[f"{layer}.weight"] = ((v * m) @ u).T + rest
    defaults = {
        "mlp_bias": False,
        "attn_bias": False,
        "rotary_base": 10000,
        "rotary_adjacent_pairs": False,
        "use_grouped_query_attention": True,
        "rms_norm_eps": 1e-6,
    }
    return softmax(target_oracles.llama_logits({**defaults, **config}, weights, list(IDS)))


def _keys(run: OpenedRun) -> set[str]:
    return set(run.component_keys)


def test_what_is_taken_out_or_kept_is_an_edit_of_the_weights(run: OpenedRun, finished_out: Path):
    root = finished_out.parent / "world"
    chosen = {"h.0.mlp.up_proj:0", "h.0.mlp.up_proj:7", "h.1.attn.q_proj:3"}
    full = _edited(root, None, with_rest=True)
    cases = [
        ({"without": (", ".join(chosen),)}, _edited(root, _keys(run) - chosen, with_rest=True)),
        ({"only": tuple(chosen)}, _edited(root, chosen, with_rest=False)),
        (
            {"only": tuple(chosen), "with_rest": True},
            _edited(root, chosen, with_rest=True),
        ),
        ({"only": tuple(_keys(run)), "with_rest": True}, full),
    ]
    for question, expected in cases:
        answer = ask(run, **question)
        assert answer.changed is not None
        kl = (full * (np.log(full) - np.log(expected))).sum(axis=1)
        found = answer.changed
        np.testing.assert_allclose([p.kl for p in found.positions], kl, rtol=1e-4, atol=1e-6)
        assert found.mean_kl == pytest.approx(kl.mean(), abs=1e-6, rel=1e-4)
        for i, (own, changed) in enumerate(zip(answer.positions, found.positions, strict=True)):
            assert own.token_id == IDS[i]
            for listed, probs in ((own.predictions, full), (changed.predictions, expected)):
                assert len(listed) == VOCAB
                for it in listed:
                    assert it.probability == pytest.approx(probs[i, it.token_id], abs=1e-5)
            for side, sign in ((changed.gains, 1), (changed.losses, -1)):
                sizes = [sign * (it.after - it.before) for it in side]
                assert sizes == sorted(sizes, reverse=True)
                for it in side:
                    assert it.before == pytest.approx(full[i, it.token_id], abs=1e-5)
                    assert it.after == pytest.approx(expected[i, it.token_id], abs=1e-5)


def test_what_fires_is_kept_by_position_and_ci_masks(run: OpenedRun):
    outputs = run.activations(IDS)
    ci = outputs.firing_strengths
    fires = ci > run.plan.ci_threshold
    full = outputs.output_probs[0].double()
    for with_rest in (False, True):
        answer = ask(run, only_firing=True, with_rest=with_rest)
        for found, mask in ((answer.changed, fires), (answer.ci_masked, ci)):
            masked = run.model.masked(torch.tensor([IDS]), mask, with_rest=with_rest)[0].double()
            kl = (full * (full.log() - masked)).sum(-1)
            np.testing.assert_allclose([p.kl for p in found.positions], kl, rtol=1e-3, atol=1e-6)
    prompted = answer_prompt(run, PromptQuestion(ids=IDS, top=1000))
    expected = {it.component: (it.n_firings, it.strength) for it in prompted.components}
    assert {it.component: (it.n_firings, it.strength) for it in answer.firing} == expected
    assert answer.n_components == prompted.n_components
    assert [it.n_firing for it in answer.positions] == [it.n_firing for it in prompted.positions]


def test_one_position_is_listed_and_nothing_need_be_chosen(run: OpenedRun):
    answer = ask(run, at=-2, top=3)
    assert answer.changed is None
    for positions in (answer.positions, answer.ci_masked.positions):
        assert [len(it.predictions) for it in positions] == [0, 0, 0, 0, 3, 0]
    kl = [it.kl for it in answer.ci_masked.positions]
    assert min(kl) > 0
    answer = ask(run, at_largest=True, top=3)
    assert [i for i, it in enumerate(answer.positions) if it.predictions] == [kl.index(max(kl))]


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ({"without": ("h.9:0",)}, "h.9:0"),
        ({"only": ("h.0.mlp.up_proj:0, h.0.mlp.up_proj:99",)}, "'h.0.mlp.up_proj:99'"),
        ({"without": ("h.0.mlp.up_proj:0",), "only_firing": True}, "only_firing"),
        ({"at": 6}, "position 6"),
        ({"ids": (VOCAB,)}, str(VOCAB)),
        ({"ids": ()}, "no tokens"),
    ],
)
def test_what_cannot_be_computed_is_refused(run: OpenedRun, question: dict, named: str):
    with pytest.raises(HarvestError, match=named):
        ask(run, **question)


def test_components_that_are_not_parts_of_weights_are_refused(run: OpenedRun):
    run.decomposition = Mock(kind="dictionaries")
    with pytest.raises(HarvestError, match="SPD"):
        ask(run)
    assert "model" not in vars(run)  # which would have taken long to open


def test_long_answers_and_short_memory_are_refused_before_they_are_computed(
    run: OpenedRun, monkeypatch: pytest.MonkeyPatch
):
    n = len(IDS) * 7 * VOCAB  # three models' predictions, two models' gains and losses
    monkeypatch.setattr(prompt, "MAX_ENTRIES", n - 1)
    with pytest.raises(HarvestError, match=f"{7 * VOCAB:,} entries"):
        ask(run)
    assert ask(run, at=-1).positions[-1].predictions
    monkeypatch.setattr(prompt, "MAX_ENTRIES", n)
    assert ask(run).positions[0].predictions
    monkeypatch.setattr(preflight, "available_memory", lambda _device, **_: 10_000)
    with pytest.raises(HarvestError, match=r"10\.0 kB free"):
        ask(run)
