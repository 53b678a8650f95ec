"""Results: which system is good where, and which clips decide it; every clip can be seen and heard."""

from collections.abc import Callable, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from asd_core import api
from pages.components import cached, charts, inspector, report, selections, tables, words
from pages.components.context import asked, hold, link, note, page, remember, show_notes, spelled, workspace

FILTERS = {"domain": [], "outcome": [], "text": ""}  # widgets and what they hold when nothing is filtered
PRESET_KEYS = ("show", "show_unlabelled", "show_saved")
ROWS_HIGH = 6 * 35 + 2  # pixels: a head and five rows, so that clip and list are in view below
DOMAIN_OF = {tables.FIGURES["auc_source"]: ["source"], tables.FIGURES["auc_target"]: ["target"]}


def main() -> None:
    st.space("small")  # the bar at the top
    title = st.container(horizontal=True, vertical_alignment="center")
    with title:
        st.title("Results", width="content")
    for sentence in api.broken_runs(workspace()):
        st.warning(f"A run folder is broken and left out. {words.plain(sentence)}", icon=":material/broken_image:")
    run = cached.runs().get(asked("run") or "")
    if run is None:
        st.info("Nothing has been trained on these data yet. One click on the Train page makes the first result.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        return
    machine = asked("machine") or ""
    settle(run, machine)
    clips = cached.clip_table(run)
    own = clips[clips["machine"] == machine]
    banner = st.container()
    left, right = st.columns(2, gap="medium")
    with left:
        said = leaderboard(run)
    with right:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.header("Machines", width="content")
            other = compared(run)
        said += machines(run, other, machine)
    st.caption(" ".join(said))
    if other:
        clips = api.beside(clips, cached.clip_table(other))
        own = clips[clips["machine"] == machine]

    band, what_if = score_band(), threshold()
    left, right = st.columns([3, 2], gap="large")
    with left:
        shown = clip_list(run, clips, own, machine, band, what_if)
        with st.container(key="figures"):  # the shell puts them last in a narrow window
            figures(run, own, machine, band, what_if)
    with title:
        strip(run, other, machine, shown)
    with right:
        clip_id = asked("clip") or ""
        picked = clips[clips["clip_id"] == clip_id]
        if picked.empty:
            inspector.show(run.record["data"]["name"], "", run, None, [])
        else:
            viewed(run, clip_id)
            inspector.show(run.record["data"]["name"], clip_id, run, picked.iloc[0], list(shown["clip_id"]))
    with banner:  # last: it looks at every file, and nothing waits for it
        recordings(run)


def settle(run: api.Run, machine: str) -> None:
    """A band of scores and a threshold to try belong to one machine of one run: elsewhere they mean nothing."""
    here = (run.record["run_id"], machine)
    if st.session_state.get("results_of", here) != here:
        remember("band", "")
        remember("threshold", "")
    st.session_state["results_of"] = here


def strip(run: api.Run, other: api.Run | None, machine: str, shown: pd.DataFrame) -> None:
    """What is shown, how to come back to it, and what stands against it; drawn last, when all choices are settled."""
    record = run.record
    place = "a selection" if asked("selection") else machine
    domains = st.session_state.get("domain") or []
    words.kind_badge(record["data"]["kind"])
    name = words.marked(record["system"], bool(record.get("transductive")))
    st.markdown(
        f"{words.plain(record['data']['name'])} · **{words.plain(name)}** · {record['profile']}, seed "
        f"{record['seed']} · **{words.plain(place)}** · {f'{domains[0]} · ' if len(domains) == 1 else ''}"
        f"{len(shown):,} clips",
        width="content",
        help=words.plain(record["title"]),
    )
    with st.popover("Copy link", icon=":material/link:", type="tertiary"):
        st.caption("This view, clip and filters included:")
        st.code(link(), language=None, wrap_lines=True)
    report.button(run, other)


def recordings(run: api.Run) -> None:
    """What was noted of the run, and a word where the recordings on disk may not be those it was made on."""
    for told in run.record.get("notices", []):
        st.caption(f":material/info: {words.plain(told)}")
    state, sentence = cached.recordings(run)
    if state == "changed":
        st.warning(words.plain(sentence), icon=":material/fingerprint:")
    elif sentence:
        st.caption(f":material/fingerprint: {words.plain(sentence)}")


def relist() -> None:
    """The list is about to change: it begins with its first clip, whichever was looked at before."""
    hold()
    st.session_state["from_first"] = True


def relist_without(key: str) -> None:
    relist()
    remember(key, "")


def reset() -> None:
    relist()
    for key, nothing in FILTERS.items():
        st.session_state[key] = nothing
    for key in ("band", "threshold", "selection"):
        remember(key, "")


def leaderboard(run: api.Run) -> list[str]:
    """The systems on these recordings; returns what must be known of their figures."""
    st.header("Systems")
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
        selection_mode=tables.ROWS,
        on_select=lambda: pick("run", ids, "leaderboard"),
        height="content" if len(board) <= 5 else ROWS_HIGH,
        placeholder="–",
        alt=f"Leaderboard of {len(board)} systems",
    )
    return [tables.sets_note(board)]


def compared(run: api.Run) -> api.Run | None:
    """The run to compare with, picked from the others of these recordings."""
    name, own_id = run.record["data"]["name"], run.record["run_id"]
    others = {
        run_id: other
        for run_id, other in cached.runs().items()
        if other.record["data"]["name"] == name and run_id != own_id
    }
    wanted = spelled(asked("against") or "", list(others))
    if wanted and wanted not in others:
        if st.query_params.get("against") not in (None, own_id):
            note(f"There is no other run “{wanted}” of these recordings to compare with. Shown instead: no comparison.")
            show_notes()
        remember("against", "")
        wanted = ""
    if not others:
        return None
    omega = cached.fusion_candidates(tuple(others)).set_index("run_id")["omega"]
    st.session_state["against_picker"] = wanted or None
    st.selectbox(
        "Compare with",
        list(omega.index),  # best first
        index=None,
        key="against_picker",
        placeholder="Compare with another run",
        label_visibility="collapsed",
        format_func=lambda run_id: f"{words.run_name(others[run_id].record)} · {words.omega(omega[run_id])}",
        on_change=lambda: against(st.session_state["against_picker"] or ""),
    )
    return others.get(wanted)


def against(run_id: str) -> None:
    relist()  # in another order, if it is by disagreement
    remember("against", run_id)


def machines(run: api.Run, other: api.Run | None, machine: str) -> list[str]:
    """Figures of each machine, or how far the other run's are from them; returns what must be known of them."""
    matrix = cached.machine_matrix(run)
    if matrix.empty:
        return []
    said, table, names = [], None, list(matrix["machine"])
    if without := sorted(set(run.record["machines"]) - set(names)):
        said.append(f"Without labels, so without figures: {', '.join(map(words.plain, without))}.")
    if other:
        try:
            found = cached.comparison(run, other)
        except api.AsdError as error:
            st.info(words.plain(str(error)), icon=":material/info:")
        else:
            by_machine = api.machine_differences(found)
            table, names = tables.differences(by_machine), list(by_machine["machine"])
            first, second = (words.plain(words.run_name(one.record)) for one in (run, other))
            said.append(f"Points by which {first} is above {second}.")
            said += [words.plain(sentence) for sentence in found["said"]]
    few = api.too_few(matrix)
    domains = st.session_state.get("domain") or []
    column = next((name for name, wanted in DOMAIN_OF.items() if wanted == list(domains)), "Machine")
    tables.pick_cell("matrix", names.index(machine) if machine in names else None, column)
    st.dataframe(
        tables.matrix(matrix, few) if table is None else table,
        key="matrix",
        hide_index=True,
        placeholder="–",
        selection_mode="single-cell",
        on_select=lambda: pick_machine(names),
        height="content" if len(names) <= 5 else ROWS_HIGH,
        alt=f"AUC and pAUC of {len(names)} machines; pick a cell to see the clips of its machine and domain",
    )
    if table is None and few.to_numpy().any():
        said.append("Grey: too few clips, fewer than five normal or five anomalous ones, to believe the figure.")
    return said + [words.plain(f"{row.machine}: {row.why}") for row in matrix[matrix["why"] != ""].itertuples()]


def pick_machine(names: list[str]) -> None:
    """A cell of the matrix sets the machine and, in a column of one domain, the domain."""
    cell = tables.picked_cell("matrix")
    if cell and cell[0] < len(names):
        relist()
        remember("machine", names[cell[0]])
        st.session_state["domain"] = DOMAIN_OF.get(cell[1], [])


def score_band() -> tuple[float, float] | None:
    """The band of scores that the address asks for."""
    low, high = numbers("band", 2) or (0.0, 0.0)
    return (low, high) if low < high else None


def threshold() -> float | None:
    """The threshold to try."""
    found = numbers("threshold", 1)
    return found[0] if found else None


def numbers(key: str, count: int) -> list[float]:
    """`count` finite numbers of the address, parted by ~; none, with a note, where it holds something else."""
    wanted = asked(key) or ""
    try:
        found = [float(part) for part in wanted.split("~")] if wanted else []
    except ValueError:
        found = [float("nan")]
    if not wanted or (len(found) == count and all(abs(one) < float("inf") for one in found)):
        return found
    note(f"“{wanted}” is no {'band of scores' if key == 'band' else key}. Shown instead: none.")
    show_notes()
    remember(key, "")
    return []


def figures(
    run: api.Run, own: pd.DataFrame, machine: str, band: tuple[float, float] | None, what_if: float | None
) -> None:
    st.header(f"Scores of {machine}")
    if own.empty:
        st.info("This run holds no test clip of this machine.")
        return
    if odd := api.not_finite(own):
        named = ", ".join(words.plain(clip_id.rpartition("/")[2]) for clip_id in odd[:10])
        more = f" and {len(odd) - 10} more" if len(odd) > 10 else ""
        st.warning(f"{len(odd)} clips have no finite score and are in no figure: {named}{more}.")
    histogram, curve = drawn(run.record["run_id"], machine, api.run_stamp(run), band, what_if)
    limit = float(own["threshold"].iloc[0])
    columns = st.columns(2) if curve else [st.container()]
    columns[0].plotly_chart(
        histogram,
        key="histograms",
        config=charts.BRUSH,
        selection_mode="box",
        on_select=brush,
        alt=f"Histograms of {len(own)} scores of {machine} by domain and label; threshold {limit:.4f}",
    )
    if curve is None:
        st.caption("Drag across the histogram to list the clips of a band of scores. "
                   "These clips carry no labels: there is no ROC curve, and the histogram shows all clips together.")  # fmt: skip
        return
    columns[1].plotly_chart(
        curve,
        key="roc",
        config=charts.CONFIG,
        selection_mode="points",
        on_select=try_threshold,
        alt=f"ROC curves of {machine}: " + ", ".join(line.name for line in curve.data if line.name),
    )
    st.caption("Drag across the histogram to list the clips of a band of scores; click a point of a curve to try its "
               "threshold.")  # fmt: skip
    if what_if is None:
        st.caption(f"At the run's threshold {limit:.4f}: {counted(own)}.")
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            f":material/tune: **What if** the threshold were {what_if:.4f}: {counted(api.at_threshold(own, what_if))}.  \n"
            f":gray[With the run's own {limit:.4f}: {counted(own)}. The list above has the outcomes at {what_if:.4f}, "
            "picked with the labels in view. What is stored and exported keeps the run's own.]"
        )
        st.button("Back to the run's own", key="own_threshold", on_click=relist_without, args=("threshold",))


def counted(clips: pd.DataFrame) -> str:
    counts = api.outcome_counts(clips)
    return (
        f"{counts['TP']} of {counts['TP'] + counts['FN']} anomalies found, "
        f"{counts['FP']} of {counts['FP'] + counts['TN']} normal clips flagged "
        f"(TP {counts['TP']}, FN {counts['FN']}, FP {counts['FP']}, TN {counts['TN']})"
    )


@st.cache_resource(show_spinner=False, max_entries=64)
def drawn(
    run_id: str, machine: str, stamp: str, band: tuple[float, float] | None, what_if: float | None
) -> tuple[go.Figure, go.Figure | None]:
    """Histogram and ROC curves; the very same objects at every rerun, for a figure that changes loses its selection."""
    run = cached.runs()[run_id]
    clips = cached.clip_table(run)
    own = clips[clips["machine"] == machine]
    limit = float(own["threshold"].iloc[0])
    histogram = charts.score_histograms(api.histogram(own), limit, what_if, band)
    curves = api.roc_curves(own)
    if not curves:
        return histogram, None
    matrix = cached.machine_matrix(run)
    entry = matrix[matrix["machine"] == machine]
    captions = dict.fromkeys(curves, "")
    for name, figure in (("source", "auc_source"), ("target", "auc_target"), ("all", "pauc")):
        value = None if entry.empty else entry[figure].iloc[0]
        captions[name] = f"{name} ({tables.FIGURES[figure].split()[0]} {words.percent(value)})"
    tried = {"threshold": limit} | ({} if what_if is None else {"what if": what_if})
    marks = {name: [api.rates_at(curve, value) for curve in curves.values()] for name, value in tried.items()}
    return histogram, charts.roc(curves, {name: captions[name] for name in curves}, marks)


def brush() -> None:
    """A box drawn over the histogram is a band of scores; all its clips are listed, be they judged rightly or not."""
    boxes = st.session_state["histograms"]["selection"]["box"]
    if boxes:
        relist()
        for key in PRESET_KEYS:
            if key in st.session_state:
                st.session_state[key] = "Highest scores"
        low, high = sorted(map(float, boxes[0]["x"]))
        remember("band", f"{low:.6g}~{high:.6g}")


def try_threshold() -> None:
    """A picked point of a ROC curve knows the threshold behind it."""
    points = st.session_state["roc"]["selection"]["points"]
    value = points[0].get("customdata") if points else None
    value = value[0] if isinstance(value, list) else value
    if value is not None:
        relist()
        remember("threshold", repr(float(value)))


def clip_list(
    run: api.Run,
    clips: pd.DataFrame,
    own: pd.DataFrame,
    machine: str,
    band: tuple[float, float] | None,
    what_if: float | None,
) -> pd.DataFrame:
    """Filters and table; returns the rows in the order shown."""
    data = run.record["data"]["name"]
    head = st.container(horizontal=True, vertical_alignment="center")
    saved = selection(data)
    pool = own if saved is None else clips[clips["clip_id"].isin(list(saved.ids))]
    pool = pool if what_if is None or saved is not None else api.at_threshold(pool, what_if)
    labelled = bool(pool["label"].notna().any())
    options = list(api.PRESETS if labelled else api.LABEL_FREE_PRESETS)
    if "disagreement" not in clips:
        options.remove("Systems disagree")
    meanings = api.PRESETS | {api.AS_SAVED: "in the order of the selection"}
    key = "show" if labelled else "show_unlabelled"
    if saved is not None:
        options, key = [api.AS_SAVED, *options], "show_saved"
    with st.container(horizontal=True):
        preset = st.selectbox("Show", options, key=key, bind="query-params", on_change=relist)
        text = st.text_input(
            "Name or attribute", key="text", bind="query-params", placeholder="such as speed_9", on_change=relist
        )
        selections.pick(data, relist)
    domains: list[str] = []
    outcomes: list[str] = []
    if labelled:
        kinds = {words.OUTCOMES[code]: code for code in ("FP", "FN", "TP", "TN")}
        with st.container(horizontal=True):
            domains = st.pills(
                "Domain", ["source", "target"], selection_mode="multi", key="domain", bind="query-params",
                label_visibility="collapsed", on_change=relist,
            )  # fmt: skip
            named = st.pills(
                "Outcome", list(kinds), selection_mode="multi", key="outcome", bind="query-params",
                label_visibility="collapsed", on_change=relist,
            )  # fmt: skip
            outcomes = [kinds[name] for name in named]
    shown = api.select_clips(pool, preset, domains, outcomes, text, band, saved.ids if saved else None)
    ids = list(shown["clip_id"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{preset}: {meanings[preset]}", width="content")
        for name, label, undo in chips(domains, outcomes, text, band, saved):
            st.button(
                label,
                key=f"chip_{name}",
                icon=":material/close:",
                help="Take this filter away",
                on_click=undone,
                args=(undo,),
            )
    if saved and len(pool) < len(saved.ids):
        parts = [
            f"{count} {SPLITS.get(split, split)} clip{'s' * (count != 1)}" for split, count in saved.splits.items()
        ]
        st.caption(
            f":material/info: The selection of {len(saved.ids)} holds {words.plain(' and '.join(parts))}. Test clips of "
            "this run alone are listed here; Explore has all."
        )
    with head:
        st.header("Clips", width="content")
        st.markdown(f"**{len(shown):,} of {len(pool):,}** clips", width="content")
        st.download_button(
            "CSV",
            data=lambda: shown.to_csv(index=False).encode(),
            file_name=f"{run.record['run_id']}-{machine if saved is None else 'selection'}.csv",
            mime="text/csv",
            key="csv",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
            disabled=not ids,
            help="The list as filtered, with all columns",
        )
        st.button("Reset filters", key="reset", icon=":material/filter_alt_off:", type="tertiary", on_click=reset)
    from_first = st.session_state.pop("from_first", False)
    if not ids:
        st.info("No clip fits. Choose another list or take a filter away.")
        return shown
    wanted = asked("clip")
    if from_first or wanted not in set(pool["clip_id"]):
        remember("clip", ids[0])
        wanted = ids[0]
    has_sound = data in api.data_sets(workspace())
    table, config = tables.clips(shown, data, api.run_stamp(run), has_sound)
    tables.pick_row("clips", ids.index(wanted) if wanted in ids else None)
    st.dataframe(
        table,
        key="clips",
        hide_index=True,
        column_config=config,
        row_height=44,
        height=420 if len(table) > 8 else "content",
        selection_mode=tables.ROWS,
        on_select=lambda: pick("clip", ids, "clips"),
        lazy=False,
        alt=f"{len(table)} clips of {machine}; pick a row to see and hear the clip",
    )
    return shown


Chip = tuple[str, str, Callable[[], None]]
SPLITS = {"train": "training"}


def undone(undo: Callable[[], None]) -> None:
    relist()
    undo()


def chips(
    domains: Sequence[str],
    outcomes: Sequence[str],
    text: str,
    band: tuple[float, float] | None,
    saved: api.Selection | None,
) -> list[Chip]:
    """(name, label, how to take it away) of every filter in force."""

    def without(key: str, values: list[str]) -> Callable[[], None]:
        return lambda: st.session_state.update({key: values})

    found: list[Chip] = [
        (domain, domain, without("domain", [one for one in domains if one != domain])) for domain in domains
    ]
    for code in outcomes:
        rest = [words.OUTCOMES[one] for one in outcomes if one != code]
        found.append((code, words.OUTCOMES[code], without("outcome", rest)))
    if text.strip():
        found.append(("text", f"“{words.plain(text.strip())}”", lambda: st.session_state.update(text="")))
    if band:
        found.append(("band", f"score {band[0]:.4g} to {band[1]:.4g}", lambda: remember("band", "")))
    if saved is not None:
        found.append(("selection", f"selection of {len(saved.ids)}", lambda: remember("selection", "")))
    return found


def selection(data: str) -> api.Selection | None:
    """The saved selection that the address asks for."""
    wanted = asked("selection")
    if not wanted:
        return None
    try:
        found = api.selection(workspace(), wanted)
        if found.data != data:
            raise api.AsdError(f"The selection “{wanted}” is of {found.data}, not of {data}.")
        return found
    except api.AsdError as error:
        note(f"{error} Shown instead: the clips of the machine.")
        show_notes()
        remember("selection", "")
        return None


def viewed(run: api.Run, clip_id: str) -> None:
    """Home lists the clips looked at last."""
    entry = (run.record["data"]["name"], run.record["run_id"], clip_id)
    before = [one for one in st.session_state.get("viewed", []) if one != entry]
    st.session_state["viewed"] = [entry, *before][:5]


def pick(key: str, options: list[str], table: str) -> None:
    """Take over what was picked in a table; by id, for row numbers change with every filter."""
    row = tables.picked_row(table)
    if row is not None and row < len(options):
        hold()
        remember(key, options[row])


def check_clip() -> None:
    """A clip in the address that no run knows deserves a word; one of another machine is simply left."""
    wanted, run = st.query_params.get("clip"), cached.runs().get(asked("run") or "")
    if wanted and run is not None and wanted not in set(cached.clip_table(run)["clip_id"]):
        note(f"There is no clip “{wanted}” in this run. Shown instead: the first of the list.")
        show_notes()


check_clip()
main()
