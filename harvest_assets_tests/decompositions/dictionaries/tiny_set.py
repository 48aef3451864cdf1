"""A set of small dictionaries over the target of the tiny run, and what they give in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from harvest_assets_tests.decompositions.dictionaries.encoder_oracle import sae_lens_row
from harvest_assets_tests.decompositions.spd.target_oracles import llama_logits
from harvest_assets_tests.tiny_run import N_CTX, WIDTH, write_world

# folder -> hook, side, matrix that reads the same, config
SAES = {
    "sae_relu": ("h.0.mlp", "input", "h.0.mlp.up_proj", {"architecture": "standard"}),
    "sae_topk": ("h.1.attn.q_proj", "input", "h.1.attn.q_proj", {"architecture": "topk", "k": 2}),
    "sae_batch": (
        "h.1.rms_2",
        "output",
        "h.1.mlp.up_proj",
        {"architecture": "batchtopk", "k": 1.5},
    ),
}
N_LATENTS = 10
LAYERS = [f"{hook}.{side}" for hook, side, _, _ in SAES.values()]
KEYS = [f"{layer}:{c}" for layer in LAYERS for c in range(N_LATENTS)]
TARGET = {
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": 4,
    "n_key_value_heads": 2,
    "rotary_base": 10000.0,
    "rotary_adjacent_pairs": False,
    "use_grouped_query_attention": True,
    "rms_norm_eps": 1e-6,
    "attn_bias": False,
    "mlp_bias": False,
    "n_ctx": 64,
}


def write_sae(folder: Path, config: dict, seed: int) -> None:
    """`cfg.json` and `sae_weights.safetensors` as SAELens names and shapes them."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "W_enc": torch.randn(WIDTH, N_LATENTS, generator=generator) / WIDTH**0.5,
        "b_enc": torch.linspace(0.5, -4.0, N_LATENTS),  # from often to never firing
        "W_dec": torch.randn(N_LATENTS, WIDTH, generator=generator),
        "b_dec": torch.randn(WIDTH, generator=generator) / 5,
    }
    save_file(weights, folder / "sae_weights.safetensors")
    full = {"d_in": WIDTH, "d_sae": N_LATENTS, "apply_b_dec_to_input": True, **config}
    (folder / "cfg.json").write_text(json.dumps(full))


def write_set(root: Path) -> Path:
    """Fill `root` with a tiny run and dictionaries over its target; returns their folder."""
    run = write_world(root, n_texts=150)
    spd = yaml.safe_load((run / "final_config.yaml").read_text())
    folder = root / "tiny_set"
    for seed, (name, (_, _, _, config)) in enumerate(SAES.items()):
        write_sae(folder / name, config, seed)
    config = {
        "target": {
            "class": spd["pretrained_model_class"],
            "name": "../target/checkpoints/model_step_1.pt",
            "weights": "../tiny_run/model_100.pth",
            "output_attr": "idx_0",
        },
        "tokenizer": "../tokenizer",
        "data": {"dataset_name": "../dataset", "column_name": "text", "max_seq_len": N_CTX},
        "dictionaries": [
            {"hook": hook, "side": side, "path": name} for name, (hook, side, _, _) in SAES.items()
        ],
        "seed": 3,
    }
    (folder / "dictionaries.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def change(folder: Path, **changes: object) -> None:
    """Replace keys of `dictionaries.yaml`."""
    path = folder / "dictionaries.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))


def by_formula(folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations [rows, S, C] and probabilities [rows, S, V], in float64 NumPy."""
    state = torch.load(folder.parent / "tiny_run" / "model_100.pth", weights_only=True)
    target = {
        name.removeprefix("target_model."): value.double().numpy()
        for name, value in state.items()
        if name.startswith("target_model.")
    }
    saes = {}
    for name in SAES:
        with safe_open(folder / name / "sae_weights.safetensors", "np") as file:
            weights = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
        saes[name] = json.loads((folder / name / "cfg.json").read_text()), weights
    activations, probs = [], []
    for row in tokens:
        inputs: dict[str, np.ndarray] = {}
        logits = llama_logits(TARGET, target, row, inputs)
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        probs.append(exponentials / exponentials.sum(-1, keepdims=True))
        parts = [sae_lens_row(*saes[name], inputs[SAES[name][2]]) for name in SAES]
        activations.append(np.concatenate(parts, axis=-1))
    return np.stack(activations), np.stack(probs)
