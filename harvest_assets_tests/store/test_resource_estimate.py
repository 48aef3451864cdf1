"""What a harvest is estimated to need, beside what it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from harvest_assets.harvester import Harvester
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.resource_estimate import ResourceEstimate, estimate_resources

# A shard without a model: what enters the harvester is drawn. Prints by how much memory grew.
SHARD = """
import re, sys, torch
from pathlib import Path
from types import SimpleNamespace
from harvest_assets.harvester import Harvester
from harvest_assets.harvester.stream import harvest_rows

n_components, vocab_size, n_rows, n_ctx, rows_per_forward = map(int, sys.argv[1:])


def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1])


def model(tokens):
    logits = torch.randn(*tokens.shape, vocab_size)
    acts = torch.rand(*tokens.shape, n_components)
    ci = torch.where(acts < 0.005, acts, 0.0)
    probs = logits.softmax(-1)
    return SimpleNamespace(output_probs=probs, firing_strengths=ci, second_values=acts)


tokens = torch.randint(0, vocab_size, (n_rows, n_ctx))
source = SimpleNamespace(n_rows=n_rows, rows=lambda start, stop: tokens[start:stop])
before = peak()
harvester = Harvester([("a", n_components)], vocab_size, 1e-6)
harvest_rows(
    harvester, model, source, range(n_rows), batch_size=1, rows_per_forward=rows_per_forward
)
state = harvester.build_results()
print(peak() - before)
"""


def needs(
    n_components: int,
    vocab_size: int,
    n_rows: int,
    n_ctx: int,
    tokens: int,
    *,
    on_gpu: bool = False,
):
    """The estimate for a run of these sizes."""
    plan = HarvestPlan(
        run="local/spd/s-aaaaaaaa", checkpoint_sha256="0" * 64, context_length=n_ctx, n_shards=1
    )
    sizes = SimpleNamespace(
        n_components=n_components,
        vocab_size=vocab_size,
        tokens_per_forward=tokens,
        extra_bytes_per_token=0,
        weight_bytes=0,
    )
    return estimate_resources(plan, sizes, n_rows, on_gpu=on_gpu)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("n_components", "vocab_size", "n_rows", "rows_per_forward"),
    [(1500, 4000, 64, 64), (2000, 16_000, 8, 4)],
    ids=["large groups", "large counts"],
)
def test_the_memory_of_a_shard(
    n_components: int, vocab_size: int, n_rows: int, rows_per_forward: int
):
    n_ctx = 64
    arguments = [n_components, vocab_size, n_rows, n_ctx, rows_per_forward]
    done = subprocess.run(
        [sys.executable, "-c", SHARD, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    tokens = rows_per_forward * n_ctx
    estimate = needs(n_components, vocab_size, n_rows, n_ctx, tokens).memory()
    of_the_program = needs(1, 1, 1, 1, 1).memory()
    assert int(done.stdout) == pytest.approx(estimate - of_the_program, rel=0.3)


def test_a_gpu_holds_the_sums_and_the_sample_once():
    n_components, vocab_size, k = 300, 500, 1000
    harvester = Harvester([("a", n_components)], vocab_size)
    window = 2 * 10 + 1
    of_an_example = sum(
        column.element_size() * column[:1].new_empty(column.shape[1:]).numel()
        for column in ExampleTable.empty(window)
    )
    held = harvester.n_bytes + n_components * k * of_an_example
    sizes = (n_components, vocab_size, 10_000, 64, 1)
    of_rows = needs(*sizes, on_gpu=True).working
    of_the_program = needs(1, 1, 1, 1, 1, on_gpu=True).memory()
    on_gpu = needs(*sizes, on_gpu=True).memory()
    assert on_gpu - of_rows - of_the_program == pytest.approx(held, rel=0.01)
    assert of_rows < 1_000_000, "of a single row"
    on_cpu = needs(*sizes)
    assert on_cpu.memory() > on_gpu
    assert (on_cpu.state, on_cpu.results) == (needs(*sizes, on_gpu=True).state, on_cpu.results)


def test_shards_side_by_side_share_the_weights():
    one = ResourceEstimate(
        weights=1000, working=200, counts=30, examples=4, state=10_000, results=50
    )
    assert one.memory(3) - one.memory(2) == one.memory(1) - 1000
    assert one.disk(3) == 4 * 10_000 + 50
