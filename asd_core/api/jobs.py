"""Jobs: looking at them and acting on them, by id."""

from __future__ import annotations

import pandas as pd

from asd_core import jobs
from asd_core.artifacts import Workspace
from asd_core.jobs import Job


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


def job_log(job: Job, lines: int = 200) -> list[str]:
    return jobs.log_tail(job.folder, lines)


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
