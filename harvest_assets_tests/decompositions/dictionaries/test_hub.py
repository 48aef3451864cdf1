"""Dictionaries are downloaded from a repository that has several."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from harvest_assets.decompositions.dictionaries.formats import FORMATS
from harvest_assets.decompositions.dictionaries.hub import fetch_folder
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.dictionaries.make_saved import SAVED
from harvest_assets_tests.loopback_hub import LoopbackHub


def test_only_the_folder_of_the_dictionary_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    standard, other = SAVED / "sae_lens_standard", SAVED / "sae_lens_topk"
    files = {
        f"blocks.{layer}.hook_resid_pre/{path.name}": path.read_bytes()
        for layer, folder in ((8, standard), (80, other))
        for path in folder.iterdir()
    }
    patterns = sorted({name.format(layer=None) for known in FORMATS for name in known.files})
    with LoopbackHub() as hub:
        hub.add("models", "owner/saes", files)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        fetched: list[str] = []
        hub.on_file = fetched.append
        found = fetch_folder("owner/saes/blocks.8.hook_resid_pre", patterns)
        for name in ("cfg.json", "sae_weights.safetensors"):
            assert (found / name).read_bytes() == (standard / name).read_bytes()
        assert {name.rpartition("/")[0] for name in fetched} == {"blocks.8.hook_resid_pre"}
        with pytest.raises(HarvestError, match="owner/nothing"):
            fetch_folder("owner/nothing", patterns)
        missing = fetch_folder("owner/saes/blocks.9", patterns)
        assert not missing.exists()
