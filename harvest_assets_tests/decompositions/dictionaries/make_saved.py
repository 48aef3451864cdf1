"""Writes `saved/`: small dictionaries saved by SAELens and EleutherAI's sparsify themselves.

Beside each are the activations that the library computes for `inputs` [2, 5, d_in], row by row. The
two libraries bring some fifty packages along, so this runs in an environment of its own:

    pip install sae-lens eai-sparsify
    python -m harvest_assets_tests.decompositions.dictionaries.make_saved
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

D_IN, N, K = 8, 24, 3
SAVED = Path(__file__).parent / "saved"


def fill(module, generator: torch.Generator) -> None:
    """Random weights for all parameters; thresholds above zero."""
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) / 2
        parameter.data = values.abs() if name == "threshold" else values


def save(name: str, module, folder_of, inputs: torch.Tensor, encode) -> None:
    folder = SAVED / name
    folder_of(module, folder)
    with torch.no_grad():
        activations = torch.stack([encode(row) for row in inputs])
    assert (activations > 0).any()
    save_file({"inputs": inputs, "activations": activations}, folder / "expected.safetensors")
    for path in folder.glob("c*fg*.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def sae_lens(inputs: torch.Tensor, generator: torch.Generator) -> None:
    from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, standard_sae, topk_sae
    from sae_lens.saes import transcoder as t

    sizes = {"d_in": D_IN, "d_sae": N}
    plain = {**sizes, "apply_b_dec_to_input": False}
    batch = batchtopk_sae.BatchTopKTrainingSAE
    batch_config = batchtopk_sae.BatchTopKTrainingSAEConfig(
        **sizes, k=K + 0.5, rescale_acts_by_decoder_norm=True
    )
    made = {
        "standard": standard_sae.StandardSAE(standard_sae.StandardSAEConfig(**sizes)),
        "standard_layer_norm": standard_sae.StandardSAE(
            standard_sae.StandardSAEConfig(**plain, normalize_activations="layer_norm")
        ),
        "standard_constant_norm": standard_sae.StandardSAE(
            standard_sae.StandardSAEConfig(**sizes, normalize_activations="constant_norm_rescale")
        ),
        "gated": gated_sae.GatedSAE(gated_sae.GatedSAEConfig(**sizes)),
        "jumprelu": jumprelu_sae.JumpReLUSAE(jumprelu_sae.JumpReLUSAEConfig(**sizes)),
        "topk": topk_sae.TopKSAE(topk_sae.TopKSAEConfig(**sizes, k=K)),
        "topk_rescaled": topk_sae.TopKSAE(
            topk_sae.TopKSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=True)
        ),
        "batchtopk": batch(batch_config),
        "transcoder": t.Transcoder(t.TranscoderConfig(**plain, d_out=6)),
        "jumprelu_skip_transcoder": t.JumpReLUSkipTranscoder(
            t.JumpReLUSkipTranscoderConfig(**plain, d_out=6)
        ),
    }
    for name, module in made.items():
        fill(module, generator)
        save(f"sae_lens_{name}", module, lambda m, f: m.save_model(f), inputs, module.encode)
    trained = batch(batch_config)
    fill(trained, generator)
    trained.topk_threshold.fill_(0.7)
    trained.save_inference_model(SAVED / "trained")
    inference = jumprelu_sae.JumpReLUSAE.load_from_disk(SAVED / "trained")
    save(
        "sae_lens_batchtopk_trained",
        trained,
        lambda m, f: m.save_model(f),
        inputs,
        inference.encode,
    )
    shutil.rmtree(SAVED / "trained")


def sparsify(inputs: torch.Tensor, generator: torch.Generator) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    kinds = {
        "topk": {"num_latents": N},
        "groupmax": {"num_latents": N, "activation": "groupmax"},
        "transcoder": {"expansion_factor": 3, "transcode": True, "skip_connection": True},
    }
    for name, kind in kinds.items():
        coder = SparseCoder(D_IN, SparseCoderConfig(k=K, **kind))
        fill(coder, generator)

        def encode(row: torch.Tensor, coder=coder) -> torch.Tensor:
            top, indices, pre = coder.encode(row)
            return torch.zeros_like(pre).scatter(-1, indices, top)

        save(f"sparsify_{name}", coder, lambda m, f: m.save_to_disk(f), inputs, encode)


if __name__ == "__main__":
    shutil.rmtree(SAVED, ignore_errors=True)
    numbers = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 5, D_IN, generator=numbers)
    sae_lens(rows, numbers)
    sparsify(rows, numbers)
