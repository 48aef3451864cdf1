"""A random run of the shape of `goodfire/spd/s-55ea3f9b`, sparse as a trained one.

38,912 components in 24 matrices, a transformer of 539 M weights as CI function, vocabulary 50,277,
rows of 513 tokens: 2.9 GB on disk. Nothing is fetched; weights and data are drawn with a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from harvest_assets.decompositions.spd.model import open_model
from harvest_assets.decompositions.spd.run_config import load_run_config

CONFIG, CHECKPOINT = "final_config.yaml", "model_400000.pth"
# Attention with random weights averages over the row; at full weight its average, one sample a row,
# decides what fires, and a few rows say nothing of others.
_ROW_INFLUENCE = 0.1
_HEAD_BIAS = "ci_fn._global_ci_fn._output_head.b"


@dataclass(frozen=True)
class Shape:
    """Sizes of a run; the defaults are those of the paper's.

    Args:
        n_layer, width, n_head, inner, vocab_size, n_ctx: of the target.
        components: of each matrix of a layer, in the order of the config.
        ci_width, ci_blocks, ci_inner, ci_heads: of the CI function.
        n_rows: of the data, each one token longer than `n_ctx`.
        rates: shares of the positions at which the rarest and the most frequent component fire;
            the others are between them, evenly on a logarithmic scale. By default 150 components
            fire at a position.
        calibration_rows: rows from which the biases that give these shares are computed.
    """

    n_layer: int = 4
    width: int = 768
    n_head: int = 6
    inner: int = 3072
    vocab_size: int = 50277
    n_ctx: int = 512
    components: tuple[tuple[str, int], ...] = (
        ("mlp.c_fc", 3072),
        ("mlp.down_proj", 3584),
        ("attn.q_proj", 512),
        ("attn.k_proj", 512),
        ("attn.v_proj", 1024),
        ("attn.o_proj", 1024),
    )
    ci_width: int = 2048
    ci_blocks: int = 8
    ci_inner: int = 8192
    ci_heads: int = 16
    n_rows: int = 4096
    rates: tuple[float, float] = (1e-4, 2.1e-2)
    calibration_rows: int = 8


# About the size of an SPD run on SimpleStories: 9,320 components, 60 of which fire at a position.
SIMPLESTORIES_SHAPE = Shape(
    width=128,
    n_head=4,
    inner=512,
    vocab_size=4019,
    components=(
        ("mlp.c_fc", 600),
        ("mlp.down_proj", 500),
        ("attn.q_proj", 250),
        ("attn.k_proj", 250),
        ("attn.v_proj", 360),
        ("attn.o_proj", 370),
    ),
    ci_width=512,
    ci_blocks=6,
    ci_inner=2048,
    ci_heads=8,
    rates=(1e-4, 3.8e-2),
    calibration_rows=24,
)


def write_large_run(root: Path, shape: Shape, seed: int = 0) -> Path:
    """Write target, tokenizer, data and run below a folder that is not there.

    Returns:
        The folder of the run; its config names the others by absolute paths.
    """
    root.mkdir(parents=True)
    _write_data(root / "dataset", shape, seed)
    write_tokenizer(root / "tokenizer", shape.vocab_size)
    return write_model(root, shape, seed)


def write_model(root: Path, shape: Shape, seed: int = 0, device: str = "cpu") -> Path:
    """Write the run and its target, without data and tokenizer, into an existing folder.

    Args:
        root: the folder.
        shape: of the run.
        seed: of the weights.
        device: where the biases are computed.
    """
    target = _write_target(root / "target", shape)
    run = root / "large_run"
    run.mkdir()
    (run / CONFIG).write_text(yaml.safe_dump(_config(root, target, shape, seed)), encoding="utf-8")
    state, checkpoint = _state(shape, seed), run / CHECKPOINT
    torch.save(state, checkpoint)
    state[_HEAD_BIAS] = _sparse_bias(run / CONFIG, checkpoint, shape, seed, device)
    torch.save(state, checkpoint)
    return run


def _sparse_bias(
    config_path: Path, checkpoint: Path, shape: Shape, seed: int, device: str
) -> torch.Tensor:
    """Biases [C] that let each component fire at its own share of the positions."""
    config = load_run_config(config_path)
    # Of the logistic function's values, the raw ones can be had back.
    model = open_model(config.model_copy(update={"sigmoid_type": "normal"}), checkpoint, device)
    drawn = draw_rows(shape, shape.calibration_rows, np.random.default_rng(seed))
    rows = torch.from_numpy(drawn).to(device)[:, : shape.n_ctx]
    lowest, highest = shape.rates
    n_highest = int(highest * rows.numel()) + 1
    raw = torch.empty(0, sum(c for _, c in model.layers))
    for row in rows:
        raw = torch.cat([raw, model(row[None]).ci[0].logit().cpu()])
        raw = raw.topk(min(n_highest, len(raw)), dim=0).values
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.rand(raw.shape[1], generator=generator)
    places = (lowest * (highest / lowest) ** exponents) * rows.numel()
    bias = -raw.gather(0, places.long()[None])[0]
    of_layer = dict(
        zip(
            (path for path, _ in model.layers),
            torch.split(bias, [c for _, c in model.layers]),
            strict=True,
        )
    )
    return torch.cat([of_layer[path] for path in sorted(of_layer)])  # the head's own order


def draw_rows(shape: Shape, n_rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Token ids of frequencies that fall as 1 / rank, int64 [n_rows, n_ctx + 1]."""
    weights = 1 / np.arange(1, shape.vocab_size + 1)
    size = (n_rows, shape.n_ctx + 1)
    return generator.choice(shape.vocab_size, size, p=weights / weights.sum())


def _config(root: Path, target: Path, shape: Shape, seed: int) -> dict[str, object]:
    return {
        "seed": seed,
        "autocast_bf16": True,
        "ci_config": {
            "mode": "global",
            "fn_type": "global_shared_transformer",
            "transition_hidden_dim": None,
            "simple_transformer_ci_cfg": {
                "d_model": shape.ci_width,
                "n_blocks": shape.ci_blocks,
                "mlp_hidden_dim": [shape.ci_inner],
                "attn_config": {"n_heads": shape.ci_heads, "max_len": shape.n_ctx},
            },
        },
        "sampling": "continuous",
        "sigmoid_type": "leaky_hard",
        "module_info": [{"module_pattern": f"h.*.{name}", "C": c} for name, c in shape.components],
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_name": str(target),
        "pretrained_model_output_attr": "idx_0",
        "tokenizer_name": str(root / "tokenizer"),
        "task_config": {
            "task_name": "lm",
            "max_seq_len": shape.n_ctx,
            "buffer_size": 1000,
            "dataset_name": str(root / "dataset"),
            "column_name": "input_ids",
            "train_data_split": "train",
            "is_tokenized": True,
            "streaming": True,
            "dataset_seed": None,
        },
    }


def _write_target(folder: Path, shape: Shape) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "model_type": "LlamaSimpleMLP",
        "block_size": shape.n_ctx,
        "vocab_size": shape.vocab_size,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.width,
        "n_intermediate": shape.inner,
        "n_ctx": shape.n_ctx,
        "n_key_value_heads": shape.n_head,
        "use_grouped_query_attention": True,
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "final_config.yaml").write_text("{}\n", encoding="utf-8")
    return folder / "checkpoints" / "model_step_99999.pt"


def _matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """Width of input and output of each kind of matrix of a layer."""
    square = (shape.width, shape.width)
    return {
        "mlp.c_fc": (shape.width, shape.inner),
        "mlp.down_proj": (shape.inner, shape.width),
        **{f"attn.{name}_proj": square for name in "qkvo"},
    }


def _state(shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, fan_in: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).mul_(fan_in**-0.5)

    state = _target_state(shape, normal)
    widths = _matrices(shape)
    n_inputs = n_components = 0
    for layer in range(shape.n_layer):
        for name, c in shape.components:
            d_in, d_out = widths[name]
            key = f"_components.h-{layer}-{name.replace('.', '-')}"
            state[f"{key}.V"] = normal(d_in, c, fan_in=d_in)
            state[f"{key}.U"] = normal(c, d_out, fan_in=c)
            n_inputs += d_in
            n_components += c
    prefix, width = "ci_fn._global_ci_fn.", shape.ci_width
    state[f"{prefix}_input_projector.W"] = normal(n_inputs, width, fan_in=n_inputs)
    state[f"{prefix}_input_projector.b"] = torch.zeros(width)
    size = width // shape.ci_heads
    inv_freq = 10000.0 ** (-torch.arange(0, size, 2) / size)
    for n in range(shape.ci_blocks):
        block = f"{prefix}_blocks.{n}"
        for name in ("q", "k", "v", "out"):
            state[f"{block}.attn.{name}_proj.weight"] = normal(width, width, fan_in=width)
        state[f"{block}.attn.out_proj.weight"] *= _ROW_INFLUENCE
        state[f"{block}.attn.rope.inv_freq"] = inv_freq.clone()
        for at, (d_in, d_out) in ((0, (width, shape.ci_inner)), (2, (shape.ci_inner, width))):
            state[f"{block}.mlp.{at}.W"] = normal(d_in, d_out, fan_in=d_in)
            state[f"{block}.mlp.{at}.b"] = torch.zeros(d_out)
    state[f"{prefix}_output_head.W"] = normal(width, n_components, fan_in=width)
    state[_HEAD_BIAS] = torch.zeros(n_components)
    return state


def _target_state(shape: Shape, normal: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix, width = "target_model.", shape.width
    embedding = normal(shape.vocab_size, width, fan_in=width).mul_(4)
    state = {f"{prefix}wte.weight": embedding, f"{prefix}lm_head.weight": embedding}
    for layer in range(shape.n_layer):
        for norm in ("rms_1", "rms_2"):
            state[f"{prefix}h.{layer}.{norm}.weight"] = torch.ones(width)
        for name, (d_in, d_out) in _matrices(shape).items():
            state[f"{prefix}h.{layer}.{name}.weight"] = normal(d_out, d_in, fan_in=d_in)
    state[f"{prefix}ln_f.weight"] = torch.ones(width)
    return state


def _write_data(folder: Path, shape: Shape, seed: int) -> None:
    """Rows in four files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    generator = np.random.default_rng(seed)
    for n in range(4):
        ids = draw_rows(shape, -(-shape.n_rows // 4), generator)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel(), pa.int32()), ids.shape[1])
        table = pa.table({"input_ids": rows.cast(pa.list_(pa.int32()))})
        pq.write_table(table, folder / f"train-{n:05d}-of-00004.parquet")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """One token a word; there are as many as the target's vocabulary has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "[EOS]": 1}
    vocabulary |= {f"w{n}": n for n in range(2, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]")  # noqa: S106
    fast.save_pretrained(folder)
