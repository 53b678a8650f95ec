"""Reports of runs: making them, and those made so far, below ``workspace/reports``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from asd_core import jobs
from asd_core.artifacts import Run, Workspace, load_run
from asd_core.files import digest
from asd_core.jobs import Job
from asd_core.types import AsdError

ALONE = "alone"
FORMS = ("html", "pdf")


@dataclass(frozen=True)
class BuiltReport:
    """A finished report, in every form of `FORMS` that is there."""

    against: str  # id of the run it compares with, "" for none
    files: Mapping[str, Path]  # by form
    built: float  # seconds since 1970
    is_current: bool  # made since the runs it tells of were

    def name(self, form: str) -> str:
        """What the file is called when it leaves the workspace."""
        run_id = self.files[form].parent.name
        return f"{run_id}{f'--against--{self.against}' if self.against else ''}.{form}"


def start_report(workspace: Workspace, run_id: str, against: str = "") -> str:
    """Start, or find, the job that writes the report of a run, or of two compared, and return the job's id.

    Raises:
        AsdError: there is no such run, or a run would be compared with itself.
    """
    told = " against ".join(_called(load_run(workspace, name)) for name in (run_id, against) if name)
    if run_id == against:
        raise AsdError(f"{run_id} cannot be compared with itself. Choose another run to compare with.")
    arguments = _arguments(workspace, run_id, against)
    return jobs.start(workspace.jobs, arguments, f"Report · {told}", digest(arguments))


def report_job(workspace: Workspace, run_id: str, against: str = "") -> Job | None:
    """The newest job that writes, or wrote, this report."""
    wanted = tuple(_arguments(workspace, run_id, against))
    return next((job for job in jobs.list_jobs(workspace.jobs) if job.arguments == wanted), None)


def reports(workspace: Workspace, run: Run) -> list[BuiltReport]:
    """Finished reports of a run, newest first."""
    found: dict[str, dict[str, Path]] = {}
    for form in FORMS:
        for path in (workspace.root / "reports" / run.folder.name).glob(f"*.{form}"):
            found.setdefault(path.stem, {})[form] = path
    built = []
    for stem, files in found.items():
        against = "" if stem == ALONE else stem
        made = min(path.stat().st_mtime for path in files.values())
        newest = max(_made(workspace.run(one)) for one in (run.folder.name, against) if one)
        built.append(BuiltReport(against, files, made, made >= newest))
    return sorted(built, key=lambda one: -one.built)


def _called(run: Run) -> str:
    record = run.record
    return f"{record['system']}, {record['data']['name']}, {record['profile']}, seed {record['seed']}"


def _made(folder: Path) -> float:
    """When a run was finished; the end of time for one that is gone, so that nothing is newer."""
    try:
        return (folder / "meta.json").stat().st_mtime
    except OSError:
        return float("inf")


def _arguments(workspace: Workspace, run_id: str, against: str) -> list[str]:
    folder = workspace.root / "reports" / run_id
    arguments = ["report", "--run", run_id, *(["--against", against] if against else [])]
    for option, form in (("--output", "html"), ("--pdf", "pdf")):
        arguments += [option, str(folder / f"{against or ALONE}.{form}")]
    return [*arguments, "--workspace", str(workspace.root)]
