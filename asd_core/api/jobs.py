"""Jobs: looking at them and acting on them, by id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from asd_core import jobs
from asd_core.artifacts import Workspace
from asd_core.jobs import Job

PROBLEM = re.compile(r"(WARNING|ERROR|CRITICAL|error:|Traceback |[\w.]*(Error|Exception|Warning)\b)")


def all_jobs(workspace: Workspace) -> list[Job]:
    """All jobs, newest first, after the dead were found and the queue was moved on."""
    return jobs.reconcile(workspace.jobs)


def job(workspace: Workspace, job_id: str) -> Job:
    return jobs.find(workspace.jobs, job_id)


def cancel(workspace: Workspace, job_id: str, force: bool = False) -> None:
    jobs.cancel(job(workspace, job_id).folder, force)


def resume(workspace: Workspace, job_id: str) -> None:
    jobs.resume(job(workspace, job_id).folder)


def delete_job(workspace: Workspace, job_id: str) -> None:
    jobs.delete(job(workspace, job_id).folder)


def move_job(workspace: Workspace, job_id: str, by: int) -> None:
    """Let a queued job change places with the one before it (−1) or after it (+1)."""
    jobs.move(job(workspace, job_id).folder, by)


def job_log(job: Job, lines: int = 200, problems: bool = False, text: str = "") -> list[str]:
    """The last lines of what a job printed.

    Args:
        problems: only warnings and errors, each with the lines that go on with it
        text: must occur in the line, in any case
    """
    found = jobs.log_tail(job.folder, lines)
    if problems:
        found = [line for line, bad in zip(found, _are_problems(found), strict=True) if bad]
    return [line for line in found if text.strip().lower() in line.lower()]


def _are_problems(lines: Sequence[str]) -> Iterator[bool]:
    """Whether each line begins a warning or an error, or is the indented continuation of one."""
    bad = False
    for line in lines:
        if not line.startswith(" "):
            bad = bool(PROBLEM.match(line))
        yield bad


def job_curve(job: Job, value: str = "loss", points: int = 500) -> pd.DataFrame:
    """Reported values by stage (the words before the first colon of the message): stage, step, value.

    Steps that were done again after an interruption count once, as they came out the last time.
    """
    rows = [row for row in jobs.metrics(job.folder) if value in row]
    table = pd.DataFrame(
        {
            "stage": [row["message"].partition(":")[0] for row in rows],
            "value": [row[value] for row in rows],
            "step": [row.get("step") for row in rows],
        }
    )
    counted = table.groupby("stage").cumcount() + 1
    table["step"] = pd.to_numeric(table["step"]).fillna(counted)
    table = table.drop_duplicates(["stage", "step"], keep="last")
    return table.iloc[:: max(1, len(table) // points)]
