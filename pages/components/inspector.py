"""One clip under the glass, on every page that shows clips: what was decided, how it looks and sounds, which normal
clips are nearest, where its score comes from, what other systems say, and what file it is.

`show` is all that pages need. What changes with the clip's tabs or with the A/B choice is a fragment: the page around
it is not drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, pictures, player, tables, words
from pages.components.context import asked, link, remember, workspace

NEIGHBOURS = 5


class Shown(NamedTuple):
    """What the parts of the inspector are about."""

    data: str
    clip_id: str
    run: api.Run | None
    key: str  # of the inspector; widgets' keys begin with it
    axis: api.Axis
    branch: str  # of the run; "" without one

    @property
    def machine(self) -> str:
        return self.clip_id.partition("/")[0]


def show(
    data: str, clip_id: str, run: api.Run | None, row: pd.Series | None, ids: Sequence[str], *, key: str = "inspector"
) -> None:
    """Draw everything about a clip.

    Args:
        data: a data set, or ``generated:<key>`` or ``uploads:<id>``
        clip_id: "" for none picked
        run, row: a run and the clip's row of its clip table; None for recordings that no run has scored
        ids: clips that Previous and Next step through, in order; they set the choice ``clip``
    """
    with st.container(key="inspector", gap="xsmall"):  # the shell keeps it in view beside a long table
        if not clip_id:
            st.header("Clip")
            st.info("Pick a clip in the table or on the map.")
            return
        st.header(words.plain(words.clip_title(clip_id)))
        heading(clip_id, row)
        if row is not None:
            verdict(row, bool(run and run.record.get("transductive")))
        steps(data, clip_id, list(ids), key)
        _body(data, clip_id, run.record["run_id"] if run else "", key)


def heading(clip_id: str, row: pd.Series | None) -> None:
    """Machine, and what is known of the clip."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if "/" in clip_id:
            st.caption(words.plain(clip_id.partition("/")[0]), width="content")
        if row is None:
            return
        if pd.notna(row["label"]):
            st.badge("× anomaly" if row["label"] else "○ normal", color="red" if row["label"] else "green")
            st.badge(row["domain"], color="blue" if row["domain"] == "source" else "orange")
            right = row["outcome"] in ("TP", "TN")
            icon = ":material/check:" if right else ":material/close:"
            st.badge(words.OUTCOMES[row["outcome"]], icon=icon, color="green" if right else "red")
        if row["attributes"] not in ("", "noAttribute"):
            st.caption(words.plain(row["attributes"]), width="content")


def verdict(row: pd.Series, transductive: bool) -> None:
    flagged = row["decision"] == 1
    among = f"{row['percentile']:.0f}\u00a0% of the normal training clips score at most this."
    if transductive:
        among = "This run's scores depend on the other test clips, so there is no percentile."
    st.markdown(
        f"Score **{row['score']:.4f}** {'>' if flagged else '≤'} threshold {row['threshold']:.4f}: "
        f"**{'flagged' if flagged else 'not flagged'}**. {among}"
    )


def steps(data: str, clip_id: str, ids: list[str], key: str) -> None:
    """Previous, next, link, download; J and K work wherever no text is being typed."""
    place = ids.index(clip_id) if clip_id in ids else None
    st.session_state[f"{key}_ids"] = ids
    with st.container(key=f"{key}_steps", horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.button(
            "Previous",
            key="previous",
            icon=":material/arrow_upward:",
            shortcut="K",
            disabled=not place,
            on_click=step,
            args=(-1, key),
        )
        st.button(
            "Next",
            key="next",
            icon=":material/arrow_downward:",
            shortcut="J",
            disabled=not ids or place == len(ids) - 1,
            on_click=step,
            args=(1, key),
        )
        with st.popover("Link", icon=":material/link:", type="tertiary", help="Link to this view"):
            st.caption("This view, clip and filters included:")
            st.code(link(), language=None, wrap_lines=True)
        st.download_button(
            "Recording",
            data=lambda: _contents(data, clip_id),
            file_name=clip_id.rpartition("/")[2],
            mime="audio/wav",
            key=f"{key}_download",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
            help="Download the recording as it is on disk",
        )
        st.caption(f"{place + 1} of {len(ids)}" if place is not None else "not in the list as filtered")


def step(by: int, key: str) -> None:
    ids, wanted = st.session_state[f"{key}_ids"], asked("clip")
    remember("clip", ids[min(max(ids.index(wanted) + by, 0), len(ids) - 1)] if wanted in ids else ids[0])


@st.fragment
@api.moment()
def _body(data: str, clip_id: str, run_id: str, key: str) -> None:
    run = cached.runs().get(run_id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        axis = st.segmented_control(
            "Frequency axis",
            api.AXES,
            default="mel",
            key="axis",
            required=True,
            persist_state="session",
            label_visibility="collapsed",
            help="Frequency axis of the spectrograms",
        )
        st.toggle(
            "Autoplay",
            value=True,
            key="autoplay",
            persist_state="session",
            help="The next clip plays at once. Browsers allow it only after your first click or key.",
        )
        branch = _pick_branch(run, clip_id.partition("/")[0], key) if run else ""
    shown = Shown(data, clip_id, run, key, axis or "mel", branch)
    facts = _player(shown)
    if run is None:
        if facts:
            st.subheader("File")
            _file(shown, facts)
        return
    parts = {
        "Neighbours": _neighbours,
        "Why": _why,
        "Scores by system": _systems,
        "Difference": _difference,
        "File": lambda shown: _file(shown, facts),
    }
    tabs = st.tabs(list(parts), key=f"{key}_tabs", on_change="rerun")
    for tab, draw in zip(tabs, parts.values(), strict=True):
        if tab.open:
            with tab:
                draw(shown)


def _pick_branch(run: api.Run, machine: str, key: str) -> str:
    """Of a run with several: each has neighbours, and perhaps a map, of its own."""
    names = api.branch_names(workspace(), run, machine)
    if len(names) == 1:
        return names[0]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Branch", width="content", help="Whose map and whose nearest normal clips are shown")
        branch = st.selectbox(
            "Branch", names, key=f"{key}_branch_{run.record['run_id']}", label_visibility="collapsed", width=180
        )
    return branch or names[0]


def _player(shown: Shown) -> api.ClipFacts | None:
    """The player, with the map and the clip to compare with; None where the recording is missing."""
    try:
        sound, facts = player.sound(shown.data, shown.clip_id, shown.axis)
    except api.AsdError as error:
        st.error(
            f"The recording cannot be shown. {words.plain(str(error))}  \n"
            f"Expected, below the folder of {words.plain(shown.data)}: {words.plain(shown.clip_id)}",
            icon=":material/volume_off:",
        )
        return None
    heat, other, against = None, None, _against(shown)
    if shown.run:
        heat = _heat(shown)
    if against:
        try:
            other, _ = player.sound(shown.data, against, shown.axis)
        except api.AsdError as error:
            st.caption(f":material/info: There is no A/B. {words.plain(str(error))}")
    url = None
    if shown.run and heat and not heat.reason:
        stamp = api.inspection_stamp(workspace(), shown.run, shown.clip_id, heat.branch)
        url = pictures.anomaly_url(shown.run.record["run_id"], shown.clip_id, heat.branch, stamp)
    clip_id, played = st.session_state.get(f"{shown.key}_played", ("", 0))
    player.mount(
        sound,
        key=f"{shown.key}_player",
        other=other,
        heat=heat,
        anomaly=url,
        autoplay=bool(st.session_state.get("autoplay", True)),
        play_other=played if clip_id == shown.clip_id else 0,
        about=shown.run.record["run_id"] if shown.run else "",
    )
    if other:
        st.caption(f"A/B switches to {words.plain(other.title)}, {_role(shown, against)}.")
    if facts.is_clipped:
        st.badge("touches full scale", icon=":material/warning:", color="orange")
    if facts.is_silent:
        st.badge("a channel is silent", icon=":material/volume_off:", color="orange")
    return facts


def _heat(shown: Shown) -> player.Heat:
    """The branch's map for the player, or why there is none."""
    assert shown.run
    try:
        found = cached.heat(shown.run, shown.clip_id, shown.branch)
    except api.AsdError as error:
        return player.Heat(reason=str(error), branch=shown.branch)
    return player.drawn(found)


def _against(shown: Shown) -> str:
    """The clip to switch to: the one picked below, else the nearest normal one; "" where there is none."""
    clip_id, other = st.session_state.get(f"{shown.key}_against", ("", ""))
    if clip_id == shown.clip_id:
        return str(other)
    if not shown.run:
        return ""
    try:
        near = cached.neighbours(shown.run, shown.clip_id, shown.branch)
    except api.AsdError:
        return ""
    return "" if near.empty else str(near["clip_id"].iloc[0])


def _role(shown: Shown, other: str) -> str:
    """What the clip to switch to is."""
    assert shown.run
    try:
        near = cached.neighbours(shown.run, shown.clip_id, shown.branch)
    except api.AsdError:
        return "a normal training clip"
    row = near[near["clip_id"] == other]
    if row.empty:
        return "a normal training clip"
    rank = row["rank"].iloc[0]
    what = "the nearest normal training clip" if rank == 1 else f"normal training clip number {rank} by distance"
    return what + _about(row.iloc[0])


def _about(row: pd.Series) -> str:
    known = [word for word in (row["domain"], row["attributes"]) if word and word != "noAttribute"]
    return f" ({words.plain(', '.join(known))})" if known else ""


def _neighbours(shown: Shown) -> None:
    assert shown.run
    try:
        near = cached.neighbours(shown.run, shown.clip_id, shown.branch)
    except api.AsdError as error:
        st.info(words.plain(str(error)))
        return
    if near.empty:
        st.info("There is no other normal training clip of this machine and section.")
        return
    if sentence := strangeness(near.iloc[0]):
        st.markdown(f":material/info: {sentence}")
    ids = list(near["clip_id"])
    table, config = tables.neighbours(near, _thumbnails(shown, near["clip_id"]))
    config["Play"] = st.column_config.ButtonColumn(
        "Play",
        width=45,
        type="tertiary",
        help="Play it as B, at the same place",
        key=f"{shown.key}_play",
        on_click=lambda: _play(shown, ids[st.session_state[f"{shown.key}_play"]["row"]]),
    )
    _pick_other(shown, "neighbours", (table, config), near["clip_id"])
    st.caption(
        f"Normal training clips by {near['metric'].iloc[0]} in branch {words.plain(near['branch'].iloc[0])}. "
        f"The picked one is what A/B switches to."
    )


def _play(shown: Shown, other: str) -> None:
    """Switch to another clip and have it played; the number tells the player that it was asked for anew."""
    st.session_state[f"{shown.key}_against"] = (shown.clip_id, other)
    _, before = st.session_state.get(f"{shown.key}_played", ("", 0))
    st.session_state[f"{shown.key}_played"] = (shown.clip_id, before + 1)


def strangeness(first: pd.Series) -> str:
    """A sentence if the nearest normal clip, a row of `api.neighbours`, was recorded under other conditions."""
    other = [
        f"of {what} ({words.plain(first[column]) or 'none'})"
        for what, column in (("another domain", "domain"), ("other attributes", "attributes"))
        if first[f"same_{column}"] is not None and not first[f"same_{column}"]
    ]
    return f"The nearest normal clip is {' and '.join(other)}." if other else ""


def _pick_other(shown: Shown, name: str, table: tuple[pd.DataFrame, dict[str, Any]], ids: pd.Series) -> None:
    """A table whose picked row is the clip to switch to."""
    key, against = f"{shown.key}_{name}", _against(shown)
    choices = list(ids)
    tables.pick_row(key, choices.index(against) if against in choices else None)

    def pick() -> None:
        row = tables.picked_row(key)
        if row is not None and row < len(choices) and choices[row]:
            st.session_state[f"{shown.key}_against"] = (shown.clip_id, choices[row])

    st.dataframe(
        table[0],
        key=key,
        hide_index=True,
        column_config=table[1],
        row_height=44 if "Near" in table[0] else 35,
        height="content",
        selection_mode=tables.ROWS,
        on_select=pick,
        alt=f"{len(choices)} {name}; pick a row to switch to its clip with A/B",
    )


def _thumbnails(shown: Shown, ids: pd.Series) -> list[str | None]:
    urls: list[str | None] = []
    for clip_id in ids:
        try:
            version = api.picture_key(workspace(), shown.data, clip_id)
            urls.append(pictures.thumbnail_url(shown.data, clip_id, version))
        except (api.AsdError, OSError):
            urls.append(None)
    return urls


def _why(shown: Shown) -> None:
    assert shown.run
    try:
        why = cached.explanation(shown.run, shown.clip_id)
    except api.AsdError as error:
        st.info(words.plain(str(error)))
        return
    if len(why.streams) > 1:
        st.markdown(
            f"{len(why.streams)} streams, fused by **{words.plain(why.fusion)}**, make {why.score:.4f}; "
            f"the mean of the normal training clips is {why.usual:.4f}."
        )
        table, config = tables.streams(why.streams)
        st.dataframe(table, hide_index=True, column_config=config, placeholder="–", alt="What each stream adds")
        if any(stream.contribution is not None for stream in why.streams):
            st.caption("Contributions add up to the score less that mean.")
    else:
        one = why.streams[0]
        st.markdown(f"One stream, **{words.plain(one.name)}**, makes the score.")
    try:
        found = cached.heat(shown.run, shown.clip_id, shown.branch)
    except api.AsdError as error:
        st.info(words.plain(str(error)))
        return
    st.markdown(f"**Hottest places** of branch {words.plain(found.branch)}, and what they were compared with:")
    matches = pd.Series([place.match or "" for place in found.places], dtype=str)
    _pick_other(shown, "places", tables.places(found.places), matches)
    st.caption(
        f"{words.plain(found.unit)}, {found.low:.4g} to {found.high:.4g}. Contour at {found.limit:.4g}: "
        f"{found.limit_words}. “Hottest patch” in the player loops one after the other."
    )


def _systems(shown: Shown) -> None:
    assert shown.run
    table = cached.scores_by_system(shown.data, shown.clip_id)
    flagged = int(table["flagged"].sum())
    st.markdown(f"**{flagged} of {len(table)} runs** on {words.plain(shown.data)} flag this clip.{_dissent(table)}")
    styled, config = tables.scores_by_system(table, shown.run.record["run_id"])
    st.dataframe(
        styled,
        hide_index=True,
        column_config=config,
        placeholder="–",
        height="content" if len(table) <= 10 else 390,
        alt=f"What {len(table)} runs say of this clip",
    )
    st.caption("Percentile: share of the machine's normal training clips that score at most this, by the same run.")


def _dissent(table: pd.DataFrame) -> str:
    """Names the runs that stand alone against all others."""
    for side, says in ((True, "Alone in flagging it"), (False, "Alone in not flagging it")):
        few = table[table["flagged"] == side]
        if len(table) > 3 and len(few) == 1:
            return f" {says}: {words.plain(few['system'].iloc[0])}, seed {few['seed'].iloc[0]}."
    return ""


def _difference(shown: Shown) -> None:
    assert shown.run
    try:
        near = cached.neighbours(shown.run, shown.clip_id, shown.branch)
        facts = api.clip_facts(workspace(), shown.data, shown.clip_id)
        version = pictures.difference_key(workspace(), shown.data, shown.clip_id, list(near["clip_id"]))
    except api.AsdError as error:
        st.info(words.plain(str(error)))
        return
    channels = list(api.CHANNELS)[: facts.channels]
    channel = (
        st.segmented_control("Microphone", channels, default=channels[0], key=f"{shown.key}_channel", required=True)
        or channels[0]
    )
    url = pictures.difference_url(shown.data, shown.clip_id, f"{channel}-{shown.axis}", list(near["clip_id"]), version)
    st.html(
        pictures.framed(
            url,
            f"Spectrogram of the {channel} microphone less the mean of {len(near)} normal ones",
            api.ticks(shown.axis),
            facts.seconds,
            (-pictures.LOUDER_DB, pictures.LOUDER_DB),
            pictures.colour_bar("berlin"),
        )
    )
    st.caption(
        f"This clip less the mean of its {len(near)} nearest normal training clips, in dB: red is louder here, blue "
        f"is fainter. Recordings are not aligned in time, so judge steady lines and bands, not single clicks."
    )


def _file(shown: Shown, facts: api.ClipFacts | None) -> None:
    if facts is None:
        st.info("The file is not there, so nothing is known of it.")
        return
    levels = zip(api.CHANNELS if facts.channels > 1 else ("mono",), facts.levels, strict=False)
    st.markdown(
        f"{words.plain(facts.place)}  \n{facts.seconds:.2f} s · {facts.sample_rate} Hz · {facts.channels} "
        f"channel{'s' * (facts.channels != 1)} · {words.size(facts.size)}"
    )
    table = pd.DataFrame([(name, peak, rms) for name, (peak, rms) in levels], columns=["Channel", "Peak", "RMS"])
    decibel = st.column_config.NumberColumn(format="%.1f dBFS")
    st.dataframe(table, hide_index=True, column_config={"Peak": decibel, "RMS": decibel}, alt="Levels per channel")
    try:
        st.code(f"sha256 {api.checksum(workspace(), shown.data, shown.clip_id)}", language=None, wrap_lines=True)
    except (api.AsdError, OSError) as error:
        st.caption(words.plain(str(error)))


def _contents(data: str, clip_id: str) -> bytes:
    return api.clip(workspace(), data, clip_id).path.read_bytes()
