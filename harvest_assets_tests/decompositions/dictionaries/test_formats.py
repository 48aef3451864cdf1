"""The file formats: equal to the libraries that wrote them, and to formulas; bad files refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harvest_assets.decompositions.dictionaries.activations import largest
from harvest_assets.decompositions.dictionaries.encoder import Encoder
from harvest_assets.decompositions.dictionaries.formats import format_of
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.dictionaries.encoder_oracle import keep_largest
from harvest_assets_tests.decompositions.dictionaries.tiny_set import write_sae

SAVED = sorted(path for path in (Path(__file__).parent / "saved").iterdir() if path.is_dir())
D_IN, D_OUT, N, K, LAYERS = 6, 5, 12, 2, 3


def opened(folder: Path, layer: int | None = None) -> Encoder:
    return format_of(folder, layer).open(folder, layer)


@pytest.mark.parametrize("folder", SAVED, ids=lambda path: path.name)
def test_activations_equal_those_of_the_library_that_saved_it(folder: Path):
    expected = load_file(folder / "expected.safetensors")
    found = opened(folder)(expected["inputs"])
    torch.testing.assert_close(found, expected["activations"], rtol=1e-5, atol=1e-5)
    assert torch.equal(found > 0, expected["activations"] > 0)


def test_all_kinds_of_both_libraries_are_saved():
    assert len(SAVED) == 14


def write_encoder_pt(folder: Path, *, n_layers: int | None = None, **config) -> dict:
    """`config.json` and `encoder.pt`; of a cross-layer transcoder if `n_layers` is given."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(4)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shapes = {"W_enc": (D_IN, N), "b_enc": (N,), "b_dec": (config.get("output_size", D_OUT),)}
    if n_layers is None:
        state = {name: randn(*shape) for name, shape in shapes.items()}
        state["jumprelu.log_threshold"] = randn(N)
    else:
        shapes["jumprelu_log_thresholds"] = (N,)
        state = {
            f"{name}.{i}": randn(*shape) for name, shape in shapes.items() for i in range(n_layers)
        }
    torch.save(state, folder / "encoder.pt")
    full = {"input_size": D_IN, "output_size": D_OUT, "dict_size": N, "top_k": K, **config}
    if n_layers is not None:
        full |= {"n_layers": n_layers, "layers": json.dumps(list(range(n_layers)))}
    (folder / "config.json").write_text(json.dumps(full))
    return {name: value.double().numpy() for name, value in state.items()}


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, D_IN, generator=torch.Generator().manual_seed(seed))


def by_kind(kind: str, pre: np.ndarray, log_threshold: np.ndarray) -> np.ndarray:
    """From rectified pre-activations [S, n] of one row."""
    if kind == "topk":
        return np.stack([keep_largest(position, K) for position in pre])
    if kind == "batchtopk":
        return keep_largest(pre.ravel(), K * len(pre)).reshape(pre.shape)
    return pre * (pre > np.exp(log_threshold)) if kind == "jumprelu" else pre


@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("layer", [None, 0, 2])
def test_encoder_pt(kind: str, layer: int | None, tmp_path: Path):
    n_layers = None if layer is None else LAYERS
    w = write_encoder_pt(tmp_path / "d", n_layers=n_layers, encoder_type=kind)
    suffix = "" if layer is None else f".{layer}"
    log_threshold = w[f"jumprelu_log_thresholds{suffix}" if suffix else "jumprelu.log_threshold"]
    encoder = opened(tmp_path / "d", layer)
    for row, found in zip(rows().double().numpy(), encoder(rows()).numpy(), strict=True):
        pre = np.maximum(row @ w[f"W_enc{suffix}"] + w[f"b_enc{suffix}"], 0)
        np.testing.assert_allclose(found, by_kind(kind, pre, log_threshold), atol=1e-5)
    assert encoder.reads_rows == (kind == "batchtopk")


def test_encoder_pt_of_an_autoencoder(tmp_path: Path):
    config = {"output_size": D_IN, "pre_enc_bias": True, "input_unit_norm": True}
    w = write_encoder_pt(tmp_path / "d", encoder_type="vanilla", **config)
    x = rows().double().numpy()
    x = x - x.mean(-1, keepdims=True)
    x = x / (x.std(-1, ddof=1, keepdims=True) + 1e-5) - w["b_dec"]
    expected = np.maximum(x @ w["W_enc"] + w["b_enc"], 0)
    np.testing.assert_allclose(opened(tmp_path / "d")(rows()).numpy(), expected, atol=1e-5)


def test_encoder_pt_with_several_outputs_subtracts_nothing(tmp_path: Path):
    config = {"output_size": D_IN, "pre_enc_bias": True, "num_output_layers": LAYERS}
    w = write_encoder_pt(tmp_path / "d", encoder_type="vanilla", **config)
    add_to_encoder_pt(tmp_path / "d", b_dec=torch.ones(LAYERS, D_IN))
    expected = np.maximum(rows().double().numpy() @ w["W_enc"] + w["b_enc"], 0)
    np.testing.assert_allclose(opened(tmp_path / "d")(rows()).numpy(), expected, atol=1e-5)


def test_a_cross_layer_transcoder_with_normalised_inputs_is_refused_by_name(tmp_path: Path):
    write_encoder_pt(tmp_path / "d", n_layers=LAYERS, encoder_type="vanilla", input_unit_norm=True)
    with pytest.raises(HarvestError, match="input_unit_norm"):
        opened(tmp_path / "d", 0)


def add_to_encoder_pt(folder: Path, **tensors: torch.Tensor) -> None:
    torch.save(torch.load(folder / "encoder.pt") | tensors, folder / "encoder.pt")


@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "jumprelu"])
def test_encoder_pt_with_a_trained_scale_and_a_mask(kind: str, tmp_path: Path):
    w = write_encoder_pt(tmp_path / "d", encoder_type=kind, train_post_encoder=True)
    scale = torch.linspace(-2, 3, N)
    mask = (torch.arange(D_IN)[:, None] % 2 == torch.arange(N) % 2).float()
    add_to_encoder_pt(tmp_path / "d", post_enc_scale=scale, W_enc_mask=mask)
    found = opened(tmp_path / "d")(rows()).numpy()
    for row, of_row in zip(rows().double().numpy(), found, strict=True):
        pre = (row @ (w["W_enc"] * mask.numpy()) + w["b_enc"]) * scale.double().numpy()
        expected = by_kind(kind, np.maximum(pre, 0), w["jumprelu.log_threshold"])
        np.testing.assert_allclose(of_row, expected, atol=1e-5)


@pytest.mark.parametrize("n_layers", [None, LAYERS])
def test_encoder_pt_with_an_unknown_tensor_is_refused_by_name(n_layers: int | None, tmp_path: Path):
    write_encoder_pt(tmp_path / "d", n_layers=n_layers, encoder_type="vanilla")
    add_to_encoder_pt(tmp_path / "d", **{"gain.0": torch.ones(N)})
    with pytest.raises(HarvestError, match=r"encoder\.pt.*gain\.0"):
        opened(tmp_path / "d", None if n_layers is None else 0)


@pytest.mark.parametrize("has_threshold", [False, True])
def test_circuit_tracer(has_threshold: bool, tmp_path: Path):
    generator = torch.Generator().manual_seed(1)
    w = {"W_enc_7": torch.randn(N, D_IN, generator=generator), "b_enc_7": torch.zeros(N)}
    w["b_dec_7"] = torch.ones(D_IN)
    threshold = torch.full((N,), 0.8 if has_threshold else 0.0)
    if has_threshold:
        w["threshold_7"] = threshold
    save_file(w, tmp_path / "W_enc_7.safetensors")
    pre = rows().double().numpy() @ w["W_enc_7"].double().numpy().T
    expected = pre * (pre > threshold.numpy())
    np.testing.assert_allclose(opened(tmp_path, 7)(rows()).numpy(), expected, atol=1e-5)
    with pytest.raises(HarvestError, match="holds no dictionary"):
        opened(tmp_path, 6)


SPARSIFY_KEYS = ["signed", "normalize_io", "batch_topk", "sample_topk"]


@pytest.mark.parametrize("key", [*SPARSIFY_KEYS, "input_unit_norm", "matching_pursuit"])
def test_a_sparse_coder_of_another_kind_is_refused_by_name(key: str, tmp_path: Path):
    shutil.copytree(SAVED[0].parent / "sparsify_topk", tmp_path / "d")
    edit(tmp_path / "d" / "cfg.json", **{key: False})
    assert opened(tmp_path / "d").n_latents == 24
    edit(tmp_path / "d" / "cfg.json", **{key: True})
    with pytest.raises(HarvestError, match=rf"cfg\.json.*{key}"):
        opened(tmp_path / "d")


def test_a_sparse_coder_with_an_unknown_tensor_is_refused_by_name(tmp_path: Path):
    shutil.copytree(SAVED[0].parent / "sparsify_topk", tmp_path / "d")
    path = tmp_path / "d" / "sae.safetensors"
    save_file(load_file(path) | {"in_norm": torch.ones(8)}, path)
    with pytest.raises(HarvestError, match=r"sae\.safetensors.*in_norm"):
        opened(tmp_path / "d")


def test_older_sae_lens_configs(tmp_path: Path):
    older = {
        "hook_point": "blocks.0.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
    }
    write_sae(tmp_path / "older", older, seed=1)
    write_sae(tmp_path / "newer", {"architecture": "topk", "k": 3}, seed=1)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    older_encoder, newer_encoder = opened(tmp_path / "older"), opened(tmp_path / "newer")
    assert torch.equal(older_encoder(x), newer_encoder(x))
    assert older_encoder.architecture == "topk"


@pytest.mark.parametrize("k", [0, 1, 3, 4, 7, 20])
def test_among_equal_values_the_first_are_kept(k: int):
    values = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0, 2.0, 3.0], [0, 0, 0, 0, 0, 0, 0.5]])
    expected = np.stack([keep_largest(row, k) for row in values.numpy()])
    np.testing.assert_array_equal(largest(values, k).numpy(), expected)


def edit(path: Path, **changes) -> None:
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


BAD_CONFIGS = {
    "architecture": {"architecture": "matching_pursuit"},
    "normalize_activations": {"normalize_activations": "expected_average_only_in"},
    "activation_fn": {"activation_fn": "tanh-relu"},
    "hook_name": {"metadata": {"hook_name": "blocks.0.ln2.hook_normalized"}},
    "older.*hook_normalized": {"hook_point": "blocks.0.older.hook_normalized"},
    "d_in": {"d_in": 0},
    "d_sae": {"d_sae": 10**12},
    "b_enc": {"d_sae": 11},
    "b_dec": {"d_in": 23},
    "k": {"architecture": "topk", "k": 11},
    "lacks k": {"architecture": "topk"},
    "threshold": {"architecture": "jumprelu"},
    "r_mag|b_gate": {"architecture": "gated"},
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_config_that_is_not_supported_is_refused_by_name(name: str, tmp_path: Path):
    write_sae(tmp_path / "d", {"architecture": "standard"}, seed=1)
    edit(tmp_path / "d" / "cfg.json", **BAD_CONFIGS[name])
    with pytest.raises(HarvestError, match=name):
        opened(tmp_path / "d")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("W_enc", torch.full((24, 10), torch.nan)),
        ("b_enc", torch.full((10,), torch.inf)),
        ("b_enc", torch.zeros(10, dtype=torch.int64)),
        ("W_enc", torch.zeros(24, 10, dtype=torch.float8_e4m3fn)),
        ("b_dec", torch.zeros(1, 24)),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(
    name: str, value: torch.Tensor, tmp_path: Path
):
    write_sae(tmp_path / "d", {"architecture": "standard"}, seed=1)
    path = tmp_path / "d" / "sae_weights.safetensors"
    save_file(load_file(path) | {name: value}, path)
    with pytest.raises(HarvestError, match=rf"sae_weights\.safetensors.*{name}"):
        opened(tmp_path / "d")


@pytest.mark.parametrize("damage", ["cut", "empty", "huge header", "pipe", "not JSON", "a list"])
def test_damaged_files_are_refused_by_name(damage: str, tmp_path: Path):
    write_sae(tmp_path / "d", {"architecture": "standard"}, seed=1)
    weights, config = tmp_path / "d" / "sae_weights.safetensors", tmp_path / "d" / "cfg.json"
    content = weights.read_bytes()
    if damage == "pipe":
        weights.unlink()
        os.mkfifo(weights)
        with pytest.raises(HarvestError, match="holds no dictionary"):
            opened(tmp_path / "d")
        return
    named = weights
    if damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "huge header":
        weights.write_bytes((1 << 62).to_bytes(8, "little") + content[8:])
    else:
        named = config
        config.write_text("[1, 2]" if damage == "a list" else "{")
    with pytest.raises(HarvestError, match=named.name):
        opened(tmp_path / "d")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path):
    write_encoder_pt(tmp_path / "d", encoder_type="vanilla")

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"W_enc": Evil()}, tmp_path / "d" / "encoder.pt")
    with pytest.raises(HarvestError, match=r"encoder\.pt"):
        opened(tmp_path / "d")
    assert not (tmp_path / "ran").exists()


def test_layer_is_asked_of_cross_layer_transcoders_alone(tmp_path: Path):
    write_encoder_pt(tmp_path / "clt", n_layers=LAYERS, encoder_type="vanilla")
    with pytest.raises(HarvestError, match="layer"):
        opened(tmp_path / "clt")
    with pytest.raises(HarvestError, match=r"W_enc\.3"):
        opened(tmp_path / "clt", 3)
    write_sae(tmp_path / "sae", {"architecture": "standard"}, seed=1)
    with pytest.raises(HarvestError, match="layer"):
        opened(tmp_path / "sae", 0)
    (tmp_path / "W_enc_0.safetensors").touch()
    with pytest.raises(HarvestError, match="layer"):
        opened(tmp_path)
