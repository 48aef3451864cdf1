"""Some layers of a finished harvest as a harvest of their own, to be shared or kept.

It is what a harvest with `--layers` is: its plan and its `config.json` name the layers, and its
manifest names its own files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harvest_assets.decompositions.protocol import matching_layers
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import remove, temporary_beside
from harvest_assets.files.commit import publish_files
from harvest_assets.files.free_space import require_free
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import forget_stamps
from harvest_assets.files.untrusted import read_json
from harvest_assets.sharing.contents import Contents, Watch, contents_of
from harvest_assets.store.imported import require_harvested
from harvest_assets.store.plan import HarvestPlan


@contextmanager
def some_layers(
    paths: HarvestLayout, patterns: Sequence[str], watch: Watch, folder: Path
) -> Iterator[HarvestLayout]:
    """Write some layers of a finished harvest into a folder, which is removed in the end.

    Args:
        paths: of the harvest; without patterns, this is what is returned.
        patterns: names of layers, as of `--layers`.
        watch: is shown the progress.
        folder: where that folder is made.

    Raises:
        HarvestError: a pattern matches no layer, the harvest is not finished or is damaged, or
            `folder` has no room.
    """
    if not patterns:
        yield paths
        return
    scratch = temporary_beside(folder / "layers")
    part = HarvestLayout(scratch / paths.root.name)
    try:
        part.root.mkdir(parents=True)
        _write_some_layers(paths, patterns, part, watch)
        yield part
    finally:
        remove(scratch)


def chosen_layers(part: HarvestLayout, patterns: Sequence[str]) -> list[str] | None:
    """The names of the layers that `some_layers` gave; None without patterns, which is all."""
    from harvest_assets.results.some_layers import layers_of

    return [name for name, _ in layers_of(part)] if patterns else None


def _write_some_layers(
    paths: HarvestLayout, patterns: Sequence[str], part: HarvestLayout, watch: Watch
) -> None:
    from harvest_assets.results.some_layers import SomeLayers, layers_of

    require_harvested(paths, "divided by layers")
    contents = contents_of(paths, watch)  # what is selected from is complete and undamaged
    stored = HarvestPlan.open(paths.root)
    all_ = layers_of(paths)
    chosen = matching_layers(all_, patterns, "harvest")
    n_bytes = _bytes_of(sum(n for _, n in chosen) / sum(n for _, n in all_), paths, contents)
    # Matrices are copied into files of their own before they are saved.
    require_free(part.root.parents[1], 2 * n_bytes, at_least=n_bytes, remedy="use a larger disk")
    names = [name for name, _ in chosen]
    # A pattern might match more layers of the run than were harvested.
    layers = patterns if stored.layers is None else names
    plan = HarvestPlan(**{**stored.model_dump(), "layers": tuple(layers)})
    try:
        config = read_json(paths.config)
    except (OSError, ValueError) as error:
        raise HarvestError(f"{paths.config} cannot be read: {reason_of(error)}.") from error
    config |= {"layers": list(plan.layers or ()), "plan": plan.digest}
    watch("selecting layers", 0, 0)
    for file in (paths.run_checkpoint, paths.harvest_name):
        if file.exists():
            shutil.copyfile(file, part.root / file.name)
    if paths.tokenizer.is_dir():
        shutil.copytree(paths.tokenizer, part.tokenizer)
    publish_files(part, plan)
    publish_files(part, SomeLayers(paths, frozenset(names), plan.digest, config))
    forget_stamps(part)  # the same layers are the same files each time


def _bytes_of(share: float, paths: HarvestLayout, contents: Contents) -> int:
    """Bytes of the files of a share of the components, about; of pairs there are fewer."""
    pairs = contents.files[paths.component_correlations.relative_to(paths.root).as_posix()].size
    return round(share * (contents.n_bytes - pairs) + share**2 * pairs)
