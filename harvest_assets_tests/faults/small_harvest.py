"""A small harvest without Dagster and without a real model: shards, save, merge, publish, compact.

Everything that touches the disk is the product's own; the model answers from a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from harvest_assets.files.commit import publish_files
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import check_held, hold_lease
from harvest_assets.harvester import Harvester, HarvesterState
from harvest_assets.results.merge import MergedContexts, MergedCorrelations, MergedTokenStats
from harvest_assets.store.compaction import compact
from harvest_assets.store.keeping import recorder_of
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.resume import harvest_saving, resume_or_begin
from harvest_assets.store.shards import SHARD_KEYS, ShardResult, ShardResults, Work, commit_shard
from harvest_assets.store.shared_rows import SharedTokenRows

LAYERS = (("h.0.mlp", 14), ("h.1.attn", 10))
VOCAB, N_CTX, N_ROWS = 40, 16, 96
RUN = "local/faults/x-aaaaaaaa"


class Answer(NamedTuple):
    output_probs: torch.Tensor
    firing_strengths: torch.Tensor
    second_values: torch.Tensor | None


class Table:
    """Looks up its answers by token.

    Args:
        second_values: whether a component has a second value, as in an SPD run.
    """

    def __init__(self, *, second_values: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        n = sum(c for _, c in LAYERS)
        rate = torch.linspace(0.02, 0.7, n)
        ci = torch.rand(VOCAB, n, generator=generator)
        self.ci = torch.where(torch.rand(VOCAB, n, generator=generator) < rate, ci, 0.0)
        self.probs = torch.rand(VOCAB, VOCAB, generator=generator).softmax(-1)
        acts = torch.randn(VOCAB, n, generator=generator)
        self.acts = acts if second_values else None

    def __call__(self, tokens: torch.Tensor) -> Answer:
        acts = None if self.acts is None else self.acts[tokens]
        return Answer(self.probs[tokens], self.ci[tokens], acts)


class Rows:
    n_rows = N_ROWS

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randint(0, VOCAB, (N_ROWS, N_CTX), generator=generator)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.tokens[start:stop]


@dataclass(frozen=True)
class SmallHarvest:
    """One harvest in a folder.

    Args:
        root: the harvest's folder.
        seed: of the sample; another seed gives another result.
        n_batches: of 8 rows.
        n_shards: shards.
        config_extras: further entries of config.json.
        saving_share: of the time that may go into saving.
        keep_firings: rows whose firings are kept; -1 is all.
        second_values: whether components have second values; those of a dictionary have none.
    """

    root: Path
    seed: int = 0
    n_batches: int = 12
    n_shards: int = 2
    config_extras: tuple[tuple[str, str], ...] = ()
    saving_share: float = 0.9
    keep_firings: int = 0
    second_values: bool = True

    @property
    def paths(self) -> HarvestLayout:
        return HarvestLayout(self.root)

    @property
    def plan(self) -> HarvestPlan:
        return HarvestPlan(
            run=RUN,
            checkpoint_sha256="0" * 64,
            n_batches=self.n_batches,
            batch_size=8,
            context_length=N_CTX,
            activation_examples_per_component=8,
            activation_context_tokens_per_side=3,
            pmi_token_top_k=4,
            seed=self.seed,
            n_shards=self.n_shards,
            keep_firings=self.keep_firings,
        )

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        publish_files(self.paths, self.plan)
        publish_files(self.paths, SharedTokenRows("f" * 32, N_ROWS, N_CTX))

    def shard(self, name: str, enough: Callable[[int], None] = lambda _: None) -> None:
        """One shard, as the asset does it; `enough` is called after each group."""
        paths, plan = self.paths, self.plan
        lease = paths.shard_lease(name)
        with hold_lease(lease, f"Shard {name}"):
            work = Work.of(paths, plan)
            share = ShardResult(
                plan.digest, work.compatibility_digest, name, work.share(name), None
            )
            if not share.rows or work.reusable(paths, plan, name):
                return
            recorder = recorder_of(plan, share, paths)
            harvester, done = resume_or_begin(
                paths.shard_saved(name),
                share,
                lambda: Harvester(LAYERS, VOCAB, 1e-6, 8, 3, self.seed),
                torch.device("cpu"),
                lambda _: None,
                recorder,
            )
            harvest_saving(
                harvester,
                Table(second_values=self.second_values),
                Rows(),
                share,
                paths.shard_saved(name),
                done=done,
                batch_size=8,
                rows_per_forward=3,
                on_progress=enough,
                may_write=lambda: check_held(lease),
                saving_share=self.saving_share,
                min_seconds=0.0,
                recorder=recorder,
            )
            state = harvester.build_results()
            firings = recorder and recorder.blocks()
            commit_shard(paths, replace(share, state=state, firings=firings))

    def merge(self, keep: str = "merged") -> None:
        paths, plan = self.paths, self.plan
        with hold_lease(paths.merge_lease, "The merge"):
            total = ShardResults(paths).open(plan)
            config = {"plan": plan.digest, "seed": self.seed, "n_batches": self.n_batches}
            if self.keep_firings:
                config |= {"context_length": N_CTX, "ci_threshold": plan.ci_threshold}
            config |= dict(self.config_extras)
            for value in (
                MergedCorrelations(total, plan.digest),
                MergedTokenStats(total, plan.digest),
                MergedContexts(
                    total, plan.digest, config, 4, VOCAB, ShardResults(paths).firings(plan)
                ),
            ):
                publish_files(paths, value)
            compact(paths, plan, keep)

    def run(self, keep: str = "merged") -> None:
        self.prepare()
        for name in SHARD_KEYS[: self.n_shards]:
            self.shard(name)
        self.merge(keep)


def contents(paths: HarvestLayout) -> dict[str, object]:
    """The five files and kept firings; `.pt` files count by what they hold."""
    found: dict[str, object] = {}
    for file in (*paths.five_files, paths.firings):
        if not file.exists():
            continue
        if file.suffix == ".pt":
            value = torch.load(file, weights_only=True)
            found[file.name] = {
                k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in value.items()
            }
        else:
            found[file.name] = file.read_bytes()
    return found


def same_sums(one: HarvesterState, other: HarvesterState) -> bool:
    """Equal to the last bit in counts and examples."""
    exact = ("count_ij", "firing_counts", "input_token_counts", "input_token_totals")
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in exact) and all(
        torch.equal(a, b)
        for name, table in one.example_tables.items()
        for a, b in zip(table, other.example_tables[name], strict=True)
    )
