"""Train and score systems; list and compare what came of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
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
    WorkspaceOption,
    check_device,
    chosen_cluster,
    complete_profile,
    complete_system,
    open_workspace,
)
from asd_core.types import AsdError

if TYPE_CHECKING:
    from asd_core.artifacts import Workspace


def run(
    systems: Annotated[
        list[str] | None,
        typer.Argument(help="Systems of configs/systems, or YAML files.", autocompletion=complete_system),
    ] = None,
    data: DataOption = "demo",
    profile: Annotated[
        str,
        typer.Option(help="full: as the reports say. quick: small, for two cores.", autocompletion=complete_profile),
    ] = "full",
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    seeds: Annotated[
        list[int] | None, typer.Option(min=0, max=config.MAX_SEED, help="Seeds; repeat the option. Default: 0.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All systems.")] = False,
    generator: Annotated[
        str | None, typer.Option(help="For systems that train on generated clips: this generator, or YAML file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between two checkpoints of a training.")
    ] = 30.0,
    engine: EngineOption = "local",
    address: AddressOption = None,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and the resolved configuration; do nothing.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Train systems, score all test clips, decide and evaluate.

    What is finished is not computed again, and an interrupted training goes on where it stopped: repeat the
    same command. Example: run logmel-maha neu-1 --data demo --profile quick
    """
    names = config.system_names() if everything else systems or []
    if not names:
        raise typer.BadParameter("name at least one system, or --all; `systems` lists them")
    check_device(device)
    with terminal.reporting(job) as progress:
        from asd_core import engine as engines
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset

        cluster = chosen_cluster(engine, address)

        chosen = [config.load_system(name) for name in names]
        if generator is not None:
            if not any(system.synthesis for system in chosen):
                raise AsdError("None of these systems uses generated clips; leave --generator out.")
            chosen = [config.with_generator(system, config.load_generator(generator)) for system in chosen]
        overlay = config.load_profile(profile)
        context = pipeline.Context(open_workspace(workspace), open_dataset(data), device, checkpoint_seconds)
        for problem in context.data.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        progress(0.0, "planning")
        written = {
            system.name: str(Path(name).resolve())
            for name, system in zip(names, chosen, strict=True)
            if name.endswith((".yaml", ".yml"))
        }
        tasks = pipeline.plan(chosen, overlay, context, machines, seeds or [0], written)
        if dry_run:
            states = {True: "done", False: "to do"}
            terminal.print_json(
                {
                    "systems": [config.resolve(s, overlay).model_dump(mode="json", exclude_none=True) for s in chosen],
                    "tasks": [f"{t.kind}/{t.key} {states[t.done(context.workspace)]}: {t.title}" for t in tasks],
                }
            )
            return
        outcome = engines.run(tasks, context, progress, cluster)
    if not outcome.main:  # one of several processes; another one tells
        return
    terminal.err.print(f"{outcome.computed} tasks computed, {outcome.reused} reused.")
    finished = [t.spec["run_id"] for t in tasks if t.kind == "run"]
    _show_runs(context.workspace, run_ids=finished)


def table(
    data: Annotated[str | None, typer.Option(help="Only runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only runs of this profile.")] = None,
    by_machine: Annotated[
        bool, typer.Option("--machines", "--published", help="Machine by machine, beside what the reports print.")
    ] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Results of all runs: official and domain-restricted scores, intervals, published numbers beside."""
    _show_runs(open_workspace(workspace), data, profile, as_json=as_json, by_machine=by_machine)


def _show_runs(
    workspace: Workspace,
    data: str | None = None,
    profile: str | None = None,
    run_ids: Sequence[str] | None = None,
    as_json: bool = False,
    by_machine: bool = False,
) -> None:
    from asd_core import analysis
    from asd_core.artifacts import load_run

    reports, runs = analysis.published(), []
    finished = workspace.run_ids()
    declared = sorted(meta.parent.name for meta in (workspace.root / "runs").glob("*/meta.json"))
    damaged = {name: "a file is not as it was written" for name in declared if name not in finished}
    for run_id in finished:
        try:
            one = load_run(workspace, run_id)
            if data in (None, one.record["data"]["name"]) and profile in (None, one.record["profile"]):
                analysis.leaderboard([one], reports)  # reads all that the table will need
                runs.append(one)
        except (AsdError, OSError, LookupError, TypeError, ValueError) as error:
            damaged[run_id] = str(error) if isinstance(error, AsdError) else repr(error)
    if run_ids is not None:
        runs = [one for one in runs if one.record["run_id"] in run_ids]
    for name, why in damaged.items():
        advice = f"{name} is damaged ({why}). Delete {workspace.run(name)} and run it again."
        terminal.err.print(f"[yellow]passed over:[/] {escape(advice)}", highlight=False, soft_wrap=True)
    if not runs:
        raise AsdError(
            f"No finished run in {workspace.root} matches. `python -m asd_core run --help` tells how to make one."
        )
    if by_machine:
        results = analysis.machine_results(runs, reports)
        if as_json:
            terminal.print_json(json.loads(results.to_json(orient="records")))
        elif results.empty:
            raise AsdError("No machine of these runs is labelled, so that there is no figure to show.")
        else:
            terminal.print_machine_results(results)
        return
    board = analysis.leaderboard(runs, reports)
    if as_json:
        terminal.print_json(json.loads(board.to_json(orient="records")))
    else:
        labelled: dict[str, list[str]] = {}  # runs of one data set may cover different machines
        for one in runs:
            name = one.record["data"]["name"]
            labelled[name] = sorted({*labelled.get(name, []), *one.record["labelled"]})
        terminal.print_leaderboard(board, labelled)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, or a system: then all seeds of it.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="The same.")],
    data: Annotated[str | None, typer.Option(help="Of systems: runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of systems: runs of this profile.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Is one system better than another, or is it chance? Paired, on the same test clips, machine by machine.

    Example: compare neu-1 logmel-maha --data demo --profile quick
    """
    from asd_core import analysis

    finished = api.runs(open_workspace(workspace))
    picked = [analysis.runs_named(finished, name, data, profile) for name in (first, second)]
    found = analysis.compare_runs(*picked)
    if as_json:
        terminal.print_json(found)
    else:
        terminal.print_comparison(found)


def systems(
    profile: Annotated[
        str | None,
        typer.Option(help="Status under this profile; default: as the reports say.", autocompletion=complete_profile),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the systems and their variants: where they come from, what they need, whether it is here."""
    from asd_core import analysis, pipeline

    overlay = None if profile is None else config.load_profile(profile)
    valid: dict[str, config.System] = {}
    transductive = []
    for name, system in api.systems().items():
        try:
            if isinstance(system, AsdError):
                raise system
            if overlay is not None:
                config.resolve(system, overlay)
            transductive.append(pipeline.is_transductive(system))
            valid[name] = system
        except AsdError as error:
            terminal.err.print(f"[yellow]passed over:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    table = analysis.system_table(valid, overlay).assign(transductive=transductive)
    if as_json:
        terminal.print_json(table.to_dict(orient="records"))
        return
    if table.empty:
        raise AsdError(f"{config.CONFIGS / 'systems'} holds no valid system.")
    table["system"] = terminal.marked(table["system"], table["transductive"])
    shown = table[["system", "report", "published", "metric", "status", "needs", "networks", "idea"]]
    caption = (
        "published: harmonic mean in percent on DCASE 2026 development data. status: "
        + (f"under profile {profile}." if profile else "as the reports describe the systems; see --profile.")
        + " `weights list` tells how to get weights."
    )
    terminal.print_table(shown, caption=f"{caption}\n{terminal.TRANSDUCTIVE}")
