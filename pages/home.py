"""Home: is everything there, what is the next step, what happened lately."""

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, jobs, tour, words
from pages.components.context import page, remember, workspace

ACTIONS = {
    "data": ("Data", ":material/database:", page("data")),
    "train": ("Train", ":material/model_training:", page("train")),
    "results": ("Results", ":material/leaderboard:", page("results")),
    "weights": ("Weights", ":material/download:", page("weights")),
    "export": ("Export", ":material/package_2:", page("export")),
}


def start_demo() -> None:
    remember("job", api.start_demo(workspace()))


def line(entry: api.Line) -> None:
    """State, what there is, and the one thing to do about it."""
    words_column, action_column = st.columns([4, 1.3], vertical_alignment="center")
    icon = ":green[:material/check_circle:]" if entry.ready else ":orange[:material/pending:]"
    words_column.markdown(f"{icon} **{entry.title}** — {'ready' if entry.ready else 'to do'}  \n{entry.detail}")
    if entry.action == "simulate":
        action_column.button(
            "Try the demo",
            key="demo",
            icon=":material/science:",
            type="primary",
            width="stretch",
            on_click=jobs.attempt,
            args=(start_demo,),
        )
    elif entry.action:
        label, icon, target = ACTIONS[entry.action]
        if action_column.button(label, key=f"open_{entry.title}", icon=icon, width="stretch"):
            st.switch_page(target)


def best_results() -> None:
    """The leading system on each data set."""
    if not cached.runs():
        return
    st.header("Best so far")
    for leader in cached.leaderboard().drop_duplicates("data").itertuples():
        with st.container(border=True):
            words.kind_badge(leader.kind)
            figure = f"Ω {words.percent(leader.omega)} ± {words.percent(leader.half_width)}"
            title = words.marked(leader.title, leader.transductive)
            measured = "No labels" if pd.isna(leader.omega) else figure
            st.markdown(
                f"**{words.plain(leader.system)}** · {words.plain(title)}  \n{measured} on {words.plain(leader.data)}"
            )
            st.page_link(
                page("results"),
                label="See and hear it",
                icon=":material/graphic_eq:",
                query_params={"data": leader.data, "run": leader.run_id},
            )


def last_jobs() -> None:
    st.header("Last jobs")
    latest = api.all_jobs(workspace())[:5]
    if not latest:
        st.info(
            "No job was started from here yet. The demo data are simulated on this computer; nothing is downloaded."
        )
    for job in latest:
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(
                f"**{words.plain(job.title)}**  \n:gray[{words.ago(job.created)}, {words.duration(job.seconds)}]"
            )
            with st.container(horizontal=True, width="content", vertical_alignment="center"):
                words.state_badge(job.state)
                st.page_link(page("train"), label="Details", query_params={"job": job.id})


def last_clips() -> None:
    """What was looked at in this session."""
    if not (entries := st.session_state.get("viewed")):
        return
    st.header("Last clips")
    for data, run_id, clip_id in entries:
        machine = clip_id.partition("/")[0]
        st.page_link(
            page("results"),
            label=words.plain(f"{machine} · {clip_id.rpartition('/')[2].removesuffix('.wav')}"),
            icon=":material/graphic_eq:",
            query_params={"data": data, "run": run_id, "machine": machine, "clip": clip_id},
        )


st.title("ASD Studio")
st.markdown("Find out when a machine sounds wrong: train a detector on normal recordings, see and hear what it flags.")

tour.button()
entries = api.readiness(workspace())
for sentence in api.broken_runs(workspace()):
    st.warning(f"A run folder is broken. {words.plain(sentence)}", icon=":material/broken_image:")

left, right = st.columns([3, 2], gap="large")
with left:
    st.header("Readiness")
    for entry in entries:
        with st.container(border=True):
            line(entry)
with right:
    best_results()
    last_jobs()
    last_clips()
