"""Maps of clips."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from asd_core import terminal
from asd_core.commands.options import WORKSPACE, JobOption, JsonOption, WorkspaceOption, open_workspace


def project(
    run_id: Annotated[str, typer.Option("--run", help="A finished run; `table --json` lists their ids.")],
    machine: Annotated[str, typer.Option(help="A machine of the run, or all.")] = "all",
    branch: Annotated[str, typer.Option(help="Whose embeddings; default: the run's first branch.")] = "",
    split: Annotated[str, typer.Option(help="Of train, test, generated; with commas between.")] = "train,test",
    method: Annotated[str, typer.Option(help="umap or pca.")] = "umap",
    neighbours: Annotated[int, typer.Option(help="UMAP: neighbours that a clip keeps.")] = 20,
    min_dist: Annotated[float, typer.Option(help="UMAP: how close points may lie.")] = 0.15,
    metric: Annotated[str, typer.Option(help="UMAP: cosine, euclidean, correlation or manhattan.")] = "cosine",
    seed: Annotated[int, typer.Option(help="UMAP: another seed, another map.")] = 0,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Lay out a run's clips on a plane by their embeddings, for the page Explore. What is there is found again.

    Example: project --run wistlab-1--demo--quick--seed0--3138d0 --machine fanSim --method pca
    """
    with terminal.reporting(job) as progress:
        from asd_core.artifacts import load_run
        from asd_core.pipeline import projection

        place = open_workspace(workspace)
        machines = [] if machine == "all" else [machine]
        splits = [word.strip() for word in split.split(",") if word.strip()]
        plan = projection.plan_projection(
            place, load_run(place, run_id), machines, branch, splits, method, neighbours, min_dist, metric, seed
        )
        points, notices = projection.project(place, plan, progress)
    for sentence in notices:
        terminal.err.print(f"[yellow]note:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    folder = plan.folder(place)
    if as_json:
        terminal.print_json({"key": plan.key, "points": str(folder / "points.parquet"), **plan.spec})
    else:
        terminal.out.print(f"{len(points)} clips in {folder / 'points.parquet'}", highlight=False, soft_wrap=True)
