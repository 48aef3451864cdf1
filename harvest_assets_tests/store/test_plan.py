"""A plan on disk keeps the form and the digests of version 0.1."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import Field

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.plan import HarvestPlan

DATA = "cd" * 32
# A plan.json of version 0.1, without its version and digest.
SETTINGS = {
    "run": "goodfire/spd/s-d2ec3bfe",
    "checkpoint_sha256": "ab" * 32,
    "n_batches": 2000,
    "batch_size": 64,
    "context_length": 512,
    "ci_threshold": 1e-06,
    "activation_examples_per_component": 1000,
    "activation_context_tokens_per_side": 10,
    "pmi_token_top_k": 40,
    "seed": 7,
    "n_shards": 4,
    "ci_noise": True,
    "bf16": False,
}
DIGEST = "a975673220122325240866d4b7d24a2dc2fb2a30e0ae468c22aac131462af571"
COMPATIBILITY_DIGEST = "0fbffd0df08359145d3d825fcb99cc781852c30cefb93aad844ab071645c3038"
# docs/format.md: what states of one sum share, beside the fingerprint of the rows.
SHARED = {
    "run",
    "checkpoint_sha256",
    "context_length",
    "ci_threshold",
    "activation_examples_per_component",
    "activation_context_tokens_per_side",
    "seed",
    "ci_noise",
    "bf16",
}


class LaterPlan(HarvestPlan):
    """A plan with a setting that version 0.1 lacks."""

    later: int = Field(default=3)


def sha256_of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def test_digests_are_those_of_version_0_1():
    plan = HarvestPlan(**SETTINGS)
    assert plan.digest == sha256_of_json([3, SETTINGS]) == DIGEST
    shared = {name: SETTINGS[name] for name in SHARED}
    assert plan.compatibility_digest(DATA) == sha256_of_json([3, DATA, shared])
    assert plan.compatibility_digest(DATA) == COMPATIBILITY_DIGEST


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_in_the_plan_digest_and_shared_ones_in_the_compatibility_digest(name: str):
    value = SETTINGS[name]
    other = f"{value}x" if isinstance(value, str) else not value if value in (0, 1) else value + 1
    before, after = HarvestPlan(**SETTINGS), HarvestPlan(**{**SETTINGS, name: other})
    assert before.digest != after.digest
    differs = before.compatibility_digest(DATA) != after.compatibility_digest(DATA)
    assert differs == (name in SHARED)


def test_a_later_setting_is_left_out_while_at_its_default():
    plan, later = HarvestPlan(**SETTINGS), LaterPlan(**SETTINGS)
    assert later.digest == plan.digest
    assert later.compatibility_digest(DATA) == plan.compatibility_digest(DATA)
    changed = LaterPlan(**SETTINGS, later=4)
    assert changed.digest == sha256_of_json([3, {**SETTINGS, "later": 4}])
    assert changed.compatibility_digest(DATA) != plan.compatibility_digest(DATA)


def test_a_plan_of_version_0_1_opens_and_is_written_as_before(tmp_path: Path):
    path = HarvestLayout(tmp_path).plan
    path.write_text(json.dumps({"plan_version": 3, "digest": DIGEST, **SETTINGS}))
    plan = HarvestPlan.open(tmp_path)
    assert (plan.n_shards, plan.seed, plan.ci_noise) == (4, 7, True)
    plan.write(tmp_path)
    written = json.loads(path.read_text())
    assert written == {"plan_version": 3, "digest": DIGEST, **SETTINGS}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": "64"}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"n_shards": 17}, "n_shards"),
        ({"context_length": None}, "context_length"),
        ({"extra": 1}, "extra"),
        ({"seed": 8}, "digest"),
    ],
)
def test_a_plan_that_was_changed_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], named: str
):
    value = {"plan_version": 3, "digest": DIGEST, **SETTINGS, **change}
    HarvestLayout(tmp_path).plan.write_text(json.dumps(value))
    with pytest.raises(HarvestError, match=rf"plan\.json.*{named}"):
        HarvestPlan.open(tmp_path)
