"""What `harvest_assets.open` returns, against the files, for hostile tokens and a hostile label."""

from __future__ import annotations

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import harvest_assets
from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Label
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.loaders import load_activation_context_single
from harvest_assets.store.registry import Registration, claim_folder
from harvest_assets.wandb_client.run_name import RunName, RunReference
from harvest_assets_tests.test_start_up import HEAVY, loaded_after
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest

RUN = "s-d2ec3bfe"
KEY, DEAD = "h.0.mlp.c_fc:1", "h.0.mlp.c_fc:0"
WRITTEN = "<script>window.pwned=9</script>\x1b[31m"
LABEL = WRITTEN.replace("\x1b", "\\x1b")  # as it is stored
LISTS = ("reads", "predicts", "fires_with", "examples")
MAX_REPR = 400  # characters


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("notebook") / "out"
    paths = write_harvest(out / "harvest" / RUN, TEXTS, 60, 6)
    Interpretations(paths).add([Label(KEY, WRITTEN, 0.5, WRITTEN, "model", WRITTEN)])
    return out


@pytest.fixture
def harvest(out: Path, monkeypatch: pytest.MonkeyPatch) -> harvest_assets.notebook.harvest.Harvest:
    monkeypatch.setenv("SPD_OUT_DIR", str(out))
    return harvest_assets.open(RUN)


class Tags(HTMLParser):
    """The tags of a page, and the page of the frame in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.frames: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "iframe":
            self.frames.append(dict(attrs))

    def assert_harmless(self) -> None:
        assert not self.names & {"script", "object", "embed", "link", "base"}
        assert not {it for it in self.attributes if it.startswith("on")}


def test_counts_and_examples_are_those_of_the_files(harvest, out: Path):
    paths = HarvestLayout(out / "harvest" / RUN)
    counts = torch.load(paths.component_correlations, weights_only=True)
    stats = torch.load(paths.token_stats, weights_only=True)
    keys, firings, place = counts["component_keys"], counts["count_i"], 1
    assert [it.key for it in harvest] == harvest.keys == keys
    np.testing.assert_array_equal(harvest.frame["firing_count"], firings)
    np.testing.assert_array_equal(harvest.frame["flat_index"], range(60))
    assert len(harvest.alive) == int((firings > 0).sum()) < len(harvest) == 60

    component = harvest[KEY]
    assert (component.flat_index, component.layer, component.index) == (place, "h.0.mlp.c_fc", 1)
    assert component.firing_count == firings[place]
    together = {keys[j]: int(counts["count_ij"][place, j]) for j in range(60) if j != place}
    found = component.fires_with(1000)
    assert dict(zip(found["component_key"], found["together"], strict=True)) == {
        key: n for key, n in together.items() if n
    }
    reads = component.reads(1000)
    expected = {i: int(n) for i, n in enumerate(stats["input_counts"][place]) if n}
    assert dict(zip(reads["token_id"], reads["count"], strict=True)) == expected
    assert reads["recall"].is_sorted(descending=True)

    line = next(it for it in map(json.loads, paths.components.open()) if it["component_key"] == KEY)
    examples = component.examples(3)
    assert [it.example.token_ids for it in examples] == [
        it["token_ids"] for it in line["activation_examples"][:3]
    ]
    assert all(it.row is not None for it in examples)
    assert harvest[DEAD].examples(3) == []
    assert harvest.correlations.component_keys == harvest.token_stats.component_keys == keys


def test_what_was_written_is_there_at_once(harvest, out: Path):
    assert harvest[KEY].label == LABEL
    assert harvest.labels["component_key"].to_list() == [KEY]
    other = harvest["h.1.mlp.c_fc:2"]
    assert other.label is None
    stored = Interpretations(HarvestLayout(out / "harvest" / RUN))
    stored.add([Label(other.key, "of another process", 0.5, "", "person", "Eve")])
    assert other.label == "of another process"
    assert other.key in harvest.search("ANOTHER process").keys


def test_selections(harvest):
    layer = harvest.layer("h.1.mlp.c_fc")
    assert layer.keys == [f"h.1.mlp.c_fc:{i}" for i in range(3)]
    assert layer[0] == harvest[layer.keys[0]]
    assert harvest[layer.keys[0]] in layer
    assert KEY not in layer
    assert [it.key for it in harvest[2:4]] == [harvest[2].key, harvest[-57].key]
    assert harvest.search("1mlpcfc").alive.keys
    with_token = {
        row["component_key"]
        for row in harvest.frame.to_dicts()
        if any("desrever" in text for text in row["reads"] + row["predicts"])
    }
    assert set(harvest.search("DESREVER").keys) == with_token
    assert with_token
    assert harvest["19.mlp.c_fc:2"].key == "h.19.mlp.c_fc:2"


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (lambda it: it["h.0.mlp.c_fcc:1"], "h.0.mlp.c_fc:1"),
        (lambda it: it["h.0.mlp.c_fc:99"], "h.0.mlp.c_fc:2"),
        (lambda it: it["c_fc:1"], "h.7.mlp.c_fc:1"),
        (lambda it: it.layer("h.0.mlp.c_fc")["h.1.mlp.c_fc:1"], "h.0.mlp.c_fc"),
        (lambda it: it.layer("0.mlp"), "h.0.mlp.c_fc"),
        (lambda it: it.alive[DEAD], "never fired"),
        (lambda it: it[KEY].examples(3, order="sampel"), "sample"),
        (lambda it: it[KEY].reads(by="recal"), "recall"),
        *((lambda it, f=f: getattr(it[KEY], f)(-3), "k is -3") for f in LISTS),
        (lambda _: harvest_assets.open("s-d2ec3bff"), f"Did you mean {RUN}"),
        (lambda _: harvest_assets.open("./nope"), "'./nope' does not exist"),
        (lambda _: harvest_assets.harvest(print, batchsize=3), "batch_size"),
    ],
)
def test_errors_say_what_was_meant(harvest, wrong, names: str):
    with pytest.raises(HarvestError) as error:
        wrong(harvest)
    assert names in str(error.value)


def test_what_a_terminal_shows(harvest):
    assert len(repr(harvest).splitlines()) == 3
    assert RUN in repr(harvest)
    lines = [line for it in harvest[:25] for line in repr(it).splitlines()]
    assert max(map(len, lines)) <= 100
    assert all(it.isprintable() for it in lines)
    assert len(repr(harvest[KEY]).splitlines()) == 10
    assert len(repr(harvest[DEAD]).splitlines()) == 2
    assert "window.pwned=9" in repr(harvest[KEY])

    loaded = load_activation_context_single(RUN, KEY)
    short = [loaded, *loaded.activation_examples, loaded.input_token_pmi, harvest.alive]
    short += [*harvest[KEY].examples(), harvest.correlations, harvest.token_stats, harvest]
    for it in short:
        assert len(repr(it)) < MAX_REPR
    assert KEY in repr(loaded)


def test_html_is_harmless_and_apart(harvest):
    tags = Tags(harvest[KEY]._repr_html_())
    tags.assert_harmless()
    (frame,) = tags.frames
    assert "sandbox" in frame
    page = frame["srcdoc"]
    assert page is not None
    inside = Tags(page)
    inside.assert_harmless()
    assert not inside.frames
    assert "style" in inside.names
    assert "window.pwned=9" in page
    for it in (harvest, harvest.alive):
        shown = Tags(it._repr_html_())
        shown.assert_harmless()
        assert "style" not in shown.names or it is not harvest
    assert harvest._repr_html_().count("data:image/svg+xml") == 2


def test_pandas_is_used_where_it_is(harvest, monkeypatch: pytest.MonkeyPatch):
    frame = harvest.to_pandas()
    assert frame["component_key"].tolist() == harvest.keys
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(HarvestError, match="pip install pandas"):
        harvest.to_pandas()


def test_other_folders_and_further_harvests(out: Path, tmp_path: Path, monkeypatch):
    shutil.copytree(out / "harvest" / RUN, tmp_path / "elsewhere")
    write_harvest(tmp_path / "out" / "harvest" / "sparse", TEXTS, 22, 2)
    run = RunReference(RunName("entity", "project", RUN), None)
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    claim_folder(Registration(run, "sparse", "few"))
    further = harvest_assets.open(f"entity/project/{RUN}@few")
    assert (len(further), further.run) == (22, f"entity/project/{RUN}@few")
    with pytest.raises(HarvestNotFoundError, match="sparse"):
        harvest_assets.open(f"entity/project/{RUN}@fewer")
    copied = harvest_assets.open(tmp_path / "elsewhere")
    assert (len(copied), copied[KEY].label) == (60, LABEL)
    assert copied.path == tmp_path / "elsewhere"


def test_opening_loads_no_torch(out: Path):
    program = (
        "import harvest_assets\n"
        f"harvest = harvest_assets.open({RUN!r})\n"
        "repr(harvest), harvest._repr_html_(), harvest.frame, harvest.search('the').keys\n"
    )
    loaded = loaded_after(program, out)
    assert "polars" in loaded
    assert not loaded.intersection({*HEAVY, "dagster"})
    light = loaded_after("import harvest_assets\n")
    assert not light.intersection({*HEAVY, "dagster", "polars", "numpy", "harvest_assets.loaders"})
