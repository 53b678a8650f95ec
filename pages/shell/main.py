"""The router: navigation, the choices that cross pages, the job tray; then the page itself."""

from __future__ import annotations

import streamlit as st

from asd_core import api
from pages.components import cached, jobs, words
from pages.components.context import PAGES, asked, picker, show_notes, workspace

ASSETS = PAGES.parent / "assets"

st.set_page_config(page_title="ASD Studio", page_icon=str(ASSETS / "icon.svg"), layout="wide")
st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")

# the theme's colour is for areas and lines: as text on a tint of itself it would be too faint in the dark
CHOSEN = ("button[data-variant][data-selected]:not([data-disabled])", "[role='tab'][data-selected][data-testid]")
st.html(f"<style>.stApp :is({', '.join(CHOSEN)}) {{ color: inherit; font-weight: 600; }}</style>")

page = st.navigation(
    [
        st.Page(PAGES / "home.py", title="Home", icon=":material/home:", url_path="home", default=True),
        st.Page(PAGES / "results.py", title="Results", icon=":material/leaderboard:", url_path="results"),
        st.Page(PAGES / "train.py", title="Train", icon=":material/model_training:", url_path="train"),
        st.Page(PAGES / "weights.py", title="Weights", icon=":material/download:", url_path="weights"),
        st.Page(PAGES / "export.py", title="Export", icon=":material/package_2:", url_path="export"),
    ]
)


def pick_data() -> str:
    """Of the data sets at hand; by default the one of the asked run, or of the newest."""
    known = api.data_sets(workspace())
    finished = cached.runs()
    of_run = [finished[run].record["data"]["name"] for run in (asked("run"), *finished) if run in finished]
    names = list(dict.fromkeys([*known, *of_run]))
    if not names:
        return ""
    kinds = {name: info.kind for name, info in known.items()}
    default = next((name for name in of_run if name in names), names[0])
    return picker("data", "Data set", names, default, lambda name: f"{name} ({kinds.get(name, 'not here')})")


def pick_run(data: str) -> str:
    """Of the runs on this data set; by default the best, as the leaderboard has it."""
    own = {run_id: run for run_id, run in cached.runs().items() if run.record["data"]["name"] == data}
    if not own:
        return ""
    most = max(len(run.record["machines"]) for run in own.values())
    best = [run_id for run_id in cached.leaderboard()["run_id"] if run_id in own]

    def describe(run_id: str) -> str:
        record = own[run_id].record
        machines = record["machines"]
        part = (
            f" · {machines[0] if len(machines) == 1 else f'{len(machines)} machines'}" if len(machines) < most else ""
        )
        name = words.marked(record["system"], bool(record.get("transductive")))
        return f"{name} · {record['profile']} · seed {record['seed']}{part}"

    return picker("run", "Run", list(own), best[0] if best else next(iter(own)), describe)


def pick_machine(run_id: str) -> str:
    record = cached.runs()[run_id].record
    machines = record["machines"]
    of_clip = (st.query_params.get("clip") or "").partition("/")[0]
    return picker(
        "machine", "Machine", machines, of_clip if of_clip in machines else [*record.get("labelled", []), *machines][0]
    )


with st.sidebar:
    if page.url_path in ("results", "train"):
        data = pick_data()
        if page.url_path == "results" and data:
            run_id = pick_run(data)
            if run_id:
                pick_machine(run_id)
    jobs.tray()

jobs.announce()
show_notes()
jobs.show_problems()
page.run()
