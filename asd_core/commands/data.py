"""Get, simulate and look at data sets."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from asd_core import config, terminal
from asd_core.commands.options import (
    JobOption,
    JsonOption,
    complete_data,
)


def doctor(
    folder: Annotated[Path, typer.Argument(help="A data set's folder.")],
    output: Annotated[Path | None, typer.Option(help="Keep the report as tables in this folder, too.")] = None,
    as_json: JsonOption = False,
    job: JobOption = None,
) -> None:
    """Check every recording of a data set and report what is wrong, file by file, without stopping."""
    with terminal.reporting(job) as progress:
        from asd_core.data import doctor as examination

        if output is not None:
            examination.require_place(output)
        report = examination.examine(folder, progress)
        if output is not None:
            examination.keep(report, output)
    sys.stdout.write((examination.to_json(report) if as_json else examination.render(report)) + "\n")
    if any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(1)


def simulate(
    root: Annotated[Path, typer.Option(help="Folder to write; default data/demo.")] = config.CONFIGS.parent
    / "data"
    / "demo",
    size: Annotated[
        str, typer.Option(help="tiny (seconds), demo (a minute) or full (990+10+200 clips a machine).")
    ] = "demo",
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds, equal bytes.")] = 0,
    job: JobOption = None,
) -> None:
    """Record simulated machines, in the layout of the challenge. Repeating the command continues."""
    with terminal.reporting(job) as progress:
        from asd_core.data.simulate import simulate as record

        record(root, size, machines, seed, progress)
    terminal.err.print(f"Simulated machines are in {escape(str(root))}")


def degrade(
    folder: Annotated[str, typer.Argument(help="A data set or a folder.", autocompletion=complete_data)],
    output: Annotated[Path, typer.Option(help="A new or empty folder.")],
    snr: Annotated[float, typer.Option(help="dB, of each channel of each clip as it was recorded.")],
    noise: Annotated[
        str, typer.Option(help="pink, white, or far: the far microphone of other training clips.")
    ] = "pink",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds, equal bytes.")] = 0,
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    job: JobOption = None,
) -> None:
    """Copy a data set with noise added to every clip, to see how systems stand it.

    Example: data degrade demo --output data/demo-0dB --snr 0
    """
    with terminal.reporting(job) as progress:
        from asd_core.data import degrade as noisier
        from asd_core.data.manifest import open_dataset

        found = open_dataset(folder)
        for problem in found.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        made = noisier.degrade(found, output, snr, noise, seed, machines, progress)  # type: ignore[arg-type]  # checked
    if made.silent:
        told = f"{len(made.silent)} clips have a silent channel, which got no noise, such as {made.silent[0]}."
        terminal.err.print(escape(told), highlight=False, soft_wrap=True)
    if made.gain_db < 0:
        terminal.err.print(
            f"All clips were lowered by {-made.gain_db:.1f} dB, so that none is clipped.",
            highlight=False,
            soft_wrap=True,
        )
    told = f"{made.name}: {made.clips} clips are in {made.root}. Use it with --data {made.root}"
    terminal.err.print(escape(told), highlight=False, soft_wrap=True)


def download(
    name: Annotated[
        str, typer.Argument(help="A data set of configs/datasets.", autocompletion=complete_data)
    ] = "dcase2026",
    root: Annotated[Path | None, typer.Option(help="Where to; default: the data set's own folder.")] = None,
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    parts: Annotated[list[str] | None, typer.Option(help="dev, eval_train, eval_test; repeat the option.")] = None,
    job: JobOption = None,
) -> None:
    """Fetch a data set's archives (DCASE 2026: about 8.2 GB), check and unpack them. Repeating continues."""
    with terminal.reporting(job) as progress:
        from asd_core.data import catalogue
        from asd_core.data import download as fetching

        about = catalogue.load_dataset_config(name)
        place = root or config.CONFIGS.parent / about.root
        fetched = fetching.download(about, place, machines, parts, progress)
    terminal.err.print(f"{len(fetched)} archives fetched; the data set is in {escape(str(place))}")


def show(
    data: Annotated[str, typer.Argument(help="A data set or a folder.", autocompletion=complete_data)] = "demo",
    as_json: JsonOption = False,
) -> None:
    """Count the clips of a data set by machine, split, domain and label."""
    from asd_core.data.manifest import open_dataset

    found = open_dataset(data)
    counts = found.counts()
    if as_json:
        terminal.print_json(counts.to_dict(orient="records"))
        return
    terminal.print_table(counts, f"{found.name} ({found.kind}), {found.root}")
    for problem in found.problems:
        terminal.err.print(f"[yellow]passed over:[/] {escape(problem)}")
