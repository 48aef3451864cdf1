"""Some layers of a finished harvest as a harvest of their own, to be shared or kept.

It is what a harvest with `--layers` is: its plan and its `config.json` name the layers, and its
manifest names its own files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harvest_assets.decompositions.protocol import matching_layers
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import remove, temporary_beside
from harvest_assets.files.commit import publish_files
from harvest_assets.files.layout import HarvestLayout, harvest_root
from harvest_assets.files.manifest import forget_stamps
from harvest_assets.files.untrusted import read_json
from harvest_assets.sharing.contents import Watch, contents_of
from harvest_assets.store.plan import HarvestPlan


@contextmanager
def some_layers(
    paths: HarvestLayout, patterns: Sequence[str], watch: Watch
) -> Iterator[HarvestLayout]:
    """Write some layers of a finished harvest into a folder, which is removed in the end.

    Args:
        paths: of the harvest; without patterns, this is what is returned.
        patterns: names of layers, as of `--layers`.
        watch: is shown the progress.

    Raises:
        HarvestError: a pattern matches no layer, or the harvest is not finished or is damaged.
    """
    if not patterns:
        yield paths
        return
    scratch = temporary_beside(harvest_root() / "layers")
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

    contents_of(paths, watch)  # what is selected from is complete and undamaged
    stored = HarvestPlan.open(paths.root)
    names = [name for name, _ in matching_layers(layers_of(paths), patterns, "harvest")]
    # A pattern might match more layers of the run than were harvested.
    layers = patterns if stored.layers is None else names
    plan = HarvestPlan(**{**stored.model_dump(), "layers": tuple(layers)})
    try:
        config = read_json(paths.config)
    except (OSError, ValueError) as error:
        raise HarvestError(f"{paths.config} cannot be read: {reason_of(error)}.") from error
    config |= {"layers": list(plan.layers or ()), "plan": plan.digest}
    watch("selecting layers", 0, 0)
    if paths.run_checkpoint.exists():
        shutil.copyfile(paths.run_checkpoint, part.run_checkpoint)
    if paths.tokenizer.is_dir():
        shutil.copytree(paths.tokenizer, part.tokenizer)
    publish_files(part, plan)
    publish_files(part, SomeLayers(paths, frozenset(names), plan.digest, config))
    forget_stamps(part)  # the same layers are the same files each time
