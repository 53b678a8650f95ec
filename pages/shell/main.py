"""The router: navigation, the choices that cross pages, the job tray; then the page itself."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

from asd_core import api
from pages.components import cached, jobs, tour, words
from pages.components.context import PAGES, asked, hold, picker, release, show_notes, workspace
from pages.shell.places import CHOICES, PLACES

ASSETS = PAGES.parent / "assets"

st.set_page_config(page_title="ASD Studio", page_icon=str(ASSETS / "icon.svg"), layout="wide")
st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")

# The theme's colour is for areas and lines: as text on a tint of itself it would be too faint in the dark.
CHOSEN = ("button[data-variant][data-selected]:not([data-disabled])", "[role='tab'][data-selected][data-testid]")
# The clip's column stays in view while the table beside it scrolls.
BESIDE = "[data-testid='stColumn']:has(> * .st-key-inspector)"
# In a narrow window the two halves of a page, or of a tab of it, stand one below the other.
HALVES = (
    ":is([data-testid='stMainBlockContainer'], [data-testid='stTabPanel']) > [data-testid='stVerticalBlock'] > "
    "[data-testid='stLayoutWrapper'] > "
    "[data-testid='stHorizontalBlock']:has(> [data-testid='stColumn']:nth-child(2):last-child)"
)
# The theme's grey of axes is too faint on white.
AXES = ":is([class*='axislayer'], [class^='g-'][class$='title'], .colorbar) text"
# Tools that Streamlit lays over what is above a small table, when the pointer is near: they would take its clicks.
SMALL = ".st-key-inspector, .st-key-leaderboard, .st-key-matrix, .st-key-clips"
# In the clip's row of buttons these are icons alone.
ICONS = "[class*='_steps'] :is([data-testid='stPopover'], [data-testid='stDownloadButton'])"
STYLE = f"""
.stApp :is({", ".join(CHOSEN)}) {{ color: inherit; font-weight: 600; }}
.stApp [data-testid="stSliderThumbValue"] {{ color: inherit; }}
.stApp [data-testid="stPlotlyChart"] {AXES} {{ fill: currentColor !important; fill-opacity: 0.75 !important; }}
.stApp [data-testid="stMainBlockContainer"] {{ padding: 2.5rem 2.5rem 4rem; }}
.stApp [data-testid="stSidebar"] a:focus-visible {{ outline: 2px solid currentColor; outline-offset: -2px; }}
:is({SMALL}) [data-testid="stElementToolbar"] {{ display: none; }}
.stApp {ICONS} button [data-testid="stMarkdownContainer"] {{ position: absolute; clip-path: inset(50%); }}
@media (min-width: 1100px) {{
  {BESIDE} {{ position: sticky; top: 3.5rem; align-self: flex-start; max-height: calc(100vh - 4rem); overflow-y: auto; }}
}}
/* of Results the list and the clip come before the figures */
@media (max-width: 1099.98px) {{
  {HALVES} {{ flex-direction: column; gap: 1rem; }}
  {HALVES} > [data-testid="stColumn"] {{ width: 100%; min-width: 100%; flex: none; }}
  {HALVES}:has(.st-key-figures) > :first-child, {HALVES}:has(.st-key-figures) > :first-child > * {{ display: contents; }}
  {HALVES}:has(.st-key-figures) > :last-child {{ order: 1; }}
  {HALVES} [data-testid="stLayoutWrapper"]:has(> .st-key-figures) {{ order: 2; }}
}}
"""
st.html(f"<style>{STYLE}</style>")

SECTIONS = {
    section: [
        st.Page(PAGES / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=name == "home")
        for name, title, icon, _ in places
    ]
    for section, places in PLACES.items()
}
page = st.navigation(SECTIONS, position="hidden")


def navigation() -> None:
    """Links to the pages. (Streamlit's own list, in sections, is not valid HTML and its headings answer no key.)"""
    for section, pages in SECTIONS.items():
        with st.container(gap="xxsmall"):
            st.caption(section)
            for one in pages:
                st.page_link(one, width="stretch")


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
        machines = own[run_id].record["machines"]
        part = (
            f" · {machines[0] if len(machines) == 1 else f'{len(machines)} machines'}" if len(machines) < most else ""
        )
        return words.run_name(own[run_id].record) + part

    return picker("run", "Run", list(own), best[0] if best else next(iter(own)), describe)


def pick_machine(machines: Sequence[str], labelled: Sequence[str] = ()) -> None:
    """By default the machine of the asked clip, or the first whose test clips are labelled."""
    of_clip = (st.query_params.get("clip") or "").partition("/")[0]
    picker("machine", "Machine", machines, of_clip if of_clip in machines else [*labelled, *machines][0])


def pick(choices: Sequence[str]) -> None:
    data = pick_data() if "data" in choices else ""
    run = cached.runs().get(pick_run(data)) if "run" in choices and data else None
    if run and "machine" in choices:
        pick_machine(run.record["machines"], run.record.get("labelled", []))
    if data and "recorded machine" in choices:
        with suppress(api.AsdError):  # its folder is gone; the page says so
            pick_machine(api.data_set(workspace(), data).machines)


@st.cache_resource(show_spinner=False)
def settle(url_path: str) -> None:
    """Spare what a page loads when it is first drawn, its libraries and the list of all clips, from the garbage collector.
    Streamlit has it look at everything after every run: 0.1 s at 14,400 clips, in which the browser waits for its answer.
    Once per page, for what is in a cycle now and is dropped later stays in memory."""
    gc.collect()
    gc.freeze()


hold()
try:
    with st.sidebar:
        navigation()
        with api.moment():
            pick(CHOICES[page.url_path or "home"])
        jobs.tray()

    jobs.announce()
    tour.show()
    show_notes()
    jobs.show_problems()
    with api.moment():  # begun after the look at the jobs: what a job that was over has made is there
        page.run()
    settle(page.url_path)
finally:
    release()
