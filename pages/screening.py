"""Screening: which generated clips may join the training, decided by a rule and by ear, beside recorded ones."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, jobs, pictures, player, tables, words
from pages.components.context import asked, choose, note, page, pick_profile, remember, show_notes, workspace

PER_PAGE = 24
UNREADABLE = (api.AsdError, OSError)  # a recording that is gone, or is no recording
SENTENCE = (
    "Normal clips of rare conditions, drawn by a diffusion model that has learnt from the training recordings. A rule "
    "keeps those that a classifier takes for what they were made for; your ear goes over the rule."
)


def main() -> None:
    st.title("Screening")
    data = asked("data") or ""
    known = api.data_sets(workspace())
    sets = cached.generated_sets(data) if data else []
    made = pick_set(sets) if sets else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if data in known:
            words.kind_badge(known[data].kind)
        if made:
            summary(data, made, cached.screened(made))
    if made is None:
        nothing(data, known)
        return
    views: dict[str, Callable[[str, api.GeneratedSet, pd.DataFrame], None]] = {
        "Review": review,
        "Grid": grid,
        "Rule": rule,
        "Blind test": blind,
        "Quality": quality,
    }
    with st.container(horizontal=True, vertical_alignment="center"):
        view = st.segmented_control(
            "View",
            list(views),
            default="Review",
            key="screen",
            required=True,
            bind="query-params",
            label_visibility="collapsed",
        )
        train(made)
    views[view or "Review"](data, made, cached.screened(made))


def nothing(data: str, known: dict[str, api.DataInfo]) -> None:
    """No generated clips yet: what they are, which would be made, and one click to make them."""
    st.info(f"No clips have been generated here yet. {SENTENCE}", icon=":material/graphic_eq:")
    if data not in known:
        st.page_link(page("home"), label="Get recordings", icon=":material/home:")
        return
    profile = pick_profile()
    try:
        options = api.generator(profile)
        targets = api.generation_targets(api.data_set(workspace(), data), options)
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return
    if targets.empty:
        st.success("Every condition of these recordings has enough clips by the generator's targets: nothing to make.")
        return
    st.button(
        f"Generate {targets['wanted'].sum()} clips",
        key="generate",
        type="primary",
        icon=":material/play_arrow:",
        on_click=jobs.attempt,
        args=(start, api.start_generation, data, profile),
    )
    st.caption(api.generation_estimate(options, targets))
    running()
    st.header("What would be made")
    shown = targets.rename(columns=str.capitalize)
    shown["Condition"] = shown["Condition"].map(words.condition)
    st.dataframe(shown, key="targets", hide_index=True, alt=f"{len(shown)} conditions with too few recorded clips")


def start(begin: Callable[..., str], *arguments: object, **options: object) -> None:
    remember("job", begin(workspace(), *arguments, **options))


def running() -> None:
    """The job that makes or measures clips, if one was started."""
    job_id = asked("job")
    if any(
        job.id == job_id and job.arguments[:1] in (("generate",), ("quality",)) for job in api.all_jobs(workspace())
    ):
        with st.container(border=True):
            jobs.panel(str(job_id))


def pick_set(sets: list[api.GeneratedSet]) -> api.GeneratedSet:
    by_key = {made.key: made for made in sets}
    key = choose("set", list(by_key), sets[0].key, "set of generated clips")
    show_notes()
    if len(sets) > 1:

        def describe(key: str) -> str:
            made = by_key[key]
            return f"{made.generator} · {made.profile or 'other settings'} · {made.drawn} clips · {words.ago(made.created)}"

        st.session_state["set_picker"] = key
        st.selectbox(
            "Set",
            list(by_key),
            format_func=describe,
            key="set_picker",
            on_change=lambda: remember("set", st.session_state["set_picker"]),
        )
    return by_key[key]


def summary(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    wanted, by_hand = sum(made.counts.values()), int((table["said"] != "").sum())
    st.markdown(
        f"{words.plain(data)}: **{int(table['kept'].sum())} kept** of {wanted} wanted · {len(table)} drawn · "
        f"{int(table['passes'].sum())} pass · {by_hand} judged by hand"
    )
    profile = f"profile {made.profile}" if made.profile else "settings that no profile has today"
    st.caption(f"Generator {words.plain(made.generator)}, {profile}, {words.ago(made.created)}")


def train(made: api.GeneratedSet) -> None:
    """Train a system that takes exactly these clips."""
    with st.popover("Train with the kept clips", icon=":material/model_training:"):
        systems = cached.systems_using(made)
        if not systems:
            st.caption("No system of configs/systems uses these clips: their generator has other settings.")
            return
        first = "satlab-1" if "satlab-1" in systems else systems[0]
        name = st.selectbox("System", systems, index=systems.index(first), key="train_with")
        st.button(
            "Train",
            key="train_kept",
            type="primary",
            icon=":material/play_arrow:",
            on_click=jobs.attempt,
            args=(start, api.start_training, name, asked("data"), made.profile),
        )
        st.caption("It screens them again with your verdicts, then trains.")
        st.page_link(page("train"), label="Open Train", icon=":material/open_in_new:", query_params={"system": name})


def pick_condition(made: api.GeneratedSet) -> str:
    """A condition, or "" for all."""
    return st.selectbox(
        "Condition",
        ["", *made.counts],
        format_func=lambda text: words.condition(text) or "All conditions",
        key="screened_condition",
        persist_state="session",
    )


# ------------------------------------------------------------------ one by one


def review(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        condition = pick_condition(made)
        order = st.selectbox(
            "Order",
            list(api.REVIEW_ORDERS),
            key="review_order",
            persist_state="session",
            help="; ".join(f"{name}: {says}" for name, says in api.REVIEW_ORDERS.items()),
        )
        axis = st.segmented_control(
            "Frequency axis", api.AXES, default="mel", key="axis", required=True, persist_state="session"
        )
        autoplay = st.pills(  # no toggle: while one has the focus, no key gives a verdict
            "After a verdict", ["Play the next"], default="Play the next", key="play_next", persist_state="session"
        )
    queue = api.review_queue(table, order, condition)
    rows = table.set_index("clip")
    said = rows["said"]
    open_ones = [name for name in queue if not said[name]]
    wanted = asked("clip") or ""
    if st.query_params.get("clip") and "/generated/" in wanted and wanted not in rows.index:
        note(f"There is no generated clip “{wanted}” in this set. Shown instead: the first of the list.")
        show_notes()
    name = wanted if wanted in queue else (open_ones or queue or [""])[0]
    st.session_state["review_queue"] = queue
    if not name:
        st.info("Nothing was drawn for this condition.")
        return
    remember("clip", name)
    judged = len(queue) - len(open_ones)
    kept = int((said[queue] == "keep").sum())
    st.progress(judged / len(queue), f"{judged} / {len(queue)} judged · {kept} kept by hand")
    if not open_ones:
        st.success("Every clip of this list has a verdict. Z still takes verdicts back.", icon=":material/done_all:")
    buttons(made, queue, name, bool((said != "").any()))
    left, right = st.columns([3, 2], gap="large")
    with left:
        both = sounds(data, rows.loc[name], name, axis or "mel", bool(autoplay))
        st.table(tables.candidate(rows.loc[name], made.rule.confidence))
    with right:
        card(made, rows.loc[name])
        if both:
            beside(*both)


def buttons(made: api.GeneratedSet, queue: list[str], name: str, is_judged: bool) -> None:
    """Verdicts, undo, and steps through the list; one key each."""
    verdicts = (
        ("keep", "Keep", "1", "check"),
        ("drop", "Drop", "2", "close"),
        ("unsure", "Unsure", "3", "question_mark"),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        for verdict, label, key, icon in verdicts:
            st.button(
                label,
                key=f"say_{verdict}",
                icon=f":material/{icon}:",
                shortcut=key,
                on_click=jobs.attempt,
                args=(say, made, name, verdict),
            )
        st.button(
            "Undo", key="undo", icon=":material/undo:", shortcut="Z", disabled=not is_judged,
            on_click=jobs.attempt, args=(undo, made),
        )  # fmt: skip
        place = queue.index(name)
        st.button(
            "Previous", key="previous", icon=":material/arrow_upward:", shortcut="K", disabled=not place,
            on_click=remember, args=("clip", queue[max(place - 1, 0)]),
        )  # fmt: skip
        st.button(
            "Next", key="next", icon=":material/arrow_downward:", shortcut="J", disabled=place == len(queue) - 1,
            on_click=remember, args=("clip", queue[min(place + 1, len(queue) - 1)]),
        )  # fmt: skip
        st.caption(f"{place + 1} of {len(queue)}")


def say(made: api.GeneratedSet, name: str, verdict: api.Verdict) -> None:
    """Write it down and go on to the next clip that has none; at the end of the list, to the first that has none."""
    api.give_verdicts(workspace(), made, [name], verdict)
    queue = st.session_state["review_queue"]
    said = cached.screened(made).set_index("clip")["said"]
    place = queue.index(name) if name in queue else -1
    following = [one for one in (*queue[place + 1 :], *queue[: max(place, 0)]) if not said[one]]
    remember("clip", following[0] if following else name)


def undo(made: api.GeneratedSet) -> None:
    """Take the latest verdict back and show its clip again."""
    name = api.undo_verdict(workspace(), made)
    if name:
        remember("clip", name)
    else:
        note("There is no verdict of yours left to take back.")


def sounds(
    data: str, row: pd.Series, name: str, axis: api.Axis, autoplay: bool
) -> tuple[player.Sound, player.Sound, api.Match] | None:
    """The generated clip in the player, with the matched recording behind the A/B switch; both, if there are both."""
    try:
        own, _ = player.sound(row["data"], name, axis)
    except UNREADABLE as error:
        st.error(f"The clip cannot be shown. {words.plain(str(error))}", icon=":material/volume_off:")
        return None
    own, other = replace(own, title=f"Generated: {own.title}"), None
    try:
        if match := cached.matched_recording(data, row["data"], name):
            other, _ = player.sound(data, match.clip_id, axis)
            other = replace(other, title=f"Recorded: {other.title}")
        else:
            st.info("Nobody recorded this machine in this domain, so there is nothing to compare with.")
    except UNREADABLE as error:
        st.warning(f"There is no recording to compare with. {words.plain(str(error))}", icon=":material/info:")
    player.mount(own, other=other, key="review_player", autoplay=autoplay)
    return (own, other, match) if other and match else None


def card(made: api.GeneratedSet, row: pd.Series) -> None:
    """What it was made for, what was measured, what is decided."""
    st.header(words.plain(words.condition(row["condition"])))
    with st.container(horizontal=True, vertical_alignment="center"):
        state = tables.screened_state(row.to_frame().T).iloc[0]
        colour = {"✓": "green", "○": "gray", "✗": "red"}[state[0]]
        st.badge(state, color=colour)  # type: ignore[arg-type]
        if row["said"]:
            st.badge(f"your verdict: {row['said']}", icon=":material/person:", color="blue")
        if row["copies"]:
            st.badge("near copy of a recording", icon=":material/content_copy:", color="red")
        elif row["edge"] == row["edge"] and row["edge"] < 0:
            st.badge("outside the generator’s window", icon=":material/warning:", color="orange")
    if row["reasons"] and row["reasons"] not in ("surplus", "kept by hand", "dropped by hand"):
        st.caption(words.plain(f"Against it: {tables.reasons(row)}."))
    elif row["reasons"] == "surplus":
        st.caption("It passes, but enough clips of its condition are kept already.")
    sampling = made.options["sampling"]
    st.caption(
        f"Drawing {row['number']} of its condition, seed {made.options['seed']}; {sampling['steps']} steps, "
        f"guidance {sampling['guidance']:g}, eta {sampling['eta']:g}."
    )


def beside(own: player.Sound, other: player.Sound, match: api.Match) -> None:
    """The matched recording, or what the generated clip has more and less of."""
    shows = st.segmented_control(
        "Beside it", ["Recording", "Difference"], default="Recording", key="beside", required=True
    )
    for channel, mine, view in zip(api.CHANNELS, own.channels, other.channels, strict=True):
        if not (mine.picture and view.picture):
            continue
        url, scale, colours = view.picture, (other.low, other.high), "magma"
        said = f"Spectrogram of the matched recording, {channel} microphone"
        if shows == "Difference":
            versions = [one.picture.rpartition("=")[2] for one in (mine, view)]
            kind = f"{channel}-{own.axis}"
            url = pictures.difference_url(own.data, own.clip_id, kind, [match.clip_id], "-".join(versions), other.data)
            scale, colours = (-pictures.LOUDER_DB, pictures.LOUDER_DB), "berlin"
            said = f"Spectrogram of the generated clip less that of the matched recording, {channel} microphone"
        st.caption(f"{shows}, {channel} microphone")
        ticks = api.ticks(own.axis)
        st.html(pictures.framed(url, said, ticks, other.seconds, scale, pictures.colour_bar(colours)))
    extra = " Red: the generated clip is louder there. Times are not aligned." if shows == "Difference" else ""
    st.caption(
        f"{words.plain(match.clip_id.rpartition('/')[2].removesuffix('.wav'))}. {match.said}, "
        f"{match.distance:.1f} dB apart; the player's A/B switches to it.{extra}"
    )


# ------------------------------------------------------------------ many at once


def grid(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    filters = st.container(horizontal=True, vertical_alignment="bottom")
    states = tables.screened_state(table)
    with filters:
        condition = pick_condition(made)
        wanted = st.pills("State", [*tables.SCREENED.values(), "no verdict"], selection_mode="multi", key="grid_states")
    chosen = table[(table["condition"] == condition) if condition else slice(None)]
    if "no verdict" in wanted:
        chosen = chosen[chosen["said"] == ""]
    if named := [one for one in wanted if one != "no verdict"]:
        chosen = chosen[states[chosen.index].isin(named)]
    if chosen.empty:
        st.info("No clip fits. Take a filter away.")
        return
    pages = -(-len(chosen) // PER_PAGE)
    number = filters.number_input("Page", 1, pages, key=f"grid_page_{pages}", help=f"{PER_PAGE} clips each", width=130)
    some = chosen.iloc[PER_PAGE * (number - 1) : PER_PAGE * number]
    st.caption(f"{len(some)} of {len(chosen)} clips; tick some, or all by the box in the head of the table.")
    actions = st.container()
    shown, config = tables.candidates(some, made.key)  # its files never change
    key = f"grid_{made.key}_{condition}_{number}_{len(some)}"
    picked = st.dataframe(
        shown,
        key=key,
        hide_index=True,
        row_height=44,
        height="content",
        column_config=config,
        selection_mode="multi-row",
        on_select="rerun",
        lazy=False,
        placeholder="–",
        alt=f"{len(some)} generated clips; tick rows to judge them together",
    )
    names = [some["clip"].iloc[row] for row in picked["selection"]["rows"] if row < len(some)]
    with actions:
        bulk(made, names)


def bulk(made: api.GeneratedSet, names: list[str]) -> None:
    """One verdict on all ticked clips, after a second click that names their number."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for verdict, icon in (("keep", "check"), ("drop", "close"), ("unsure", "question_mark")):
            count = f"{len(names)} clip{'s' if len(names) != 1 else ''}"
            with st.popover(f"{verdict.capitalize()} the ticked", icon=f":material/{icon}:", disabled=not names):
                st.markdown(f"Write “{verdict}” for **{count}**? Each can be taken back.")
                st.button(
                    f"{verdict.capitalize()} {count}",
                    key=f"bulk_{verdict}",
                    type="primary",
                    on_click=jobs.attempt,
                    args=(api.give_verdicts, workspace(), made, names, verdict),
                )
        if len(names) == 1:
            st.button(
                "Review this clip",
                key="grid_review",
                icon=":material/hearing:",
                on_click=show_in_review,
                args=(names[0],),
            )


def show_in_review(name: str) -> None:
    remember("clip", name)
    st.session_state["screen"] = "Review"


# ------------------------------------------------------------------ by rule


def rule(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    if table["confidence"].isna().all():
        st.info(
            "The rule needs the classifier's confidence, and the classifier has heard none of these conditions. "
            "Listening and verdicts work without it.",
            icon=":material/block:",
        )
        return
    low, high = made.rule.confidence
    first, second = st.columns([3, 1], vertical_alignment="bottom", gap="large")
    window = first.slider(
        "Confidence window",
        0.0,
        1.0,
        (low, high),
        0.01,
        key=f"window_{made.key}",
        help="Below it a clip is doubtful, above it too much like what is known",
    )
    agreement = second.toggle(
        "Label must agree",
        value=made.rule.agreement,
        key=f"agreement_{made.key}",
        help="The classifier takes it for what it was made for",
    )
    recorded = api.recorded_confidences(workspace(), made)
    st.plotly_chart(
        charts.confidence_window(api.confidence_histogram(table, recorded), *window),
        key="confidences",
        config=charts.CONFIG,
        alt=f"Histogram of the classifier's confidence in {len(table)} generated clips, window {window[0]} to {window[1]}",
    )
    st.caption(
        f"Outline: {len(recorded)} judgements of recordings that the classifier had not learnt."
        if recorded
        else "How sure the classifier is of recordings is not available: its task is gone from the workspace."
    )
    if not window[0] < window[1]:
        st.warning("The window is empty. Draw its ends apart.", icon=":material/warning:")
        return
    wanted = replace(made.rule, confidence=window, agreement=agreement)
    found = api.rule_preview(made, table, wanted)
    passing, drawn = int(found["passes"].sum()), int(found["drawn"].sum())
    in_force = api.applied_rule(workspace(), made)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Apply rule",
            key="apply_rule",
            type="primary",
            icon=":material/rule:",
            on_click=jobs.attempt,
            args=(apply, made, wanted),
        )
        st.markdown(
            f"**{passing} of {drawn} would pass** ({passing / drawn:.0%}), {drawn - passing} be dropped; "
            f"{int(found['kept'].sum())} kept where {int(found['before'].sum())} are kept now."
        )
    if passing in (0, drawn):
        st.warning(
            f"This rule lets {'nothing' if not passing else 'everything'} pass, so it decides nothing.",
            icon=":material/warning:",
        )
    st.caption(
        f"In force: {words.plain(in_force) if in_force else f'the generator’s own rule, {low:.2f}–{high:.2f}'}. Applying "
        f"another writes its outcomes into the log of verdicts, below yours, and changes nothing that was drawn. Beside "
        f"the window, level, silence, clipping and near copies count as the generator's settings say."
    )
    st.dataframe(
        tables.rule_preview(found),
        key="preview",
        hide_index=True,
        height="content",
        column_config={
            "Share": st.column_config.ProgressColumn("Share", format="%.0f %%", min_value=0, max_value=100),
            "Pass both": st.column_config.NumberColumn("Pass both", help="At every microphone, or kept by hand"),
            "Kept": st.column_config.NumberColumn("Kept", help="Of those that pass, up to the number wanted"),
            "Change": st.column_config.NumberColumn("Change", format="%+d", help="Against what is kept now"),
        },
        placeholder="–",
        alt=f"What this rule keeps of {len(found)} conditions",
    )


def apply(made: api.GeneratedSet, wanted: api.Rule) -> None:
    changed = api.apply_window(workspace(), made, cached.candidates(made), wanted)
    st.toast(f"The rule is in force. It judges {changed} clips unlike the generator's own.", icon=":material/rule:")


# ------------------------------------------------------------------ without knowing


def blind(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    """Recorded and generated clips in any order, names hidden: can you tell?"""
    remember("clip", "")  # the address must not tell
    running_round = st.session_state.get("blind")
    if not running_round or running_round["set"] != made.key:
        st.markdown(
            "Recorded and generated clips are played in any order, without names. Say of each which it is. If you are "
            "no better than chance, the generator is as good as your ear can tell."
        )
        begin_button(data, made, "Start a round")
        every = api.blind_results(workspace(), made)
        if every.answered:
            st.subheader("All rounds so far")
            outcome(every)
        return
    clips, place = running_round["clips"], running_round["place"]
    if place == len(clips):
        st.subheader("This round")
        outcome(api.blind_results(workspace(), made, running_round["name"]))
        begin_button(data, made, "Another round")
        return
    st.progress(place / len(clips), f"Clip {place + 1} of {len(clips)}")
    with st.container(horizontal=True):
        for answer, label, key, icon in (
            ("recorded", "Real", "1", "mic"),
            ("generated", "Generated", "2", "graphic_eq"),
        ):
            st.button(
                label, key=f"blind_{answer}", shortcut=key, icon=f":material/{icon}:",
                on_click=jobs.attempt, args=(answer_blind, made, answer),
            )  # fmt: skip
        st.button("Give up", key="blind_end", type="tertiary", on_click=end_round)
    st.caption(f"What it should be: {words.plain(words.condition(clips[place].condition))}")
    try:
        hidden, _ = player.sound(clips[place].data, clips[place].clip_id, "mel")
    except UNREADABLE as error:
        st.error(f"This clip cannot be played. {words.plain(str(error))}", icon=":material/volume_off:")
        return
    title = f"Clip {place + 1} of {len(clips)}"
    player.mount(replace(hidden, title=title, data="blind", clip_id=title), key="blind_player", autoplay=True)


def begin_button(data: str, made: api.GeneratedSet, label: str) -> None:
    st.button(
        label,
        key="blind_start",
        type="primary",
        icon=":material/visibility_off:",
        on_click=jobs.attempt,
        args=(begin_round, data, made),
    )


def begin_round(data: str, made: api.GeneratedSet) -> None:
    name, clips = api.blind_round(workspace(), data, cached.screened(made))
    if not clips:
        raise api.AsdError("No generated clip is kept, or its conditions have no recordings. Keep some clips first.")
    st.session_state["blind"] = {"set": made.key, "name": name, "clips": clips, "place": 0}


def answer_blind(made: api.GeneratedSet, answer: str) -> None:
    current = st.session_state["blind"]
    api.answer_blind(workspace(), made, current["name"], current["clips"][current["place"]], answer)
    current["place"] += 1


def end_round() -> None:
    st.session_state.pop("blind", None)


def outcome(result: api.BlindResult) -> None:
    st.markdown(
        f"**{result.correct} of {result.answered} right, {result.accuracy:.0%}** "
        f"(95 % interval {result.low:.0%} to {result.high:.0%}; guessing: 50 %). "
        + (
            "You can tell them apart."
            if result.is_above_chance
            else "Too few answers, or too like each other: this is no better than guessing."
        )
    )
    if result.again:
        later = "One later answer" if result.again == 1 else f"{result.again} later answers"
        st.caption(f"A clip counts once, by its first answer. {later} about clips heard before left out.")
    fooled = result.conditions.assign(condition=result.conditions["condition"].map(words.condition))
    st.dataframe(
        fooled.rename(
            columns={
                "condition": "Condition",
                "shown": "Generated",
                "taken": "Taken for recorded",
                "recorded": "Recorded",
                "mistaken": "Taken for generated",
            }
        ),
        key=f"blind_conditions_{result.answered}",
        hide_index=True,
        alt=f"How often clips of {len(fooled)} conditions were mistaken",
    )


# ------------------------------------------------------------------ how good


def quality(data: str, made: api.GeneratedSet, table: pd.DataFrame) -> None:
    measured = api.generated_quality(workspace(), made)
    if measured is None:
        st.info("How near these clips come to recordings has not been measured yet.", icon=":material/straighten:")
    else:
        distances, samples, stale = measured
        st.caption(
            "Distances to held-out recordings of the condition, beside yardsticks: other recordings of the condition, "
            "recordings of the machine's nearest other condition, and noise of the same mean spectrum. Where it says "
            "held-out, labelled normal test clips were looked at; nothing that is trained depends on it."
        )
        first, second = st.columns(2)
        space = first.segmented_control(
            "Heard by",
            list(distances["space"].unique()),
            default=distances["space"].iloc[0],
            key="space",
            required=True,
        )
        measure = second.segmented_control(
            "Distance", list(distances["measure"].unique()), default=distances["measure"].iloc[0], key="measure", required=True
        )  # fmt: skip
        if stale:
            st.warning(f"Measured before the latest verdicts: {words.plain(', '.join(stale))}.", icon=":material/info:")
        shown = tables.quality(distances, str(space), str(measure))
        st.dataframe(
            shown, key="distances", column_config=dict.fromkeys(tables.DISTANCES, st.column_config.NumberColumn(format="%.2f")), hide_index=True, height="content", placeholder="–",
            alt=f"Distances of generated clips to recordings, {len(shown)} conditions and microphones",
        )  # fmt: skip
        st.dataframe(
            tables.samples(samples), key="samples", hide_index=True, height="content", placeholder="–",
            column_config=dict.fromkeys(tables.SAMPLES, st.column_config.NumberColumn(format="%.2f")),
            alt=f"Diversity, copies and confidence of generated clips, {len(samples)} conditions and microphones",
        )  # fmt: skip
    if made.profile:
        st.button(
            "Measure again" if measured else "Measure",
            key="measure_quality",
            icon=":material/straighten:",
            disabled=measured is not None and not measured[2],
            help="A job of some minutes on the demo. It looks at labelled test clips where there are any.",
            on_click=jobs.attempt,
            args=(start_quality, data, made),
        )
    running()


def start_quality(data: str, made: api.GeneratedSet) -> None:
    start(api.start_generation, data, made.profile, made.generator, measure=True)


main()
