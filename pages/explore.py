"""Explore: clips on a map of their embeddings; draw round some, hear them, see what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, clip_map, inspector, jobs, pictures, selections, tables, words
from pages.components.context import asked, note, page, picker, remember, show_notes, workspace

COLOURS = {
    "machine": "Machine",
    "domain": "Domain",
    "label": "Label",
    "outcome": "Outcome",
    "split": "Split",
    "percentile": "Score percentile",
    "disagreement": "Disagreement of two runs",
    "attributes": "All attributes",
}
OF_TRUTH = ("label", "outcome")
COLUMNS = {"machine": "Machine", "split": "Split", "domain": "Domain", "label": "Label", "outcome": "Outcome"}
TABLE_ROWS = 50  # of a selection in the table; all are stepped through


def main() -> None:
    st.title("Explore")
    run, machine = cached.runs().get(asked("run") or ""), asked("machine") or ""
    if run is None:
        st.info("Nothing has been trained on these data yet; a map is made of what a run has computed.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        return
    record = run.record
    with st.container(horizontal=True, vertical_alignment="center"):
        words.kind_badge(record["data"]["kind"])
        title = words.marked(record["title"], bool(record.get("transductive")))
        st.markdown(f"**{words.plain(title)}** · {words.plain(record['data']['name'])} · {record['profile']}")
    left, right = st.columns([3, 2], gap="large")
    with left:
        info = pick_map(run, machine)
    if info is None:
        with left, st.container(border=True):
            compute(run, machine)
        with right:
            inspector.show("", "", None, None, [])
        return
    with left:
        colour, against = pick_colour(run, info)
        with st.container(horizontal=True, vertical_alignment="center"):
            contours = st.toggle("Density", key="density", bind="query-params", help="Contours where clips crowd.")
            everything = info.clips <= api.MOST_POINTS or all_points(info.clips)
            with st.popover("Make another map", icon=":material/add_location_alt:"):
                compute(run, machine)
        clips = cached.mapped_clips(run, info.key, against, everything)
        picked = selection_of(run, clips)
        ids = picked or unselected(clips, machine)
        clip_id = current(clips, ids, machine)
        draw(run, info, clips, colour, against, contours, everything, clip_id)
        panel(run, info, clips, picked, colour)
    with right:
        judged = cached.clip_table(run)
        row = judged[judged["clip_id"] == clip_id]
        data = api.data_of(run, clip_id)
        own = run if data == record["data"]["name"] else None
        inspector.show(data, clip_id, own, None if row.empty else row.iloc[0], ids, key="inspector")


# ---------------------------------------------------------------- which map


def pick_map(run: api.Run, machine: str) -> api.ProjectionInfo | None:
    """The map to show, or None while there is none of this machine; making one is offered in any case."""
    wanted = asked("projection") or ""
    job = api.projection_job(workspace(), wanted) if wanted else None  # first: what it has made is then among the maps
    known = {info.key: info for info in cached.projections(run) if machine in info.spec["machines"]}
    if job is not None and job.state != "done" and wanted not in known:
        jobs.panel(job.id)
        return next(iter(known.values()), None)
    if wanted and wanted not in known:
        if st.query_params.get("projection") and not exists(wanted):
            note(
                f"There is no map “{wanted}” in this workspace. Shown instead: {'the newest' if known else 'nothing'}."
            )
            show_notes()
        remember("projection", "")
    if not known:
        st.info(f"No map of {words.plain(machine)} has been made from this run yet. It takes seconds to a few minutes.")
        return None
    key = picker("projection", "Map", list(known), next(iter(known)), lambda one: known[one].title)
    for sentence in known[key].notices:
        st.caption(f":material/info: {words.plain(sentence)}")
    return known[key]


def exists(key: str) -> bool:
    """Whether some run has this map; that of another run or machine is left without a word."""
    return any(key == info.key for run in cached.runs().values() for info in cached.projections(run))


def compute(run: api.Run, machine: str) -> None:
    """What the job would do, how long that takes, and the button."""
    if not run.record.get("scores"):
        st.warning("This run has left no embeddings. Run the system again to get some.", icon=":material/info:")
        return
    branches = [branch["name"] for branch in run.record["config"]["branches"]]
    splits_there = api.MAP_SPLITS if run.record.get("generated") else api.MAP_SPLITS[:2]
    first, second = st.columns(2)
    what = first.selectbox(
        "Machines",
        [machine, "all"],
        key="map_machines",
        format_func=lambda one: "all machines" if one == "all" else one,
    )
    branch = second.selectbox("Embeddings of", branches, key="map_branch", help="A branch of the system.")
    splits = first.pills("Clips", splits_there, selection_mode="multi", default=["train", "test"], key="map_splits")
    method = second.segmented_control(
        "Method", api.MAP_METHODS, default="umap", key="map_method", format_func=str.upper, required=True
    )
    options: dict[str, Any] = {"branch": branch, "method": method}
    if method == "umap":
        options |= umap_options()
    plan = api.plan_map(workspace(), run, what, splits, **options)
    if plan.problem:
        st.warning(words.plain(plan.problem), icon=":material/info:")
    elif plan.is_done:
        st.caption("This map has been made already.")
    else:
        later = "; half a minute more the first time on this computer" if method == "umap" else ""
        st.caption(f"{plan.clips:,} clips, about {words.duration(plan.seconds)} on one core{later}.")
    st.button(
        "Show it" if plan.is_done else "Compute",
        key="compute",
        icon=":material/play_arrow:",
        type="primary",
        disabled=bool(plan.problem),
        on_click=jobs.attempt,
        args=(start, run.record["run_id"], what, splits, plan.key if plan.is_done else "", options),
    )


def umap_options() -> dict[str, Any]:
    a, b, c, d = st.columns(4)
    return {
        "neighbours": int(a.number_input("Neighbours", 2, 200, 20, key="map_neighbours", help="Few: detail; many: overview.")),
        "min_dist": float(b.number_input("Least distance", 0.0, 1.0, 0.15, 0.05, key="map_min_dist")),
        "metric": str(c.selectbox("Metric", api.MAP_METRICS, key="map_metric")),
        "seed": int(d.number_input("Seed", 0, 9999, 0, key="map_seed", help="What changes with it is chance.")),
    }  # fmt: skip


def start(run_id: str, machine: str, splits: list[str], done: str, options: dict[str, Any]) -> None:
    remember("projection", done or api.start_projection(workspace(), run_id, machine, splits, **options))


def all_points(clips: int) -> bool:
    return st.toggle(
        f"All {clips:,} clips",
        key="all_points",
        help=f"Shown is a sample of {api.MOST_POINTS:,} with every machine, domain and label in its share.",
    )


# ---------------------------------------------------------------- the map


def pick_colour(run: api.Run, info: api.ProjectionInfo) -> tuple[str, api.Run | None]:
    """The column that colours the map, and the other run of a comparison."""
    clips = cached.mapped_clips(run, info.key, None, True)
    known = bool((clips["outcome"] != "").any())
    titles = {name: title for name, title in COLOURS.items() if known or name not in OF_TRUTH}
    titles |= {name: name.capitalize() for name in clips if name.startswith(api.ATTRIBUTE)}
    data = run.record["data"]["name"]
    others = {one: other for one, other in cached.runs().items() if other.record["data"]["name"] == data}
    del others[run.record["run_id"]]
    compared = [one for one, other in others.items() if not other.record.get("transductive")]
    is_transductive = bool(run.record.get("transductive"))
    if is_transductive:
        del titles["percentile"]
    if is_transductive or not compared:
        del titles["disagreement"]
    default = "domain" if len(info.spec["machines"]) == 1 else "machine"
    left, right = st.columns(2)
    with left:
        colour = picker("colour", "Colour", list(titles), default, lambda name: titles[name])
    show_notes()  # a colour in the address may be one of those that there are not
    if not known:
        right.caption("Label and outcome give no colour: these clips carry no labels.")
    if is_transductive:
        right.caption(
            "Percentile and disagreement give no colour: this run's scores depend on the other test clips, so they have no "
            "percentile among the training clips."
        )
    elif others and not compared:
        right.caption("Disagreement gives no colour: all other runs on these data are transductive, without any.")
    if colour != "disagreement":
        return colour, None
    with right:
        ranked = list(cached.fusion_candidates(tuple(compared))["run_id"])
        wanted = picker("other", "With the run", ranked, ranked[0], lambda one: words.run_name(others[one].record))
        return colour, others[wanted]


def unselected(clips: pd.DataFrame, machine: str) -> list[str]:
    """What is stepped through while nothing is selected: the machine's test clips, most anomalous first."""
    own = clips[clips["machine"] == machine]
    test = own[own["split"] == "test"]
    return in_order(test if len(test) else own)


def in_order(clips: pd.DataFrame) -> list[str]:
    return list(clips.sort_values(["percentile", "score", "clip_id"], ascending=[False, False, True])["clip_id"])


def current(clips: pd.DataFrame, ids: list[str], machine: str) -> str:
    """The asked clip if it is on the map and either selected or of the machine; else the first stepped through."""
    wanted = asked("clip") or ""
    there = bool((clips["clip_id"] == wanted).any())
    if there and (wanted in ids or wanted.startswith(f"{machine}/")):
        return wanted
    if st.query_params.get("clip") and not there:
        note(f"There is no clip “{wanted}” on this map. Shown instead: the first of the list.")
        show_notes()
    remember("clip", ids[0])
    return ids[0]


def draw(
    run: api.Run,
    info: api.ProjectionInfo,
    clips: pd.DataFrame,
    colour: str,
    against: api.Run | None,
    contours: bool,
    everything: bool,
    clip_id: str,
) -> None:
    of_truth = api.clips_stamp(workspace(), run.record["data"]["name"])
    stamps = api.run_stamp(run), against and api.run_stamp(against), of_truth
    facts = [info.key, stamps, colour, contours, everything]
    if facts != st.session_state.get("figure_facts"):  # another figure has to show by itself what is selected
        st.session_state["figure_facts"] = facts
        st.session_state["selected_before"] = st.session_state.get("selected", ())
    begun = st.session_state["selected_before"]
    shares = [f"component {number} ({share:.1%} of the variance)" for number, share in enumerate(info.explained, 1)]
    shown = figure(
        api.digest([*facts, begun, st.session_state.get("cleared", 0)]),
        run.record["run_id"],
        clips,
        colour,
        contours,
        shares,
        frozenset(begun),
    )
    alt = f"Map of {len(clips)} clips, coloured by {colour}; the table below lists what is selected"
    clip_map.show(shown, clip_id, alt, go_to, take)
    sample = f"A sample of {len(clips):,} of {info.clips:,} clips. " if len(clips) < info.clips else ""
    said = (
        "Axes mean nothing, and distances between far clusters mean little; near clips are near."
        if info.spec["method"] == "umap"
        else "Two directions of many: clips that lie together here may be apart in the others."
    )
    st.caption(
        f"{sample}{clip_map.SHAPES_IN_WORDS}. {said} The neighbours beside the clip are found in the original "
        f"embeddings. A click plays; lasso and box select; a click in the legend hides a group."
    )


@st.cache_resource(show_spinner=False, max_entries=6)
def figure(
    key: str,
    run_id: str,
    _clips: pd.DataFrame,
    colour: str,
    contours: bool,
    axes: list[str],
    _chosen: frozenset[str],
) -> clip_map.Map:
    return clip_map.build(key, _clips, colour, contours, axes, _chosen)


def go_to(clip_id: str) -> None:
    remember("clip", clip_id)
    remember("machine", clip_id.partition("/")[0])


# ---------------------------------------------------------------- the selection


def take(ids: list[str], before: bool = False) -> None:
    """Select clips; `before` if not by drawing on the figure, which then has to show them itself."""
    st.session_state["selected"] = tuple(ids)
    st.session_state["selection_loaded"] = ""
    remember("selection", "")
    if before or not ids:
        st.session_state["selected_before"] = tuple(ids)
        st.session_state["cleared"] = st.session_state.get("cleared", 0) + 1


def selection_of(run: api.Run, clips: pd.DataFrame) -> list[str]:
    """The selected clips of this map, most anomalous first; a saved selection of the address comes first of all."""
    wanted, data = asked("selection") or "", run.record["data"]["name"]
    if wanted and wanted != st.session_state.get("selection_loaded"):
        try:
            saved = api.selection(workspace(), wanted)
            if saved.data != data:
                raise api.AsdError(f"The selection “{wanted}” is of {saved.data}, not of {data}.")
            take(list(saved.ids), before=True)
            remember("selection", wanted)
            st.session_state["selection_loaded"] = wanted
        except api.AsdError as error:
            note(f"{error} Shown instead: no selection.")
            show_notes()
            remember("selection", "")
    return in_order(clips[clips["clip_id"].isin(st.session_state.get("selected", ()))])


def panel(run: api.Run, info: api.ProjectionInfo, clips: pd.DataFrame, picked: list[str], colour: str) -> None:
    st.header("Selection")
    with st.container(horizontal=True):
        take_group(clips, colour)
        selections.pick(run.record["data"]["name"], lambda: None if asked("selection") else take([]))
    if not picked:
        if asked("selection"):
            st.info("No clip of the saved selection is on this map.")
        else:
            st.info("Nothing is selected. Draw round some points with the lasso or the box, or take a whole group.")
        return
    buttons(run, info, picked)
    chosen = clips["clip_id"].isin(picked).to_numpy()
    parts: dict[str, Callable[[], None]] = {
        "In common": partial(comparison, clips, chosen),
        "Scores": partial(scores, clips, chosen),
        "Clips": partial(clip_list, run, clips, picked),
    }
    for tab, draw_part in zip(
        st.tabs(list(parts), key="selection_tabs", on_change="rerun"), parts.values(), strict=True
    ):
        if tab.open:
            with tab:
                draw_part()


def take_group(clips: pd.DataFrame, colour: str) -> None:
    """A selection without a mouse: everything of one colour."""
    if colour in clip_map.SCALES:
        return
    names = clip_map.groups(clips, colour)

    def take_it() -> None:
        name = st.session_state["take_group"]
        if name is not None:
            take(list(clips.loc[names == name, "clip_id"]), before=True)
            st.session_state["take_group"] = None

    st.selectbox(
        "Take a whole group",
        sorted(names.unique()),
        index=None,
        key="take_group",
        placeholder="Group of the legend",
        on_change=take_it,
    )


def buttons(run: api.Run, info: api.ProjectionInfo, picked: list[str]) -> None:
    st.markdown(f"**{len(picked):,}** of {info.clips:,} clips")
    with st.container(horizontal=True):
        st.button(
            "Listen through",
            key="listen",
            icon=":material/headphones:",
            help="From the most anomalous on; J and K step through the selection.",
            on_click=go_to,
            args=(picked[0],),
        )
        saved = asked("selection")
        st.button(
            "Saved" if saved else "Save selection",
            key="save_selection",
            icon=":material/bookmark_added:" if saved else ":material/bookmark_add:",
            disabled=bool(saved),
            help="Puts the selection into the address, so that this view can be linked.",
            on_click=jobs.attempt,
            args=(save, run, info.key, picked),
        )
        if st.button("Open in Results", key="open_results", icon=":material/leaderboard:"):
            save(run, info.key, picked)
            place = {"data": run.record["data"]["name"], "run": run.record["run_id"], "machine": asked("machine") or ""}
            st.switch_page(page("results"), query_params={**place, "selection": asked("selection") or ""})
        st.button("Clear", key="clear", icon=":material/close:", type="tertiary", on_click=take, args=([],))


def save(run: api.Run, projection: str, ids: list[str]) -> None:
    record = run.record
    where = {"data": record["data"]["name"], "page": "explore", "run": record["run_id"], "projection": projection}
    name = api.save_selection(workspace(), ids, where)
    st.session_state["selection_loaded"] = name
    remember("selection", name)


def comparison(clips: pd.DataFrame, chosen: np.ndarray) -> None:
    found = api.enriched(clips, chosen)
    if found.empty:
        st.caption("All clips of this map are alike in what is known of them.")
        return
    shown, config = tables.enrichment(found, COLUMNS)
    st.dataframe(
        shown, key="enrichment", hide_index=True, column_config=config, height="content" if len(shown) < 9 else 330,
        alt=f"What the selected clips have more or less of than all; {len(shown)} values",
    )  # fmt: skip
    st.caption(
        "p: how surprising such a share is among as many clips drawn at random, corrected for the number of values. "
        "Who draws along the colours is not drawing at random. Label and outcome come from the test labels."
    )


def scores(clips: pd.DataFrame, chosen: np.ndarray) -> None:
    if clips["percentile"].isna().all():
        st.caption("Nothing to compare: generated clips and those of a transductive run have no percentile.")
        return
    st.plotly_chart(
        charts.percentile_shares(api.percentile_shares(clips, chosen)),
        key="selection_shares",
        config=charts.CONFIG,
        alt=f"Score percentiles of the {int(chosen.sum())} selected clips beside the others",
    )
    st.caption("Percentiles, as scores of different machines are not on one scale. Generated clips have none.")


def clip_list(run: api.Run, clips: pd.DataFrame, picked: list[str]) -> None:
    ids = picked[:TABLE_ROWS]
    rows = clips.set_index("clip_id").loc[ids].reset_index()
    has_sound = run.record["data"]["name"] in api.data_sets(workspace())
    version = api.run_stamp(run)
    addresses = [pictures.thumbnail_url(api.data_of(run, one), one, version) for one in ids]
    shown, config = tables.selected_clips(rows, addresses if has_sound else None)
    clip_id = asked("clip") or ""
    tables.pick_row("selected_clips", ids.index(clip_id) if clip_id in ids else None)

    def pick() -> None:
        row = tables.picked_row("selected_clips")
        if row is not None and row < len(ids):
            go_to(ids[row])

    st.dataframe(
        shown,
        key="selected_clips",
        hide_index=True,
        column_config=config,
        row_height=44,
        height=420 if len(ids) > 8 else "content",
        selection_mode=tables.ROWS,
        on_select=pick,
        lazy=False,
        alt=f"{len(ids)} selected clips; pick a row to see and hear the clip",
    )
    if len(picked) > TABLE_ROWS:
        st.caption(f"The {TABLE_ROWS} most anomalous of {len(picked):,}; J and K step through all.")


main()
