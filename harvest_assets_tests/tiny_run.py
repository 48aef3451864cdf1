"""A small SPD run with random weights, written from the formats alone: imports nothing of ours."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

N_CTX = 16
VOCAB = 96
WIDTH = 24
INNER = 40
MODULES = {"h.*.mlp.up_proj": 12, "h.1.attn.q_proj": 9}


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


def _write_target(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Write the config of a `LlamaSimple`, a family that loads without `transformers`.

    Returns:
        Its weights.
    """
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "model_type": "LlamaSimple",
        "block_size": 64,
        "n_ctx": 64,
        "vocab_size": VOCAB,
        "n_layer": 2,
        "n_head": 4,
        "n_key_value_heads": 2,
        "n_embd": WIDTH,
        "n_intermediate": INNER,
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.manual_seed(seed)
    shapes = {
        "attn.q_proj": (WIDTH, WIDTH),
        "attn.k_proj": (WIDTH // 2, WIDTH),
        "attn.v_proj": (WIDTH // 2, WIDTH),
        "attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }
    weights = {"wte.weight": torch.randn(VOCAB, WIDTH) / 2, "ln_f.weight": torch.ones(WIDTH)}
    weights["lm_head.weight"] = weights["wte.weight"]
    for block in ("h.0", "h.1"):
        for name, (d_out, d_in) in shapes.items():
            weights[f"{block}.{name}.weight"] = torch.randn(d_out, d_in) / d_in**0.5
        for norm in ("rms_1", "rms_2"):
            weights[f"{block}.{norm}.weight"] = torch.ones(WIDTH)
    return weights


def _write_run(root: Path, target: dict[str, torch.Tensor], seed: int) -> Path:
    torch.manual_seed(seed + 1)
    state = {f"target_model.{name}": value for name, value in target.items()}
    for layer, c in {
        "h.0.mlp.up_proj": 12,
        "h.1.mlp.up_proj": 12,
        "h.1.attn.q_proj": 9,
    }.items():
        d_out, d_in = target[f"{layer}.weight"].shape
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
        "pretrained_model_class": "simple_stories_train.models.llama_simple.LlamaSimple",
        "pretrained_model_name": str(root / "target/checkpoints/model_step_1.pt"),
        "pretrained_model_output_attr": "idx_0",
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
