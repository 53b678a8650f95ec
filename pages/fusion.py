"""Fusion: finished runs brought together, what that is worth on labelled machines, and a system made of it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, inspector, jobs, tables, words
from pages.components.context import asked, hold, note, page, picker, remember, show_notes, spelled, workspace

HOW = "Weighted mean of the members' scores, brought to one scale machine by machine."


def main() -> None:
    st.title("Fusion")
    data = asked("data") or ""
    own = runs_on(data)
    with st.container(horizontal=True, vertical_alignment="center"):
        if own:
            words.kind_badge(next(iter(own.values())).record["data"]["kind"])
        st.markdown(f"{HOW} Pick 2 to {api.MOST_MEMBERS} finished runs.")
    if len(own) < 2:
        st.info(f"A fusion takes two finished runs on one data set; {words.plain(data) or 'here'} has {len(own)}.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        return
    if st.session_state.setdefault("fusion_data", data) != data:  # members of other recordings have no place here
        st.session_state["fusion_data"] = data
        for key in ("members", "weights", "clip"):
            remember(key, "")
    left, right = st.columns([2, 3], gap="large")
    with left:
        ids = pick_members(own)
        aligned = bring_together(ids)
        if aligned is None:
            return
        weights = pick_weights(aligned, [own[run_id] for run_id in ids])
    show_notes()
    picked = [own[run_id] for run_id in ids]
    figures = api.fusion_figures(aligned, weights)
    found = api.suggestion(workspace(), picked, aligned.normalise)
    with right:
        worth(aligned, picked, ids, weights, figures, found)
        keep(aligned, picked, weights, found)
    reference = figures.best_run if figures else ids[max(range(len(ids)), key=weights.__getitem__)]
    turned(aligned, own[reference], weights)


def runs_on(data: str) -> dict[str, api.Run]:
    return {run_id: run for run_id, run in cached.runs().items() if run.record["data"]["name"] == data}


def pick_members(own: dict[str, api.Run]) -> tuple[str, ...]:
    """Runs of the data set with their figures; the picked ones stand in the address."""
    table = cached.fusion_candidates(tuple(own))
    ids = list(table["run_id"])
    wanted = [spelled(one, ids) for one in (asked("members") or "").split(",") if one]
    known = [one for one in dict.fromkeys(wanted) if one in ids]
    if st.query_params.get("members") and (odd := [one for one in wanted if one not in (*ids, "none")]):
        note(f"There is no run “{', '.join(odd)}” on these recordings. It was left out.")
    if len(known) > api.MOST_MEMBERS:
        note(f"A fusion takes {api.MOST_MEMBERS} runs at most. Left out: {', '.join(known[api.MOST_MEMBERS :])}.")
        known = known[: api.MOST_MEMBERS]
    if not known and wanted != ["none"]:
        known = api.best_candidates(table)
    picked = tuple(one for one in ids if one in known)
    remember("members", ",".join(picked))
    st.header("Members")
    shown = pd.DataFrame(
        {
            "System": list(map(words.marked, table["system"], table["transductive"])),
            "Ω": table["omega"],
            "±": table["half_width"],
            "Seed": table["seed"],
            "Profile": table["profile"],
            "Machines": table["machines"],
        }
    )
    shown = shown.drop(columns=[name for name in ("Profile", "Machines") if shown[name].nunique() == 1])
    tables.pick_rows("member_table", [ids.index(one) for one in picked])
    st.dataframe(
        shown,
        key="member_table",
        hide_index=True,
        selection_mode="multi-row",
        on_select=lambda: members_picked(ids),
        height=280 if len(shown) > 7 else "content",
        column_config={
            "System": st.column_config.TextColumn("System", width=150),
            "Ω": st.column_config.NumberColumn("Ω", format="%.2f", width=55, help="Official score, percent"),
            "±": st.column_config.NumberColumn("±", format="%.2f", width=45, help="Half of its 95 % interval"),
            "Seed": st.column_config.NumberColumn("Seed", width=45),
        },
        placeholder="–",
        alt=f"{len(shown)} finished runs; tick those to fuse",
    )
    return picked


def members_picked(ids: list[str]) -> None:
    if tables.is_echo("member_table"):
        return
    hold()
    rows = [row for row in sorted(tables.picked_rows("member_table")) if row < len(ids)]
    remember("members", ",".join(ids[row] for row in rows) or "none")
    for key in ("weights", "clip"):
        remember(key, "")


def bring_together(ids: tuple[str, ...]) -> api.Aligned | None:
    """The members on one scale, with how alike they are; None where they do not go together."""
    normalise = picker("normalise", "Normalisation", list(api.NORMALISATIONS), "ztrain", api.NORMALISATIONS.__getitem__)
    if len(ids) < 2:
        st.info("Tick at least two runs in the table.")
        return None
    try:
        aligned = cached.aligned(ids, normalise)
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return None
    if normalise == "rank_test":
        st.warning(
            "Transductive: a clip's score depends on the other test clips. Not for a running machine.",
            icon=":material/warning:",
        )
    for sentence in api.overlaps(workspace(), [cached.runs()[run_id] for run_id in ids]):
        st.warning(words.plain(sentence), icon=":material/join_inner:")
    for sentence in aligned.missing:
        st.warning(f"{words.plain(sentence)} Figures are over the clips that all have.", icon=":material/warning:")
    return aligned


def pick_weights(aligned: api.Aligned, picked: list[api.Run]) -> list[float]:
    """Sliders whose sum stays 1."""
    st.header("Weights")
    weights = asked_weights(len(aligned.names))
    pending = st.session_state.get("suggesting")
    found = api.suggestion(workspace(), picked, aligned.normalise)
    if found and pending == suggestion_place(picked, aligned.normalise):  # it was asked for here, and is there now
        del st.session_state["suggesting"]
        weights = api.suggested_weights(found, aligned.names)
    remember("weights", ",".join(f"{weight:g}" for weight in weights))
    for i, (name, run, weight) in enumerate(zip(aligned.names, picked, weights, strict=True)):
        key = f"weight_{run.record['run_id']}"
        st.session_state[key] = weight
        st.slider(words.plain(name), 0.0, 1.0, step=0.01, key=key, on_change=moved, args=(picked, i))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Equal",
            key="equal",
            icon=":material/balance:",
            disabled=api.counts_alike(weights),
            on_click=set_weights,
            args=(api.equal_weights(len(weights)),),
        )
        suggest(aligned, picked, weights, found)
    correlation = cached.rank_correlations(tuple(run.record["run_id"] for run in picked))
    st.markdown("**Rank correlation of test scores**")
    st.plotly_chart(
        charts.rank_correlations(correlation),
        key="correlations",
        config=charts.CONFIG,
        alt="Spearman correlation of test scores, mean over machines, for each pair of members",
    )
    st.caption("Spearman, mean over machines. Members that err on different clips (low values) help each other most.")
    return weights


def asked_weights(members: int) -> list[float]:
    """As the address or the session has them; equal where they do not fit."""
    text = asked("weights")
    if not text:
        return api.equal_weights(members)
    try:
        weights = [float(one) for one in text.split(",")]
        fits = len(weights) == members and all(0 <= one <= 1 for one in weights) and abs(sum(weights) - 1) < 0.005
    except ValueError:
        fits = False
    if fits:
        return weights
    if st.query_params.get("weights"):
        note(f"“{text}” are no {members} weights of 0 to 1 with the sum 1. Shown instead: equal weights.")
    return api.equal_weights(members)


def moved(picked: list[api.Run], which: int) -> None:
    set_weights(api.rebalanced([st.session_state[f"weight_{run.record['run_id']}"] for run in picked], which))


def set_weights(weights: list[float]) -> None:
    remember("weights", ",".join(f"{weight:g}" for weight in weights))


def suggestion_place(picked: list[api.Run], normalise: str) -> tuple[str, ...]:
    return (normalise, *(run.record["run_id"] for run in picked))


def suggest(aligned: api.Aligned, picked: list[api.Run], weights: list[float], found: dict[str, object] | None) -> None:
    """Tuned weights: computed once, kept, and put on the sliders on request."""
    job = api.suggestion_job(workspace(), picked, aligned.normalise)
    is_active = bool(job and job.is_active)
    st.button(
        "Suggest" if not is_active else "Tuning …",
        key="suggest",
        icon=":material/auto_fix_high:",
        disabled=not aligned.is_labelled
        or is_active
        or bool(found and weights == api.suggested_weights(found, aligned.names)),
        help="Weights that maximise Ω on the labelled machines, and what they are worth on others; takes a minute. "
        "Without labels there is nothing to tune on."
        if not aligned.is_labelled
        else "Weights that maximise Ω on the labelled machines, and what they are worth on other machines.",
        on_click=jobs.attempt,
        args=(ask, picked, aligned.normalise),
    )
    if job and not found and (job.is_active or job.state != "done"):
        with st.container(border=True):
            jobs.panel(job.id)


def ask(picked: list[api.Run], normalise: str) -> None:
    st.session_state["suggesting"] = suggestion_place(picked, normalise)
    if api.suggestion(workspace(), picked, normalise) is None:
        api.start_suggestion(workspace(), picked, normalise)


def worth(
    aligned: api.Aligned,
    picked: list[api.Run],
    ids: tuple[str, ...],
    weights: list[float],
    figures: api.FusionFigures | None,
    found: dict[str, object] | None,
) -> None:
    """What the weights give on labelled machines, and how sure that is."""
    st.header("What it is worth")
    if figures is None:
        st.info("These recordings carry no labels, so there is no Ω. Correlations, flips and saving work as ever.")
        return
    interval = cached.fusion_interval(ids, aligned.normalise, tuple(weights), figures.best_run)
    headline(figures, interval)
    cautions(aligned, picked, weights, figures, interval, found)
    st.plotly_chart(
        charts.machines_beside(figures.machines, figures.best),
        key="machines",
        config=charts.CONFIG,
        alt="Harmonic mean of each machine, of the fusion and of its best member",
    )
    contributions(figures)
    if found:
        elsewhere(found, aligned, picked, weights)


def headline(figures: api.FusionFigures, interval: tuple[tuple[float, float], tuple[float, float]] | None) -> None:
    whole, gain, best = st.columns(3)
    difference = figures.omega - figures.omega_best
    whole.metric("Ω of the fusion", f"{figures.omega:.2f} %", border=True)
    gain.metric("Gain", words.points(difference), border=True, help="Over the best single member, in points of Ω")
    best.metric(f"Best member: {words.plain(figures.best)}", f"{figures.omega_best:.2f} %", border=True)
    if interval is None:
        st.caption("A group of clips is too small for an interval.")
        return
    (low, high), (least, most) = interval
    st.caption(
        f"95 %: Ω {low:.2f} to {high:.2f}; gain {words.points(least)} to {words.points(most)} points. From 500 draws of "
        f"the clips of each machine, the same for both."
    )


def cautions(
    aligned: api.Aligned,
    picked: list[api.Run],
    weights: list[float],
    figures: api.FusionFigures,
    interval: tuple[tuple[float, float], tuple[float, float]] | None,
    found: dict[str, object] | None,
) -> None:
    """What keeps a good figure from being good news."""
    if interval:
        least, most = interval[1]
        if least <= 0 <= most:
            st.warning(
                f"The difference from {words.plain(figures.best)} alone is within chance: its interval holds 0.",
                icon=":material/warning:",
            )
        elif most < 0:
            st.warning(f"{words.plain(figures.best)} alone is better than this fusion.", icon=":material/warning:")
    if told := api.told_of_weights(picked, aligned.names, weights, found):
        told = told.partition(str(found["said"]))[0].strip() if found else told  # what follows from it stands below
        st.warning(words.plain(told), icon=":material/label:")
    candidates = cached.fusion_candidates(tuple(runs_on(picked[0].record["data"]["name"])))
    for told in api.told_of_members(picked, aligned.names, candidates):
        st.warning(words.plain(told), icon=":material/label:")
    for sentence in aligned.left_out:
        st.caption(words.plain(sentence))


def contributions(figures: api.FusionFigures) -> None:
    """What each member adds."""
    table = figures.members
    shown = pd.DataFrame(
        {
            "Member": table["name"],
            "Weight": table["weight"],
            "Ω alone": table["alone"],
            "Ω without it": table["without"],
            "Contribution": table["contribution"],
        }
    )
    columns = {
        "Weight": st.column_config.NumberColumn("Weight", format="%.2f"),
        "Ω alone": st.column_config.NumberColumn("Ω alone", format="%.2f"),
        "Ω without it": st.column_config.NumberColumn(
            "Ω without it", format="%.2f", help="Of the other members, with their weights as they are to each other"
        ),
        "Contribution": st.column_config.NumberColumn(
            "Contribution", help="Ω of the fusion minus Ω without this member, in points"
        ),
    }
    st.dataframe(
        tables.styled(shown, "contributions").format(words.points, subset=["Contribution"], na_rep="–"),
        key="contributions",
        hide_index=True,
        column_config=columns,
        placeholder="–",
        alt=f"What each of {len(shown)} members adds to the fusion",
    )


def elsewhere(found: dict[str, object], aligned: api.Aligned, picked: list[api.Run], weights: list[float]) -> None:
    """What tuning would be worth on machines left out of it."""
    summary = api.suggestion_figures(found)
    suggested = api.suggested_weights(found, aligned.names)
    with st.container(border=True):
        st.markdown("**Tuned weights, machine by machine left out**")
        told = ", ".join(
            f"{words.plain(name)} {weight:.2f}" for name, weight in zip(aligned.names, suggested, strict=True)
        )
        used = " They are on the sliders." if suggested == weights else ""
        st.markdown(f"Suggested: {told}.{used}")
        st.dataframe(
            tables.styled(summary, "elsewhere").format(words.points, subset=["Tuned minus this"], na_rep="–"),
            key="elsewhere",
            hide_index=True,
            column_config={"Ω": st.column_config.NumberColumn("Ω", format="%.2f")},
            placeholder="–",
            alt="Ω of weights tuned without each machine, beside equal weights and the best single member",
        )
        st.caption(words.plain(str(found["said"])))
        if told := api.told_of_left_out(picked):
            st.warning(words.plain(told), icon=":material/label:")


def turned(aligned: api.Aligned, reference: api.Run, weights: list[float]) -> None:
    """Clips whose verdict changes, to look at and listen to."""
    name = aligned.names[aligned.run_ids.index(reference.record["run_id"])]
    table = api.decision_flips(aligned, weights, reference.record["run_id"])
    known = table["right"].dropna()
    st.header("Clips judged otherwise")
    rights = f" Of the labelled ones the fusion is right on {int(known.sum())} of {len(known)}." if len(known) else ""
    st.markdown(f"{len(table)} test clips get another decision than from **{words.plain(name)}** alone.{rights}")
    if table.empty:
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        clip_id = pick_flip(table, name)
    with right:
        rows = cached.clip_table(reference)
        row = rows[rows["clip_id"] == clip_id]
        st.caption(f"As {words.plain(name)} sees it.")
        inspector.show(
            reference.record["data"]["name"],
            clip_id,
            reference,
            row.iloc[0] if len(row) else None,
            list(table["clip_id"]),
            key="flip",
        )


def pick_flip(table: pd.DataFrame, name: str) -> str:
    ids = list(table["clip_id"])
    clip_id = asked("clip") or ""
    if clip_id not in ids:
        clip_id = ids[0]
        remember("clip", clip_id)
    signs = {True: "✓ right", False: "✗ wrong"}
    shown = pd.DataFrame({"Change": table["change"]})
    if table["right"].notna().any():
        shown["Fusion"] = [signs.get(value, "unknown") for value in table["right"]]
        shown["Domain"] = table["domain"]
    shown["Machine"] = table["machine"]
    shown["Above threshold by"] = table["margin"]
    shown[name] = table["member_score"]
    shown["Clip"] = table["clip_id"].str.rpartition("/")[2].str.removesuffix(".wav")
    tables.pick_row("flips", ids.index(clip_id))
    st.dataframe(
        shown,
        key="flips",
        hide_index=True,
        selection_mode=tables.ROWS,
        on_select=lambda: flip_picked(ids),
        height=440 if len(shown) > 11 else "content",
        lazy=False,
        column_config={
            "Above threshold by": st.column_config.NumberColumn(
                format="%+.3f", help="Score of the fusion minus its threshold, on the common scale"
            ),
            name: st.column_config.NumberColumn(f"Score of {name}", format="%.4f"),
        },
        alt=f"{len(shown)} clips with another decision; pick one to see and hear it",
    )
    return clip_id


def flip_picked(ids: list[str]) -> None:
    row = tables.picked_row("flips")
    if row is not None and row < len(ids):
        remember("clip", ids[row])


def keep(aligned: api.Aligned, picked: list[api.Run], weights: list[float], found: dict[str, object] | None) -> None:
    """The fusion as a system of its own, with a run made of the members' scores."""
    st.header("Save as system")
    saved = st.session_state.get("saved_fusion")
    if saved in cached.runs():
        record = cached.runs()[saved].record
        with st.container(horizontal=True, vertical_alignment="center"):
            st.success(f"{words.plain(record['system'])} is saved.", icon=":material/check_circle:")
            place = {"data": record["data"]["name"], "run": saved}
            st.page_link(page("results"), label="Results", icon=":material/leaderboard:", query_params=place)
            st.page_link(page("export"), label="Export", icon=":material/package_2:")
    if aligned.differs:
        st.error(words.plain(aligned.differs), icon=":material/error:")
        return
    if "fusion_name" not in st.session_state:
        st.session_state["fusion_name"] = api.free_fusion_name(workspace())
    name = st.text_input("Name", key="fusion_name", max_chars=64, width=360).strip()
    problem = api.fusion_name_problem(workspace(), name)
    if sum(weight > 0 for weight in weights) < 2:
        problem = "Only one member has weight; use the run itself instead."
    if problem:
        st.warning(words.plain(problem), icon=":material/info:")
    else:
        st.caption(f"Writes the recipe to `{api.fusion_file(workspace(), name)}`, and a run made of the stored scores.")
    st.button(
        "Save",
        key="save",
        type="primary",
        icon=":material/save:",
        disabled=bool(problem),
        help="Nothing is trained again. Members without weight are left out.",
        on_click=jobs.attempt,
        args=(save, picked, aligned, weights, found),
    )


def save(picked: list[api.Run], aligned: api.Aligned, weights: list[float], found: dict[str, object] | None) -> None:
    name = st.session_state["fusion_name"].strip()
    told = api.told_of_weights(picked, aligned.names, weights, found)
    st.session_state["saved_fusion"] = api.save_fusion(workspace(), picked, name, aligned.normalise, weights, told)
    st.session_state["fusion_name"] = api.free_fusion_name(workspace())


main()
