"""Train: every system with how far it is; one click trains it, and the job can be watched, stopped and resumed."""

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import jobs, tables, words
from pages.components.context import asked, note, page, remember, show_notes, workspace


def main() -> None:
    st.title("Train")
    data = asked("data") or ""
    known = api.data_sets(workspace())
    with st.container(horizontal=True, vertical_alignment="center"):
        if data in known:
            words.kind_badge(known[data].kind)
            st.markdown(f"Systems learn from the normal training clips of **{data}**.")
    profiles = api.profiles()
    profile = st.segmented_control(
        "Profile",
        list(profiles),
        default="quick" if "quick" in profiles else next(iter(profiles)),
        format_func=lambda name: f"{name}: {profiles[name].title.lower()}",
        key="profile",
        required=True,
        bind="query-params",
    )
    states = api.system_states(workspace(), data, profile or "quick")
    left, right = st.columns([3, 2], gap="large")
    with left:
        name = system_table(states)
    with right:
        detail(states.set_index("name").loc[name], data, known, profile or "quick")


def system_table(states: pd.DataFrame) -> str:
    """All systems; the picked one's name."""
    names = list(states["name"])
    wanted = asked("system") or ""
    if st.query_params.get("system") and wanted not in names:
        note(f"There is no system “{wanted}”. Shown instead: {names[0]}.")
        show_notes()
    of_job = job_system(asked("job") or "", names)
    wanted = wanted if wanted in names else of_job or names[0]
    remember("system", wanted)
    tables.pick_row("systems", names.index(wanted))
    shown = pd.DataFrame(
        {
            "State": [f"{words.SIGNS[state]} {state}" for state in states["state"]],
            "System": states["title"],
            "Ω": 100 * pd.to_numeric(states["omega"]),
            "Published": tables.published(states),
            "Time": [words.duration(value) for value in states["seconds"]],
            "Family": states["family"],
            "Idea": states["idea"],
        }
    )
    st.dataframe(
        shown,
        key="systems",
        hide_index=True,
        selection_mode="single-row-required",
        on_select=lambda: pick(names),
        height="content" if len(shown) <= 24 else 880,
        column_config={
            "State": st.column_config.TextColumn("State", width=110),
            "Ω": st.column_config.NumberColumn("Ω", format="%.2f", help="Official score on this data set, percent"),
            "Published": st.column_config.TextColumn(
                "Published",
                help="From the system's report, DCASE 2026 development data; official or domain-restricted metric set",
            ),
            "Idea": st.column_config.TextColumn("Idea", width="large"),
        },
        placeholder="–",
        alt=f"{len(shown)} systems with their state; pick one to train it",
    )
    return wanted


def pick(names: list[str]) -> None:
    row = tables.picked_row("systems")
    if row is not None and row < len(names):
        remember("system", names[row])
        remember("job", "")


def job_system(job_id: str, names: list[str]) -> str:
    """The system that a job of the address trains, or ""."""
    try:
        words_ = api.job(workspace(), job_id).arguments if job_id else ()
    except api.AsdError:
        return ""
    return next((word for word in words_[1:] if word in names), "") if words_[:1] == ("run",) else ""


def detail(system: pd.Series, data: str, known: dict[str, api.DataInfo], profile: str) -> None:
    """One click to train, everything else folded away."""
    with st.container(horizontal=True, vertical_alignment="center"):
        words.state_badge(system["state"])
        st.subheader(system["title"])
    if system["problem"]:
        st.error(system["problem"], icon=":material/error:")
        return
    st.markdown(system["idea"])
    actions = st.container(horizontal=True, vertical_alignment="center")
    follow(system)
    machines, seeds = options(data, known)
    missing = data not in known
    active = system["state"] in ("queued", "running", "cancelling")
    with actions:
        st.button(
            "Train again" if system["state"] == "done" else "Train",
            key="train",
            type="primary",
            icon=":material/play_arrow:",
            disabled=missing or active or not seeds,
            help="There are no recordings yet; Home tells how to get some."
            if missing
            else "It is being trained; see below."
            if active
            else "Finished parts are reused; only what is missing is computed.",
            on_click=jobs.attempt,
            args=(train, system.name, data, profile, seeds, machines),
        )
        if system["run_id"]:
            st.page_link(
                page("results"),
                label="Results",
                icon=":material/leaderboard:",
                query_params={"data": data, "run": system["run_id"]},
            )
        if missing:
            st.page_link(page("home"), label="Get recordings", icon=":material/home:")
    if not missing:
        arguments = api.training_arguments(workspace(), [system.name], known[data].argument, profile, seeds, machines)
        with st.expander("The same in a terminal", icon=":material/terminal:"):
            st.code(api.command(arguments), language="bash", wrap_lines=True)
    with st.expander("Configuration", icon=":material/tune:"):
        written, resolved = st.tabs(["As written", f"With the profile {profile}"])
        written.code(api.system_yaml(system.name), language="yaml", height=320)
        resolved.code(api.system_yaml(system.name, profile), language="yaml", height=320)


def options(data: str, known: dict[str, api.DataInfo]) -> tuple[list[str], list[int]]:
    """Machines (none: all) and seeds."""
    machines: list[str] = []
    with st.expander("Options", icon=":material/settings:"):
        if data in known:
            try:
                every = api.data_set(workspace(), data).machines
                machines = st.multiselect("Machines", every, placeholder="All machines", key=f"machines_{data}")
            except api.AsdError as error:
                st.error(str(error), icon=":material/error:")
        seeds = st.multiselect(
            "Seeds",
            [0, 1, 2, 3, 4],
            default=[0],
            key="seeds",
            persist_state="session",
            help="Each seed is a run of its own; the leaderboard shows mean and spread.",
        )
    return sorted(machines), sorted(seeds)


def train(name: str, data: str, profile: str, seeds: list[int], machines: list[str]) -> None:
    remember("job", api.start_training(workspace(), name, data, profile, seeds, machines))


def follow(system: pd.Series) -> None:
    """The job of the address, or else the picked system's latest."""
    job_id = asked("job") or system["job_id"]
    if not job_id:
        return
    with st.container(border=True):
        jobs.panel(job_id)


main()
