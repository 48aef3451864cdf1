"""A small SPD run with random weights, written from the formats alone: imports nothing of ours."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_CTX = 16
VOCAB = 96
WIDTH = 24
MODULES = {"model.layers.*.mlp.up_proj": 12, "model.layers.1.self_attn.q_proj": 9}


def write_world(root: Path, *, seed: int = 0, n_texts: int = 400) -> Path:
    """Fill `root` with target, tokenizer, dataset and run; returns the run's folder.

    The config names everything by absolute paths.
    """
    generator = random.Random(seed)
    texts = [text(generator) for _ in range(n_texts)]
    (root / "dataset").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), root / "dataset" / "train.parquet")
    write_tokenizer(root / "tokenizer", texts)
    target = _write_target(root / "target", seed)
    return _write_run(root, target, seed)


def text(generator: random.Random) -> str:
    words = ["harvest", "shard", "token", "layer", "fire", "sum", "batch", "merge", "row", "key"]
    return " ".join(generator.choice(words) for _ in range(generator.randint(5, 60))) + "."


def write_tokenizer(folder: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 6, special_tokens=["[UNK]", "[EOS]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]")
    fast.save_pretrained(folder)


def _write_target(folder: Path, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    return LlamaForCausalLM(config).eval()


def _write_run(root: Path, target: LlamaForCausalLM, seed: int) -> Path:
    torch.manual_seed(seed + 1)
    state = {f"target_model.{name}": value for name, value in target.state_dict().items()}
    # Sharper predictions than freshly initialized weights give.
    state["target_model.lm_head.weight"] = state["target_model.lm_head.weight"] * 40
    shapes = {
        name: module.weight.shape for name, module in target.named_modules() if "proj" in name
    }
    for layer, c in {
        "model.layers.0.mlp.up_proj": 12,
        "model.layers.1.mlp.up_proj": 12,
        "model.layers.1.self_attn.q_proj": 9,
    }.items():
        d_out, d_in = shapes[layer]
        key = layer.replace(".", "-")
        state[f"_components.{key}.V"] = torch.randn(d_in, c) / d_in**0.5
        state[f"_components.{key}.U"] = torch.randn(c, d_out)
        state[f"_ci_fns.{key}.layers.0.W"] = torch.randn(d_in, 7) / d_in**0.5
        state[f"_ci_fns.{key}.layers.0.b"] = torch.randn(7) * 0.1
        state[f"_ci_fns.{key}.layers.2.W"] = torch.randn(7, c)
        # From always to never firing.
        state[f"_ci_fns.{key}.layers.2.b"] = torch.linspace(1.5, -9.0, c)
    run = root / "tiny_run"
    run.mkdir()
    torch.save(state, run / "model_100.pth")
    config = {
        "seed": 3,
        "module_info": [{"module_pattern": p, "C": c} for p, c in MODULES.items()],
        "ci_fn_type": "shared_mlp",
        "ci_fn_hidden_dims": [7],
        "sigmoid_type": "leaky_hard",
        "pretrained_model_class": "transformers.LlamaForCausalLM",
        "pretrained_model_name": str(root / "target"),
        "pretrained_model_output_attr": "logits",
        "tokenizer_name": str(root / "tokenizer"),
        "task_config": {
            "task_name": "lm",
            "max_seq_len": N_CTX,
            "dataset_name": str(root / "dataset"),
            "column_name": "text",
            "shuffle_each_epoch": True,
        },
    }
    (run / "final_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return run
