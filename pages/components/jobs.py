"""Jobs as seen from the app: the tray in the sidebar and the panel of one job."""

from __future__ import annotations

import streamlit as st

from asd_core import api
from pages.components import charts, words
from pages.components.context import page, remember, workspace

FORCE_AFTER = 20.0  # seconds of politeness before a job may be killed
SILENT_AFTER, STALLED_AFTER = 30.0, 120.0  # seconds without a sign of life


def tray() -> None:
    """The active jobs in the sidebar; looks again every two seconds only while there are any."""
    active = any(job.is_active for job in api.all_jobs(workspace()))
    st.fragment(_tray, run_every=2 if active else None)()


def announce() -> None:
    """Toasts for jobs that ended since the last look."""
    for message, icon in st.session_state.pop("toasts", []):
        st.toast(message, icon=icon)


def panel(job_id: str) -> None:
    """One job: progress, curve, log and what can be done with it; live while it is active."""
    try:
        job = api.job(workspace(), job_id)
    except api.AsdError as error:
        st.warning(words.plain(str(error)), icon=":material/info:")
        return
    st.fragment(_panel, run_every=1 if job.is_active else None)(job_id, live=job.is_active)


def attempt(act: object, *arguments: object) -> None:
    """Do something a button asked for; a problem becomes a note, not a traceback."""
    try:
        act(*arguments)  # type: ignore[operator]
    except api.AsdError as error:
        st.session_state.setdefault("problems", []).append(str(error))


def show_problems() -> None:
    for sentence in st.session_state.pop("problems", []):
        st.error(words.plain(sentence), icon=":material/error:")


def _tray() -> None:
    jobs = api.all_jobs(workspace())
    active = [job for job in jobs if job.is_active]
    before = st.session_state.get("active_jobs", ())
    st.session_state["active_jobs"] = tuple(job.id for job in active)
    ended = [job for job in jobs if job.id in before and not job.is_active]
    for job in ended:
        icon = words.STATES[job.state][0]
        st.session_state.setdefault("toasts", []).append((words.plain(f"{job.title}: {job.state}"), icon))
    if ended:
        st.rerun()  # the whole page: it may show what the job has made, and this timer may stop
    st.markdown("**Jobs**")
    if not active:
        st.caption("No job running.")
    for job in active[::-1]:
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{words.plain(job.title)}**")
            if job.state == "queued":
                st.caption(f"Queued, number {job.position}")
            else:
                st.progress(job.fraction, f"{job.fraction:.0%} · {_remaining(job)}")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button(
                    "Cancel",
                    key=f"tray_cancel_{job.id}",
                    icon=":material/stop_circle:",
                    type="tertiary",
                    disabled=job.state == "cancelling",
                    on_click=attempt,
                    args=(api.cancel, workspace(), job.id),
                )
                st.page_link(page("train"), label="Details", icon=":material/monitoring:", query_params={"job": job.id})


def _panel(job_id: str, live: bool) -> None:
    try:
        job = api.job(workspace(), job_id)
    except api.AsdError as error:
        st.info(words.plain(str(error)))
        return
    if job.is_active != live:  # resumed, or over: a click in here runs this part alone, and the timers must change
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        words.state_badge(job.state)
        st.markdown(f"**{words.plain(job.title)}**")
    if job.state == "queued":
        st.caption(f"Waiting for the job before it; number {job.position} in the queue.")
    elif job.is_active:
        st.progress(job.fraction, f"{job.fraction:.0%} · {words.plain(job.message) or 'starting'}")
        st.caption(f"{words.duration(job.seconds)} so far · {_remaining(job)} · {_pulse(job)}")
    elif job.state == "done":
        st.caption(f"Took {words.duration(job.seconds)}, {words.ago(job.ended or job.created)}.")
    else:
        show = st.error if job.state == "failed" else st.info
        show(f"{words.plain(job.message)} ({words.ago(job.ended or job.created)})")
    _buttons(job)
    curve = api.job_curve(job)
    if not curve.empty:
        last = curve["value"].iloc[-1]
        st.plotly_chart(
            charts.loss_curve(curve),
            key=f"loss_{job.id}",
            config=charts.CONFIG,
            alt=f"Training loss over {len(curve)} reports, now {last:.4g}",
        )
    with st.expander("Log", icon=":material/terminal:", expanded=job.state == "failed"):
        _log(job)


def _log(job: api.Job) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = st.segmented_control(
            "Lines", ["All", "Warnings and errors"], default="All", key=f"log_level_{job.id}", required=True
        )
        text = st.text_input("Find", key=f"log_text_{job.id}", placeholder="such as epoch")
    log = api.job_log(job, 200, which != "All", text)
    nothing = "Nothing was printed yet." if which == "All" and not text else "No line of the last 200 fits."
    st.code("\n".join(log) or nothing, language=None, height=220 if len(log) > 8 else "content")


def queue() -> None:
    """The jobs that wait, in their order, which can be changed."""
    waiting = sorted((job for job in api.all_jobs(workspace()) if job.position), key=lambda job: job.position)
    if not waiting:
        return
    st.header("Queue")
    st.caption("One job works at a time; the next one starts when it ends, whether or not this page is open.")
    for job in waiting:
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"{job.position}. **{words.plain(job.title)}**", width="stretch")
            with st.container(horizontal=True, width="content", gap="xsmall"):
                for name, icon, by, at_end in (
                    ("Earlier", "arrow_upward", -1, job.position == 1),
                    ("Later", "arrow_downward", 1, job.position == len(waiting)),
                ):
                    st.button(
                        name,
                        key=f"{name.lower()}_{job.id}",
                        icon=f":material/{icon}:",
                        type="tertiary",
                        disabled=at_end,
                        on_click=attempt,
                        args=(api.move_job, workspace(), job.id, by),
                    )
                st.button(
                    "Remove",
                    key=f"remove_{job.id}",
                    icon=":material/close:",
                    type="tertiary",
                    help="Takes it out of the queue and forgets it.",
                    on_click=_forget,
                    args=(job.id,),
                )


def _buttons(job: api.Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.is_active:
            polite = job.state == "cancelling"
            st.button(
                "Cancelling …" if polite else "Cancel",
                key=f"cancel_{job.id}",
                icon=":material/stop_circle:",
                disabled=polite,
                on_click=attempt,
                args=(api.cancel, workspace(), job.id),
            )
            if polite and job.cancelling_for > FORCE_AFTER:
                st.button(
                    "Stop by force",
                    key=f"force_{job.id}",
                    icon=":material/dangerous:",
                    help="Ends the process at once. What was finished before is kept.",
                    on_click=attempt,
                    args=(api.cancel, workspace(), job.id, True),
                )
            return
        if job.state != "done":
            st.button(
                "Resume",
                key=f"resume_{job.id}",
                icon=":material/resume:",
                type="primary",
                help="The same command again; it goes on from what is finished.",
                on_click=attempt,
                args=(api.resume, workspace(), job.id),
            )
        elif made := api.result_of(workspace(), job):
            place = {"data": made.record["data"]["name"], "run": made.record["run_id"]}
            st.page_link(page("results"), label="See the results", icon=":material/leaderboard:", query_params=place)
        st.button(
            "Forget",
            key=f"delete_{job.id}",
            icon=":material/delete:",
            type="tertiary",
            help="Removes this entry and its log. Results and trained networks stay.",
            on_click=_forget,
            args=(job.id,),
        )


def _forget(job_id: str) -> None:
    attempt(api.delete_job, workspace(), job_id)
    remember("job", "")


def _remaining(job: api.Job) -> str:
    return "time to go unknown yet" if job.remaining is None else f"about {words.duration(job.remaining)} to go"


def _pulse(job: api.Job) -> str:
    if job.silence > STALLED_AFTER:
        return f":red[stalled: no sign of life for {words.duration(job.silence)}]"
    if job.silence > SILENT_AFTER:
        return f":orange[no sign of life for {words.duration(job.silence)}]"
    return f"last sign of life {job.silence:.0f} s ago"
