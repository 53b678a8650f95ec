"""Weights: published checkpoints that systems start from, whether they are here, and how to get them."""

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import jobs, tables, words
from pages.components.context import asked, choose, page, remember, show_notes, workspace

STATES = {
    "absent": ("○", ":material/cloud_download:", "gray"),
    "present": ("✓", ":material/check_circle:", "green"),
    "unverified": ("?", ":material/help:", "orange"),
    "damaged": ("✗", ":material/error:", "red"),
}


def main() -> None:
    st.title("Weights")
    st.markdown(
        "Checkpoints of published encoders. Nothing is downloaded unless you ask for it, and profile **quick** needs "
        "none: there, small encoders stand in, a BEATs that comes with the project and an EAT that is trained on the normal "
        "clips at hand."
    )
    try:
        known = api.checkpoints()
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        name = table(known)
        st.caption(
            f"Files belong into {api.weights_folder()}; the environment variable ASD_WEIGHTS chooses another folder."
        )
    with right:
        detail(next(one for one in known if one.name == name))


def table(known: list[api.CheckpointInfo]) -> str:
    """All checkpoints; the picked one's name."""
    names = [one.name for one in known]
    needed = next((one.name for one in known if one.used_by and one.state != "present"), names[0])
    name = choose("checkpoint", names, needed, "checkpoint")
    show_notes()
    tables.pick_row("checkpoints", names.index(name))
    shown = pd.DataFrame(
        {
            "State": [f"{STATES[one.state][0]} {one.state}" for one in known],
            "Checkpoint": [one.title for one in known],
            "Size": [words.size(one.bytes) if one.bytes else "–" for one in known],
            "Needed by": [", ".join(one.used_by) or "–" for one in known],
            "Licence": [one.licence for one in known],
            "Trained on": [one.trained_on for one in known],
            "DCASE 2026": [one.dcase2026 for one in known],
            "File": [one.path.name for one in known],
        }
    )
    st.dataframe(
        shown,
        key="checkpoints",
        hide_index=True,
        selection_mode="single-row-required",
        on_select=lambda: pick(names),
        height="content",
        column_config={
            "State": st.column_config.TextColumn("State", width=110),
            "DCASE 2026": st.column_config.TextColumn(
                "DCASE 2026", help="Whether the challenge allows it, as far as known; the organisers' list decides"
            ),
        },
        alt=f"{len(shown)} published checkpoints with their state; pick one for how to get it",
    )
    return name


def pick(names: list[str]) -> None:
    row = tables.picked_row("checkpoints")
    if row is not None and row < len(names):
        remember("checkpoint", names[row])
        remember("job", "")


def detail(one: api.CheckpointInfo) -> None:
    """What it is, what is wrong with its file, and the one thing to do about it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(one.state, icon=STATES[one.state][1], color=STATES[one.state][2])  # type: ignore[arg-type]
        st.header(one.title)
    if one.state == "damaged":
        st.error(words.plain(one.problem), icon=":material/error:")
    elif one.problem:
        st.info(words.plain(one.problem), icon=":material/info:")
    buttons(one)
    follow(one)
    if one.state in ("absent", "damaged"):
        by_hand(one)
    st.markdown(
        f"Trained on {one.trained_on}. Licence: {one.licence}.  \n"
        f"DCASE 2026: {one.dcase2026}.  \n"
        f"Needed by: {', '.join(one.used_by) or 'none of the systems'}."
    )
    with st.expander("File", icon=":material/draft:"):
        st.code(f"{one.path}\nSHA-256 {one.sha256 or 'not known yet'}", language=None, wrap_lines=True)
        st.caption(f"In a system's YAML: `checkpoint: {one.name}`")


def buttons(one: api.CheckpointInfo) -> None:
    is_here = one.state != "absent"
    job = latest_job(one)
    busy = job is not None and job.is_active
    with st.container(horizontal=True, vertical_alignment="center"):
        if one.can_fetch and one.state in ("absent", "damaged"):
            st.button(
                "Fetch",
                key="fetch",
                type="primary",
                icon=":material/download:",
                disabled=busy,
                help="Downloads it as a job that can be cancelled and resumed, and checks it.",
                on_click=jobs.attempt,
                args=(start, api.start_fetch, one.name),
            )
        if is_here:
            st.button(
                "Check",
                key="verify",
                icon=":material/verified:",
                type="primary" if one.state == "unverified" else "secondary",
                disabled=busy,
                help="Reads the whole file and compares its digest.",
                on_click=jobs.attempt,
                args=(start, api.start_verify, one.name),
            )
        st.link_button("Page of its authors", one.page, icon=":material/open_in_new:")
        if one.used_by:
            st.page_link(
                page("train"),
                label="Train",
                icon=":material/model_training:",
                query_params={"system": one.used_by[0]},
            )


def by_hand(one: api.CheckpointInfo) -> None:
    """A file that a browser has fetched goes to its place by a command: it is too large for an upload."""
    if one.can_fetch:
        st.markdown("Got the file by other means? This checks it and copies it to its place:")
    else:
        link = f" ([direct link]({one.link}))" if one.link else ""
        st.markdown(
            f"Only a browser can get this file: download **{one.path.name}** from the page of its authors{link}, then "
            f"run this. It checks the file and copies it to its place. {one.note}"
        )
    st.code(api.command(api.import_arguments(one.name)), language=None, wrap_lines=True)


def start(begin: object, name: str) -> None:
    remember("job", begin(workspace(), name))  # type: ignore[operator]


def latest_job(one: api.CheckpointInfo) -> api.Job | None:
    """The newest job about this checkpoint."""
    about = (
        job for job in api.all_jobs(workspace()) if job.arguments[:1] == ("weights",) and one.name in job.arguments
    )
    return next(about, None)


def follow(one: api.CheckpointInfo) -> None:
    """The checkpoint's job while it works, and afterwards as long as the address asks for it."""
    job = latest_job(one)
    if job and (job.is_active or job.id == asked("job")):
        with st.container(border=True):
            jobs.panel(job.id)


main()
