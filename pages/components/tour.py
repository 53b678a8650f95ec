"""The tour: nine places on the demo data, each with what to look at and why. A card that stays on top of the page, with
an outline round what it speaks of; where it stands is in the address (``tour=3``), so that it survives a page switch
and a refresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import streamlit as st

from asd_core import api
from pages.components import cached, jobs, words
from pages.components.context import PAGES, asked, note, page, remember, workspace

DEMO = "demo"
SYSTEMS = ("logmel-maha", "logmel-knn")  # trained in seconds; two, so that there is something to fuse
Place = dict[str, str]  # query parameters

OUTLINE = "#118178"  # stands out from both grounds
ROOM = "13.25rem"  # of the page's header and the card
CARD = "[data-testid='stLayoutWrapper']:has(> .st-key-tour)"
INSPECTOR = "[data-testid='stColumn']:has(> * .st-key-inspector)"
STYLE = f"""
{CARD} {{ margin-top: 1.5rem; }}
.st-key-tour {{ background: Canvas; }}
.st-key-tour_scroll {{ display: none; }}
@media (min-width: 1100px) and (min-height: 800px) {{
  {CARD} {{ position: sticky; top: 3.75rem; z-index: 99; }}
  .stApp {INSPECTOR} {{ top: {ROOM}; max-height: calc(100vh - {ROOM} - 0.5rem); }}
}}
"""
_scroll = st.components.v2.component("asd_tour", html="", js=(PAGES.parent / "assets" / "tour.js").read_text())


@dataclass(frozen=True)
class Lack:
    """What a step needs and does not have, and what makes it."""

    why: str
    label: str
    make: Callable[[], object]
    job: tuple[str, ...]  # how the command line of the job that makes it begins


@dataclass(frozen=True)
class Step:
    title: str
    page: str
    look: str
    place: Callable[[], Place]
    lack: Callable[[], Lack | None]
    target: str = ""  # key of the part of the page that it is about, which is brought into view and outlined


def button() -> None:
    """On Home: the offer of the tour, prominent as long as nothing but the demo has been run."""
    if asked("tour"):
        return
    others = any(run.record["data"]["name"] != DEMO for run in cached.runs().values())
    if others or st.session_state.get("tour_declined"):
        if st.button("Tour", key="tour_start", icon=":material/tour:", type="tertiary"):
            _go(1)
        return
    with st.container(border=True):
        st.markdown(
            f"**New here?** A tour of {len(STEPS)} stops on simulated machines shows which question each page answers."
        )
        with st.container(horizontal=True):
            if st.button("Start the tour", key="tour_start", icon=":material/tour:", type="primary"):
                _go(1)
            st.button("No, thanks", key="tour_decline", type="tertiary", on_click=_decline)


def show() -> None:
    """The card of the current step; nothing where no tour is on."""
    number = _number()
    if number is None:
        return
    step = STEPS[number - 1]
    lack = step.lack()
    with st.container(border=True, key="tour", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                st.badge(f"Tour {number} of {len(STEPS)}", icon=":material/tour:", color="blue")
                st.markdown(f"**{step.title}**", width="content")
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                _steps(number, is_ready=lack is None)
        st.markdown(step.look)
        if lack:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f":orange[:material/pending:] {lack.why}", width="content")
                _maker(lack)
        st.html(f"<style>{STYLE}{_outline(step.target)}</style>")
        _scroll(key="tour_scroll", data={"stop": str(number), "target": step.target})


def _outline(target: str) -> str:
    """The style of what a stop is about."""
    if not target:
        return ""
    whole = INSPECTOR if target == "inspector" else f".st-key-{target}"
    return (
        f".st-key-{target} {{ scroll-margin-top: {ROOM}; }}"
        f" {whole} {{ outline: 2px solid {OUTLINE}; outline-offset: 6px; border-radius: 4px; }}"
    )


def _steps(number: int, is_ready: bool) -> None:
    """Back, to the place, on, and out."""
    if number > 1 and st.button("Back", key="tour_back", icon=":material/arrow_back:"):
        _go(number - 1)
    if _is_elsewhere(STEPS[number - 1]) and st.button("Show me", key="tour_here", icon=":material/place:"):
        _go(number)
    is_last = number == len(STEPS)
    if not is_last:
        kind: Literal["primary", "secondary"] = "primary" if is_ready else "secondary"
        following = f"Next: {STEPS[number].title}"
        if st.button(following, key="tour_next", icon=":material/arrow_forward:", type=kind):
            _go(number + 1)
    st.button(
        "Done" if is_last else "End the tour",
        key="tour_end",
        icon=":material/check:" if is_last else ":material/close:",
        type="primary" if is_last else "tertiary",
        on_click=remember,
        args=("tour", ""),
    )


def _number() -> int | None:
    """The step that is on, counted from 1; a value that is none is named and dropped."""
    wanted = asked("tour")
    if not wanted:
        return None
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(STEPS):
        remember("tour", wanted)
        return int(wanted)
    note(f"The tour has no stop “{wanted}”. There are 1 to {len(STEPS)}; Home starts it.")
    remember("tour", "")
    return None


def _go(number: int) -> None:
    step = STEPS[number - 1]
    remember("tour", str(number))
    st.switch_page(page(step.page), query_params={**step.place(), "tour": str(number)})


def _decline() -> None:
    st.session_state["tour_declined"] = True


def _is_elsewhere(step: Step) -> bool:
    """Whether another page than the step's is open; a place inside a page is not looked at."""
    address = st.context.url
    return bool(address) and (urlsplit(str(address)).path.strip("/") or "home") != step.page


def _maker(lack: Lack) -> None:
    """The button that makes what is lacking; while the job runs, a word instead."""
    if any(job.is_active and job.arguments[: len(lack.job)] == lack.job for job in api.all_jobs(workspace())):
        st.markdown(":blue[:material/schedule: It is being made; see Jobs.]")
        return
    st.button(
        lack.label,
        key="tour_make",
        icon=":material/play_arrow:",
        type="primary",
        on_click=jobs.attempt,
        args=(lack.make,),
    )


# what the steps need, and where they lead


def _runs() -> Sequence[api.Run]:
    """Finished runs on the demo, the best first."""
    finished = cached.runs()
    board = cached.leaderboard() if finished else None
    if board is None:
        return []
    return [finished[run_id] for run_id in board.loc[board["data"] == DEMO, "run_id"] if run_id in finished]


def _data() -> Place:
    return {"data": DEMO}


def _best() -> Place:
    return {"data": DEMO, "run": str(runs[0].record["run_id"])} if (runs := _runs()) else _data()


def _worst() -> Place:
    """The worst false alarm of the best run's first machine that has one."""
    place = _best()
    if "run" in place:
        alarms = api.select_clips(cached.clip_table(cached.runs()[place["run"]]), "Worst false alarms")
        if len(alarms):
            first = alarms.sort_values("machine", kind="stable").iloc[0]
            return {**place, "machine": str(first["machine"]), "clip": str(first["clip_id"])}
    return place


def _untrained() -> str:
    """One of the quick systems that has no run on the demo yet, "" if both have."""
    trained = {run.record["system"] for run in _runs()}
    return next((name for name in SYSTEMS if name not in trained), "")


def _train(name: str) -> str:
    return api.start_training(workspace(), name, DEMO)


def _needs_data() -> Lack | None:
    if DEMO in api.data_sets(workspace()):
        return None
    return Lack(
        "The demo machines are not on this computer yet. They are simulated here, in about a minute; nothing is downloaded.",
        "Simulate the demo machines",
        lambda: api.start_demo(workspace()),
        ("data", "simulate"),
    )


def _needs_runs(count: int) -> Callable[[], Lack | None]:
    def lack() -> Lack | None:
        if (found := _needs_data()) or len(_runs()) >= count:
            return found
        name = _untrained() or SYSTEMS[0]
        have = "one run" if len(_runs()) else "no run"
        return Lack(
            f"There is {have} on the demo. {words.plain(name)} is trained and scored in about a minute.",
            f"Train {name}",
            lambda: _train(name),
            ("run",),
        )

    return lack


def _needs_map() -> Lack | None:
    if found := _needs_runs(1)():
        return found
    place = _worst()
    run_id, machine = place["run"], place.get("machine", "all")
    if any(machine in info.spec["machines"] for info in cached.projections(cached.runs()[run_id])):
        return None
    return Lack(
        "There is no map of this machine yet. It takes about a minute the first time.",
        "Make the map",
        lambda: api.start_projection(workspace(), run_id, machine),
        ("project",),
    )


def _needs_generated() -> Lack | None:
    if (found := _needs_data()) or api.generated_sets(workspace(), DEMO):
        return found
    return Lack(
        "No clips have been generated on the demo yet. On two cores it takes about seven minutes; go on meanwhile.",
        "Generate clips",
        lambda: api.start_generation(workspace(), DEMO, "quick"),
        ("generate",),
    )


STEPS = (
    Step(
        "Demo data",
        "home",
        "Simulated machines in the layout of DCASE 2026 Task 2: normal clips to train on, test clips to judge. The list "
        "below tells what is there and what to do next. **Data** shows and plays the recordings.",
        dict,
        _needs_data,
    ),
    Step(
        "Leaderboard",
        "results",
        "Every trained system in one table, the best first. Ω is the official score; its interval tells whether a lead "
        "is more than chance. **Report** makes one file of a run, to be sent to others.",
        _best,
        _needs_runs(1),
        "leaderboard",
    ),
    Step(
        "The worst false alarm",
        "results",
        "The clip list starts with normal clips that were flagged, the worst on top. The first one is chosen: a machine "
        "in order that the system takes for a broken one.",
        _worst,
        _needs_runs(1),
        "clips",
    ),
    Step(
        "Hear it",
        "results",
        "Play the clip (Space), then press B to switch to its nearest normal training clip at the same moment. What "
        "differs is what raised the score. **Score a clip** shows a recording of your own in the same way.",
        _worst,
        _needs_runs(1),
        "inspector",
    ),
    Step(
        "Map of clips",
        "explore",
        "Every clip as a point, alike ones close together. Are the flagged clips apart, or amid the normal ones? Click "
        "a point to hear it.",
        _worst,
        _needs_map,
        "clip_map",
    ),
    Step(
        "Generated clips",
        "screening",
        "A generator makes clips of conditions with few recordings. Listen to each beside a real one and decide whether "
        "training may use it.",
        _data,
        _needs_generated,
    ),
    Step(
        "Train one",
        "train",
        "Twenty systems of five reports and simpler ones. Choose one and press Train: it goes on while you look at other "
        "pages, and after the app is closed.",
        _data,
        _needs_data,
    ),
    Step(
        "Fusion",
        "fusion",
        "Systems that err on different clips can be better together. Move the weights and see whether the gain is more "
        "than chance.",
        _data,
        _needs_runs(2),
    ),
    Step(
        "Export",
        "export",
        "A finished run becomes a submission package; every rule of the evaluator is checked before you download it.",
        dict,
        _needs_runs(1),
    ),
)
