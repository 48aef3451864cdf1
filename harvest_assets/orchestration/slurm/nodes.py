"""Whether any node of the cluster could ever run a job, before one is submitted.

`sbatch` accepts a job that no node of its partition can run, and lets it wait for ever.
"""

from __future__ import annotations

import os
import re

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.slurm import cluster
from harvest_assets.orchestration.slurm.settings import SlurmSettings

# With these among the further options, the settings do not say what is requested.
_OTHER = {"cpus-per-task", "gres", "gpus", "gpus-per-node", "clusters"}


def require_fitting_node(settings: SlurmSettings, *, gpu: bool) -> None:
    """Check that a node of the partition has the cores and the GPUs that a job requests.

    Args:
        settings: of the cluster.
        gpu: whether the job requests GPUs.

    Raises:
        HarvestError: none has. A cluster that does not answer is not an error here.
    """
    options = settings.options(gpu=gpu)
    if settings.cluster != "slurm" or "SBATCH_PARTITION" in os.environ or _OTHER & options.keys():
        return
    partition = str(options.get("partition", settings.partition))
    nodes = cluster.nodes(partition)
    gres = settings.gres if gpu else ""
    if not nodes or any(n >= settings.cpus and _has(held, gres) for n, held in nodes):
        return
    where = f"partition {partition}" if partition else "the cluster's only partition"
    most = max(n for n, _ in nodes)
    if most < settings.cpus:
        raise HarvestError(
            f"HARVEST_SLURM_CPUS is {settings.cpus}, but no node of {where} has more than {most} "
            f"cores, so that the job would wait for ever; set HARVEST_SLURM_CPUS={most}, or "
            "another HARVEST_SLURM_PARTITION."
        )
    if not any(_has(held, gres) for _, held in nodes):
        held_there = sorted({held for _, held in nodes if held != "(null)"})
        raise HarvestError(
            f"HARVEST_SLURM_GRES is {gres}, but the nodes of {where} have "
            f"{' or '.join(held_there) or 'no GPU'}, so that the job would wait for ever; set "
            "another HARVEST_SLURM_PARTITION, or HARVEST_SLURM_GRES=none to harvest without a GPU."
        )
    raise HarvestError(
        f"No node of {where} has both {settings.cpus} cores and {gres}, so that the job would wait "
        "for ever; set HARVEST_SLURM_CPUS or HARVEST_SLURM_GRES."
    )


def _has(held: str, requested: str) -> bool:
    """Whether a node's GRES contain those requested; what cannot be read counts as contained."""
    try:
        there = [_parsed(part) for part in _parts(held)]
        wanted = [_parsed(part) for part in _parts(requested)]
    except ValueError:
        return True
    return all(
        sum(n for name, kind, n in there if name == it and of_kind in ("", kind)) >= count
        for it, of_kind, count in wanted
    )


def _parsed(gres: str) -> tuple[str, str, int]:
    """Name, type and number: `gpu`, `gpu:2`, `gpu:a100`, `gpu:3090:8(S:0-1)`.

    Raises:
        ValueError: it has another form.
    """
    match gres.partition("(")[0].split(":"):
        case [name]:
            return name, "", 1
        case [name, count] if count.isdecimal():
            return name, "", int(count)
        case [name, kind]:
            return name, kind, 1
        case [name, kind, count]:
            return name, kind, int(count)
    raise ValueError(gres)


def _parts(gres: str) -> list[str]:
    """Split at commas outside parentheses: `gpu:a100:4(S:0,1),nvme:1`."""
    return re.findall(r"[^,(]+(?:\([^)]*\))?", gres) if gres not in ("(null)", "none") else []
