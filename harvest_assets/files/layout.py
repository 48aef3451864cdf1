"""Every path under `SPD_OUT_DIR`; no other module spells one.

```
$SPD_OUT_DIR/
├── runs/<project>-<run_id>/            files of SPD runs and of target models
├── pretrain_cache/<project>-<id>/      files of target models, older place
├── data/<fingerprint>/                 token rows, shared by harvests of equal data
├── arrays/<digest>/                    arrays of tokens that were harvested from a notebook
├── registered/<entity>/<project>/
│   ├── <run_id>[@<name>].json          where a run that is not on W&B is stored
│   └── watched.json                    which runs of a watched project were left out, and why
├── demo/                               the built-in run
├── huggingface/                        converted datasets, where the usual cache is read-only
├── cache/viewer/<run_id>[@<name>]/     what the viewer computed, and can compute again
└── harvest/<run_id>[@<name>]/
    ├── activation_contexts/            config.json, summary.json, components.jsonl, ...
    ├── correlations/                   component_correlations.pt, token_stats.pt
    ├── manifest.json                   size, digest and plan of each of the five
    ├── run_checkpoint.json, plan.json, token_rows.json
    ├── harvest_name.json               of a further harvest of a run
    ├── tokenizer/                      a copy of the run's tokenizer
    ├── shards/<shard>/                 current.json and the state directory it points to;
    │   └── saved/                      the same of a shard that is not finished
    ├── merged/                         current.json and the state that shards were compacted into
    ├── interpretations/                the tables labels, scores, edits (-<number>.parquet);
    │   ├── entries/                    what was written since, one file each time
    │   └── lists/                      lists of components, to be shared
    ├── comparisons/                    pairs of components with those of other harvests
    ├── leases/                         which process works on what
    └── logs/                           what the processes of the stages printed
```
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError

_MAX_NAME_BYTES = 200  # of the 255 of a file's name; temporary files beside it have longer ones


def is_folder_name(name: str) -> bool:
    """Whether a harvest or a run can have a folder of this name, inside the expected folder."""
    return (
        name.isprintable()
        and name.strip() == name
        and not name.startswith(".")
        and not set(name) & {"/", "\\"}
        and 0 < len(name.encode(errors="replace")) <= _MAX_NAME_BYTES
    )


def out_dir() -> Path:
    """`$SPD_OUT_DIR`, else `~/spd_out`; always absolute."""
    return Path(os.environ.get("SPD_OUT_DIR") or "~/spd_out").expanduser().absolute()


def run_cache_dir(project: str, run_id: str) -> Path:
    """Where the files of a W&B run (`final_config.yaml`, checkpoints) are kept."""
    return out_dir() / "runs" / f"{project}-{run_id}"


def run_cache_dirs(project: str, run_id: str) -> tuple[Path, ...]:
    """Where the files of a W&B run may be: those of `p-` runs also without the project's name."""
    own = run_cache_dir(project, run_id)
    return (own, out_dir() / "runs" / run_id) if run_id.startswith("p-") else (own,)


def pretrain_cache_dir(project: str, run_id: str) -> Path:
    """The older place of a target model's files, searched second."""
    return out_dir() / "pretrain_cache" / f"{project}-{run_id}"


def data_dir(fingerprint: str) -> Path:
    """Where the token rows with this fingerprint are kept."""
    return out_dir() / "data" / fingerprint


def array_dir(digest: str) -> Path:
    """Where an array of tokens is kept that was given as the data of a harvest."""
    return out_dir() / "arrays" / digest


def registration_path(key: str) -> Path:
    """The file that says where a run is stored, or into which other folder it is harvested.

    Args:
        key: the partition key of a harvest.
    """
    return out_dir() / "registered" / f"{key}.json"


def watched_path(entity: str, project: str) -> Path:
    """What is known of the runs of a watched W&B project."""
    return out_dir() / "registered" / entity / project / "watched.json"


def harvest_root() -> Path:
    """The folder of all harvests."""
    return out_dir() / "harvest"


def harvest_folders() -> list[Path]:
    """The folders of all harvests, sorted by name."""
    root = harvest_root()
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.name[0] != "." and path.is_dir())


def has_files(folder: Path) -> bool:
    """Whether there is a file or a link anywhere in a folder, or a folder that cannot be read."""
    unreadable: list[OSError] = []
    return any(
        names or any((Path(place) / name).is_symlink() for name in folders)
        for place, folders, names in os.walk(folder, onerror=unreadable.append)
    ) or bool(unreadable)


def viewer_cache_root() -> Path:
    """What the viewer computed from harvests, in a folder for each harvest's name."""
    return out_dir() / "cache" / "viewer"


@dataclass(frozen=True)
class HarvestLayout:
    """The paths of one harvest.

    Args:
        root: the folder of this harvest.
    """

    root: Path

    @classmethod
    def of(cls, name: str) -> HarvestLayout:
        """The harvest in a folder below `harvest/`: a run id, or what `--out_name` says."""
        return cls(harvest_root() / name)

    def check_links(self) -> None:
        """Check that no folder of this harvest is a link, through which files would be changed.

        The harvest's own folder may be one: that is how a user chooses the disk.

        Raises:
            HarvestError: one is.
        """
        shards = self.root / "shards"
        folders = [self.activation_contexts, self.correlations, self.merged, shards]
        folders += [self.root / "leases", self.root / "logs", self.tokenizer]
        folders += [self.interpretations, self.interpretation_entries, self.interpretation_lists]
        folders += [self.answers, self.autointerp_reports, self.comparisons]
        if shards.is_dir() and not shards.is_symlink():
            folders += [f for shard in shards.iterdir() for f in (shard, shard / "saved")]
        for folder in folders:
            if folder.is_symlink():
                raise HarvestError(
                    f"{folder} is a link, and nothing is written through one; remove it."
                )

    @property
    def activation_contexts(self) -> Path:
        """The folder of the results by component."""
        return self.root / "activation_contexts"

    @property
    def correlations(self) -> Path:
        """The folder of the two `.pt` files."""
        return self.root / "correlations"

    @property
    def config(self) -> Path:
        """What was harvested and how."""
        return self.activation_contexts / "config.json"

    @property
    def summary(self) -> Path:
        """One short entry per component that fired."""
        return self.activation_contexts / "summary.json"

    @property
    def components(self) -> Path:
        """One line per component that fired."""
        return self.activation_contexts / "components.jsonl"

    @property
    def component_index(self) -> Path:
        """All components as a table, with the places of their lines in `components`."""
        return self.activation_contexts / "component_index.parquet"

    @property
    def example_positions(self) -> Path:
        """Row and position of each example in `components`."""
        return self.activation_contexts / "example_positions.parquet"

    @property
    def highest_ci_examples(self) -> Path:
        """The examples of highest causal importance of each component."""
        return self.activation_contexts / "highest_ci_examples.parquet"

    @property
    def highest_activation_examples(self) -> Path:
        """The examples of largest activation; absent where version 0.1 began the harvest."""
        return self.activation_contexts / "highest_activation_examples.parquet"

    @property
    def firings(self) -> Path:
        """Every firing of the first rows; only of harvests that keep them."""
        return self.activation_contexts / "firings.safetensors"

    @property
    def optional_files(self) -> tuple[Path, ...]:
        """The files beside the five and the tables that some harvests lack."""
        return (self.highest_activation_examples, self.firings)

    @property
    def component_correlations(self) -> Path:
        """Firing and co-firing counts."""
        return self.correlations / "component_correlations.pt"

    @property
    def token_stats(self) -> Path:
        """Token counts and next-token probability sums per component."""
        return self.correlations / "token_stats.pt"

    @property
    def five_files(self) -> tuple[Path, ...]:
        """The files that readers rely on: complete, or absent."""
        return (
            self.config,
            self.summary,
            self.components,
            self.component_correlations,
            self.token_stats,
        )

    @property
    def tables(self) -> tuple[Path, ...]:
        """The tables beside the five files, without `highest_activation_examples`."""
        return (self.component_index, self.example_positions, self.highest_ci_examples)

    @property
    def manifest(self) -> Path:
        """Size, digest and plan of each of the five files."""
        return self.root / "manifest.json"

    @property
    def run_checkpoint(self) -> Path:
        """Which files of the run are harvested, with their digest."""
        return self.root / "run_checkpoint.json"

    @property
    def harvest_name(self) -> Path:
        """Which further harvest of its run this is; a run's first harvest has no such file."""
        return self.root / "harvest_name.json"

    @property
    def plan(self) -> Path:
        """The settings of the harvest."""
        return self.root / "plan.json"

    @property
    def token_rows(self) -> Path:
        """Which folder below `data/` holds the rows."""
        return self.root / "token_rows.json"

    @property
    def tokenizer(self) -> Path:
        """The folder of a copy of the run's tokenizer, with which the results are read."""
        return self.root / "tokenizer"

    @property
    def interpretations(self) -> Path:
        """The folder of labels, scores and notes."""
        return self.root / "interpretations"

    @property
    def interpretation_entries(self) -> Path:
        """The folder of what is not in the tables of `interpretations` yet."""
        return self.interpretations / "entries"

    @property
    def comparisons(self) -> Path:
        """The folder of pairs of components with those of other harvests."""
        return self.root / "comparisons"

    @property
    def answers(self) -> Path:
        """The folder of what language models answered about components."""
        return self.interpretations / "answers"

    @property
    def autointerp_reports(self) -> Path:
        """The folder of what labelling and scoring were asked to do and did."""
        return self.interpretations / "reports"

    @property
    def autointerp_lease(self) -> Path:
        """The file that names the process that labels or scores."""
        return self._lease("autointerp")

    @property
    def interpretation_lists(self) -> Path:
        """The folder of lists of components."""
        return self.interpretations / "lists"

    @property
    def interpretations_lease(self) -> Path:
        """The file that names the process that rewrites the tables of `interpretations`."""
        return self._lease("interpretations")

    @property
    def merged(self) -> Path:
        """The folder of the state that finished shards were compacted into."""
        return self.root / "merged"

    @property
    def merged_current(self) -> Path:
        """The file that names the merged state's directory."""
        return self.merged / "current.json"

    @property
    def unregistered(self) -> Path:
        """An empty file, while `unregister` has removed the run from the partitions."""
        return self.root / "unregistered"

    @property
    def harvest_lease(self) -> Path:
        """The file that names the command that drives the whole harvest."""
        return self._lease("harvest")

    @property
    def merge_lease(self) -> Path:
        """The file that names the process that merges."""
        return self._lease("merge")

    def shard_lease(self, shard: str) -> Path:
        """The file that names the process that works on a shard."""
        return self._lease(f"shard-{shard}")

    def _lease(self, work: str) -> Path:
        return self.root / "leases" / f"{work}.json"

    def shard(self, shard: str) -> Path:
        """The folder of one shard."""
        return self.root / "shards" / shard

    def shard_current(self, shard: str) -> Path:
        """The file that names the shard's finished state directory."""
        return self.shard(shard) / "current.json"

    def shard_saved(self, shard: str) -> Path:
        """The file that names the state that an unfinished shard saved last."""
        return self.shard(shard) / "saved" / "current.json"

    @property
    def tokenizing_progress(self) -> Path:
        """How far the dataset is tokenized, while it is."""
        return self.root / "tokenizing.json"

    def shard_progress(self, shard: str) -> Path:
        """How far a shard is, rewritten while it works."""
        return self.shard(shard) / "progress.json"

    def log(self, stage: str) -> Path:
        """What the processes of a stage printed."""
        return self.root / "logs" / f"{stage}.log"
