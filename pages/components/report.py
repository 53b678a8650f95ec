"""The Report button: makes a run's report in a job and hands out what was made."""

from __future__ import annotations

import streamlit as st

from asd_core import api
from pages.components import jobs, words
from pages.components.context import workspace

FORMS = {
    "html": ("HTML", ":material/html:", "text/html"),
    "pdf": ("PDF", ":material/picture_as_pdf:", "application/pdf"),
}


def button(run: api.Run, against: api.Run | None = None) -> None:
    """A popover with the reports of `run`; where `against` is given, the one to make compares the two."""
    with st.popover("Report", icon=":material/summarize:", key="report"):
        other = "" if against is None else str(against.record["run_id"])
        what = f"this run compared with {_name(other)}" if other else "this run"
        st.markdown(
            f"One file on {words.plain(what)}: figures with intervals, score histograms and ROC curves, the worst clips "
            "with their spectrograms, configuration and versions. It needs no network and prints well."
        )
        finished = api.reports(workspace(), run)
        is_made = any(built.against == other and built.is_current for built in finished)
        _make(str(run.record["run_id"]), other, is_made)
        for built in finished:
            _downloads(built)


def _make(run_id: str, other: str, is_made: bool) -> None:
    job = api.report_job(workspace(), run_id, other)
    if job and job.is_active:
        st.info("It is being made and will be listed here. Its progress stands under Jobs.", icon=":material/schedule:")
        return
    if job and job.state == "failed":
        st.error(words.plain(job.message), icon=":material/error:")
    st.button(
        "Make it again" if is_made else "Make the report",
        key="make_report",
        icon=":material/note_add:",
        type="secondary" if is_made else "primary",
        help="Takes about ten seconds; goes on while you look at other pages.",
        on_click=jobs.attempt,
        args=(api.start_report, workspace(), run_id, other),
    )


def _downloads(built: api.BuiltReport) -> None:
    """One report that is there, in its forms."""
    title = f"Against {_name(built.against)}" if built.against else "This run"
    old = "" if built.is_current else " · :orange[:material/warning: older than the run]"
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**{words.plain(title)}**  \n:gray[{words.ago(built.built)}]{old}")
        with st.container(horizontal=True):
            for form, path in built.files.items():
                label, icon, mime = FORMS[form]
                st.download_button(
                    f"{label}, {words.size(path.stat().st_size)}",
                    path.read_bytes,
                    file_name=built.name(form),
                    mime=mime,
                    key=f"report_{built.against}_{form}",
                    icon=icon,
                    on_click="ignore",
                )


def _name(run_id: str) -> str:
    """A run in few words; one that is gone keeps its id."""
    try:
        record = api.load_run(workspace(), run_id).record
    except api.AsdError:
        return run_id
    return f"{record['system']}, {record['profile']}, seed {record['seed']}"
