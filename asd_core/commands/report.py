"""Write the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asd_core import terminal
from asd_core.commands.options import WORKSPACE, JobOption, WorkspaceOption, open_workspace
from asd_core.types import AsdError

if TYPE_CHECKING:
    from asd_core.artifacts import Run


def report(
    run: Annotated[str, typer.Option(help="Id of a finished run, or a system: then its newest run.")],
    against: Annotated[str | None, typer.Option(help="Another one on the same recordings, to compare with.")] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write.  [default: report.html]")] = None,
    pdf: Annotated[Path | None, typer.Option(help="PDF file to write.")] = None,
    clips: Annotated[int, typer.Option(min=0, max=100, help="Clips shown in each list.")] = 10,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Everything about a run in one file that can be sent and printed: figures with intervals, the worst clips, how
    the run was made.

    Example: report --run studio-1 --against logmel-knn --output report.html --pdf report.pdf
    """
    with terminal.reporting(job) as progress:
        from asd_core import report as reports
        from asd_core.artifacts import list_runs
        from asd_core.files import write_bytes, write_text

        place = open_workspace(workspace)
        finished = list_runs(place)
        first, second = _newest(finished, run), None if against is None else _newest(finished, against)
        if second is not None and second.record["run_id"] == first.record["run_id"]:
            raise AsdError(f"{first.record['run_id']} cannot be compared with itself. Name another run.")
        document = reports.build(place, first, second, clips, progress)
        targets = [(output or (None if pdf else Path("report.html")), "html"), (pdf, "pdf")]
        for path, form in targets:
            if path is None:
                continue
            progress(0.9 if form == "html" else 0.95, f"writing {path.name}")
            if form == "html":
                write_text(path, reports.to_html(document))
            else:
                write_bytes(path, reports.to_pdf(document))
            terminal.out.print(str(path), soft_wrap=True, markup=False, highlight=False)


def _newest(runs: list[Run], name: str) -> Run:
    from asd_core import analysis

    return max(analysis.runs_named(runs, name), key=lambda one: one.record["created"])
