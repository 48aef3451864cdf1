"""Four small SPD runs of different generations, and what a harvest of each must count.

Each is written from the formats alone, as its training would have left it. What it must answer is
computed in float64 by loops and NumPy, or by the `transformers` twin of its target. Imports nothing
of ours.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
import yaml
from torch import nn
from transformers import AutoTokenizer

from harvest_assets_tests import oracle
from harvest_assets_tests.data.data_oracle import (
    group_rows,
    permuted,
    streamed,
    text_rows,
    through_loader,
)
from harvest_assets_tests.decompositions.spd import random_runs, target_oracles
from harvest_assets_tests.tiny_run import text, write_tokenizer

N_CTX = 12
VOCAB = 96

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class SmallRun:
    """A run and its truth.

    Args:
        folder: of its files.
        layers: C by layer, in flat order.
        ci_fn_type: kind of its CI functions.
        sigmoid_type: of its config.
        state: its state dict, as checkpoints spell it now.
        answer: one row of tokens -> the input of each layer [S, d_in] and the logits [S, vocab].
        rows: int64 [n, N_CTX], the rows its training saw.
    """

    folder: Path
    layers: dict[str, int]
    ci_fn_type: str
    sigmoid_type: str
    state: dict[str, torch.Tensor]
    answer: Callable[[list[int]], tuple[Inputs, np.ndarray]]
    rows: torch.Tensor

    def statistics(self, n_rows: int, ci_threshold: float) -> tuple[oracle.Statistics, np.ndarray]:
        """The statistics of the first rows, and their causal importances [n_rows, S, C_total].

        Checks that no value is so near the threshold that float32 could decide otherwise.
        """
        is_normal = self.sigmoid_type == "normal"
        level = math.log(ci_threshold / (1 - ci_threshold)) if is_normal else ci_threshold
        tokens = self.rows[:n_rows].numpy()
        all_ci, all_probs = [], []
        for row in tokens:
            inputs, logits = self.answer(row.tolist())
            raw = [
                random_runs.raw_ci(self.state, layer, inputs[layer], self.ci_fn_type)
                for layer in self.layers
            ]
            assert np.abs(np.concatenate(raw, axis=-1) - level).min() > 2e-6
            all_ci.append(random_runs.lower_leaky(self.sigmoid_type, np.concatenate(raw, axis=-1)))
            all_probs.append(random_runs.softmax(logits))
        ci = np.stack(all_ci)
        return oracle.statistics(tokens, ci, np.stack(all_probs), ci_threshold), ci


def gpt2_with_vector_mlps(root: Path) -> SmallRun:
    """GPT-2 of `transformers` with `vector_mlp`, on rows that are tokenized already."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=24
    )
    twin = _livelier(transformers.GPT2LMHeadModel(config))
    config.save_pretrained(root / "target")
    layers = {
        **{f"transformer.h.{i}.mlp.c_fc": 6 for i in range(2)},
        **{f"transformer.h.{i}.attn.c_{part}": 5 for i in range(2) for part in ("attn", "proj")},
    }
    rows = _token_rows(700)
    (root / "data").mkdir()
    pq.write_table(pa.table({"ids": rows.tolist()}), root / "data" / "train.parquet")
    state = random_runs.random_state(twin, layers, [8], 1, "vector_mlp")
    settings = {
        "module_info": [
            {"module_pattern": "transformer.h.*.mlp.c_fc", "C": 6},
            {"module_pattern": "transformer.h.*.attn.c_*", "C": 5},
        ],
        "pretrained_model_class": "transformers.GPT2LMHeadModel",
        "pretrained_model_name": str(root / "target"),
        "pretrained_model_output_attr": "logits",
    }
    task = {"is_tokenized": True, "column_name": "ids", "dataset_name": str(root / "data")}
    folder = _write_run(root, settings, task, state)
    seen = through_loader(permuted(rows.tolist(), 3), _spec(root, ""))
    answer = _twin_answer(twin, list(layers))
    return SmallRun(folder, layers, "vector_mlp", "leaky_hard", state, answer, seen)


def gpt2_simple_with_an_embedding_and_an_identity(root: Path) -> SmallRun:
    """GPT2Simple with fixed LayerNorm stds and `mlp`, on JSON lines, by binomial sampling."""
    config = {"block_size": 16, "vocab_size": VOCAB, "n_layer": 2, "n_head": 2, "n_embd": 16}
    norms = ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f")
    stds = {norm: 0.6 + 0.2 * i for i, norm in enumerate(norms)}
    weights = _target_weights("GPT2Simple", config)
    source = _write_pretrained(root / "pretrained", config, {"enable_ln_ablation": True})
    (root / "pretrained" / "ln-stds.json").write_text(json.dumps(stds))
    layers = {
        "wte": 9,
        **{f"h.{i}.mlp.down_proj": 7 for i in range(2)},
        "h.1.attn.q_proj.pre_identity": 6,
        "h.1.attn.k_proj.pre_identity": 6,
        "h.0.mlp.c_fc.pre_identity": 5,
    }
    state = random_runs.random_state(_Weights(weights), layers, [5, 4], 2, "mlp")
    texts = _texts(500)
    (root / "data").mkdir()
    lines = "".join(json.dumps({"id": i, "prose": t}) + "\n" for i, t in enumerate(texts))
    (root / "data" / "train.jsonl").write_text(lines)
    settings = {
        "module_info": [
            {"module_pattern": "wte", "C": 9},
            {"module_pattern": "h.*.mlp.down_proj", "C": 7},
        ],
        "identity_module_info": [
            {"module_pattern": "h.1.attn.[qk]_proj", "C": 6},
            {"module_pattern": "h.0.mlp.c_fc", "C": 5},
        ],
        "ci_fn_type": "mlp",
        "ci_fn_hidden_dims": [5, 4],
        "sigmoid_type": "upper_leaky_hard",
        "sampling": "binomial",
        "pretrained_model_class": "spd.pretrain.models.gpt2_simple.GPT2Simple",
        "pretrained_model_name": source,
        "pretrained_model_output_attr": "idx_0",
    }
    task = {"column_name": "prose", "dataset_name": str(root / "data")}
    folder = _write_run(root, settings, task, state)
    spec = _spec(root, str(root / "data"))
    seen = through_loader(text_rows(permuted(texts, 3), spec), spec)
    own = {name: random_runs.float64(value) for name, value in weights.items()}

    def answer(tokens: list[int]) -> tuple[Inputs, np.ndarray]:
        inputs: Inputs = {"wte": np.array(tokens)}
        logits = target_oracles.gpt2_logits(config, own, tokens, stds, inputs)
        return _with_identities(inputs), logits

    return SmallRun(folder, layers, "mlp", "upper_leaky_hard", state, answer, seen)


def llama_simple_in_old_spellings(root: Path, out_dir: Path) -> SmallRun:
    """LlamaSimple out of the older cache, its run spelled as older ones were, on a stream."""
    config = {
        "block_size": 16,
        "vocab_size": VOCAB,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 16,
        "n_intermediate": 20,
        "mlp_bias": False,
        "attn_bias": True,
        "rotary_base": 300,
        "rotary_adjacent_pairs": True,
        "n_ctx": 16,
        "n_key_value_heads": 2,
        "use_grouped_query_attention": True,
        "rms_norm_eps": 1e-6,
    }
    weights = _target_weights("LlamaSimple", config)
    _write_pretrained(out_dir / "pretrain_cache" / "stories-pretrnd1", config, {})
    layers = {
        **{f"h.{i}.mlp.{part}_proj": 6 for i in range(2) for part in ("gate", "up", "down")},
        "h.0.attn.v_proj": 6,
        "h.1.mlp.up_proj.pre_identity": 6,
    }
    state = random_runs.random_state(_Weights(weights), layers, [6], 4, "vector_mlp")
    texts = _texts(300)
    (root / "data").mkdir()
    pq.write_table(pa.table({"story": texts}), root / "data" / "train.parquet")
    settings = {
        "C": 6,
        "target_module_patterns": ["h.*.mlp.*_proj", "h.0.attn.v_proj"],
        "identity_module_patterns": ["h.1.mlp.up_proj"],
        "gate_type": "vector_mlp",
        "gate_hidden_dims": [6],
        "m": None,
        "recon_coeff": 1.0,
        "pretrained_model_class": "simple_stories_train.models.llama_simple.LlamaSimple",
        "pretrained_model_name_hf": None,
        "pretrained_model_path": "wandb:somebody/stories/runs/pretrnd1",
        "pretrained_model_output_attr": "idx_0",
    }
    task = {"dataset_name": str(root / "data"), "streaming": True, "buffer_size": 50}
    folder = _write_run(root, settings, task, _in_old_spelling(state, layers))
    spec = _spec(root, str(root / "data"))
    ordered = streamed([texts], 3, 50)
    tokenizer = AutoTokenizer.from_pretrained(spec.tokenizer_name)
    seen = torch.tensor(group_rows(ordered, tokenizer, spec))
    own = {name: random_runs.float64(value) for name, value in weights.items()}

    def answer(tokens: list[int]) -> tuple[Inputs, np.ndarray]:
        inputs: Inputs = {}
        logits = target_oracles.llama_logits(config, own, tokens, inputs)
        return _with_identities(inputs), logits

    return SmallRun(folder, layers, "vector_mlp", "leaky_hard", state, answer, seen)


def auto_model_with_linear_ci(root: Path, names: Mapping[str, str] | None = None) -> SmallRun:
    """An AutoModel with `shared_mlp` of no hidden layer and the normal sigmoid.

    `names` replaces the paths of `target`, `tokenizer` and `data` in the config.
    """
    names = names or {part: str(root / part) for part in ("target", "tokenizer", "data")}
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        dtype="bfloat16",
    )
    twin = _livelier(transformers.GPTNeoXForCausalLM(config).float())
    config.save_pretrained(root / "target")
    layers = {
        **{f"gpt_neox.layers.{i}.mlp.dense_h_to_4h": 6 for i in range(2)},
        "gpt_neox.layers.1.attention.dense": 5,
    }
    texts = _texts(500)
    (root / "data").mkdir()
    for part in range(2):
        table = pa.table({"story": texts[part::2]})
        pq.write_table(table, root / "data" / f"train-0000{part}-of-00002.parquet")
    state = random_runs.random_state(twin, layers, [], 5)
    settings = {
        "module_info": [
            {"module_pattern": "*.dense_h_to_4h", "C": 6},
            {"module_pattern": "*.1.attention.dense", "C": 5},
        ],
        "ci_fn_type": "shared_mlp",
        "ci_fn_hidden_dims": [],
        "sigmoid_type": "normal",
        "pretrained_model_class": "transformers.AutoModelForCausalLM",
        "pretrained_model_name": names["target"],
        "pretrained_model_output_attr": "logits",
        "tokenizer_name": names["tokenizer"],
    }
    folder = _write_run(root, settings, {"dataset_name": names["data"]}, state)
    spec = _spec(root, names["data"])
    ordered = permuted(texts[::2] + texts[1::2], 3)
    seen = through_loader(text_rows(ordered, spec), spec)
    answer = _twin_answer(twin, list(layers))
    return SmallRun(folder, layers, "shared_mlp", "normal", state, answer, seen)


class _Weights(nn.Module):
    """Holds a target's weights under their names, for `random_state`."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, Embedding() if part in ("wte", "wpe") else nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(weight, requires_grad=False))


class Embedding(nn.Module):
    """Told by its name to hold [vocab, width]."""


def _livelier(twin: nn.Module) -> nn.Module:
    """Larger weights than freshly initialized ones, so that predictions differ."""
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return twin.eval()


def _target_weights(family: str, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for name, shape in target_oracles.shapes(family, config).items()
    }
    weights["lm_head.weight"] = weights["wte.weight"]
    return weights


def _write_pretrained(folder: Path, config: Mapping[str, Any], final: Mapping[str, Any]) -> str:
    folder.mkdir(parents=True)
    (folder / "model_config.yaml").write_text(yaml.safe_dump({**config, "flash_attention": True}))
    (folder / "final_config.yaml").write_text(yaml.safe_dump({"num_iterations": 9, **final}))
    return str(folder / "checkpoints" / "model_step_9.pt")


def _texts(n: int) -> list[str]:
    generator = random.Random(1)
    return [text(generator) for _ in range(n)]


def _token_rows(n: int) -> torch.Tensor:
    return torch.randint(VOCAB, (n, N_CTX), generator=torch.Generator().manual_seed(2))


def _spec(root: Path, dataset: str) -> SimpleNamespace:
    return SimpleNamespace(
        dataset_name=dataset,
        tokenizer_name=str(root / "tokenizer"),
        n_ctx=N_CTX,
        seed=3,
        shuffle_each_epoch=True,
    )


def _write_run(
    root: Path,
    settings: Mapping[str, Any],
    task: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
) -> Path:
    write_tokenizer(root / "tokenizer", _texts(200))
    folder = root / "run"
    folder.mkdir()
    torch.save(dict(state), folder / "model_100.pth")
    task_config = {"task_name": "lm", "max_seq_len": N_CTX, **task}
    config = {"seed": 3, "tokenizer_name": str(root / "tokenizer"), **settings}
    (folder / "final_config.yaml").write_text(
        yaml.safe_dump({**config, "task_config": task_config})
    )
    return folder


def _in_old_spelling(
    state: Mapping[str, torch.Tensor], layers: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """As older runs saved it: decomposed modules wrapped, gates for CI functions."""
    old = {}
    paths = {layer.replace(".", "-"): layer for layer in layers}
    for key, value in state.items():
        kind, _, rest = key.partition(".")
        name, _, last = rest.rpartition(".")
        if kind == "_ci_fns":
            old[f"_gates.{rest}"] = value
        elif kind == "_components":
            old[f"patched_model.{paths[name]}.components.{last}"] = value
        elif name in layers:
            old[f"patched_model.{name}.original.{last}"] = value
        else:
            old[f"patched_model.{rest}"] = value
    return old


def _twin_answer(
    twin: nn.Module, layers: list[str]
) -> Callable[[list[int]], tuple[Inputs, np.ndarray]]:
    """Layer inputs and logits of a `transformers` model, computed in float64."""
    caught: Inputs = {}
    double = twin.double()
    for layer in layers:
        double.get_submodule(layer).register_forward_pre_hook(
            lambda _, given, layer=layer: caught.__setitem__(layer, given[0][0].numpy())
        )

    def answer(tokens: list[int]) -> tuple[Inputs, np.ndarray]:
        with torch.no_grad():
            logits = double(torch.tensor([tokens])).logits[0].numpy()
        return dict(caught), logits

    return answer


def _with_identities(inputs: Inputs) -> Inputs:
    """An identity layer reads what the module after it reads."""
    return inputs | {f"{layer}.pre_identity": value for layer, value in inputs.items()}
