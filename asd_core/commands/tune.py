"""Fuse finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from asd_core import api, config, terminal
from asd_core.commands.options import (
    WORKSPACE,
    JobOption,
    JsonOption,
    WorkspaceOption,
    open_workspace,
)
from asd_core.types import AsdError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asd_core.artifacts import Run, Workspace
    from asd_core.tuning import Tuning


def tune(
    names: Annotated[list[str], typer.Argument(metavar="RUN", help="Ids of runs, or systems; all of their streams.")],
    data: Annotated[str | None, typer.Option(help="Of systems: runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of systems: runs of this profile.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=config.MAX_SEED, help="Of systems: the run with this seed.")] = 0,
    search: Annotated[str, typer.Option(help="auto, grid (up to 3 streams), greedy or simplex.")] = "auto",
    normalise: Annotated[str, typer.Option(help="none, ztrain, ecdf or rank_test (transductive).")] = "ztrain",
    by_run: Annotated[
        bool, typer.Option("--by-run", help="One weight per run, for its final score, instead of one per stream.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the fusion as a system, into this new YAML file.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Fuse finished runs with weights tuned on their labelled machines, and tell what they are worth on others.

    Example: tune neu-1 logmel-maha --data demo --profile quick --output both.yaml
    """
    from asd_core import files
    from asd_core.pipeline.tuned import trained_anew

    if output is not None and output.exists():
        raise AsdError(f"{output} exists. Give a new name, or delete it first.")
    place = open_workspace(workspace)
    with terminal.reporting(job) as progress:
        progress(0.0, "tuning")
        picked = _picked(place, names, data, profile, seed)
        make = _by_run if by_run else _by_stream
        text, tuning = make(place, picked, output.stem if output else "tuned", normalise, search)
    if output is not None:
        files.write_text(output, text)
    if as_json:
        ids = [run.record["run_id"] for run in picked]
        terminal.print_json(tuning.record() | {"runs": ids, "data": picked[0].record["data"]})
    else:
        terminal.print_tuning(tuning, picked[0].record["data"])
    if output is not None:
        about = picked[0].record
        profiles = {run.record["profile"] for run in picked}
        known = api.data_sets(place).get(about["data"]["name"])  # fusing needs no recording
        root = known.argument if known else about["data"]["name"]
        how = f"--data {root} --profile {profiles.pop() if len(profiles) == 1 else 'full'}"
        if lowest := min(run.record["seed"] for run in picked):
            how += f" --seeds {lowest}"
        if told := trained_anew(picked):
            terminal.err.print(escape(told), highlight=False, soft_wrap=True)
        terminal.err.print(f"Wrote it. Next: run {escape(str(output))} {escape(how)}", highlight=False, soft_wrap=True)


def _picked(workspace: Workspace, names: Sequence[str], data: str | None, profile: str | None, seed: int) -> list[Run]:
    """The runs that are named by id, or by system and seed."""
    from asd_core import analysis

    finished, picked = api.runs(workspace), []
    for name in names:
        found = analysis.runs_named(finished, name, data, profile)
        own = [run for run in found if run.record["run_id"] == name or run.record["seed"] == seed]
        if not own:
            seeds = ", ".join(str(run.record["seed"]) for run in found)
            raise AsdError(f"{name} has no finished run with seed {seed}. There is: {seeds}.")
        picked += own
    return picked


def _by_stream(workspace: Workspace, runs: Sequence[Run], name: str, normalise: str, search: str) -> tuple[str, Tuning]:
    """The fusion as a YAML file, and what its weights are worth."""
    from asd_core import pipeline

    system, tuning = pipeline.tune_runs(runs, name, normalise, search)
    return pipeline.system_file(system, tuning, runs), tuning


def _by_run(workspace: Workspace, runs: Sequence[Run], name: str, normalise: str, search: str) -> tuple[str, Tuning]:
    """The same with one weight per run; the result is kept, for the app to find."""
    from asd_core.pipeline import members

    tuning = members.tune_members(runs, normalise, search)  # type: ignore[arg-type]
    members.keep_tuning(workspace, runs, normalise, search, tuning)
    return members.fused_file(runs, name, tuning), tuning
