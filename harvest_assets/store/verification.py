"""Everything that a harvest has on disk, checked for consistency.

1. The manifest: size, digest and plan of each of the five files.
2. The counts: symmetry, diagonal, bounds; the marginals of the token counts.
3. The firings, where they are kept: order, values, and as many as were counted.
4. The lines: each where the index says, in flat order, with the same numbers as the other files.
5. The states that are kept: their digests.
6. The copy of the tokenizer: its digest.
7. The name of a further harvest: that of a harvest of the plan's run.

Of files that were just written only a sample of the lines is read, and no digests are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements, read
from harvest_assets.files.untrusted import read_json
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import line_at, parse_component, read_summary
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.firings import KeptFirings, impossible_firings
from harvest_assets.settings import HarvestSettings
from harvest_assets.store.imported import IMPORTED, source_of
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.plan_change import changed_settings
from harvest_assets.store.registry import check_name
from harvest_assets.store.shards import SHARD_KEYS, StoredState

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

_BLOCK = 1024
# Parsed of files that were just written, evenly spread over the components that fired; fewer where
# they have more bytes.
_SAMPLED_LINES = 50
_OPTIONAL = {"layers", "cooccurrence", "keep_firings", "ci_noise", "bf16"}
_SAMPLED_BYTES = 1 << 27
# Of a float32 sum of probabilities against the float64 sum it was rounded from.
_RELATIVE = 1e-4


def problems_of(
    paths: HarvestLayout, progress: Callable[[str], None] = lambda _: None, *, deep: bool = True
) -> list[str]:
    """What is wrong with a harvest, in sentences; empty if everything agrees.

    Args:
        paths: of the harvest.
        progress: called with the name of what is checked next.
        deep: read every byte. Otherwise digests are not compared, states are not read, and only a
            sample of the lines is parsed: enough for files that were just written.
    """
    progress("files and manifest")
    problems = disagreements(paths, deep=deep)
    if not any(file.exists() for file in paths.five_files):
        return problems
    checks: list[tuple[str, Callable[[HarvestLayout], Iterable[str]]]] = [
        ("counts", count_problems),
        ("lines", partial(_lines, n_parsed=None if deep else _SAMPLED_LINES)),
    ]
    if deep:
        checks += [
            ("firings", _kept_firings),
            ("states", _states),
            ("tokenizer", _tokenizer),
            ("name", _name),
        ]
    for what, check in checks:
        progress(what)
        try:
            problems += check(paths)
        except HarvestError as error:
            problems.append(str(error))
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"The {what} in {paths.root} cannot be read: {error!r}.")
    return list(dict.fromkeys(problems))


def older_plan_of(paths: HarvestLayout) -> str | None:
    """A sentence where the plan was replaced since the results were published.

    None also where one of them cannot be read, or no setting that changes results is another.
    """
    try:
        plan, config = HarvestPlan.open(paths.root), read_json(paths.config)
    except (OSError, ValueError, HarvestError):
        return None
    published = {entry.plan for entry in read(paths).values()}
    if not isinstance(config, dict) or len(published) != 1 or published & {plan.digest, None}:
        return None
    # Those that have their defaults are left out of the config.
    config = HarvestSettings().model_dump(mode="json", include=_OPTIONAL) | config
    plan_settings = plan.model_dump(mode="json", exclude={"run", "n_shards"})
    changed = changed_settings(config, plan_settings)
    if not changed:
        return None
    return (
        f"The results are of an older plan: {paths.plan} changes {changed}. Harvest the run again "
        "to have those results."
    )


def inconsistencies(
    count_i: torch.Tensor, count_ij: torch.Tensor | None, count_total: int
) -> list[str]:
    """What is wrong with the counts of one file, read a block of rows at a time.

    Args:
        count_i: int64 [C].
        count_ij: int64 [C, C]; None: not counted.
        count_total: positions seen.
    """
    problems = set()
    if (count_i > count_total).any():
        problems.add("a component fired more often than there are positions")
    if count_ij is None:
        return sorted(problems)
    if (count_ij.diagonal() != count_i).any():
        problems.add("the diagonal of count_ij is not count_i")
    size = len(count_ij)
    for top, left in product(range(0, size, _BLOCK), repeat=2):
        rows, columns = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
        tile = count_ij[rows, columns]
        if left >= top and (tile != count_ij[columns, rows].T).any():
            problems.add("count_ij is not symmetric")
        if (tile < 0).any() or (tile > count_i[rows, None]).any():
            problems.add("two components fired together more often than one of them")
    return sorted(problems)


def count_problems(paths: HarvestLayout) -> list[str]:
    """What is wrong with the counts in the two `.pt` files, in sentences.

    Raises:
        HarvestError: one is missing or damaged.
    """
    counts = CorrelationStorage.load(paths.component_correlations)
    tokens = TokenStatsStorage.load(paths.token_stats)
    found = [
        f"{paths.component_correlations}: {problem}."
        for problem in inconsistencies(counts.count_i, counts.count_ij, counts.count_total)
    ]
    found += [f"{paths.token_stats}: {problem}." for problem in _marginals(counts, tokens)]
    return found


def _marginals(counts: CorrelationStorage, tokens: TokenStatsStorage) -> Iterator[str]:
    import torch

    if counts.component_keys != tokens.component_keys:
        yield "the components are not those of component_correlations.pt"
        return
    if tokens.n_tokens != counts.count_total:
        yield f"n_tokens is {tokens.n_tokens}, but count_total is {counts.count_total}"
    firing_counts = counts.count_i.to(tokens.firing_counts.dtype)
    if not torch.equal(tokens.firing_counts, firing_counts):
        yield "firing_counts is not count_i of component_correlations.pt"
    is_exact = tokens.input_totals.dtype == torch.float64  # else other writers' sums in float32
    n_inputs = tokens.input_totals.double().sum()
    if int(n_inputs) != tokens.n_tokens if is_exact else not _close(n_inputs, tokens.n_tokens):
        yield "input_totals does not add up to n_tokens"
    if not _close(tokens.output_totals.double().sum(), tokens.n_tokens):
        yield "output_totals does not add up to n_tokens"
    for start in range(0, len(counts.count_i), _BLOCK):
        block = slice(start, start + _BLOCK)
        firings = counts.count_i[block]
        inputs, mass = tokens.input_counts[block], tokens.output_counts[block]
        if not torch.equal(inputs.sum(dim=1, dtype=torch.int64), firings.to(torch.int64)):
            yield "input_counts does not add up to the firings"
        most = tokens.input_totals if is_exact else tokens.input_totals * (1 + _RELATIVE)
        if (inputs < 0).any() or (inputs > most).any():
            yield "a token occurred more often where a component fired than anywhere"
        if not _close(mass.sum(dim=1, dtype=torch.float64), firings):
            yield "output_counts does not add up to the firings"


def _close(sums: torch.Tensor, expected: Any) -> bool:
    import torch

    wanted = torch.as_tensor(expected, dtype=torch.float64)
    return bool(((sums - wanted).abs() <= _RELATIVE * wanted.abs().clamp(min=1.0)).all())


def _lines(paths: HarvestLayout, n_parsed: int | None = None) -> Iterator[str]:
    """Problems with lines, index and summary; `n_parsed` lines are parsed, by default all."""
    config = read_json(paths.config)
    summary = read_summary(paths)
    firings = _firings(paths)
    alive = [key for key, count in firings.items() if count]
    if list(summary) != alive:
        yield f"{paths.summary} does not list the components that fired, in flat order."
    index = ComponentIndex.open(paths)
    if index is None:
        yield f"{paths.component_index} is missing, damaged, or belongs to other lines."
        return
    rows = read_index(paths)
    keys, counts = (rows[name].to_pylist() for name in ("component_key", "firing_count"))
    if dict(zip(keys, counts, strict=True)) != firings:
        yield f"{paths.component_index} does not have the firings of component_correlations.pt."
    placed = rows.filter(rows["offset"].is_valid())
    if placed["component_key"].to_pylist() != alive:
        yield f"{paths.component_index} does not list the components that fired."
        return
    misplaced = _misplaced(paths, placed)
    if misplaced:
        yield misplaced
        return
    sampled = _spread(alive, n_parsed, paths.components) if n_parsed else alive
    # Of an imported harvest there may be fewer.
    kept = None if IMPORTED in config else config.get("activation_examples_per_component")
    for key in sampled:
        place = index.line_place(key)
        line = line_at(paths, place, key) if place else None
        if line is None:
            yield f"{paths.components} does not have the line of {key} where its index says."
            return
        component = parse_component(paths.components, line)
        if key in summary and component.mean_ci != summary[key].mean_ci:
            yield f"{paths.components} and {paths.summary.name} differ in the mean CI of {key}."
        n_examples = len(component.activation_examples)
        if kept is not None and n_examples != min(kept, firings[key]):
            yield f"{paths.components} has {counted(n_examples, 'example')} of {key}."


def _spread(keys: list[str], n: int, lines: Path) -> list[str]:
    """About n of the keys, evenly spread; fewer where their lines are long."""
    line_bytes = max(1, lines.stat().st_size // max(1, len(keys)))
    n = max(1, min(n, _SAMPLED_BYTES // line_bytes))
    return keys[:: max(1, len(keys) // n)]


def _misplaced(paths: HarvestLayout, placed: pa.Table) -> str | None:
    """The problem if the lines do not follow one another up to the end of the file."""
    offsets, lengths = (placed[name].to_numpy() for name in ("offset", "length"))
    ends = np.cumsum(lengths)
    wrong = np.flatnonzero(offsets != ends - lengths)
    if len(wrong):
        key = placed["component_key"][int(wrong[0])]
        return f"{paths.components} does not have the line of {key} where its index says."
    if (ends[-1] if len(ends) else 0) != paths.components.stat().st_size:
        return f"{paths.components} does not end where its index says."
    return None


def _firings(paths: HarvestLayout) -> dict[str, int]:
    counts = CorrelationStorage.load(paths.component_correlations)
    return dict(zip(counts.component_keys, counts.count_i.tolist(), strict=True))


def _kept_firings(paths: HarvestLayout) -> Iterator[str]:
    if not paths.firings.exists():
        if read_json(paths.config).get("keep_firings"):
            yield f"{paths.firings} is missing; merge again to rebuild it."
        return
    counts = CorrelationStorage.load(paths.component_correlations)
    threshold = float(read_json(paths.config)["ci_threshold"])
    given = (counts.count_i.numpy(), counts.count_total, threshold)
    for problem in impossible_firings(KeptFirings.open(paths), *given):
        yield f"{paths.firings}: {problem}."


def _states(paths: HarvestLayout) -> Iterator[str]:
    """The digests of the merged state and of the shards that are kept."""
    for current in (paths.merged_current, *map(paths.shard_current, SHARD_KEYS)):
        try:
            stored = StoredState.find(current)
        except HarvestError as error:
            yield str(error)
            continue
        if stored is not None:
            yield from stored.damage()


def _tokenizer(paths: HarvestLayout) -> Iterator[str]:
    if not paths.tokenizer.exists():
        return
    if source_of(paths) is None:
        recorded = open_decomposition(paths.root).tokenizer
    else:
        recorded = RecordedTokenizer.of(read_json(paths.config))
    if not recorded.is_in(paths.tokenizer):
        yield (
            f"{paths.tokenizer} is not the tokenizer of the harvest ({recorded.name}); remove it "
            "and run the harvest again, which stores it."
        )


def _name(paths: HarvestLayout) -> list[str]:
    if paths.harvest_name.exists() and source_of(paths) is None:
        check_name(paths, HarvestPlan.open(paths.root).run)
    return []
