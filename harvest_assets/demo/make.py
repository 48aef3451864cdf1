"""Rebuild the built-in run: `python -m harvest_assets.demo.make` (half an hour on two cores).

1. Read the docstrings of this Python's standard library (`docstrings.py`).
2. Train a tokenizer and a language model on them (`make_target.py`).
3. Decompose the model (`decompose.py`).
4. Write the run into `run/`, and how good it is into `run/quality.json`.
"""

from __future__ import annotations

import dataclasses
import json

import torch
import yaml
from tokenizers import Tokenizer

from harvest_assets.demo.built_in import DATASET, RUN, TEXT_COLUMN
from harvest_assets.demo.decompose import CI_HIDDEN, COMPONENTS, STEPS, decompose, measure
from harvest_assets.demo.docstrings import read_docstrings
from harvest_assets.demo.make_target import (
    CONFIG,
    CONTEXT_LENGTH,
    EOS,
    tokenized,
    train_target,
    train_tokenizer,
)

_TARGET = "target/checkpoints/model_step_6000.pt"  # its weights are in the run's checkpoint


def main() -> None:
    """Train everything and write the run."""
    texts = read_docstrings()
    tokenizer = train_tokenizer(texts)
    corpus = tokenized(texts, tokenizer)
    decomposition = decompose(train_target(corpus), corpus)
    quality = dataclasses.asdict(measure(decomposition, corpus.held_out))

    (RUN / "target").mkdir(parents=True, exist_ok=True)
    for old in RUN.glob("model_*.pth"):
        old.unlink()
    torch.save(decomposition.state_dict(), RUN / f"model_{STEPS}.pth")
    _write_tokenizer(tokenizer)
    _write_yaml("target/model_config.yaml", {"model_type": "LlamaSimpleMLP", **CONFIG.model_dump()})
    _write_yaml("target/final_config.yaml", {"enable_ln_ablation": None})
    _write_yaml("final_config.yaml", _run_config())
    rounded = {name: round(value, 4) for name, value in quality.items()}
    (RUN / "quality.json").write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rounded, indent=2))


def _write_tokenizer(tokenizer: Tokenizer) -> None:
    """As every version of transformers reads it, which `save_pretrained` does not see to."""
    folder = RUN / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _run_config() -> dict[str, object]:
    return {
        "seed": 0,
        "module_info": [
            {"module_pattern": pattern, "C": n_components}
            for pattern, n_components in COMPONENTS.items()
        ],
        "ci_fn_type": "shared_mlp",
        "ci_fn_hidden_dims": [CI_HIDDEN],
        "sigmoid_type": "leaky_hard",
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_path": _TARGET,
        "pretrained_model_output_attr": "idx_0",
        "tokenizer_name": "tokenizer",
        "task_config": {
            "task_name": "lm",
            "dataset_name": DATASET,
            "column_name": TEXT_COLUMN,
            "train_data_split": "train",
            "max_seq_len": CONTEXT_LENGTH,
            "shuffle_each_epoch": True,
        },
    }


def _write_yaml(name: str, value: dict[str, object]) -> None:
    (RUN / name).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
