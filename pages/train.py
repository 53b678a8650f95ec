"""Train: every system with how far it is; one click trains it, and the job can be watched, stopped and resumed."""

from itertools import count

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, jobs, tables, words
from pages.components.context import asked, note, page, pick_profile, remember, show_notes, spelled, workspace

MOST_TOLD = 3  # differences from earlier settings


def main() -> None:
    st.title("Train")
    data = asked("data") or ""
    known = api.data_sets(workspace())
    with st.container(horizontal=True, vertical_alignment="center"):
        if data in known:
            words.kind_badge(known[data].kind)
            st.markdown(f"Systems learn from the normal training clips of **{words.plain(data)}**.")
    profile = pick_profile()
    cluster = pick_cluster()
    states = api.system_states(workspace(), data, profile)
    left, right = st.columns([3, 2], gap="large")
    with left:
        shown = filtered(states)
        name, ticked = system_table(states, shown)
        train_several(states, ticked, data, known, profile, cluster)
        jobs.queue()
    with right:
        detail(states.set_index("name").loc[name], data, known, profile, cluster)


def pick_cluster() -> str:
    """Where to train, if there is a choice: the address of a Ray cluster, or "" for this computer."""
    try:
        address = api.cluster_address()
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return ""
    if not address:
        return ""
    picked = st.segmented_control(
        "Where",
        ["", address],
        default="",
        format_func=lambda one: f"Ray cluster at {words.plain(one)}" if one else "This computer",
        key="cluster",
        required=True,
        persist_state="session",
    )
    return picked or ""


def filtered(states: pd.DataFrame) -> pd.DataFrame:
    """The systems of some families and states."""
    with st.container(horizontal=True):
        families = st.pills(
            "Family",
            sorted(set(states["family"]) - {""}),
            selection_mode="multi",
            key="family",
            wrap=True,
            bind="query-params",
        )
        present = [state for state in words.STATES if state in set(states["state"])]
        wanted = st.pills("State", present, selection_mode="multi", key="state", wrap=True, persist_state="session")
    kept = states
    if families:
        kept = kept[kept["family"].isin(families)]
    if wanted:
        kept = kept[kept["state"].isin(wanted)]
    return kept.reset_index(drop=True)


def system_table(states: pd.DataFrame, shown: pd.DataFrame) -> tuple[str, list[str]]:
    """The systems as filtered: the name of the one to show in detail, picked by a cell, and of those that are ticked."""
    names = list(states["name"])
    wanted = spelled(asked("system") or "", names)
    if st.query_params.get("system") and wanted not in names:
        note(f"There is no system “{wanted}”. Shown instead: {names[0]}.")
        show_notes()
    of_job = job_system(asked("job") or "", names)
    wanted = wanted if wanted in names else of_job or names[0]
    remember("system", wanted)
    listed = list(shown["name"])
    if not listed:
        st.info("No system is in such a state. Take a filter away.")
        return wanted, []
    ticked = [name for name in st.session_state.get("ticked", []) if name in listed]
    rows = [listed.index(name) for name in ticked]
    cells = [[listed.index(wanted), "Name"]] if wanted in listed else []
    tables.pick_rows("systems", rows, cells)
    table = pd.DataFrame(
        {
            "State": [f"{words.SIGNS[state]} {state}" for state in shown["state"]],
            "Name": listed,
            "Ω": 100 * pd.to_numeric(shown["omega"]),
            "System": list(map(words.marked, shown["title"], shown["transductive"])),
            "Published": tables.published(shown),
            "Time": [words.duration(value) for value in shown["seconds"]],
            "Needs": [words.needs(row) for row in shown.to_dict("records")],
            "Family": shown["family"],
            "Idea": shown["idea"],
        }
    )
    st.dataframe(
        table,
        key="systems",
        hide_index=True,
        selection_mode=["multi-row", "single-cell"],
        on_select=lambda: pick(listed),
        height="content" if len(table) <= 16 else 600,
        column_config={
            "State": st.column_config.TextColumn("State", width=110),
            "Ω": st.column_config.NumberColumn("Ω", format="%.2f", help="Official score on this data set, percent"),
            "Published": st.column_config.TextColumn(
                "Published",
                help="From the system's report, DCASE 2026 development data; official or domain-restricted metric set",
            ),
            "Needs": st.column_config.TextColumn("Needs", help="Besides the recordings, under this profile"),
            "Idea": st.column_config.TextColumn("Idea", width="large"),
        },
        placeholder="–",
        alt=f"{len(table)} systems with their state; pick a cell to see a system, tick rows to train several",
    )
    return wanted, ticked


def train_several(
    states: pd.DataFrame, ticked: list[str], data: str, known: dict[str, api.DataInfo], profile: str, cluster: str
) -> None:
    """One job per ticked system, and one per system without a result; they wait for each other."""
    if data not in known:
        return
    missing = api.missing_systems(states)
    able = states[(states["problem"] == "") & ~states["state"].isin(["queued", "running", "cancelling"])]
    chosen = [name for name in ticked if name in set(able["name"])]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"Train selected ({len(chosen)})",
            key="train_selected",
            icon=":material/checklist:",
            disabled=not chosen,
            help=f"One job each with seed 0, one after the other: {', '.join(chosen)}"
            if chosen
            else "Tick systems in the table first.",
            on_click=jobs.attempt,
            args=(start, chosen, data, profile, [0], [], cluster),
        )
        if missing:
            st.button(
                f"Train all missing ({len(missing)})",
                key="train_missing",
                icon=":material/playlist_play:",
                help="One job each with seed 0, one after the other: " + ", ".join(missing),
                on_click=jobs.attempt,
                args=(start, missing, data, profile, [0], [], cluster),
            )
            number = f"{len(missing)} systems have" if len(missing) > 1 else "One system has"
            st.caption(f"{number} no result on these recordings with this profile.")


def pick(names: list[str]) -> None:
    """Ticked rows are to be trained together; a cell says which system to show, and so does a row just ticked."""
    state = st.session_state["systems"]["selection"]
    ticked = [names[row] for row in state["rows"] if row < len(names)]
    new = [name for name in ticked if name not in st.session_state.get("ticked", [])]
    st.session_state["ticked"] = ticked
    cell = tables.picked_cell("systems")
    picked = new[-1] if new else names[cell[0]] if cell and cell[0] < len(names) else ""
    if picked and picked != asked("system"):
        remember("system", picked)
        remember("job", "")


def job_system(job_id: str, names: list[str]) -> str:
    """The system that a job of the address trains, or ""."""
    try:
        asked_for = api.asked_of(api.job(workspace(), job_id)) if job_id else None
    except api.AsdError:
        return ""
    return next((name for name in asked_for.systems if name in names), "") if asked_for else ""


def detail(system: pd.Series, data: str, known: dict[str, api.DataInfo], profile: str, cluster: str) -> None:
    """One click to train, everything else folded away."""
    with st.container(horizontal=True, vertical_alignment="center"):
        words.state_badge(system["state"])
        st.header(words.marked(system["title"], system["transductive"]))
    st.markdown(system["idea"])
    if system["state"] != "invalid":
        st.caption(f"Besides the recordings it needs, under {profile}: {words.needs(system.to_dict())}.")
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
        buttons(system, data, known, profile, seeds, machines, cluster)
        for sentence in (note_, expected(system.name, data, known, profile, seeds, machines)):
            if sentence:
                st.caption(sentence)
    if data in known:
        generated(system, data, profile)
    if seeds:
        argument = known[data].argument
        arguments = api.training_arguments(workspace(), [system.name], argument, profile, seeds, machines, cluster)
        with st.expander("The same in a terminal", icon=":material/terminal:"):
            st.code(api.command(arguments), language="bash", wrap_lines=True)
    with st.expander("Configuration", icon=":material/tune:"):
        written, resolved, changes = st.tabs(["As written", f"With the profile {profile}", "What it changes"])
        written.code(api.system_yaml(system.name), language="yaml", height=320, wrap_lines=True)
        resolved.code(api.system_yaml(system.name, profile), language="yaml", height=320, wrap_lines=True)
        changes.dataframe(
            cached.config_changes(system.name, profile),
            hide_index=True,
            column_config={"option": "Option", "written": "As written", "used": "Used"},
            alt=f"Options that the profile {profile} changes",
        )
    if system["run_id"]:
        delete(system)


def expected(
    name: str, data: str, known: dict[str, api.DataInfo], profile: str, seeds: list[int], machines: list[str]
) -> str:
    """How long it may take and how much room it needs, and how we know; "" for nothing to do."""
    if data not in known or not seeds:
        return ""
    try:
        number = len(machines) or len(api.data_set(workspace(), data).machines)
    except api.AsdError:  # the recordings are gone; said in the options
        return ""
    found = api.estimate(workspace(), name, profile, number, len(seeds))
    if found.seconds is None:
        return "No earlier run tells how long it will take."
    room = f" and {words.size(found.bytes)} of disk" if found.bytes else ""
    return (
        f"At most about {words.duration(found.seconds)}{room}, going by {words.plain(found.source)} (sum of its parts; "
        "finished parts are reused)."
    )


def generated(system: pd.Series, data: str, profile: str) -> None:
    """What would be generated, for the systems that have training clips generated."""
    if not system["generated"]:
        return
    with st.expander("Generated clips", icon=":material/graphic_eq:", key="generated", on_change="rerun") as box:
        if not box.open:
            return
        try:
            wanted = api.generated_for(workspace(), system.name, data, profile)
        except api.AsdError as error:
            st.error(words.plain(str(error)), icon=":material/error:")
            return
        if wanted.empty:
            st.caption("No condition has too few clips: nothing will be generated.")
            return
        st.caption(
            f"{wanted['wanted'].sum():,} clips of {len(wanted)} conditions that have too few recorded ones. They are "
            "screened after they are made; the Screening page shows which are kept."
        )
        st.dataframe(
            wanted,
            hide_index=True,
            column_order=("wanted", "recorded", "condition", "why"),
            column_config={"condition": "Condition", "recorded": "Recorded", "wanted": "Wanted", "why": "Why"},
            alt=f"{len(wanted)} conditions with the number of clips to generate",
        )


def delete(system: pd.Series) -> None:
    with st.expander("Delete the result", icon=":material/delete:", key="delete_box", on_change="rerun") as box:
        run = cached.runs().get(system["run_id"])
        if not box.open or run is None:
            return
        found = api.belongings(workspace(), run)
        parts = ", ".join(f"{number} {kind}" for kind, number in sorted(found.kinds.items())) or "no other part"
        also = [f"its reports ({found.reports})"] if found.reports else []
        also += [f"its verdicts on dropped recordings ({found.scored})"] if found.scored else []
        st.markdown(
            f"`{system['run_id']}`  \n**{words.size(found.bytes)}**: {', '.join(['scores and figures of this run', *also])}"
            f", and the parts that no other result was made from ({parts}). Recordings, dropped ones too, generated clips "
            f"and packages stay."
        )
        sure = st.checkbox(f"Yes, delete {words.size(found.bytes)} for good", key=f"sure_{system['run_id']}")
        st.button(
            "Delete",
            key="delete_run",
            icon=":material/delete_forever:",
            disabled=not sure,
            on_click=jobs.attempt,
            args=(api.delete_run, workspace(), system["run_id"]),
        )


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
        if found:
            return left, f"{api.seeds_text(found).capitalize()}: already computed."
        return left, "" if there else other_settings(name, data, profile, machines)
    following = next(seed for seed in count() if seed not in there)
    said = f"Already computed with these settings ({api.seeds_text(there)})."
    return [following], said + " Another seed shows how much chance is in it."


def other_settings(name: str, data: str, profile: str, machines: list[str]) -> str:
    """Why a system that has results is trained anew all the same."""
    seeds, told = api.other_settings(workspace(), name, data, profile, machines)
    if not seeds:
        return ""
    more = f"; {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return (
        f"There are results with other settings ({api.seeds_text(seeds)}): "
        f"{words.plain('; '.join(told[:MOST_TOLD]))}{more}. They do not count as computed."
    )


def buttons(
    system: pd.Series,
    data: str,
    known: dict[str, api.DataInfo],
    profile: str,
    seeds: list[int],
    machines: list[str],
    cluster: str,
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
            args=(start, [system.name], data, profile, seeds, machines, cluster),
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


def start(names: list[str], data: str, profile: str, seeds: list[int], machines: list[str], cluster: str) -> None:
    """Start a job per system and follow the first."""
    started = [api.start_training(workspace(), name, data, profile, seeds, machines, cluster) for name in names]
    remember("job", started[0])
    remember("system", names[0])
    st.session_state["ticked"] = []


def follow(system: pd.Series) -> None:
    """The job of the address, or else the picked system's latest."""
    job_id = asked("job") or system["job_id"]
    if not job_id:
        return
    with st.container(border=True):
        jobs.panel(job_id)


main()
