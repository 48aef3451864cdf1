"""Objects in modules: how they are named and found, and which are refused by name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from harvest_assets.decompositions.own_model import OwnDecomposition
from harvest_assets.decompositions.registry import check_config, open_decomposition, verify
from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.decompositions.own_model.tiny_module import (
    KEYS,
    by_loops,
    n_imports,
    write_module,
)
from harvest_assets_tests.decompositions.tiny_dictionary import write_run
from harvest_assets_tests.tiny_run import VOCAB

DATA = {"dataset_name": "texts", "column_name": "text", "max_seq_len": 8}


def verified(text: str):
    return verify(fetch_run(parse_run(text)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_module(tmp_path / "models", identity="1", second="None")


def test_a_module_is_named_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_module(tmp_path / "models", name="named_by_place", identity="1", second="None")
    key = parse_run(f"{file}:decomposition").name.key
    assert key.startswith("local/models/x-")
    assert parse_run(f"{file}:other").name.key != key
    monkeypatch.chdir(file.parent)
    for text in ("named_by_place:decomposition", "named_by_place.py:decomposition"):
        assert parse_run(text).name.key == key
    monkeypatch.chdir(file.parent.parent)
    assert parse_run("models.named_by_place:decomposition").name.key == key
    with pytest.raises(HarvestError, match="named_by_place:decomposition"):
        parse_run("named_by_place:decomposition")
    monkeypatch.setattr(sys, "path", [*sys.path, str(file.parent)])
    assert parse_run("named_by_place:decomposition").name.key == key
    assert n_imports(file.parent) == 0, "naming it executes nothing"


def test_a_package_around_a_module_is_not_executed_by_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('executed')\n")
    (package / "part.py").write_text("decomposition = None\n")
    monkeypatch.chdir(tmp_path)
    assert parse_run("some_package.part:decomposition").path == package / "part.py:decomposition"
    with pytest.raises(HarvestError, match=r"part\.py.*executed"):
        verified("some_package.part:decomposition")


def test_a_module_of_a_package_uses_what_is_beside_it(tmp_path: Path):
    package = tmp_path / "own_package"
    write_module(package, identity="1", second="None")
    (package / "__init__.py").touch()
    (package / "facade.py").write_text("from .tiny_own import decomposition\n")
    found = verified(f"{package / 'facade.py'}:decomposition")
    tokens = torch.arange(24).reshape(2, 12)
    strengths, probs = by_loops(tokens.numpy())
    outputs = found.restricted(["late"]).open_model("cpu")(tokens)
    first = [key.startswith("late") for key in KEYS].index(True)
    torch.testing.assert_close(
        outputs.firing_strengths.double(), torch.from_numpy(strengths[..., first:])
    )
    torch.testing.assert_close(outputs.output_probs.double(), torch.from_numpy(probs))
    assert outputs.second_values is None


def test_an_object_that_satisfies_the_protocol_is_harvested_as_it_is(tmp_path: Path):
    run = write_run(tmp_path / "world")
    file = tmp_path / "theirs.py"
    file.write_text(
        f"""
from harvest_assets_tests.decompositions.tiny_dictionary import TinyDictionary
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run

decomposition = TinyDictionary.verify(fetch_run(parse_run({str(run)!r})))
"""
    )
    found, files = verified(f"{file}:decomposition"), fetch_run(parse_run(f"{file}:decomposition"))
    assert found.is_of(files)
    found.write(tmp_path)
    opened = open_decomposition(tmp_path)
    assert (opened.firing_strength, opened.second_value) == ("latent activation", None)
    assert opened.notes() == ["Latents are not scaled."]
    assert opened.data_spec(7).n_ctx == 7
    assert opened.is_of(files)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("raise ValueError('no such weights')", "no such weights"),
        ("import no_such_library", "no_such_library"),
        ("other = 1", "decomposition"),
        ("decomposition = 7", "int"),
        ("def decomposition(tokens): ...", "function"),
        ("syntax error here", "SyntaxError"),
        ("raise SystemExit('stopped')", "stopped"),
    ],
)
def test_a_module_without_a_decomposition_is_refused_by_name(
    tmp_path: Path, source: str, named: str
):
    file = tmp_path / "faulty.py"
    file.write_text(source)
    with pytest.raises(HarvestError, match=rf"faulty\.py.*{named}"):
        check_config(fetch_run(parse_run(f"{file}:decomposition")).config)


@pytest.mark.parametrize(
    ("second", "options", "named"),
    [
        ("value", {}, "second"),
        ("None", {"second_value": "value"}, "second"),
        ("value[..., :3]", {"second_value": "value"}, r"\[1, 1, 3\]"),
        ("1 / 0", {}, "ZeroDivisionError"),
        ("exit(3)", {}, "SystemExit"),
        ("None", {"max_context_length": "many"}, "max_context_length"),
        ("None", {"tokens_per_forward": 0}, "tokens_per_forward"),
    ],
)
def test_what_it_returns_and_says_is_checked(
    tmp_path: Path, second: str, options: dict, named: str
):
    file = write_module(tmp_path / "models", second=second, **options)
    with pytest.raises(HarvestError, match=rf"tiny_own\.py:decomposition.*{named}"):
        verified(f"{file}:decomposition")


@pytest.mark.parametrize("values", ["logits", "logits.softmax(-1) * 1.1", "logits / 0"])
def test_values_that_are_no_probabilities_are_refused_at_once(tmp_path: Path, values: str):
    file = write_module(tmp_path, identity="1")
    source = file.read_text()
    file.write_text(source.replace("return logits.softmax(-1)", f"return {values}"))
    with pytest.raises(HarvestError, match=r":decomposition.*not probabilities"):
        verified(f"{file}:decomposition")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"identity": " "}, "identity"),
        ({"data": DATA | {"max_seq_len": 0}}, "max_seq_len"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changed: dict, named: str):
    given = {"data": DATA, "tokenizer": "gpt2"} | changed
    with pytest.raises(HarvestError, match=named):
        OwnDecomposition(lambda _: None, {"layer": 3}, VOCAB, **given)


def test_an_empty_digest_is_refused(file: Path):
    with file.open("a") as source:
        source.write("\n\nclass Empty(OwnDecomposition):\n    sha256 = ''\n\n\n")
        source.write("decomposition.__class__ = Empty\n")
    with pytest.raises(HarvestError, match="sha256"):
        verified(f"{file}:decomposition")


def test_what_is_beside_a_module_hides_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = write_module(tmp_path / "models", identity="1", second="None")
    (file.parent / "colorsys.py").write_text("raise RuntimeError('not the library')\n")
    (file.parent / "beside.py").touch()
    file.write_text(f"import beside\n{file.read_text()}")
    verified(f"{file}:decomposition")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert importlib.import_module("colorsys").rgb_to_hsv


@pytest.mark.parametrize("layers", [{}, {"a:b": 3}, {"a": 0}, {"a": "3"}])
def test_wrong_layers_are_refused(file: Path, layers: dict):
    source = file.read_text().replace("{'early': 5, 'late': 4}", repr(layers))
    file.write_text(source)
    with pytest.raises(HarvestError, match="layer"):
        verified(f"{file}:decomposition")


def test_an_identity_stands_for_what_is_computed_and_nothing_else_does(file: Path):
    def digest(identity: str | None, layers: dict[str, int], **options) -> str | None:
        given = {"data": DATA, "tokenizer": "gpt2", "identity": identity, **options}
        return OwnDecomposition(lambda _: None, layers, VOCAB, **given).sha256

    one = digest("1", {"a": 2, "b": 3})
    assert one == digest("1", {"a": 2, "b": 3})
    assert len({one, digest("2", {"a": 2, "b": 3}), digest("1", {"a": 5}), digest(None, {})}) == 4
    with_value = digest("1", {"a": 2, "b": 3}, second_value="value")
    assert one != with_value == digest("1", {"a": 2, "b": 3}, second_value="other words")
    without = write_module(file.parent, name="without", second="None")
    first, second = (verified(f"{without}:decomposition") for _ in range(2))
    assert first.sha256 != second.sha256
    assert not first.is_of(fetch_run(parse_run(f"{without}:decomposition")))
