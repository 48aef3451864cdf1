"""Functions of this process, harvested by `harvest_assets.harvest`: equal to loops, or refused."""

from __future__ import annotations

import _thread
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import harvest_assets
from harvest_assets.decompositions.own_model import OwnDecomposition
from harvest_assets.decompositions.own_model.loading import load_source
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import harvest_folders
from harvest_assets.notebook.arrays import Rows
from harvest_assets.notebook.harvest import Harvest
from harvest_assets.store.garbage import free, removable
from harvest_assets_tests import oracle
from harvest_assets_tests.decompositions.own_model.tiny_module import KEYS, LAYERS, by_loops
from harvest_assets_tests.tiny_run import VOCAB
from harvest_assets_tests.viewer.synthetic import write_tokenizer

TOKENS = np.random.default_rng(3).integers(0, VOCAB, (30, 12))
SETTINGS = {"ci_threshold": 0.5, "activation_examples_per_component": 6}


class Function:
    """That of `tiny_module`; counts the rows it computes, and interrupts itself on request."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.interrupt_at: int | None = None

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.n_rows += len(tokens)
        if self.interrupt_at is not None and self.n_rows >= self.interrupt_at:
            self.interrupt_at = None
            _thread.interrupt_main()
        before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        c = torch.arange(len(KEYS))
        value = (tokens.unsqueeze(-1) * (c + 3) + before.unsqueeze(-1) * 7) % (11 + c) - 5.0
        logits = torch.nn.functional.one_hot(before, VOCAB) * 2.0
        return logits.softmax(-1), value.relu() / 4, -value


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a tokenizer, which is the current one, and an `SPD_OUT_DIR`."""
    root = tmp_path_factory.mktemp("in_memory")
    (root / "models").mkdir()
    write_tokenizer(root / "models" / "tokenizer", [f"w{i}" for i in range(VOCAB)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(root / "out"))
        patch.setenv("DAGSTER_HOME", str(root / "home"))
        patch.setenv("HARVEST_DEVICE", "cpu")
        patch.chdir(root / "models")
        yield root


def harvested(function, tokens=TOKENS, **changes):
    given = {"data": tokens, "layers": LAYERS, "tokenizer": "tokenizer", **SETTINGS, **changes}
    return harvest_assets.harvest(function, **given)


@pytest.mark.slow
def test_with_an_identity_it_is_continued_where_it_was_interrupted(place: Path):
    function = Function()
    own = OwnDecomposition(
        function,
        LAYERS,
        VOCAB,
        data={"dataset_name": "none", "column_name": "none"},
        tokenizer="tokenizer",
        identity="1",
        second_value="value",
        tokens_per_forward=5 * 12,
    )

    def harvested_on() -> Harvest:
        return harvest_assets.harvest(
            own, data=torch.from_numpy(TOKENS), batch_size=5, n_batches=6, **SETTINGS
        )

    function.interrupt_at = 12
    with pytest.raises(KeyboardInterrupt):
        harvested_on()
    assert function.interrupt_at is None
    (folder,) = [it for it in harvest_folders() if (it / "plan.json").exists()]
    begun = harvest_assets.open(folder.name)
    assert begun.progress is not None
    assert 0 < begun.progress.rows < 30
    assert begun.frame["firing_count"].sum() > 0
    assert begun[0].fires_with().height
    with pytest.raises(HarvestError, match="correlations"):
        _ = begun.correlations

    saved = function.n_rows
    found = harvested_on()
    assert function.n_rows < saved + 30
    strengths, probs = by_loops(TOKENS)
    truth = oracle.statistics(TOKENS, strengths, probs, 0.5)
    assert (found.keys, found.n_tokens) == (KEYS, TOKENS.size)
    np.testing.assert_array_equal(found.frame["firing_count"], truth.firing_counts)
    np.testing.assert_array_equal(found.correlations.count_ij, truth.count_ij)
    np.testing.assert_array_equal(found.token_stats.input_counts, truth.input_token_counts)
    for component in found:
        for it in component.examples(6):
            assert it.example.token_ids[10] == TOKENS[it.row, it.position]
            value = strengths[it.row, it.position, component.flat_index]
            assert it.example.ci_values[10] == pytest.approx(value)
    unnamed = Rows(TOKENS + 1)
    unnamed.keep()
    for array in (place / "out" / "arrays").iterdir():
        for path in (*array.rglob("*"), array):
            os.utime(path, (0, 0))
    free(removable())
    assert not Path(unnamed.data["dataset_name"]).exists()
    assert Path(found.config["dataset_name"]).is_dir()

    saved = function.n_rows
    assert harvested_on().run == found.run
    assert function.n_rows <= saved + 1, "it is finished"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"data": TOKENS * 0.5}, "float64"),
        ({"data": TOKENS[0]}, r"\[12\]"),
        ({"data": TOKENS - 1}, "-1"),
        ({"data": None}, "data="),
        ({"layers": None}, "layers="),
        ({"name": "no name"}, "no name"),
        ({"n_batch": 3}, "n_batches"),
        ({"identitty": "1"}, "identity"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "gpu"}, "^device .*gpu"),
        ({"batch_size": 31}, "batch_size is 31.*30 rows"),
    ],
)
def test_what_cannot_be_harvested_is_refused_by_name(place: Path, given, names: str):
    kept = set(place.glob("out/arrays/*"))
    with pytest.raises(HarvestError, match=names):
        harvested(Function(), **given)
    assert set(place.glob("out/arrays/*")) == kept


def test_a_batch_is_one_that_the_array_fills():
    rows = Rows(TOKENS)
    assert [rows.batch_size(*it) for it in ((7, None), (None, 1), (None, None))] == [7, 30, 30]
    assert Rows(np.zeros((514, 2), int)).batch_size(None, None) == 2
    assert Rows(np.zeros((514, 2), int)).batch_size(None, 2) == 256


def test_what_a_function_does_wrong_is_said():
    with pytest.raises(HarvestError, match=r"wrong.*IndexError"):
        harvested(lambda tokens: tokens[7], name="wrong")
    own = OwnDecomposition(Function(), LAYERS, VOCAB, data={}, tokenizer="tokenizer")
    with pytest.raises(HarvestError, match="layers="):
        harvest_assets.harvest(own, layers=LAYERS)


def test_a_refused_function_leaves_no_harvest(place: Path):
    def nan_later(tokens: torch.Tensor) -> list[torch.Tensor]:
        probs, *values = Function()(tokens)
        return [probs * (np.nan if tokens.shape[1] > 1 else 1), *values]

    def found() -> set[Path]:
        return {*place.glob("out/registered/**/*.json"), *place.glob("out/harvest/*")}

    before = found()
    with pytest.raises(HarvestError, match="nan"):
        harvested(nan_later, name="nan_later")
    assert found() == before


def test_an_object_of_another_process_is_named(place: Path):
    with pytest.raises(HarvestError, match="gone"):
        load_source(place / "<in memory>.py:gone")
