"""Results: which system is good where, and which clips decide it; every clip can be seen and heard."""

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, clip_view, tables, words
from pages.components.context import asked, link, note, page, remember, show_notes, workspace


def main() -> None:
    st.title("Results")
    for sentence in api.broken_runs(workspace()):
        st.warning(f"A run folder is broken and left out. {sentence}", icon=":material/broken_image:")
    run = cached.runs().get(asked("run") or "")
    if run is None:
        st.info("Nothing has been trained on these data yet. One click on the Train page makes the first result.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        return
    record, machine = run.record, asked("machine") or ""
    with st.container(horizontal=True, vertical_alignment="center"):
        words.kind_badge(record["data"]["kind"])
        title = words.marked(record["title"], bool(record.get("transductive")))
        st.markdown(f"**{title}** · {record['data']['name']} · {record['profile']} · seed {record['seed']}")
    for sentence in record.get("notices", []):
        st.caption(f":material/info: {sentence}")
    leaderboard(run)

    clips = cached.clip_table(run)
    own = clips[clips["machine"] == machine]
    left, right = st.columns([3, 2], gap="large")
    with left:
        machines(run, machine)
        figures(run, own, machine)
        shown = clip_list(run, own, machine)
    with right:
        inspector(run, clips, own, shown)


def leaderboard(run: api.Run) -> None:
    board = cached.leaderboard()
    board = board[board["data"] == run.record["data"]["name"]].reset_index(drop=True)
    ids = list(board["run_id"])
    finished = cached.runs()
    every = sorted({machine for run_id in ids for machine in finished[run_id].record["machines"]})
    if run.metrics is None and board["omega"].isna().all():
        st.info("The test clips carry no labels, so there are no figures; scores, sounds and pictures are all here.")
    styled, config = tables.leaderboard(board, every)
    tables.pick_row("leaderboard", ids.index(run.record["run_id"]) if run.record["run_id"] in ids else None)
    st.dataframe(
        styled,
        key="leaderboard",
        hide_index=True,
        column_config=config,
        selection_mode="single-row-required",
        on_select=lambda: pick("run", ids, "leaderboard"),
        height="content" if len(board) <= 10 else 390,
        placeholder="–",
        alt=f"Leaderboard of {len(board)} systems",
    )
    st.caption(tables.sets_note(board))


def machines(run: api.Run, machine: str) -> None:
    matrix = cached.machine_matrix(run)
    if matrix.empty:
        return
    st.header("Machines")
    names = list(matrix["machine"])
    tables.pick_row("matrix", names.index(machine) if machine in names else None)
    st.dataframe(
        tables.matrix(matrix),
        key="matrix",
        hide_index=True,
        placeholder="–",
        selection_mode="single-row",
        on_select=lambda: pick("machine", names, "matrix"),
        alt=f"AUC and pAUC of {len(names)} machines; pick a row to see its clips",
    )
    if without := sorted(set(run.record["machines"]) - set(names)):
        st.caption(f"Without labels, so without figures: {', '.join(without)}.")
    for row in matrix[matrix["why"] != ""].itertuples():
        st.caption(f"{row.machine}: {row.why}")


def figures(run: api.Run, own: pd.DataFrame, machine: str) -> None:
    st.header(f"Scores of {machine}")
    if own.empty:
        st.info("This run holds no test clip of this machine.")
        return
    threshold = float(own["threshold"].iloc[0])
    curves = api.roc_curves(own)
    columns = st.columns(2) if curves else [st.container()]
    columns[0].plotly_chart(
        charts.score_histograms(api.histogram(own), threshold),
        key="histograms",
        config=charts.CONFIG,
        alt=f"Histograms of {len(own)} scores of {machine} by domain and label; threshold {threshold:.4f}",
    )
    if not curves:
        st.caption("These clips carry no labels: there is no ROC curve, and the histogram shows all clips together.")
        return
    figures = cached.machine_matrix(run)
    entry = figures[figures["machine"] == machine]
    captions = dict.fromkeys(curves, "")
    for name, figure in (("source", "auc_source"), ("target", "auc_target"), ("all", "pauc")):
        value = None if entry.empty else entry[figure].iloc[0]
        captions[name] = f"{name} ({tables.FIGURES[figure].split()[0]} {words.percent(value)})"
    columns[1].plotly_chart(
        charts.roc(curves, captions),
        key="roc",
        config=charts.CONFIG,
        alt=f"ROC curves of {machine}: " + ", ".join(captions.values()),
    )


def clip_list(run: api.Run, own: pd.DataFrame, machine: str) -> pd.DataFrame:
    """Filters and table; returns the rows in the order shown."""
    st.header("Clips")
    labelled = bool(own["label"].notna().any())
    options = list(api.PRESETS if labelled else api.LABEL_FREE_PRESETS)
    first, second = st.columns(2)
    key = "show" if labelled else "show_unlabelled"
    preset = first.selectbox("Show", options, key=key, bind="query-params")
    text = second.text_input("Name or attribute", key="text", bind="query-params", placeholder="such as speed_9")
    domains: list[str] = []
    outcomes: list[str] = []
    if labelled:
        kinds = {words.OUTCOMES[code]: code for code in ("FP", "FN", "TP", "TN")}
        with st.container(horizontal=True):
            domains = st.pills(
                "Domain", ["source", "target"], selection_mode="multi", key="domain", bind="query-params"
            )
            named = st.pills("Outcome", list(kinds), selection_mode="multi", key="outcome", bind="query-params")
            outcomes = [kinds[name] for name in named]
    shown = api.select_clips(own, preset, domains, outcomes, text)
    st.caption(f"{len(shown)} of {len(own)} clips · {preset}: {api.PRESETS[preset]}")
    ids = list(shown["clip_id"])
    st.session_state["clips_shown"] = ids
    if not ids:
        st.info("No clip fits. Choose another list or take a filter away.")
        return shown
    wanted = asked("clip")
    if wanted not in set(own["clip_id"]):
        remember("clip", ids[0])
        wanted = ids[0]
    has_sound = run.record["data"]["name"] in api.data_sets(workspace())
    table, config = tables.clips(shown, run.record["data"]["name"], api.run_stamp(run), has_sound)
    tables.pick_row("clips", ids.index(wanted) if wanted in ids else None)
    st.dataframe(
        table,
        key="clips",
        hide_index=True,
        column_config=config,
        row_height=44,
        height=420 if len(table) > 8 else "content",
        selection_mode="single-row",
        on_select=lambda: pick("clip", ids, "clips"),
        lazy=False,
        alt=f"{len(table)} clips of {machine}; pick a row to see and hear the clip",
    )
    return shown


def inspector(run: api.Run, clips: pd.DataFrame, own: pd.DataFrame, shown: pd.DataFrame) -> None:
    """The picked clip: what was decided, how it looks and sounds, what file it is."""
    clip_id = asked("clip") or ""
    picked = own[own["clip_id"] == clip_id]
    if picked.empty:
        st.header("Clip")
        st.info("Pick a clip in the table.")
        return
    clip = picked.iloc[0]
    st.header(clip_id.rpartition("/")[2].removesuffix(".wav"))
    heading(clip)
    steps(clip_id, list(shown["clip_id"]))
    data = run.record["data"]["name"]
    axis = st.segmented_control(
        "Frequency axis", api.AXES, default="mel", key="axis", required=True, persist_state="session"
    )
    try:
        facts = clip_view.show(data, clip_id, axis or "mel")
    except api.AsdError as error:
        st.error(f"The recording cannot be shown. {error}", icon=":material/volume_off:")
        return
    if facts.is_clipped:
        st.badge("touches full scale", icon=":material/warning:", color="orange")
    if facts.is_silent:
        st.badge("a channel is silent", icon=":material/volume_off:", color="orange")
    with st.expander("File", icon=":material/description:"):
        levels = ", ".join(
            f"{name} peak {peak:.1f} dB, RMS {rms:.1f} dB"
            for name, (peak, rms) in zip(api.CHANNELS, facts.levels, strict=False)
        )
        st.markdown(
            f"`{facts.place}`  \n{facts.seconds:.2f} s · {facts.sample_rate} Hz · {facts.channels} channels · "
            f"{words.size(facts.size)}  \n{levels} (relative to full scale)"
        )


def heading(clip: pd.Series) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if pd.notna(clip["label"]):
            st.badge("× anomaly" if clip["label"] else "○ normal", color="red" if clip["label"] else "green")
            st.badge(clip["domain"], color="blue" if clip["domain"] == "source" else "orange")
            right = clip["outcome"] in ("TP", "TN")
            icon = ":material/check:" if right else ":material/close:"
            st.badge(words.OUTCOMES[clip["outcome"]], icon=icon, color="green" if right else "red")
        if clip["attributes"] not in ("", "noAttribute"):
            st.caption(clip["attributes"])
    flagged = clip["decision"] == 1
    st.markdown(
        f"Score **{clip['score']:.4f}** {'>' if flagged else '≤'} threshold {clip['threshold']:.4f}: "
        f"**{'flagged' if flagged else 'not flagged'}**. "
        f"{clip['percentile']:.0f} % of the normal training clips score at most this."
    )


def steps(clip_id: str, ids: list[str]) -> None:
    """Previous, next, link; J and K work wherever no text is being typed."""
    place = ids.index(clip_id) if clip_id in ids else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Previous",
            key="previous",
            icon=":material/arrow_upward:",
            shortcut="K",
            disabled=not place,
            on_click=step,
            args=(-1,),
        )
        st.button(
            "Next",
            key="next",
            icon=":material/arrow_downward:",
            shortcut="J",
            disabled=not ids or place == len(ids) - 1,
            on_click=step,
            args=(1,),
        )
        with st.popover("Link", icon=":material/link:"):
            st.caption("This view, clip and filters included:")
            st.code(link(), language=None, wrap_lines=True)
        st.caption(f"{place + 1} of {len(ids)}" if place is not None else "not in the list as filtered")


def step(by: int) -> None:
    ids = st.session_state["clips_shown"]
    wanted = asked("clip")
    remember("clip", ids[min(max(ids.index(wanted) + by, 0), len(ids) - 1)] if wanted in ids else ids[0])


def pick(key: str, options: list[str], table: str) -> None:
    """Take over what was picked in a table; by id, for row numbers change with every filter."""
    row = tables.picked_row(table)
    if row is not None and row < len(options):
        remember(key, options[row])


def check_clip() -> None:
    """A clip in the address that no run knows deserves a word; one of another machine is simply left."""
    wanted, run = st.query_params.get("clip"), cached.runs().get(asked("run") or "")
    if wanted and run is not None and wanted not in set(cached.clip_table(run)["clip_id"]):
        note(f"There is no clip “{wanted}” in this run. Shown instead: the first of the list.")
        show_notes()


check_clip()
main()
