"""A harvest as one file: unpacked elsewhere it is the same; files of strangers do no harm."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.atomic import host_name
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.loaders import (
    activation_examples,
    load_activation_contexts_summary,
    load_correlations,
)
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.sharing.machine import NAME
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world

Member = tuple[tarfile.TarInfo, bytes]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("Error:") == 1
    return result.stderr


def files_in(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in sorted(found.items())}


def members_of(file: Path) -> list[Member]:
    with pa.input_stream(file, compression="zstd") as stream:
        content = io.BytesIO(stream.read())
    with tarfile.open(fileobj=content) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]


def write_members(file: Path, members: list[Member], form: int = tarfile.GNU_FORMAT) -> None:
    with (
        pa.output_stream(file, compression="zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=form) as archive,
    ):
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))


def plain(name: str, content: bytes, **fields: object) -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def sealed(contents: dict) -> Member:
    """`contents.json` with a digest that is right for what it holds."""
    rest = {key: value for key, value in contents.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return plain("contents.json", json.dumps({**rest, "digest": digest}).encode())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small harvest in a file."""
    folder = tmp_path_factory.mktemp("packed")
    SmallHarvest(folder / "out/harvest" / NAME).run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder / "out"))
        result = invoke("pack", NAME, folder / "harvest.tar.zst")
    assert result.exit_code == 0, result.output
    return folder / "harvest.tar.zst"


@pytest.fixture
def harvest(out_dir: Path) -> HarvestLayout:
    """Where a harvest that is unpacked comes to be."""
    return HarvestLayout(out_dir / "harvest" / NAME)


def test_packing_removes_what_killed_packing_left(packed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(packed.parent / "out"))
    left = packed.with_name(f".harvest.tar.zst.{host_name()}-999999999-{'0' * 32}.tmp")
    left.touch()
    assert invoke("pack", NAME, packed.with_name("again.tar.zst")).exit_code == 0
    assert not left.exists()
    assert packed.with_name("again.tar.zst").read_bytes() == packed.read_bytes()


@pytest.mark.slow
def test_an_unpacked_harvest_is_read_viewed_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    with dg.instance_for_test() as instance:
        tiny = TinyHarvest.of(instance, write_world(tmp_path / "world"))
        tiny.harvest()
    name, file = tiny.layout.root.name, tmp_path / "sent.tar.zst"
    assert invoke("pack", tiny.key, file).exit_code == 0
    before = files_in(tiny.layout.root)
    (tmp_path / "world").rename(tmp_path / "gone")
    (tmp_path / "out").rename(tmp_path / "also gone")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "elsewhere"))

    done = invoke("unpack", file)
    assert done.exit_code == 0, done.output
    here = HarvestLayout.of(name)
    assert files_in(here.root).items() <= before.items()
    assert {it.name for it in here.root.iterdir()} == {
        *("activation_contexts", "correlations", "tokenizer"),
        *("manifest.json", "plan.json", "run_checkpoint.json"),
    }
    assert invoke("verify", tiny.key).exit_code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        key = next(iter(load_activation_contexts_summary(tiny.key)))
        assert all(str(example).strip() for example in activation_examples(name, key, 3))
        assert key in load_correlations(name).component_keys
    shown = Library().get(name)
    assert isinstance(shown, FinishedHarvest)
    assert shown.warnings == []
    (listed,) = json.loads(invoke("list", "--json").stdout)
    assert (listed["run"], listed["condition"]) == (tiny.key, "harvested")
    assert listed["tokens"] == listed["tokens_wanted"] == shown.n_tokens


def test_equal_harvests_are_equal_files_that_tar_opens(packed: Path, tmp_path: Path, out_dir: Path):
    assert invoke("unpack", packed).exit_code == 0
    assert invoke("pack", NAME, tmp_path / "again.tar.zst").exit_code == 0
    assert (tmp_path / "again.tar.zst").read_bytes() == packed.read_bytes()
    names = [member.name for member, _ in members_of(packed)]
    assert set(names) == {"contents.json", *files_in(out_dir / "harvest" / NAME)}


def test_an_equal_harvest_is_left_and_a_different_one_refused(packed: Path, harvest: HarvestLayout):
    assert invoke("unpack", packed).exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in harvest.root.rglob("*")}
    again = invoke("unpack", packed)
    assert again.exit_code == 0
    assert "already" in again.output
    assert {file: file.stat().st_mtime_ns for file in harvest.root.rglob("*")} == before

    SmallHarvest(harvest.root.parent / "other", seed=1).run()
    kept = files_in(harvest.root.parent / "other")
    assert "activation_contexts/" in (message := refused("unpack", packed, "--out-name", "other"))
    assert "other" in message
    assert files_in(harvest.root.parent / "other") == kept
    assert invoke("unpack", packed, "--out_name", "a third").exit_code == 0
    assert files_in(harvest.root.parent / "a third") == files_in(harvest.root)


def test_only_a_finished_harvest_is_packed(out_dir: Path, tmp_path: Path):
    harvest = SmallHarvest(out_dir / "harvest" / NAME)
    harvest.prepare()
    assert NAME in refused("pack", NAME, tmp_path / "file")
    harvest.run()
    SmallHarvest(harvest.root, n_batches=20).prepare()
    assert "plan" in refused("pack", NAME, tmp_path / "file")
    harvest.prepare()
    summary = harvest.paths.summary
    summary.write_bytes(summary.read_bytes()[::-1])
    assert "summary.json" in refused("pack", NAME, tmp_path / "file")
    assert not list(tmp_path.glob("*file*"))
    (tmp_path / "file").write_text("mine")
    assert "exists" in refused("pack", NAME, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def without_last(members: list[Member]) -> list[Member]:
    return members[:-1]


def one_more(members: list[Member]) -> list[Member]:
    return [*members, plain("shards/00/current.json", b"{}")]


def flipped(members: list[Member]) -> list[Member]:
    member, content = members[-1]
    return [*members[:-1], (member, content[:-1] + bytes([content[-1] ^ 1]))]


def longer(members: list[Member]) -> list[Member]:
    member, content = members[-1]
    return [*members[:-1], plain(member.name, content + b"!")]


def listing(**changes: object) -> Callable[[list[Member]], list[Member]]:
    """Replaces keys of `contents.json`."""

    def change(members: list[Member]) -> list[Member]:
        return [sealed({**json.loads(members[0][1]), **changes}), *members[1:]]

    return change


def listing_file(name: str, size: int | None = None) -> Callable[[list[Member]], list[Member]]:
    """Adds a file, also to the list."""

    def change(members: list[Member]) -> list[Member]:
        contents = json.loads(members[0][1])
        digest = hashlib.sha256(b"evil").hexdigest()
        contents["files"][name] = {"size": 4 if size is None else size, "sha256": digest}
        return [sealed(contents), *members[1:], plain(name, b"evil")]

    return change


def second(name: str, **fields: object) -> Callable[[list[Member]], list[Member]]:
    """Puts a member of another kind in the place of the second."""
    return lambda members: [members[0], plain(name, b"", **fields), *members[2:]]


HOSTILE = {
    "a file is missing": without_last,
    "a file too many": one_more,
    "another content": flipped,
    "another size": longer,
    "no list": lambda members: members[1:],
    "a long list": lambda members: [plain("contents.json", b" " * (2 << 20)), *members[1:]],
    "a list that is no JSON": lambda members: [plain("contents.json", b"{"), *members[1:]],
    "named outside": listing(name="../evil"),
    "a hidden name": listing(name=".evil"),
    "files that are no mapping": listing(files=[]),
    "a file outside": listing_file("../../evil"),
    "a file beside": listing_file("evil.json"),
    "a file among the states": listing_file("shards/evil"),
    "a file in a folder of a folder": listing_file("tokenizer/evil/evil"),
    "a hidden file": listing_file("tokenizer/.evil"),
    "a result that the manifest does not name": listing_file("correlations/evil.pt"),
    "an absolute path": listing_file("/evil"),
    "more than any disk": listing_file("correlations/evil.pt", 1 << 60),
    "less than nothing": listing_file("correlations/evil.pt", -4),
    "a large tokenizer": listing_file("tokenizer/tokenizer.json", 1 << 30),
    "a link": second("manifest.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": second("manifest.json", type=tarfile.LNKTYPE, linkname="contents.json"),
    "a device": second("manifest.json", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a pipe": second("manifest.json", type=tarfile.FIFOTYPE),
    "a folder": second("manifest.json", type=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_pack_did_not_write_does_no_harm(
    kind: str, packed: Path, out_dir: Path, tmp_path: Path
):
    SmallHarvest(out_dir / "harvest" / "mine").prepare()
    kept = files_in(tmp_path)
    file = tmp_path / "hostile.tar.zst"
    write_members(file, HOSTILE[kind](members_of(packed)))
    message = refused("unpack", file)
    assert str(file) in message or kind == "more than any disk"
    file.unlink()
    assert files_in(tmp_path) == kept
    assert [it.name for it in (out_dir / "harvest").iterdir()] == ["mine"]


def test_a_cut_or_changed_file_does_no_harm(packed: Path, out_dir: Path, tmp_path: Path):
    good, file = packed.read_bytes(), tmp_path / "changed.tar.zst"
    whole = {member.name: content for member, content in members_of(packed)}
    for place in range(0, len(good), len(good) // 20):
        file.write_bytes(good[:place])
        assert str(file) in refused("unpack", file)
        bad = bytearray(good)
        bad[place] ^= 0x55
        file.write_bytes(bad)
        if invoke("unpack", file, "--out-name", f"b{place}").exit_code == 0:
            assert files_in(out_dir / f"harvest/b{place}").items() <= whole.items()
        else:
            assert not list((out_dir / "harvest").glob(f"*b{place}*"))


def test_extended_headers_of_any_length_are_not_read(packed: Path, tmp_path: Path, out_dir: Path):
    members = members_of(packed)
    members[1][0].pax_headers = {"comment": "x" * 100_000}
    file = tmp_path / "hostile.tar.zst"
    write_members(file, members, tarfile.PAX_FORMAT)
    assert str(file) in refused("unpack", file)
    assert not list((out_dir / "harvest").iterdir())
