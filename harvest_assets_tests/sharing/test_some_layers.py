"""Some layers of a harvest, sent or received: what the whole one says of them, and a harvest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import record
from harvest_assets.loaders import (
    activation_examples,
    load_activation_contexts_summary,
    load_components_frame,
    load_correlations,
    load_token_stats,
)
from harvest_assets.sharing.contents import contents_of
from harvest_assets.sharing.receive import Received, receive
from harvest_assets.store.harvest_name import HarvestReference
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration, claim_folder, owner_of
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.small_harvest import LAYERS, RUN, SmallHarvest
from harvest_assets_tests.sharing.machine import NAME, Machine
from harvest_assets_tests.sharing.test_archive import files_in, invoke, refused
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world
from harvest_assets_tests.writable_hub import WritableHub

(FIRST, N_FIRST), (SECOND, N_SECOND) = LAYERS
PART = "part.tar.zst"
PLACE = "hf://datasets/owner/counts"


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a harvest in `out`, and with `whole` and its second layer in files."""
    folder = tmp_path_factory.mktemp("sent")
    SmallHarvest(folder / "out/harvest" / NAME).run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder / "out"))
        for arguments in ([folder / "whole"], [folder / PART, "--layers", "h.1.*"]):
            result = invoke("pack", NAME, *arguments)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def whole(sent: Path) -> HarvestLayout:
    return HarvestLayout(sent / "out/harvest" / NAME)


@pytest.fixture
def part(sent: Path, out_dir: Path) -> HarvestLayout:
    result = invoke("unpack", sent / PART)
    assert result.exit_code == 0, result.output
    return HarvestLayout(out_dir / "harvest" / NAME)


def test_counts_are_those_of_the_components(whole: HarvestLayout, part: HarvestLayout):
    theirs, ours = (
        torch.load(it.component_correlations, weights_only=True) for it in (whole, part)
    )
    assert ours["component_keys"] == [f"{SECOND}:{i}" for i in range(N_SECOND)]
    assert torch.equal(ours["count_i"], theirs["count_i"][N_FIRST:])
    assert torch.equal(ours["count_ij"], theirs["count_ij"][N_FIRST:, N_FIRST:])
    assert ours["count_total"] == theirs["count_total"]
    theirs, ours = (torch.load(it.token_stats, weights_only=True) for it in (whole, part))
    for name in ("input_counts", "output_counts", "firing_counts"):
        assert torch.equal(ours[name], theirs[name][N_FIRST:])
        assert ours[name].dtype == theirs[name].dtype
    for name in ("input_totals", "output_totals"):
        assert torch.equal(ours[name], theirs[name])
    assert (ours["vocab_size"], ours["n_tokens"]) == (theirs["vocab_size"], theirs["n_tokens"])
    assert part.token_stats.stat().st_size < whole.token_stats.stat().st_size


def test_lines_are_the_same_bytes(whole: HarvestLayout, part: HarvestLayout):
    prefix = f'{{"component_key": "{SECOND}:'.encode()
    lines = whole.components.read_bytes().splitlines(keepends=True)
    theirs = [line for line in lines if line.startswith(prefix)]
    assert 0 < len(theirs) < len(lines)
    assert part.components.read_bytes() == b"".join(theirs)
    summary = json.loads(whole.summary.read_text())
    wanted = {key: entry for key, entry in summary.items() if key.startswith(SECOND)}
    assert list(json.loads(part.summary.read_text()).items()) == list(wanted.items())


def test_tables_have_the_same_rows(whole: HarvestLayout, part: HarvestLayout):
    for theirs, ours in zip(whole.tables, part.tables, strict=True):
        rows = pl.read_parquet(theirs).filter(pl.col("flat_index") >= N_FIRST)
        rows = rows.with_columns(pl.col("flat_index") - N_FIRST)
        if ours == part.component_index:
            rows = rows.with_columns(pl.col("offset") - pl.col("offset").min())
        assert len(rows)
        assert pl.read_parquet(ours).equals(rows)
        assert pq.read_schema(ours).names == pq.read_schema(theirs).names


def test_it_is_a_harvest_of_these_layers(whole: HarvestLayout, part: HarvestLayout):
    assert problems_of(part) == []
    plan, config = HarvestPlan.open(part.root), json.loads(part.config.read_text())
    assert (plan.layers, config["layers"]) == (("h.1.*",), ["h.1.*"])
    assert config["plan"] == plan.digest != HarvestPlan.open(whole.root).digest
    given = json.loads(whole.config.read_text())
    assert {**config, "plan": None} == {**given, "layers": ["h.1.*"], "plan": None}
    key = next(iter(load_activation_contexts_summary(NAME)))
    assert key in load_correlations(NAME).component_keys
    assert len(load_token_stats(NAME).firing_counts) == len(load_components_frame(NAME)) == N_SECOND
    shown = Library().get(NAME)
    assert isinstance(shown, FinishedHarvest)
    assert all("tokenizer" in warning for warning in shown.warnings)  # none is recorded here
    assert activation_examples(NAME, f"{FIRST}:0", 1) is None


def test_layers_kept_while_unpacking_are_those_that_were_packed(
    sent: Path, part: HarvestLayout, out_dir: Path
):
    done = invoke("unpack", sent / "whole", "--layers", SECOND, "--out-name", "kept")
    assert done.exit_code == 0, done.output
    assert (
        invoke("unpack", sent / "whole", "--layers", "h.1.*", "--out-name", "same").exit_code == 0
    )
    kept, same = (files_in(out_dir / "harvest" / name) for name in ("kept", "same"))
    assert same == files_in(part.root)
    assert kept["activation_contexts/components.jsonl"] == part.components.read_bytes()
    assert json.loads(kept["plan.json"])["layers"] == [SECOND]
    assert NAME in refused("unpack", sent / "whole", "--layers", SECOND)
    assert {it.name for it in (out_dir / "harvest").iterdir()} == {NAME, "kept", "same"}


def test_packing_says_which_layers(part: HarvestLayout, tmp_path: Path):
    shown = invoke("pack", NAME, tmp_path / "shown", "--layers", "h.1.*").stdout
    assert f"{SECOND} of {part.root.name}" in shown
    printed = invoke("pack", NAME, tmp_path / "printed", "--layers", "h.1.*", "--json").stdout
    assert json.loads(printed)["layers"] == [SECOND]
    printed = invoke("pack", NAME, tmp_path / "all", "--json").stdout
    assert json.loads(printed)["layers"] is None


def test_nothing_is_written_where_the_harvests_are(
    whole: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPD_OUT_DIR", str(whole.root.parents[1]))
    before = {path: path.stat().st_mtime_ns for path in whole.root.parent.rglob("*")}
    before[whole.root.parent] = whole.root.parent.stat().st_mtime_ns
    assert invoke("pack", NAME, tmp_path / "new/part", "--layers", SECOND).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [it.name for it in (tmp_path / "new").iterdir()] == ["part"]


def test_room_is_needed_for_the_layers_that_are_chosen(
    whole: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPD_OUT_DIR", str(whole.root.parents[1]))
    n_bytes = sum(map(len, files_in(whole.root).values()))
    for free in (n_bytes, 10):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        arguments = ("pack", NAME, tmp_path / str(free), "--layers", SECOND)
        if free == n_bytes:
            assert invoke(*arguments).exit_code == 0
        else:
            assert str(tmp_path) in refused(*arguments)
    assert [it.name for it in tmp_path.iterdir()] == [str(n_bytes)]


def test_a_part_of_a_part_keeps_within_it(part: HarvestLayout, tmp_path: Path):
    file = tmp_path / "again"
    message = refused("pack", NAME, file, "--layers", "h.0.*")
    assert "of the harvest" in message
    assert FIRST not in message.partition("are ")[2]
    assert not file.exists()
    assert invoke("pack", NAME, file, "--layers", "h.*").exit_code == 0
    assert invoke("unpack", file, "--out-name", "again").exit_code == 0
    again = HarvestLayout(part.root.with_name("again"))
    assert HarvestPlan.open(again.root).layers == (SECOND,)
    assert again.components.read_bytes() == part.components.read_bytes()


def test_layers_of_a_further_harvest_are_of_that_harvest(
    whole: HarvestLayout, out_dir: Path, tmp_path: Path
):
    dense = Registration(HarvestReference.from_key(RUN).run, f"{NAME}@dense", "dense")
    shutil.copytree(whole.root, dense.layout.root)
    claim_folder(dense)
    packed, kept = tmp_path / "packed", tmp_path / "kept"
    assert invoke("pack", dense.out_name, packed, "--layers", "h.1.*").exit_code == 0
    assert invoke("pack", dense.out_name, kept).exit_code == 0
    for file, layers in ((packed, ()), (kept, ("--layers", "h.1.*"))):
        done = invoke("unpack", file, *layers, "--out-name", file.name)
        assert done.exit_code == 0, done.output
        assert owner_of(HarvestLayout(out_dir / "harvest" / file.name)) == f"{RUN}@dense"


def test_what_matches_nothing_or_does_not_agree_leaves_nothing(
    sent: Path, out_dir: Path, tmp_path: Path
):
    assert "h.7.*" in refused("unpack", sent / "whole", "--layers", "h.7.*")
    assert list((out_dir / "harvest").iterdir()) == []
    assert invoke("unpack", sent / "whole").exit_code == 0
    paths = HarvestLayout(out_dir / "harvest" / NAME)
    index = pq.read_table(paths.component_index)
    place = index.schema.get_field_index("offset")
    shifted = index.set_column(
        place, "offset", index["offset"].combine_chunks().take(list(range(len(index) - 1, -1, -1)))
    )
    pq.write_table(shifted, paths.component_index)
    record(paths, paths.component_index, HarvestPlan.open(paths.root).digest)
    assert "components.jsonl" in refused("pack", NAME, tmp_path / "file", "--layers", SECOND)
    assert not (tmp_path / "file").exists()
    assert [it.name for it in (out_dir / "harvest").iterdir()] == [NAME]


def test_a_wrong_pattern_does_not_cost_what_was_downloaded(whole: HarvestLayout, out_dir: Path):
    contents = contents_of(whole, lambda *_: None)
    filled: list[Path] = []

    def fill(folder: Path) -> None:
        filled.append(folder)
        shutil.copytree(whole.root, folder, dirs_exist_ok=True)

    def pull(layers: str) -> Received:
        return receive(contents, "kept", "it", fill, lambda *_: None, [layers])

    with pytest.raises(HarvestError, match=r"h\.7"):
        pull("h.7.*")
    (left,) = (out_dir / "harvest").iterdir()
    left.rename(left.with_name(left.name.replace(f"-{os.getpid()}-", "-99999999-")))  # it ended
    assert not pull("h.1.*").was_there
    assert len(filled) == 1
    assert [it.name for it in (out_dir / "harvest").iterdir()] == ["kept"]


def test_cofirings_that_were_not_counted_stay_so(sent: Path, out_dir: Path, tmp_path: Path):
    assert invoke("unpack", sent / "whole").exit_code == 0
    paths = HarvestLayout(out_dir / "harvest" / NAME)
    file = paths.component_correlations
    counts = torch.load(file, weights_only=True)
    del counts["count_ij"]
    torch.save({**counts, "cooccurrence": False}, file)
    record(paths, file, HarvestPlan.open(paths.root).digest)
    assert invoke("pack", NAME, tmp_path / "file", "--layers", FIRST).exit_code == 0
    assert invoke("unpack", tmp_path / "file", "--out-name", "part").exit_code == 0
    assert problems_of(HarvestLayout(out_dir / "harvest/part")) == []
    part = load_correlations("part")
    assert part.count_ij is None
    assert torch.equal(part.count_i, counts["count_i"][:N_FIRST])


@pytest.mark.slow
def test_some_layers_are_pushed_and_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "owner"))
    with dg.DagsterInstance.ephemeral() as instance:
        tiny = TinyHarvest.of(instance, write_world(tmp_path / "world"))
        tiny.harvest()
    name = tiny.layout.root.name
    with WritableHub() as hub:
        variables = hub.environment(tmp_path / "huggingface")
        owner = Machine(tmp_path / "owner", {**variables, "HF_TOKEN": hub.token})
        reader = Machine(tmp_path / "reader", {**variables, "HF_TOKEN": ""})
        assert "h.1." in owner.done("push", tiny.key, PLACE, "--layers", "h.1.*")
        card = hub.repositories["datasets", "owner/counts"]["README.md"].decode()
        assert "that fired, in h" in card  # of the pattern, escaped
        assert "already" in owner.done("push", tiny.key, PLACE, "--layers", "h.1.*")
        assert "another harvest" in owner.refused("push", tiny.key, PLACE)
        owner.done("push", tiny.key, f"{PLACE}@whole")
        reader.done("pull", PLACE)
        reader.done("pull", f"{PLACE}@whole", "--layers", "h.1.*", "--out-name", "kept")
        assert "kept" in reader.refused("pull", PLACE, "--layers", "h.1.*", "--out-name", "kept")
    assert reader.files("kept") == reader.files(name)
    assert owner.files(name).keys() > reader.files(name).keys()  # states, and so on
    reader.done("verify", "kept")
    (listed, _) = json.loads(reader.done("list", "--json"))
    assert (listed["name"], listed["condition"]) == ("kept", "harvested")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "reader"))
    key = next(iter(load_activation_contexts_summary("kept")))
    assert key.startswith("h.1.")
    assert all(str(example).strip() for example in activation_examples("kept", key, 3))
