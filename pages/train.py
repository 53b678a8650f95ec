"""Train: every system with how far it is; one click trains it, and the job can be watched, stopped and resumed."""

from itertools import count

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import jobs, tables, words
from pages.components.context import asked, note, page, remember, show_notes, spelled, workspace


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
        train_missing(states, data, known, profile or "quick")
    with right:
        detail(states.set_index("name").loc[name], data, known, profile or "quick")


def system_table(states: pd.DataFrame) -> str:
    """All systems; the picked one's name."""
    names = list(states["name"])
    wanted = spelled(asked("system") or "", names)
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
            "Name": names,
            "Ω": 100 * pd.to_numeric(states["omega"]),
            "System": list(map(words.marked, states["title"], states["transductive"])),
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


def train_missing(states: pd.DataFrame, data: str, known: dict[str, api.DataInfo], profile: str) -> None:
    """One job per system without a result; they wait for each other."""
    missing = api.missing_systems(states)
    if not missing or data not in known:
        return
    number = f"{len(missing)} systems have" if len(missing) > 1 else "One system has"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"Train all missing ({len(missing)})",
            key="train_missing",
            icon=":material/playlist_play:",
            help="One job each with seed 0, one after the other: " + ", ".join(missing),
            on_click=jobs.attempt,
            args=(start, missing, data, profile, [0], []),
        )
        st.caption(f"{number} no result on these recordings with this profile.")


def pick(names: list[str]) -> None:
    row = tables.picked_row("systems")
    if row is not None and row < len(names):
        remember("system", names[row])
        remember("job", "")


def job_system(job_id: str, names: list[str]) -> str:
    """The system that a job of the address trains, or ""."""
    try:
        asked_for = api.asked_of(api.job(workspace(), job_id)) if job_id else None
    except api.AsdError:
        return ""
    return next((name for name in asked_for.systems if name in names), "") if asked_for else ""


def detail(system: pd.Series, data: str, known: dict[str, api.DataInfo], profile: str) -> None:
    """One click to train, everything else folded away."""
    with st.container(horizontal=True, vertical_alignment="center"):
        words.state_badge(system["state"])
        st.header(words.marked(system["title"], system["transductive"]))
    st.markdown(system["idea"])
    if system["problem"]:
        st.error(words.plain(system["problem"]), icon=":material/error:")
        if system["state"] != "invalid":
            st.page_link(page("weights"), label="Published weights", icon=":material/download:")
        return
    actions = st.container()
    follow(system)
    machines, wanted = options(data, known)
    seeds, note_ = plan(system.name, data, known, profile, machines, wanted)
    with actions:
        buttons(system, data, known, profile, seeds, machines)
        if note_:
            st.caption(note_)
    if seeds:
        arguments = api.training_arguments(workspace(), [system.name], known[data].argument, profile, seeds, machines)
        with st.expander("The same in a terminal", icon=":material/terminal:"):
            st.code(api.command(arguments), language="bash", wrap_lines=True)
    with st.expander("Configuration", icon=":material/tune:"):
        written, resolved = st.tabs(["As written", f"With the profile {profile}"])
        written.code(api.system_yaml(system.name), language="yaml", height=320)
        resolved.code(api.system_yaml(system.name, profile), language="yaml", height=320)


def plan(
    name: str, data: str, known: dict[str, api.DataInfo], profile: str, machines: list[str], wanted: list[int]
) -> tuple[list[int], str]:
    """The seeds worth training (equal work is never done twice), and a word on those that are there already."""
    if data not in known:
        return [], ""
    try:
        there = api.computed_seeds(workspace(), name, data, profile, machines)
    except api.AsdError:  # the recordings are gone; said in the options
        return [], ""
    if left := [seed for seed in wanted if seed not in there]:
        found = [seed for seed in wanted if seed in there]
        return left, f"{api.seeds_text(found).capitalize()}: already computed." if found else ""
    following = next(seed for seed in count() if seed not in there)
    said = f"Already computed with these settings ({api.seeds_text(there)})."
    return [following], said + " Another seed shows how much chance is in it."


def buttons(
    system: pd.Series, data: str, known: dict[str, api.DataInfo], profile: str, seeds: list[int], machines: list[str]
) -> None:
    missing, active = data not in known, system["state"] in ("queued", "running", "cancelling")
    label = "Train" if seeds in ([], [0]) else f"Train with {api.seeds_text(seeds)}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            label,
            key="train",
            type="secondary" if system["state"] in ("cancelled", "interrupted", "failed") else "primary",  # Resume is
            icon=":material/play_arrow:",
            disabled=active or not seeds,
            help="There are no recordings yet; Home tells how to get some."
            if missing
            else "It is being trained; see below."
            if active
            else "Finished parts are reused; only what is missing is computed.",
            on_click=jobs.attempt,
            args=(start, [system.name], data, profile, seeds, machines),
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


def options(data: str, known: dict[str, api.DataInfo]) -> tuple[list[str], list[int]]:
    """Machines (none: all) and wanted seeds."""
    machines: list[str] = []
    with st.expander("Options", icon=":material/settings:"):
        if data in known:
            try:
                every = api.data_set(workspace(), data).machines
                machines = st.multiselect("Machines", every, placeholder="All machines", key=f"machines_{data}")
            except api.AsdError as error:
                st.error(words.plain(str(error)), icon=":material/error:")
        seeds = st.multiselect(
            "Seeds",
            list(range(10)),
            default=[0],
            key="seeds",
            persist_state="session",
            help="Each seed is a run of its own; the spread between them is chance.",
        )
    return sorted(machines), sorted(seeds) or [0]


def start(names: list[str], data: str, profile: str, seeds: list[int], machines: list[str]) -> None:
    """Start a job per system and follow the first."""
    started = [api.start_training(workspace(), name, data, profile, seeds, machines) for name in names]
    remember("job", started[0])
    remember("system", names[0])


def follow(system: pd.Series) -> None:
    """The job of the address, or else the picked system's latest."""
    job_id = asked("job") or system["job_id"]
    if not job_id:
        return
    with st.container(border=True):
        jobs.panel(job_id)


main()
