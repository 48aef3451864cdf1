"""Decompose the demo's target by stochastic parameter decomposition.

1. Every weight W [d_in, d_out] becomes V [d_in, C] times U [C, d_out], and every layer gets an MLP
   that reads the layer's input and answers a causal importance g in [0, 1] for each component.
2. Faithfulness: V U is trained to be W.
3. Stochastic reconstruction: with masks m = g + (1 - g) r, r uniform on [0, 1], each layer answers
   (x V * m) U, and the KL divergence from the target's prediction is made small: what is masked
   away of a component must not matter as far as g says so. All layers are masked at once, and in a
   second pass a random half of them.
4. Importance minimality: the sum over components of g^p is made small.

After Bushnaq, Braun and Sharkey, "Stochastic Parameter Decomposition", arXiv:2506.20790.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from rich.progress import track
from torch import nn
from torch.nn.functional import gelu, kl_div

from harvest_assets.decompositions.spd.decomposed_layers import find_layers
from harvest_assets.decompositions.spd.run_config import ModuleInfo
from harvest_assets.decompositions.spd.targets.llama_simple_mlp import LlamaSimpleMLP
from harvest_assets.demo.make_target import Corpus

COMPONENTS = {"h.*.mlp.*_*": 160, "h.*.attn.*_proj": 48}
CI_HIDDEN = 32
LEAK = 0.01

_WARM_UP_STEPS = 1000
STEPS = 6000
_LEARNING_RATE = 2e-3
_FAITHFULNESS = 300.0
_MINIMALITY = 2.5e-3
_P_FIRST, _P_LAST = 1.0, 0.5


class DecomposedLinear(nn.Module):
    """A linear layer that answers by itself, or by its components under a mask.

    Attributes:
        V: float32 [d_in, C].
        U: float32 [C, d_out].
        ci_function: W and b of two linear maps, d_in -> hidden -> C.
        mask: float32 [B, S, C] to answer by components; None to answer as the target does.
        layer_input: float32 [B, S, d_in], of the last unmasked answer.
    """

    def __init__(self, original: nn.Linear, n_components: int) -> None:
        super().__init__()
        self.original = original
        d_in, d_out = original.in_features, original.out_features
        self.V = nn.Parameter(torch.randn(d_in, n_components) / d_in**0.5)
        self.U = nn.Parameter(torch.randn(n_components, d_out) / n_components**0.5)
        self.ci_function = nn.ParameterList(
            [
                torch.randn(d_in, CI_HIDDEN) / d_in**0.5,
                torch.zeros(CI_HIDDEN),
                torch.randn(CI_HIDDEN, n_components) / CI_HIDDEN**0.5,
                torch.full((n_components,), 0.5),
            ]
        )
        self.mask: torch.Tensor | None = None
        self.layer_input: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, d_in] -> [B, S, d_out]."""
        if self.mask is None:
            self.layer_input = x.detach()
            return self.original(x)  # type: ignore[no-any-return]
        return (x @ self.V * self.mask) @ self.U

    def raw_ci(self) -> torch.Tensor:
        """Of the last unmasked input, before the sigmoid: float32 [B, S, C]."""
        w_in, b_in, w_out, b_out = self.ci_function
        raw: torch.Tensor = gelu(self.layer_input @ w_in + b_in) @ w_out + b_out
        return raw

    def faithfulness(self) -> torch.Tensor:
        """Sum of squares of V U - W."""
        return ((self.V @ self.U).T - self.original.weight).square().sum()


@dataclass(frozen=True)
class Quality:
    """How good a decomposition is, on rows it was not trained on.

    Args:
        target_loss: mean cross entropy of the target's next token, in nats.
        ci_masked_loss: the same with every component scaled by its causal importance.
        ci_masked_kl: mean KL divergence of that prediction from the target's, in nats.
        weight_error: |V U - W| / |W| over all layers.
        l0: components with a causal importance above 0 at a position, mean.
        n_components: in all layers.
    """

    target_loss: float
    ci_masked_loss: float
    ci_masked_kl: float
    weight_error: float
    l0: float
    n_components: int


@dataclass
class Decomposition:
    """The target with its decomposed layers, which it holds in place of the originals."""

    target: LlamaSimpleMLP
    layers: dict[str, DecomposedLinear] = field(default_factory=dict)

    def log_probs(self, tokens: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        """float32 [B, S, vocab]; the layers without a mask answer as the target does."""
        for path, layer in self.layers.items():
            layer.mask = masks.get(path)
        logits: torch.Tensor = self.target(tokens)[0]
        return logits.log_softmax(dim=-1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """As a run's checkpoint spells it."""
        state = {}
        for name, value in self.target.state_dict().items():
            if ".original." in name or not any(name.startswith(path) for path in self.layers):
                state[f"target_model.{name.replace('.original.', '.')}"] = value
        for path, layer in self.layers.items():
            spelled = path.replace(".", "-")
            state[f"_components.{spelled}.V"] = layer.V.data
            state[f"_components.{spelled}.U"] = layer.U.data
            for name, value in zip(("0.W", "0.b", "2.W", "2.b"), layer.ci_function, strict=True):
                state[f"_ci_fns.{spelled}.layers.{name}"] = value.data
        return state


def decompose(target: LlamaSimpleMLP, corpus: Corpus) -> Decomposition:
    """Train components and CI functions for a frozen target; takes half an hour on two cores."""
    torch.manual_seed(2)
    decomposition = _open(target)
    layers = list(decomposition.layers.values())
    _train_weights(layers)
    trained = [p for layer in layers for p in (layer.V, layer.U, *layer.ci_function)]
    optimizer = torch.optim.AdamW(trained, _LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step, tokens in enumerate(
        track(corpus.batches(STEPS, seed=3), "Decomposition", total=STEPS)
    ):
        p = _P_FIRST + (_P_LAST - _P_FIRST) * step / STEPS
        optimizer.zero_grad()
        _loss(decomposition, tokens, p).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return decomposition


def measure(decomposition: Decomposition, rows: torch.Tensor) -> Quality:
    """Judge a decomposition on rows, int64 [n, S]."""
    layers = decomposition.layers
    with torch.no_grad():
        expected = decomposition.log_probs(rows, {})
        ci = {path: layer.raw_ci().clamp(0, 1) for path, layer in layers.items()}
        answered = decomposition.log_probs(rows, ci)
        weights = sum(float(layer.original.weight.square().sum()) for layer in layers.values())
        missed = sum(float(layer.faithfulness()) for layer in layers.values())
    return Quality(
        target_loss=_cross_entropy(expected, rows),
        ci_masked_loss=_cross_entropy(answered, rows),
        ci_masked_kl=float(_divergence(answered, expected)),
        weight_error=(missed / weights) ** 0.5,
        l0=sum(float((g > 0).sum(dim=-1).float().mean()) for g in ci.values()),
        n_components=sum(layer.V.shape[1] for layer in layers.values()),
    )


def _open(target: LlamaSimpleMLP) -> Decomposition:
    patterns = [ModuleInfo(module_pattern=pattern, C=c) for pattern, c in COMPONENTS.items()]
    layers = {}
    for found in find_layers(target, patterns):
        parent, _, name = found.path.rpartition(".")
        layers[found.path] = DecomposedLinear(cast("nn.Linear", found.module), found.C)
        setattr(target.get_submodule(parent), name, layers[found.path])
    return Decomposition(target, layers)


def _train_weights(layers: list[DecomposedLinear]) -> None:
    matrices = [matrix for layer in layers for matrix in (layer.V, layer.U)]
    optimizer = torch.optim.Adam(matrices, 3e-3)
    for _ in track(range(_WARM_UP_STEPS), "Faithful weights"):
        optimizer.zero_grad()
        torch.stack([layer.faithfulness() for layer in layers]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(decomposition: Decomposition, tokens: torch.Tensor, p: float) -> torch.Tensor:
    layers = decomposition.layers
    with torch.no_grad():
        expected = decomposition.log_probs(tokens, {})
    raw = {path: layer.raw_ci() for path, layer in layers.items()}
    ci = {path: _lower_leaky(x) for path, x in raw.items()}
    masks = {path: g + (1 - g) * torch.rand_like(g) for path, g in ci.items()}
    loss = _divergence(decomposition.log_probs(tokens, masks), expected)

    half = {
        path: g + (1 - g) * torch.rand_like(g)
        for path, g in ci.items()
        if torch.rand(()) < 0.5  # noqa: PLR2004
    }
    loss = loss + _divergence(decomposition.log_probs(tokens, half), expected)

    importances = [_upper_leaky(x) for x in raw.values()]
    minimality = torch.stack([((g + 1e-6) ** p).sum(dim=-1).mean() for g in importances]).sum()
    n_weights = sum(layer.original.weight.numel() for layer in layers.values())
    unfaithful = torch.stack([layer.faithfulness() for layer in layers.values()]).sum() / n_weights
    return loss + _MINIMALITY * minimality + _FAITHFULNESS * unfaithful


def _lower_leaky(x: torch.Tensor) -> torch.Tensor:
    """clamp(x, 0, 1); below 0 a gradient flows that would raise x, and no other."""
    return _LowerLeaky.apply(x)  # type: ignore[no-untyped-call,no-any-return]


class _LowerLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        (x,) = ctx.saved_tensors
        inside = (x >= 0) & (x <= 1)
        rising = (x < 0) & (grad < 0)
        return torch.where(inside, grad, torch.where(rising, LEAK * grad, 0.0))


def _upper_leaky(x: torch.Tensor) -> torch.Tensor:
    """clamp(x, 0, 1), and 1 + 0.01 (x - 1) above 1."""
    return torch.where(x > 1, 1 + LEAK * (x - 1), x.clamp(0, 1))


def _divergence(answered: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean over positions of KL(expected | answered), both log probabilities [B, S, vocab]."""
    sums = kl_div(answered, expected, reduction="none", log_target=True).sum(dim=-1)
    return sums.mean()


def _cross_entropy(log_probs: torch.Tensor, rows: torch.Tensor) -> float:
    picked = log_probs[:, :-1].gather(-1, rows[:, 1:, None])
    return -float(picked.mean())
