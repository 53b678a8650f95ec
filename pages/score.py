"""Score a clip: drop recordings, have a trained run judge them, see and hear why."""

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, jobs, pictures, player, tables, words
from pages.components.context import asked, choose, note, page, remember, show_notes, workspace


def main() -> None:
    st.title("Score a clip")
    run = cached.runs().get(asked("run") or "")
    results = {one.key: one for one in api.scored(workspace())}
    if run is None:
        st.info("Recordings are judged by a trained run, and there is none yet.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        if results:
            earlier(results)
        return
    drop(run)
    follow(results)
    if results:
        key = pick_result(results)
        show(results[key])
        earlier(results)


def drop(run: api.Run) -> None:
    """The files, what is wrong with them, and the button."""
    record = run.record
    machine = asked("machine") or ""
    machine = machine if machine in record["machines"] else record["machines"][0]
    with st.container(horizontal=True, vertical_alignment="center"):
        words.kind_badge(record["data"]["kind"])
        name = words.marked(record["system"], bool(record.get("transductive")))
        st.markdown(
            f"Judged as a clip of **{words.plain(machine)}** by **{words.plain(name)}**, trained on "
            f"{words.plain(record['data']['name'])}. Choose others at the left."
        )
    known = api.run_sections(run, machine)
    section = known[0]
    if len(known) > 1:
        section = st.selectbox("Section of the machine", known, key=f"section_{machine}")
    files = st.file_uploader(
        "Recordings: WAV or FLAC, 1 s to 5 min, up to 50 MB each; "
        "near microphone in the first channel, far in the second",
        type=["wav", "flac"],
        accept_multiple_files=True,
        key="dropped",
        max_upload_size=50,
    )
    taken = list({one.id: one for one in map(take, files) if one}.values())
    for one in taken:
        with st.container(horizontal=True, vertical_alignment="center"):
            about(one, api.comparison_notes(workspace(), run, machine, one))
            delete_button(one)
    problems = api.scoring_problems(run, taken)
    for problem in problems:
        st.warning(words.plain(problem), icon=":material/block:")
    st.button(
        "Score" if len(taken) < 2 else f"Score {len(taken)} recordings",
        key="score",
        type="primary",
        icon=":material/troubleshoot:",
        disabled=bool(problems or not taken),
        help=None if taken else "Drop a recording first.",
        on_click=jobs.attempt,
        args=(start, record["run_id"], machine, section, [one.id for one in taken]),
    )
    unscored({one.id for one in taken})


def take(file: Any) -> api.Upload | None:
    """Check a dropped file; once, for it comes again with every click."""
    seen = st.session_state.setdefault("taken", {})
    found = seen.get(file.file_id)
    if file.file_id in st.session_state.get("thrown_away", ()):
        st.caption(f":material/delete: {words.plain(file.name)} was deleted. Drop it anew to have it back.")
        return None
    if found is None or (isinstance(found, api.Upload) and found.id not in api.uploads(workspace())):  # deleted since
        try:
            found = api.take_upload(workspace(), file.name, file.getvalue())
        except api.AsdError as error:
            found = str(error)
        seen[file.file_id] = found
    if isinstance(found, str):
        st.error(words.plain(found), icon=":material/error:")
        return None
    return found


def about(one: api.Upload, compared: list[str]) -> None:
    channels = "1 channel" if one.channels == 1 else f"{one.channels} channels"
    st.markdown(
        f":green[:material/check_circle:] **{words.plain(one.name)}** · {one.seconds:.2f} s · {one.sample_rate:,} Hz · "
        f"{channels} · {words.plain(one.encoding)}"
        + "".join(f"  \n:orange[:material/info:] {words.plain(sentence)}" for sentence in (*one.notes, *compared))
    )


def delete_button(one: api.Upload) -> None:
    st.button(
        "Delete",
        key=f"delete_{one.id}",
        icon=":material/delete:",
        type="tertiary",
        help=f"Delete the recording {words.plain(one.name)}",
        on_click=jobs.attempt,
        args=(throw_away, one.id),
    )


def throw_away(upload_id: str) -> None:
    """The browser goes on holding the file; it is kept again once it is dropped anew."""
    api.delete_upload(workspace(), upload_id)
    seen = st.session_state.get("taken", {})
    held = {file_id for file_id, one in seen.items() if isinstance(one, api.Upload) and one.id == upload_id}
    st.session_state["thrown_away"] = st.session_state.get("thrown_away", set()) | held


def unscored(taken: set[str]) -> None:
    """Recordings of earlier visits that nothing came of."""
    used = api.used_uploads(workspace())
    left = [one for one in api.uploads(workspace()).values() if one.id not in used and one.id not in taken]
    if not left:
        return
    with st.expander(f"Dropped earlier and not scored ({len(left)})", icon=":material/inventory_2:", key="unscored"):
        for one in left:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{words.plain(one.name)}** · {one.seconds:.2f} s · {words.ago(one.created)}")
                delete_button(one)


def start(run_id: str, machine: str, section: str, upload_ids: list[str]) -> None:
    key, _ = api.start_scoring(workspace(), run_id, machine, section, upload_ids)
    remember("scored", key)
    remember("upload", "")


def follow(results: dict[str, api.Scored]) -> None:
    """The job behind the asked result, until there is one."""
    key = asked("scored") or ""
    if not key or key in results:
        return
    job = api.scoring_job(workspace(), key)
    if job is None:
        if st.query_params.get("scored"):
            note(f"There is no result “{key}”; it may have been deleted.")
            show_notes()
        remember("scored", "")
        return
    with st.container(border=True):
        jobs.panel(job.id)


def pick_result(results: dict[str, api.Scored]) -> str:
    key = asked("scored") or ""
    return key if key in results else next(iter(results))


def names(result: api.Scored) -> dict[str, str]:
    """What the recordings of a result were called, by id."""
    known = api.uploads(workspace())
    return {one: known[one].name if one in known else f"deleted recording {one}" for one in result.table["upload"]}


def show(result: api.Scored) -> None:
    """One result: all its recordings, then the picked one."""
    if asked("scored") and asked("scored") != result.key:
        return  # its job is still shown
    called = names(result)
    run = cached.runs().get(result.run_id)
    system = words.marked(run.record["system"], bool(run.record.get("transductive"))) if run else result.run_id
    st.header(f"Judged as {words.plain(result.machine)} by {words.plain(system)}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if run:
            words.kind_badge(run.record["data"]["kind"])
            st.caption(f"Trained on {words.plain(run.record['data']['name'])}, profile {run.record['profile']}.")
    ids = list(result.table["upload"])
    upload_id = ids[0]
    if len(ids) > 1:
        upload_id = choose("upload", ids, ids[0], "recording")
        show_notes()
        tables.pick_row("judged", ids.index(upload_id))
        shown, config = tables.judged(result.table, called)
        st.dataframe(
            shown,
            key="judged",
            hide_index=True,
            selection_mode=tables.ROWS,
            on_select=lambda: pick("upload", ids, "judged"),
            height="content" if len(shown) <= 8 else 320,
            column_config=config,
            alt=f"{len(shown)} scored recordings; pick one to see and hear it",
        )
    row = result.table.set_index("upload").loc[upload_id]
    left, right = st.columns([2, 3], gap="large")
    with left:
        verdict(row, called[upload_id], run, result)
    with right:
        listen(result, upload_id, called[upload_id], run)


def pick(key: str, options: list[str], table: str) -> None:
    row = tables.picked_row(table)
    if row is not None and row < len(options):
        remember(key, options[row])


def verdict(row: pd.Series, name: str, run: api.Run | None, result: api.Scored) -> None:
    """The decision in words, and where the score lies among the machine's normal clips."""
    flagged = bool(row["decision"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(
            "flagged" if flagged else "not flagged",
            icon=":material/notification_important:" if flagged else ":material/check:",
            color="red" if flagged else "green",
        )
        st.markdown(f"**{words.plain(name)}**")
    normal = api.normal_scores(run, result.machine, result.section) if run else None
    compared = f"of the {len(normal)} normal training clips" if normal is not None else "of the normal training clips"
    st.markdown(
        f"Score **{row['score']:.4f}** {'>' if flagged else '≤'} threshold {row['threshold']:.4f}: for this "
        f"system it sounds {'**unlike**' if flagged else 'like'} the machine's normal clips. {row['percentile']:.0f} % {compared} score "
        f"at most this."
    )
    if normal is None or not len(normal):
        st.info("The run that gave this score is gone, and with it the scores of its normal clips.")
        return
    st.plotly_chart(
        charts.scored_among_normals(api.normal_histogram(normal), float(row["threshold"]), float(row["score"])),
        key="among_normals",
        config=charts.CONFIG,
        alt=f"Histogram of {len(normal)} normal scores; threshold {row['threshold']:.4f}, this clip {row['score']:.4f}",
    )
    st.caption("Normal clips are scored as if they were new; the threshold was learnt from them alone.")


def listen(result: api.Scored, upload_id: str, name: str, run: api.Run | None) -> None:
    """The recording beside its nearest normal clip, and where in it the score comes from."""
    source, data = f"uploads:{upload_id}", run.record["data"]["name"] if run else ""
    near = api.scored_neighbours(result, upload_id)
    heats = api.scored_heats(result, upload_id)
    branches = list(dict.fromkeys([*heats, *near["branch"]]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        axis = st.segmented_control(
            "Frequency axis", api.AXES, default="mel", key="axis", required=True, persist_state="session"
        )
        branch = branches[0] if branches else ""
        if len(branches) > 1:
            branch = st.selectbox("Branch", branches, key=f"branch_{result.run_id}", width=220) or branch
    near = near[near["branch"] == branch]
    has_sound = data in api.data_sets(workspace())
    against = nearest(near, upload_id) if has_sound else ""
    try:
        sound, _ = player.sound(source, f"{upload_id}.wav", axis or "mel")
    except api.AsdError as error:
        st.error(f"The recording cannot be shown. {words.plain(str(error))}", icon=":material/volume_off:")
        return
    other = None
    if against:
        try:
            other, _ = player.sound(data, against, axis or "mel")
        except api.AsdError as error:
            st.caption(f":material/volume_off: {words.plain(str(error))}")
    player.mount(
        replace(sound, title=name),
        key="player",
        other=other,
        heat=player.drawn(heats[branch]) if branch in heats else player.Heat(reason=no_map(branch), branch=branch),
    )
    if other:
        st.caption(f"A/B switches to {words.plain(other.title)}, a normal training clip.")
    neighbours(near, data if has_sound else "", against, upload_id, api.run_stamp(run) if run else "")


def nearest(near: pd.DataFrame, upload_id: str) -> str:
    """The normal clip to switch to: the picked one, or the nearest."""
    ids = list(near["clip_id"])
    picked = st.session_state.get("against", {}).get(upload_id)
    return picked if picked in ids else (ids[0] if ids else "")


def no_map(branch: str) -> str:
    what = f'Branch "{branch}" judges' if branch else "This system judges"
    return f"{what} a clip as a whole and cannot tell where in it its score comes from."


def neighbours(near: pd.DataFrame, data: str, against: str, upload_id: str, version: str) -> None:
    """The nearest normal clips; the picked one is what A/B switches to."""
    st.markdown("**Nearest normal clips**")
    if near.empty:
        st.caption("There are none: the system keeps one number per clip, not an embedding.")
        return
    ids = list(near["clip_id"])
    shown = pd.DataFrame()
    if data:
        shown["Near"] = [pictures.thumbnail_url(data, one, version) for one in ids]
    shown["Distance"] = near["distance"].to_numpy()
    shown["Domain"] = near["domain"].to_numpy()
    shown["Attributes"] = near["attributes"].replace("noAttribute", "–").to_numpy()
    shown["Clip"] = [one.rpartition("/")[2].removesuffix(".wav") for one in ids]
    tables.pick_row("nearest", ids.index(against) if against in ids else None)
    st.dataframe(
        shown,
        key="nearest",
        hide_index=True,
        row_height=44,
        height="content",
        selection_mode=tables.ROWS,
        on_select=lambda: pick_other(ids, upload_id),
        column_config={
            "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
            "Distance": st.column_config.NumberColumn("Distance", format="%.4f", help=near["metric"].iloc[0]),
        },
        alt=f"The {len(ids)} nearest normal training clips; pick one for A/B",
    )


def pick_other(ids: list[str], upload_id: str) -> None:
    row = tables.picked_row("nearest")
    if row is not None and row < len(ids):
        st.session_state.setdefault("against", {})[upload_id] = ids[row]


def earlier(results: dict[str, api.Scored]) -> None:
    """Results so far, newest first; recordings go with the last result that is of them."""
    st.header("Scored earlier")
    finished = cached.runs()
    keys = list(results)
    picked = asked("scored") or keys[0]
    tables.pick_row("earlier", keys.index(picked) if picked in keys else None)
    shown = pd.DataFrame(
        {
            "When": [words.ago(one.created) for one in results.values()],
            "Recordings": [", ".join(names(one).values()) for one in results.values()],
            "Machine": [one.machine for one in results.values()],
            "System": [
                finished[one.run_id].record["system"] if one.run_id in finished else one.run_id
                for one in results.values()
            ],
            "Flagged": [f"{int(one.table['decision'].sum())} of {len(one.table)}" for one in results.values()],
            "Highest score": [float(one.table["score"].max()) for one in results.values()],
        }
    )
    st.dataframe(
        shown,
        key="earlier",
        hide_index=True,
        selection_mode=tables.ROWS,
        on_select=lambda: pick("scored", keys, "earlier"),
        height="content" if len(shown) <= 8 else 320,
        column_config={"Highest score": st.column_config.NumberColumn("Highest score", format="%.4f")},
        alt=f"{len(shown)} results of scoring; pick one to see it again",
    )
    if picked in results:
        st.button(
            "Delete this result",
            key="delete",
            icon=":material/delete:",
            type="tertiary",
            help="Its recordings are deleted too, unless another result is of them.",
            on_click=jobs.attempt,
            args=(delete, picked),
        )


def delete(key: str) -> None:
    api.delete_scored(workspace(), key)
    remember("scored", "")


main()
