"""Several harvests of one run: which folder and which key each of them has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harvest_assets.cli.harvest_choice import harvest_to_make
from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.files.layout import HarvestLayout, registration_path
from harvest_assets.files.lease import hold_lease
from harvest_assets.loaders import load_activation_contexts_summary
from harvest_assets.store.lookup import find_harvest, harvest_named, registration_named
from harvest_assets.store.registry import (
    claim_folder,
    owner_of,
    register,
    registration_for,
    registration_of,
)
from harvest_assets.wandb_client.run_name import parse_run

RUN, OTHER = "local/spd/s-aaaa1111", "local/other/s-aaaa1111"


def begun(text: str, out_name: str | None = None) -> HarvestLayout:
    """The folder of a harvest, as the first stage leaves it."""
    registration = registration_named(text, out_name)
    register(registration.reference, out_name, registration.name)
    registration.layout.root.mkdir(parents=True)
    claim_folder(registration)
    run = json.dumps({"run": registration.reference.name.key})
    registration.layout.run_checkpoint.write_text(run)
    return registration.layout


def key_and_folder(text: str, out_name: str | None = None) -> tuple[str, str]:
    registration = registration_named(text, out_name)
    return registration.key, registration.out_name


@pytest.mark.usefixtures("out_dir")
class TestMaking:
    """What the commands that make a harvest take a name for."""

    def test_the_first_may_be_anywhere(self):
        assert key_and_folder(RUN) == (RUN, "s-aaaa1111")
        assert key_and_folder(RUN, "mine") == (RUN, "mine")
        assert key_and_folder(f"{RUN}@dense") == (f"{RUN}@dense", "s-aaaa1111@dense")
        assert key_and_folder(f"{RUN}@dense", "mine") == (f"{RUN}@dense", "mine")

    def test_another_folder_is_that_of_a_further_harvest(self):
        begun(RUN)
        assert key_and_folder(RUN) == (RUN, "s-aaaa1111")
        assert key_and_folder(RUN, "s-aaaa1111") == (RUN, "s-aaaa1111")
        assert key_and_folder(RUN, "mine") == (f"{RUN}@mine", "mine")
        begun(RUN, "mine")
        assert owner_of(HarvestLayout.of("mine")) == f"{RUN}@mine"
        assert registration_of(RUN).out_name == "s-aaaa1111"
        for again in ((RUN, "mine"), (f"{RUN}@mine", None), ("mine", None)):
            assert key_and_folder(*again) == (f"{RUN}@mine", "mine")

    def test_the_name_and_the_path_of_a_folder_mean_its_harvest(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        dense = begun(f"{RUN}@dense")
        monkeypatch.chdir(dense.root.parent)
        assert find_harvest("s-aaaa1111@dense").root == dense.root
        assert harvest_named("s-aaaa1111@dense").key == f"{RUN}@dense"
        assert harvest_named("s-aaaa1111@dense/").key == f"{RUN}@dense"
        assert key_and_folder("s-aaaa1111@dense") == (f"{RUN}@dense", "s-aaaa1111@dense")
        for path in ("./s-aaaa1111@dense", f"{dense.root}", f"{dense.root}/"):
            assert find_harvest(path).root == dense.root
            assert harvest_named(path).key == f"{RUN}@dense"
            assert key_and_folder(path) == (f"{RUN}@dense", "s-aaaa1111@dense")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "//",
            "~nosuchuser/x",
            "~nosuchuser",
            "a\0b/c",
            "/proc/1/root/x/y",
            "/" + 300 * "x",
        ],
    )
    def test_odd_texts_name_no_harvest(self, monkeypatch: pytest.MonkeyPatch, text: str):
        """Also in the folder of one."""
        monkeypatch.chdir(begun(f"{RUN}@dense").root)
        for find in (find_harvest, harvest_named, registration_named):
            with pytest.raises(HarvestError):
                find(text)

    def test_a_run_is_not_taken_for_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        dense = begun(RUN)
        here = tmp_path / RUN
        here.mkdir(parents=True)
        (here / "plan.json").write_text("{}")
        monkeypatch.chdir(tmp_path)
        assert find_harvest(RUN).root == dense.root

    def test_the_path_of_a_harvest_elsewhere_is_refused_with_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        dense = begun(f"{RUN}@dense")
        HarvestLayout(dense.root).plan.write_text("{}")
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "other"))
        there = dense.root.parent.parent
        with pytest.raises(HarvestNotFoundError, match=f"outside of .*Set SPD_OUT_DIR={there} to"):
            find_harvest(f"{dense.root}")
        alone = dense.root.rename(tmp_path / "alone")
        with pytest.raises(HarvestNotFoundError, match=rf"open\('{alone}'\)"):
            find_harvest(f"{alone}")

    def test_a_harvest_in_a_folder_of_its_runs_name_keeps_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        begun("./mine", "mine")
        key = registration_named("mine").key
        assert registration_named("mine/").reference.path == tmp_path / "mine"
        registration_path(key).unlink()  # another machine
        assert registration_named("mine").reference.path == tmp_path / "mine"

    def test_a_first_harvest_in_another_folder_is_never_replaced(self):
        begun(RUN, "mine")
        assert key_and_folder(RUN) == (RUN, "mine")
        assert key_and_folder(RUN, "s-aaaa1111") == (f"{RUN}@s-aaaa1111", "s-aaaa1111")

    def test_a_folder_that_was_chosen_counts_before_it_exists(self):
        register(parse_run(RUN), "mine")
        assert key_and_folder(RUN, "yours") == (f"{RUN}@yours", "yours")
        assert registration_of(RUN).out_name == "mine"

    def test_a_first_harvest_that_has_just_begun_counts(self):
        with hold_lease(registration_of(RUN).layout.harvest_lease, "The harvest"):
            assert key_and_folder(RUN, "mine")[0] == f"{RUN}@mine"

    def test_folders_of_other_harvests_are_refused(self):
        begun(RUN)
        begun(f"{RUN}@dense")
        for text, out_name, owner in (
            (OTHER, None, RUN),
            (OTHER, "s-aaaa1111@dense", f"{RUN}@dense"),
            (f"{RUN}@sparse", "s-aaaa1111@dense", f"{RUN}@dense"),
            (f"{RUN}@sparse", "s-aaaa1111", RUN),
            (RUN, "s-aaaa1111@dense", f"{RUN}@dense"),
        ):
            with pytest.raises(HarvestError, match=f"holds the harvest of {owner};"):
                registration_named(text, out_name)
        with pytest.raises(HarvestError, match="'a@b'"):
            registration_named(RUN, "a@b")
        assert registration_of(RUN).out_name == "s-aaaa1111"

    def test_a_further_harvest_stays_in_its_folder(self):
        begun(f"{RUN}@dense")
        with pytest.raises(HarvestError, match="s-aaaa1111@dense"):
            registration_named(f"{RUN}@dense", "mine")
        HarvestLayout.of("s-aaaa1111@dense").root.rename(HarvestLayout.of("mine").root)
        assert key_and_folder(f"{RUN}@dense", "mine") == (f"{RUN}@dense", "mine")

    @pytest.mark.parametrize("text", [RUN, f"{RUN}@dense"])
    def test_a_received_copy_is_not_where_the_harvest_is_made(self, text: str):
        own = begun(text)
        part = HarvestLayout.of("part")
        shutil.copytree(own.root, part.root)
        part.manifest.write_text("{}")
        for named, out_name in ((text, "part"), ("part", None)):
            with pytest.raises(HarvestError, match=f"is in {own.root}"):
                registration_named(named, out_name)
        assert key_and_folder(text) == (text, own.root.name)

    @pytest.mark.parametrize("text", [RUN, f"{RUN}@dense"])
    def test_a_harvest_whose_folder_was_renamed_goes_on_there(self, text: str):
        folder = begun(text).root
        moved = HarvestLayout.of("moved")
        folder.rename(moved.root)
        assert find_harvest(text).root == moved.root
        assert key_and_folder(text) == (text, "moved")
        folder.mkdir()  # and left behind empty
        assert key_and_folder(text) == (text, "moved")
        moved.manifest.write_text("{}")  # as after unpacking it
        with pytest.raises(HarvestError, match="moved"):
            registration_named(text)
        assert key_and_folder("moved") == (text, "moved")
        assert key_and_folder(text, folder.name) == (text, folder.name)
        moved.manifest.unlink()
        shutil.copytree(moved.root, moved.root.with_name("copy"))
        with pytest.raises(HarvestError, match="copy and moved"):
            registration_named(text)

    def test_two_folders_of_0_1_are_both_the_first(self, capsys: pytest.CaptureFixture[str]):
        """Version 0.1 changed the run's folder with --out-name."""
        begun(RUN)
        demo2 = HarvestLayout.of("demo2")
        demo2.root.mkdir()
        demo2.run_checkpoint.write_text(json.dumps({"run": RUN}))
        for out_name in ("demo2", "s-aaaa1111"):
            assert key_and_folder(RUN, out_name) == (RUN, out_name)
            assert harvest_to_make(RUN, out_name).key == RUN
            assert f"in {out_name};" in capsys.readouterr().err
            register(parse_run(RUN), out_name)
            assert harvest_to_make(RUN, out_name).key == RUN
            assert capsys.readouterr().err == ""
            assert key_and_folder(RUN) == (RUN, out_name)

    @pytest.mark.parametrize("content", ["{", "[]", "", '{"harvest": "x"}'])
    def test_a_folder_whose_name_is_damaged_is_left_alone(self, content: str):
        dense = begun(f"{RUN}@dense")
        dense.harvest_name.write_text(content)
        for text in (RUN, f"{RUN}@dense", OTHER):
            with pytest.raises(HarvestError, match="harvest_name"):
                registration_for(parse_run(text.partition("@")[0]), dense.root.name, "dense")
        with pytest.raises(HarvestNotFoundError):
            find_harvest(RUN)
        assert find_harvest("s-aaaa1111@dense").root == dense.root

    def test_a_further_harvest_finds_the_run_where_the_first_did(self, tmp_path: Path):
        (tmp_path / "run").mkdir()
        first = register(parse_run(str(tmp_path / "run")))
        assert registration_of(f"{first.key}@dense").reference.path == tmp_path / "run"


@pytest.mark.usefixtures("out_dir")
class TestReading:
    """What the commands that read, and the loaders, take a name for."""

    def test_each_is_found_by_its_own_name(self, out_dir: Path):
        dense, moved = begun(f"{RUN}@dense"), begun(f"{RUN}@sparse", "moved")
        (out_dir / "registered").rename(out_dir / "elsewhere")  # another machine
        assert find_harvest(f"{RUN}@dense").root == dense.root
        assert find_harvest(f"wandb:{RUN}@sparse").root == moved.root
        assert find_harvest("s-aaaa1111@dense/").root == dense.root
        with pytest.raises(HarvestNotFoundError, match="moved"):
            find_harvest(f"{RUN}@other")
        with pytest.raises(HarvestNotFoundError):
            find_harvest(f"{OTHER}@dense")

    def test_a_run_means_its_only_harvest(self):
        dense = begun(f"{RUN}@dense")
        assert find_harvest(RUN).root == dense.root

    @pytest.mark.parametrize("text", [RUN, f"{RUN}@dense"])
    @pytest.mark.parametrize("out_name", [None, "mine"])
    def test_copies_count_only_where_the_harvest_is_not_in_its_folder(
        self, text: str, out_name: str | None
    ):
        own = begun(text, out_name)
        copies = [own.root.with_name(name) for name in ("a-copy", "z-copy")]
        for copy in copies:
            shutil.copytree(own.root, copy)
        assert find_harvest(text).root == own.root
        shutil.rmtree(own.root)
        with pytest.raises(HarvestNotFoundError, match="a-copy"):
            find_harvest(text)
        assert find_harvest("z-copy").root == copies[1]

    def test_a_run_with_several_is_answered_with_a_list(self):
        first, dense = begun(RUN), begun(f"{RUN}@dense")
        with pytest.raises(HarvestNotFoundError) as caught:
            find_harvest(RUN)
        for there in ("s-aaaa1111 ", f"s-aaaa1111@dense ({RUN}@dense)"):
            assert there in str(caught.value)
        with pytest.warns(UserWarning, match=f"{RUN}@dense") as warned:
            assert load_activation_contexts_summary(RUN) is None
        assert [it.filename for it in warned] == [__file__]
        assert find_harvest("s-aaaa1111").root == first.root
        assert find_harvest("s-aaaa1111@dense").root == dense.root
        with pytest.raises(HarvestNotFoundError):
            find_harvest(OTHER)
