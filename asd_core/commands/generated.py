"""Generated clips: make, screen, measure."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from asd_core import api, config, terminal
from asd_core.commands.options import (
    WORKSPACE,
    AddressOption,
    DataOption,
    EngineOption,
    JobOption,
    JsonOption,
    MachinesOption,
    ProfileOption,
    WorkspaceOption,
    check_device,
    chosen_cluster,
    open_workspace,
)
from asd_core.types import AsdError

if TYPE_CHECKING:
    from asd_core import pipeline


def _complete_generator(incomplete: str) -> list[str]:
    return [name for name in config.generator_names() if name.startswith(incomplete)]


def _resolved_generator(name: str, profile: str) -> config.Generator:
    return config.resolve_generator(config.load_generator(name), config.load_profile(profile))


GeneratorOption = Annotated[
    str,
    typer.Option("--generator", help="Of configs/generators, or a YAML file.", autocompletion=_complete_generator),
]


def generate(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    engine: EngineOption = "local",
    address: AddressOption = None,
    dry_run: Annotated[bool, typer.Option(help="Show which conditions get how many clips; do nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the generator with these numbers into a new YAML file, to edit.")
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Make clips of rare conditions: train a diffusion model, draw, screen. Repeating the command continues.

    Systems that use such clips do the same by themselves. Example: generate --data demo --profile quick --dry-run
    """
    check_device(device)
    chosen = _resolved_generator(generator, profile)
    if dry_run or output is not None:
        from asd_core import files
        from asd_core.data.manifest import open_dataset

        targets = api.generation_targets(open_dataset(data), chosen, machines)
        if output is not None:
            if output.exists() or output.suffix not in (".yaml", ".yml"):
                raise AsdError(f"{output} exists or is no .yaml file. Give a new name that ends with .yaml.")
            counts = dict(zip(targets["condition"], targets["wanted"].tolist(), strict=True))
            files.write_text(output, config.generator_file(chosen, output.stem, counts))
            terminal.err.print(
                f"Wrote {escape(str(output))}. Edit targets.counts, then: --generator {escape(str(output))}"
            )
        if as_json:
            terminal.print_json(targets.to_dict(orient="records"))
        else:
            terminal.print_targets(targets)
        return
    _screened(chosen, data, machines, device, workspace, job, as_json, engine=engine, address=address)


def screen(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    keep: Annotated[list[str] | None, typer.Option(help="Keep this clip whatever the rule says; repeat.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Drop this clip whatever the rule says; repeat.")] = None,
    undo: Annotated[list[str] | None, typer.Option(help="Take back the last verdict on this clip; repeat.")] = None,
    every: Annotated[bool, typer.Option("--clips", help="List every clip, and what is against it.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """What is kept of the generated clips and why the others are not; record verdicts of your own.

    Example: screen --data demo --profile quick --clips --machines fanSim
    """
    chosen = _resolved_generator(generator, profile)
    said = [(clip, word) for word, clips in (("keep", keep), ("drop", drop), ("undo", undo)) for clip in clips or []]
    if said:
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset

        context = pipeline.Context(open_workspace(workspace), open_dataset(data))
        pipeline.record_verdicts(chosen, context, said)
    _screened(chosen, data, machines, "auto", workspace, None, as_json, every, only_known=True)


def _screened(
    chosen: config.Generator,
    data: str,
    machines: list[str] | None,
    device: str,
    workspace: Path,
    job: Path | None,
    as_json: bool,
    every: bool = False,
    only_known: bool = False,
    engine: str = "local",
    address: str | None = None,
) -> None:
    """Make and screen what is not there yet, and show what came of it."""
    import pandas as pd

    tasks, context = _make_generated(
        chosen, data, machines, device, workspace, job, engine, address, only_known=only_known
    )
    folders = [task.folder(context.workspace) for task in tasks if task.kind == "screen"]
    name = "candidates" if every else "shortfall"
    table = pd.concat([pd.read_parquet(folder / f"{name}.parquet") for folder in folders], ignore_index=True)
    if as_json:
        terminal.print_json(json.loads(table.to_json(orient="records")))
    elif every:
        terminal.print_candidates(table)
    else:
        terminal.print_shortfall(table, context.data.name, context.data.kind)


def quality(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """How near generated clips come to recorded ones, beside yardsticks; diversity, copies. May look at test labels.

    Example: quality --data demo --profile quick
    """
    import pandas as pd

    chosen = _resolved_generator(generator, profile)
    tasks, context = _make_generated(chosen, data, machines, "auto", workspace, job, engine, address, quality=True)
    folders = [task.folder(context.workspace) for task in tasks if task.kind == "quality"]
    distances, samples = (
        pd.concat([pd.read_parquet(folder / f"{name}.parquet") for folder in folders], ignore_index=True)
        for name in ("distances", "samples")
    )
    if as_json:
        tables = {"distances": distances, "samples": samples}
        terminal.print_json({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()})
    else:
        terminal.print_quality(distances, samples, context.data.name, context.data.kind)


def _make_generated(
    chosen: config.Generator,
    data: str,
    machines: list[str] | None,
    device: str,
    workspace: Path,
    job: Path | None,
    engine: str,
    address: str | None,
    quality: bool = False,
    only_known: bool = False,
) -> tuple[list[pipeline.Task], pipeline.Context]:
    with terminal.reporting(job) as progress:
        from asd_core import engine as engines
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset

        cluster = chosen_cluster(engine, address)
        context = pipeline.Context(open_workspace(workspace), open_dataset(data), device)
        for problem in context.data.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        progress(0.0, "planning")
        tasks = pipeline.plan_generated(chosen, context, machines, quality)
        if only_known and not all(task.done(context.workspace) for task in tasks if task.kind == "generate"):
            raise AsdError("There are no generated clips with these settings yet. `generate` makes them.")
        outcome = engines.run(tasks, context, progress, cluster)
    if not outcome.main:
        raise typer.Exit
    terminal.err.print(f"{outcome.computed} tasks computed, {outcome.reused} reused.")
    return tasks, context
