"""A harvest is read with its own tokenizer, in every reader, or with none."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from harvest_assets.analysis import get_input_token_stats
from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.loaders import (
    activation_examples,
    load_components_frame,
    load_token_stats,
    load_tokenizer_of,
)
from harvest_assets.printed.component import print_informative_components
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.data.tokenizer_kinds import KINDS, byte_level, llama_like
from harvest_assets_tests.tiny_run import write_world
from harvest_assets_tests.viewer.synthetic import write_harvest

NAME, KEY = "harvest", "h.0.mlp.c_fc:1"
LLAMA = llama_like()
SIZE = LLAMA.get_vocab_size()
FOX = LLAMA.token_to_id("\u2581fox")
OTHER = [f"other{i}" for i in range(SIZE)]


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harvest of the texts of a tokenizer like Llama's."""
    root = tmp_path_factory.mktemp("harvested")
    write_harvest(root, OTHER, 60, 40)
    return root


class World:
    """That harvest, and its tokenizer, another one, and the folder that one is in."""

    def __init__(self, harvested: Path, out: Path, root: Path) -> None:
        self.paths = HarvestLayout(out / "harvest" / NAME)
        shutil.copytree(harvested, self.paths.root)
        self.own, self.here = root / "own", root / "here"
        self.here.mkdir()
        save(LLAMA, self.own / "tok")
        self.other = self.paths.root / "tokenizer"

    def record(self, recorded: RecordedTokenizer) -> None:
        config = json.loads(self.paths.config.read_text())
        kept = {k: v for k, v in config.items() if not k.startswith("tokenizer_")}
        self.paths.config.write_text(json.dumps(kept | recorded.as_config()))

    def page(self, address: str = "") -> str:
        client = TestClient(make_app(Library(), NAME), base_url="http://127.0.0.1:3100")
        answer = client.get(f"/run/{NAME}{address}")
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def world(harvested: Path, out_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(harvested, out_dir, tmp_path)
    monkeypatch.chdir(world.own)
    world.record(RecordedTokenizer.in_use("tok"))
    monkeypatch.chdir(world.here)
    return world


def reads_fox() -> str:
    """A component for which the word is informative."""
    frame = load_components_frame(NAME)
    assert frame is not None
    firing = frame.filter(pl.col("firing_count") > 0)
    tokens = firing["telling_input_tokens"].list.concat(firing["telling_output_tokens"])
    return str(firing["component_key"][tokens.list.contains(FOX).arg_true()[0]])


def spelled(ids) -> list[str]:
    """What whole words are, by their spelling alone."""
    tokens = [LLAMA.id_to_token(i) for i in ids if i >= 0]
    return [token.replace("\u2581", " ") for token in tokens if not token.startswith("<")]


def test_loaders_keep_the_spaces(world: World):
    del world
    examples = activation_examples(NAME, reads_fox(), 40)
    assert examples is not None
    for example in examples:
        for token, text in zip(example.example.token_ids, example.tokens, strict=True):
            assert spelled([token]) in ([text], [])
    assert any(" fox" in str(example) for example in examples)


def test_a_space_before_a_word_is_found_on_the_pages(world: World):
    key = reads_fox()
    for search in ("+fox", '"+fox"'):
        assert f">{key}</a>" in world.page(f"?token={search}")
    assert f">{key}</a>" not in world.page('?token="fox"')
    fox = '<i class="sp"> </i>fox'
    assert fox in world.page(f"/component/{key}")
    assert fox in world.page(f"/export.html?key={key}")
    table = world.page(f"/table.csv?key={key}")
    assert '"" fox""' in table
    client = TestClient(make_app(Library(), NAME), base_url="http://127.0.0.1:3100")
    parquet = pl.read_parquet(
        io.BytesIO(client.get(f"/run/{NAME}/table.parquet?key={key}").content)
    )
    assert " fox" in parquet["reads"].to_list()[0] + parquet["predicts"].to_list()[0]


def test_analysis_and_terminal_have_the_same_texts(world: World):
    del world
    stats = load_token_stats(NAME)
    assert stats is not None
    loaded, place = load_tokenizer_of(NAME), stats.component_keys.index(KEY)
    counted = spelled(stats.input_counts[place].nonzero().flatten().tolist())
    assert any(text.startswith(" ") for text in counted)
    for tokenizer in (loaded, LLAMA, Vocabulary.of(loaded)):
        found = get_input_token_stats(stats, KEY, tokenizer, SIZE)
        assert found is not None
        assert set(counted) <= {text for text, _ in found.top_recall}
    said = io.StringIO()
    print_informative_components(NAME, 60, Console(file=said, width=400))
    assert '" fox"' in said.getvalue()


def test_the_recorded_folder_is_read_from_anywhere(world: World):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activation_examples(NAME, KEY, 1)
    assert "Tokens are shown as ids" not in world.page()
    assert load_tokenizer_of(NAME).get_vocab() == LLAMA.get_vocab()


@pytest.mark.parametrize("where", ["in the recorded folder", "in the current folder"])
def test_another_tokenizer_is_never_used(world: World, where: str):
    moved = world.here / "tok"
    shutil.rmtree(world.own / "tok")
    if where == "in the recorded folder":
        moved = world.own / "tok"
    shutil.copytree(world.other, moved)
    page = world.page(f"/component/{KEY}")
    assert "Tokens are shown as ids" in page
    assert "other1" not in page
    assert f"#{FOX}" in page
    assert "No components match" in world.page("?token=other1")
    for path in (str(world.own / "tok"), str(moved)):
        assert path in page
    for read in (
        lambda: activation_examples(NAME, KEY, 1),
        lambda: load_tokenizer_of(NAME),
        lambda: print_informative_components(NAME, 1, Console(file=io.StringIO())),
    ):
        with pytest.raises(HarvestError, match="'tok'") as error:
            read()
        assert str(moved) in str(error.value)


def test_the_same_tokenizer_is_used_wherever_it_is(world: World):
    shutil.rmtree(world.own / "tok")
    with pytest.raises(HarvestError, match="'tok'"):
        activation_examples(NAME, KEY, 1)
    (world.here / "tok").mkdir()
    LLAMA.save(str(world.here / "tok/tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activation_examples(NAME, KEY, 1)
    assert "Tokens are shown as ids" not in world.page()


def test_the_copy_beside_the_results_is_enough(world: World):
    recorded = RecordedTokenizer.in_use(str(world.own / "tok"))
    assert recorded.keep(world.paths.tokenizer)
    kept = sorted((file, file.stat().st_ino) for file in world.paths.tokenizer.iterdir())
    assert recorded.keep(world.paths.tokenizer)
    assert sorted((f, f.stat().st_ino) for f in world.paths.tokenizer.iterdir()) == kept
    world.record(recorded)
    shutil.rmtree(world.own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activation_examples(NAME, KEY, 1)
        assert load_tokenizer_of(NAME).get_vocab() == LLAMA.get_vocab()
    assert "Tokens are shown as ids" not in world.page()
    # A copy that is another tokenizer is not used.
    save(Tokenizer(models.WordLevel({"red": 0}, unk_token="red")), world.paths.tokenizer)
    with pytest.raises(HarvestError, match="different tokenizer"):
        recorded.open(world.paths.tokenizer)
    assert not recorded.is_in(world.paths.tokenizer)


def test_reading_never_asks_the_hub(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def connect(*_: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    for recorded in (
        RecordedTokenizer("somebody/tok"),
        RecordedTokenizer("somebody/tok", None, "0" * 64),
    ):
        world.record(recorded)
        assert "Tokens are shown as ids" in world.page()
        with pytest.raises(HarvestError, match="somebody/tok"):
            activation_examples(NAME, KEY, 1)


def test_a_folder_named_like_a_tokenizer_of_the_hub(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "hub/models--somebody--tok"
    save(LLAMA, cache / "snapshots" / "0a")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0a")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    recorded = RecordedTokenizer.in_use("somebody/tok")
    assert recorded == RecordedTokenizer(
        "somebody/tok", None, RecordedTokenizer.in_use(str(world.own / "tok")).sha256
    )
    world.record(recorded)
    shutil.copytree(world.other, world.here / "somebody/tok")
    assert load_tokenizer_of(NAME).get_vocab() == LLAMA.get_vocab()
    assert "other1" not in world.page(f"/component/{KEY}")
    shutil.rmtree(cache)
    with pytest.raises(HarvestError, match="somebody/tok"):
        activation_examples(NAME, KEY, 1)


@pytest.mark.parametrize("name", ["tok", "some/tok"])
def test_a_harvest_that_recorded_no_digest(world: World, name: str):
    world.record(RecordedTokenizer(str(world.own / "tok")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activation_examples(NAME, KEY, 1)
    world.record(RecordedTokenizer(name))
    shutil.copytree(world.own / "tok", world.here / name)
    folder = str(world.here / name)
    for read in (lambda: activation_examples(NAME, KEY, 1), lambda: load_tokenizer_of(NAME)):
        for _ in range(2):
            with pytest.warns(UserWarning, match=folder):
                assert read()
    assert folder in world.page()


def test_a_folder_that_one_has_left_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch):
    world.record(RecordedTokenizer("tok"))
    shutil.copytree(world.other, world.here / "tok")
    with pytest.warns(UserWarning, match="here"):
        first = activation_examples(NAME, KEY, 1)
    monkeypatch.chdir(world.own)
    with pytest.warns(UserWarning, match="own"):
        second = activation_examples(NAME, KEY, 1)
    assert first[0].tokens != second[0].tokens


@pytest.mark.parametrize("value", [3, ["a"], {}])
@pytest.mark.parametrize("key", ["tokenizer_path", "tokenizer_sha256", "tokenizer_name"])
def test_records_that_are_none(world: World, key: str, value):
    config = json.loads(world.paths.config.read_text())
    world.paths.config.write_text(json.dumps({**config, key: value}))
    with pytest.raises(HarvestError, match=r"config\.json"):
        activation_examples(NAME, KEY, 1)
    assert "Tokens are shown as ids" in world.page()


def test_different_tokenizers_have_different_digests(tmp_path: Path):
    digests = {kind: Vocabulary(make()).sha256 for kind, make in KINDS.items()}
    assert len(set(digests.values())) == len(KINDS)
    same = llama_like()
    first = RecordedTokenizer.in_use(str(save(same, tmp_path / "a"))).sha256
    AutoTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    same.enable_truncation(4)
    (tmp_path / "c").mkdir()
    same.save(str(tmp_path / "c/tokenizer.json"), pretty=False)
    for folder in ("b", "c"):
        assert RecordedTokenizer.in_use(str(tmp_path / folder)).sha256 == first
    assert Vocabulary.of(AutoTokenizer.from_pretrained(tmp_path / "a")).sha256 == first
    same.decoder = byte_level().decoder
    assert Vocabulary(same).sha256 != first


def test_a_tokenizer_in_python_is_recorded_too(tmp_path: Path):
    ByT5Tokenizer().save_pretrained(tmp_path / "a")
    ByT5Tokenizer(extra_ids=100).save_pretrained(tmp_path / "b")
    recorded = RecordedTokenizer.in_use(str(tmp_path / "a"))
    assert recorded.open().vocabulary.text(3 + ord("x")) == "x"
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    with pytest.raises(HarvestError, match="different tokenizer"):
        recorded.open()


def test_a_run_records_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = write_world(tmp_path / "world", n_texts=40)
    config = run / "final_config.yaml"
    name = str(tmp_path / "world" / "tokenizer")
    assert name in config.read_text()
    config.write_text(config.read_text().replace(name, "tokenizer"))
    monkeypatch.chdir(tmp_path / "world")
    checkpoint = RunCheckpoint.verify(fetch_run(parse_run(str(run)), None))
    assert checkpoint.tokenizer.as_config() == {
        "tokenizer_name": "tokenizer",
        "tokenizer_path": name,
        "tokenizer_sha256": RecordedTokenizer.in_use(name).sha256,
    }
    checkpoint.write(tmp_path)
    assert RunCheckpoint.open(tmp_path) == checkpoint
    path = HarvestLayout(tmp_path).run_checkpoint
    older = json.loads(path.read_text())
    for name in ("tokenizer_path", "tokenizer_sha256", "format_version", "digest"):
        del older[name]
    path.write_text(json.dumps(older))
    assert RunCheckpoint.open(tmp_path).tokenizer == RecordedTokenizer("tokenizer")


def test_a_vocabulary_with_gaps_is_listed_and_shown_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = Tokenizer(models.WordLevel({"red": 0, "fox": 60, "hen": 90}, unk_token="red"))
    run = write_world(tmp_path / "world", n_texts=40)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "world/tokenizer")
    folder = save(words, tmp_path / "world/tokenizer")
    assert AutoTokenizer.from_pretrained(folder).vocab_size == 3
    checkpoint = RunCheckpoint.verify(fetch_run(parse_run(str(run)), None))
    assert checkpoint.tokenizer_vocab_size == 91
    world.record(checkpoint.tokenizer)
    stats = load_token_stats(NAME)
    assert stats is not None
    found = get_input_token_stats(stats, KEY, load_tokenizer_of(NAME), SIZE)
    assert found is not None
    counted = stats.input_counts[stats.component_keys.index(KEY)][:91].nonzero().flatten().tolist()
    assert 60 in counted or 90 in counted
    known = {60: " fox", 90: " hen", 0: " red"}
    assert [t for t, _ in found.top_recall] == [
        known.get(i, f"#{i}") for i in sorted(counted, key=lambda i: -stats.input_counts[1][i])
    ]
    page = world.page(f"/component/{KEY}?reads_by=pmi") + world.page("?sort=reads")
    assert "#60" not in page
    assert "#59" in world.page(f"/component/{KEY}") + page
    words = Tokenizer(models.WordLevel({"red": 0, "far": 2**32 - 1}, unk_token="red"))
    world.record(RecordedTokenizer.in_use(str(save(words, tmp_path / "far"))))
    assert "No components match" in world.page("?token=far")


def test_a_page_does_not_load_transformers(world: World):
    code = (
        "import sys; from harvest_assets.files.layout import HarvestLayout; "
        "from harvest_assets.viewer.library import open_harvest; "
        f"harvest = open_harvest(HarvestLayout.of({NAME!r})); "
        f"assert harvest.vocabulary.text({FOX}) == ' fox'; "
        "sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=world.here)
