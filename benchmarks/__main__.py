"""The command: tables on the screen, and a picture where one is asked for."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from benchmarks.accumulate import Measured, measure
from benchmarks.bare import measure_bare
from benchmarks.batches import SIZES
from benchmarks.end_to_end import measure_command
from benchmarks.large_run import Shape, write_large_run
from benchmarks.merging import MergeSize, measure_merge
from benchmarks.report import (
    accumulation_table,
    merge_table,
    sizes_table,
    stages_table,
    step_line,
    whole_table,
)
from benchmarks.sizes import SIZES as WHOLE_SIZES
from benchmarks.sizes import measure_size
from benchmarks.stages import SHAPES
from benchmarks.whole import measure_whole
from harvest_assets.demo.built_in import lay_out_demo
from harvest_assets.wandb_client.run_name import parse_run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what a harvest costs, beside a plain dense program."""


@main.command()
@click.option("--size", "names", multiple=True, type=click.Choice(list(SIZES)), default=["middle"])
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--repeats", default=4, show_default=True, help="Timed batches.")
@click.option("--dense/--no-dense", default=True, help="Time the dense yardstick too.")
@click.option("--picture", type=click.Path(path_type=Path), help="Write the table there as SVG.")
def accumulate(
    names: tuple[str, ...], device: str, repeats: int, dense: bool, picture: Path | None
) -> None:
    """Time a batch of the accumulator, cold (k = 1000) and in the steady state (k = 100)."""
    measured: list[Measured] = []
    for name in names:
        for k, warm_up, state in ((1000, 0, "cold, k = 1000"), (100, 8, "steady, k = 100")):
            measured.append(
                measure(
                    SIZES[name],
                    k,
                    warm_up=warm_up,
                    repeats=repeats,
                    device=device,
                    with_dense=dense,
                    what=f"{name}, {state}",
                )
            )
    show([accumulation_table(m) for m in measured], picture)


@main.command()
@click.option("--shards", default=4, show_default=True)
@click.option("--components", default=4000, show_default=True)
@click.option("--vocabulary", default=4019, show_default=True)
@click.option("--examples", default=1000, show_default=True, help="Of each component and shard.")
@click.option("--silent", default=0.0, help="Share of the components that never fired.")
@click.option(
    "--states", type=click.Path(path_type=Path), help="Folder for the states, kept for next time."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Write the table there as SVG.")
def merge(
    shards: int,
    components: int,
    vocabulary: int,
    examples: int,
    silent: float,
    states: Path | None,
    picture: Path | None,
) -> None:
    """Time merging full shards, writing and checking the files, and reading one component."""
    size = MergeSize(shards, components, vocabulary, examples, silent)
    show([merge_table(measure_merge(size, states))], picture)


@main.command()
@click.argument("run", default="demo")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--repeats", default=10, show_default=True, help="Timed groups of rows.")
@click.option("--bf16", is_flag=True, help="Matrix products of the model in bfloat16.")
@click.option("--picture", type=click.Path(path_type=Path), help="Write the table there as SVG.")
def harvest(run: str, device: str, repeats: int, bf16: bool, picture: Path | None) -> None:
    """Time the harvest of a run (default: the built-in one) beside its bare forward and CI pass."""
    reference = parse_run(str(lay_out_demo()) if run == "demo" else run)
    show([whole_table(measure_whole(reference, device, repeats, bf16=bf16))], picture)


@main.command("end_to_end")
@click.argument("run", default="demo")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--dagster/--bare", default=True, help="By the command, or without Dagster.")
@click.option("--n-batches", default=64, show_default=True)
@click.option("--batch-size", default=64, show_default=True, help="Rows of a batch.")
@click.option("--examples", default=100, show_default=True, help="Kept of each component.")
@click.option("--shards", default=1, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Write the table there as SVG.")
def end_to_end(
    run: str,
    device: str,
    dagster: bool,
    n_batches: int,
    batch_size: int,
    examples: int,
    shards: int,
    picture: Path | None,
) -> None:
    """Time a whole harvest, stage by stage, in a folder that is removed afterwards.

    RUN is the folder of a run, `demo`, or a size of random runs: small, simplestories-4l, paper.
    """
    settings = {
        "n_batches": n_batches,
        "batch_size": batch_size,
        "activation_examples_per_component": examples,
        "n_shards": shards,
    }
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as folder:
        os.environ["SPD_OUT_DIR"] = str(Path(folder) / "out")
        if run == "demo":
            place = lay_out_demo()
        elif run in SHAPES:
            shape = replace(SHAPES[run], n_rows=n_batches * batch_size)
            place = write_large_run(Path(folder) / "random", shape)
        else:
            place = Path(run)
        if dagster:
            measured = measure_command(place, settings, device, Path(folder) / "dagster")
        else:
            measured = measure_bare(place, settings, device)
    show([stages_table(measured)], picture)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rows", default=4096, show_default=True, help="Rows of data.")
def large_run(folder: Path, rows: int) -> None:
    """Write a random run of the size of the VPD paper's into a new folder (2.9 GB)."""
    run = write_large_run(folder, Shape(n_rows=rows))
    click.echo(f"Harvest it with: harvest-assets {run}")


@main.command()
@click.argument("size", type=click.Choice(list(WHOLE_SIZES)))
@click.argument("folder", type=click.Path(path_type=Path))
def sizes(size: str, folder: Path) -> None:
    """Make, merge, verify and read a harvest of the largest SIZE, in a new FOLDER.

    It needs up to 62 GiB of disk, which is checked before, and at most 8 GiB of memory.
    """
    measured = measure_size(size, folder, lambda step: click.echo(step_line(step), err=True))
    show([sizes_table(size, measured)], None)


def show(tables: list[object], picture: Path | None) -> None:
    """Print tables; write them as a picture too."""
    console = Console(record=True, width=100)
    for table in tables:
        console.print(table)
    if picture is not None:
        console.save_svg(str(picture), title="python -m benchmarks")


if __name__ == "__main__":
    main()
