"""Data: what a data set consists of, whether its recordings are sound, and the training clips themselves."""

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, charts, inspector, jobs, pictures, tables, words
from pages.components.context import asked, choose, hold, note, remember, show_notes, workspace

MOST_BARS = 30  # kinds of clips in a chart; the table has all
PER_PAGE = 200  # clips in a table: their addresses are sent with every click
SEVERITIES = {"error": "✗ error", "warning": "! warning", "note": "· note"}
PARTS = ["Clips by machine", "Sound quality", "Listen", "Get data"]


def main() -> None:
    st.title("Data")
    data = asked("data") or ""
    known = api.data_sets(workspace())
    if data not in known:
        missing(data)
        return
    try:
        found = cached.inventory(data)
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/folder_off:")
        get_data()
        return
    heading(known[data], found)
    machines = list(found.counts["machine"])
    machine = asked("machine") or ""
    machine = machine if machine in machines else machines[0]
    counts, quality, listen, get = st.tabs(PARTS, key="part", bind="query-params", on_change="rerun")
    with counts:
        if counts.open:
            by_machine(found, machines, machine)
    with quality:
        if quality.open:
            sound_quality(data, found, machine)
    with listen:
        if listen.open:
            clips(data, found, machine)
    with get:
        if get.open:
            origin(known[data])
            get_data()


def missing(data: str) -> None:
    if data:
        st.warning(f"The recordings of {words.plain(data)} are not on this machine.", icon=":material/folder_off:")
    else:
        st.info("There are no recordings on this machine yet. Simulate the demo machines, or get the official data.")
    get_data()


def heading(about: api.DataInfo, found: api.Inventory) -> None:
    hidden = int(found.counts["test_unlabelled"].sum())
    with st.container(horizontal=True, vertical_alignment="center"):
        words.kind_badge(about.kind)
        machines = len(found.counts)
        st.markdown(
            f"**{words.plain(about.name)}**: {len(found.clips):,} clips of {machines} machine{'s' * (machines != 1)}"
            + (f", {hidden:,} of them test clips without labels." if hidden else ".")
        )
    if found.problems:
        number = len(found.problems)
        told = "1 file was" if number == 1 else f"{number:,} files were"
        with st.expander(
            f"{told} passed over: no system sees what is not named as the layout asks", icon=":material/rule:"
        ):
            shown = pd.DataFrame({"File and reason": found.problems[:PER_PAGE]})
            st.dataframe(shown, key="problems", hide_index=True, alt="Files that were passed over, with the reason")
            if len(found.problems) > PER_PAGE:
                st.caption(f"The first {PER_PAGE} of {len(found.problems):,}.")


def by_machine(found: api.Inventory, machines: list[str], machine: str) -> None:
    """Machines, and one of them by attribute."""
    joined = found.counts.merge(found.balance, on="machine").merge(found.headers, on="machine")
    tables.pick_row("machines", machines.index(machine))
    shown, config = tables.machines(joined)
    st.dataframe(
        shown,
        key="machines",
        hide_index=True,
        selection_mode=tables.ROWS,
        on_select=lambda: pick("machine", machines, "machines"),
        height="content",
        placeholder="–",
        column_config=config,
        alt=f"Numbers of clips of {len(machines)} machines by split, domain and label; pick a row for its attributes",
    )
    st.caption(
        "○ normal and × anomalous test clips. Their labels, domains and attributes come from file names; no system sees "
        "them. Recording: each machine's first training clip; **Sound quality** looks at all."
    )
    row = joined[joined["machine"] == machine].iloc[0]
    st.header(words.plain(machine))
    st.markdown(words.plain(row["said"]))
    own = found.clips[found.clips["machine"] == machine]
    keys = api.attribute_keys(own)
    key = ""
    if len(keys) > 1:
        every = "all together"
        picked = st.segmented_control(
            "Attribute", [every, *keys], default=every, key=f"attribute_{machine}", required=True
        )
        key = "" if picked == every else str(picked)
    counts = api.attribute_counts(own, key)
    left, right = st.columns(2, gap="large")
    training = counts[(counts["train_source"] + counts["train_target"]) > 0]
    with left:
        if training.empty:
            st.info("This machine has no training clips.")
        else:
            st.plotly_chart(
                charts.attribute_bars(training.head(MOST_BARS)),
                key="attributes",
                config=charts.CONFIG,
                alt=f"Training clips of {machine} by attribute and domain; the table beside it has the numbers",
            )
            if len(training) > MOST_BARS:
                st.caption(f"The {MOST_BARS} most frequent of {len(training)}; the table has all.")
    with right:
        st.dataframe(
            tables.attributes(counts),
            key="attribute_counts",
            hide_index=True,
            height="content" if len(counts) <= 12 else 460,
            alt=f"Clips of {machine} by attribute, split and domain",
        )


def pick(key: str, options: list[str], table: str) -> None:
    row = tables.picked_row(table)
    if row is not None and row < len(options) and options[row]:  # "" stands for what cannot be shown
        hold()  # another machine has another clip
        remember(key, options[row])


def sound_quality(data: str, found: api.Inventory, machine: str) -> None:
    """What the check found; before the first one, what it would do and how long it takes."""
    checked = cached.check(data)
    job = api.check_job(workspace(), data)
    state(data, found, checked, job)
    if job and (job.is_active or job.state in ("failed", "interrupted")):
        with st.container(border=True):
            jobs.panel(job.id)
    if checked is None:
        return
    findings(data, found, checked)
    st.header("Near and far microphone")
    both = checked.microphones
    if both.empty:
        st.info("No clip has two channels, so there is nothing to compare.")
    else:
        st.dataframe(
            tables.microphones(both),
            key="microphones",
            hide_index=True,
            height="content",
            placeholder="–",
            column_config=tables.MICROPHONE_COLUMNS,
            alt=f"Level, correlation and delay between the microphones of {len(both)} machines",
        )
        st.caption("Medians over a machine's clips, training and test.")
    left, right = st.columns(2, gap="large")
    own = checked.facts[checked.facts["machine"] == machine]
    with left:
        st.header(f"Levels of {words.plain(machine)}")
        if own.empty:
            st.info("The check has read no clip of this machine.")
        else:
            st.plotly_chart(
                charts.level_histogram(api.level_histogram(own)),
                key="levels",
                config=charts.CONFIG,
                alt=f"Histogram of the levels of {len(own)} clips of {machine}, near and far microphone",
            )
    with right:
        st.header("Durations and rates")
        st.dataframe(
            tables.sounds(checked.sounds),
            key="sounds",
            hide_index=True,
            height="content" if len(checked.sounds) <= 10 else 380,
            column_config={"Total": st.column_config.NumberColumn("Total", format="%.2f h")},
            alt="Durations, sample rates and channels by machine and split",
        )


def state(data: str, found: api.Inventory, checked: api.Check | None, job: api.Job | None) -> None:
    """Not checked, checked, or checked before files changed; and the button."""
    is_stale = checked is not None and checked.stamp != found.stamp
    with st.container(horizontal=True, vertical_alignment="center"):
        if checked is None:
            st.badge("not checked yet", icon=":material/radio_button_unchecked:", color="gray")
            st.markdown(
                f"A check opens every recording and takes about {words.duration(api.check_seconds(workspace(), data))}."
            )
        elif is_stale:
            st.badge("out of date", icon=":material/history:", color="orange")
            st.markdown(f"Files have changed since the check {words.ago(checked.created)}.")
        else:
            st.badge("checked", icon=":material/check_circle:", color="green")
            st.markdown(f"{checked.files:,} files, {words.ago(checked.created)}.")
        st.button(
            "Check again" if checked else "Check the recordings",
            key="check",
            icon=":material/troubleshoot:",
            type="primary" if checked is None or is_stale else "secondary",
            disabled=bool(job and job.is_active),
            on_click=jobs.attempt,
            args=(start_check, data),
        )


def start_check(data: str) -> None:
    api.start_check(workspace(), data)


def findings(data: str, found: api.Inventory, checked: api.Check) -> None:
    """By rule; the files of the picked one below, and of these the picked clip beside them."""
    if checked.findings.empty:
        st.success("Nothing to complain about.", icon=":material/check_circle:")
        return
    rules = checked.findings.groupby("rule", sort=False).agg(
        severity=("severity", "first"), title=("title", "first"), advice=("advice", "first"), times=("subject", "size")
    )
    names = list(rules.index)
    rule = choose("rule", names, names[0], "finding")
    show_notes()
    tables.pick_row("rules", names.index(rule))
    shown = pd.DataFrame(
        {
            "Severity": [SEVERITIES[severity] for severity in rules["severity"]],
            "Finding": rules["title"],
            "Times": rules["times"],
            "What to do": rules["advice"],
        }
    )
    st.dataframe(
        shown,
        key="rules",
        hide_index=True,
        selection_mode=tables.ROWS,
        on_select=lambda: pick("rule", names, "rules"),
        height="content",
        alt=f"{len(shown)} kinds of findings; pick one to list its files",
    )
    own = checked.findings[checked.findings["rule"] == rule]
    title = str(rules.loc[rule, "title"])
    listed = own.head(PER_PAGE)
    ids = list(dict.fromkeys(listed.loc[listed["subject"].isin(found.clips["clip_id"]), "subject"]))
    if not ids:
        left = st.container()
    else:
        left, right = st.columns([3, 2], gap="large")
        if asked("clip") not in ids:
            remember("clip", ids[0])
        with right:
            inspector.show(data, asked("clip") or "", None, None, ids)
    with left:
        subjects(listed, ids, title)
        if len(own) > PER_PAGE:
            st.caption(
                f"The first {PER_PAGE} of {len(own):,}. The command line lists all: `python -m asd_core doctor`."
            )


def subjects(listed: pd.DataFrame, ids: list[str], title: str) -> None:
    """Where something was found; those of them that are clips can be picked."""
    names = list(listed["subject"])
    if ids:
        tables.pick_row("subjects", names.index(asked("clip")))
    st.dataframe(
        pd.DataFrame({"File or machine": names, "Found": listed["found"].to_numpy()}),
        key="subjects" if ids else "subjects_without_sound",
        hide_index=True,
        selection_mode=tables.ROWS,
        on_select=(lambda: pick("clip", [one if one in ids else "" for one in names], "subjects")) if ids else "ignore",
        height="content" if len(names) <= 8 else 560 if ids else 300,
        alt=f"Where this was found: {title}" + ("; pick a clip to see and hear it" if ids else ""),
    )


def clips(data: str, found: api.Inventory, machine: str) -> None:
    """A machine's training clips as a list, the picked one beside it."""
    if (wanted := st.query_params.get("clip")) and not (found.clips["clip_id"] == wanted).any():
        note(f"There is no clip “{wanted}” in these recordings. Shown instead: the first of the list.")
        show_notes()
    left, right = st.columns([3, 2], gap="large")
    with left:
        ids = clip_list(data, found, machine)
    with right:
        if ids:
            inspector.show(data, asked("clip") or ids[0], None, None, ids)


def clip_list(data: str, found: api.Inventory, machine: str) -> list[str]:
    st.header(f"Training clips of {words.plain(machine)}")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        domain = st.segmented_control("Domain", ["source", "target"], key="train_domain")
        text = st.text_input("Name or attribute", key="train_text", placeholder="such as spd_3")
    kept = api.select_recordings(found.clips, machine, "train", domain or "", text)
    if kept.empty:
        st.info("No training clip fits. Take a filter away.")
        return []
    ids = list(kept["clip_id"])
    wanted = asked("clip") or ""
    place = ids.index(wanted) if wanted in ids else None
    pages = -(-len(ids) // PER_PAGE)
    number = 0
    if pages > 1:  # the page of the asked clip, unless another one is leafed to
        current = f"{machine}/{domain}/{text}/{wanted}"
        if st.session_state.get("leaf_of") != current:
            st.session_state["leaf_of"] = current
            st.session_state["leaf"] = (place or 0) // PER_PAGE + 1
        number = int(st.number_input(f"Page, of {pages}", 1, pages, key="leaf", width=160)) - 1
    if place is None:
        remember("clip", ids[0])
        place = 0
    start = number * PER_PAGE
    part = kept.iloc[start : start + PER_PAGE]
    st.caption(
        f"{len(kept):,} training clips, normal by definition" + (f"; {PER_PAGE} to a page." if pages > 1 else ".")
    )
    shown = pd.DataFrame(
        {
            "Near": [pictures.thumbnail_url(data, one, found.stamp) for one in part["clip_id"]],
            "Domain": part["domain"],
            "Attributes": part["attributes"].replace("noattribute", "–"),
            "Clip": part["clip_id"].str.rpartition("/")[2].str.removesuffix(".wav"),
        }
    )
    tables.pick_row("recordings", place - start if 0 <= place - start < len(part) else None)
    page_ids = list(part["clip_id"])
    st.dataframe(
        shown,
        key="recordings",
        hide_index=True,
        row_height=44,
        height=640 if len(shown) > 12 else "content",
        selection_mode=tables.ROWS,
        on_select=lambda: pick("clip", page_ids, "recordings"),
        lazy=False,
        column_config={
            "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small")
        },
        alt=f"{len(shown)} training clips of {machine}; pick a row to see and hear the clip",
    )
    return ids


def origin(about: api.DataInfo) -> None:
    """Where the recordings lie and what is known of them."""
    st.header(f"Where {words.plain(about.name)} is")
    st.code(str(about.root), language=None, wrap_lines=True)
    print_ = api.fingerprint_of(workspace(), about.name)
    st.markdown(
        f"Fingerprint of all recordings: `{print_}`"
        if print_
        else "Fingerprint: not known as the files are now. The next run on this data set reads them all and records it."
    )


def get_data() -> None:
    """How to come by recordings: one button, or a command to copy."""
    st.header("Get recordings")
    for source in api.sources():
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                words.kind_badge(source.kind)
                st.markdown(f"**{source.name}** — {'on this machine' if source.is_here else 'not on this machine'}")
            if source.kind == "simulated":
                st.caption("Invented machines with two microphones, made on this computer in a minute.")
                if not source.is_here:
                    st.button(
                        "Simulate the demo machines",
                        key="simulate",
                        icon=":material/science:",
                        type="primary",
                        on_click=jobs.attempt,
                        args=(simulate,),
                    )
            elif not source.is_here:
                st.code(api.command(["data", "download", source.name]), language="bash", wrap_lines=True)
                st.caption("In a terminal, from the project's folder. It can be stopped; the same command continues.")
            if source.licence:
                st.caption(f"Licence: {words.plain(source.licence)}  \n{words.plain(source.citation)}")
    st.markdown(
        "Own recordings: put them as `<machine>/train/section_00_source_train_normal_0000_noAttribute.wav` and "
        "`<machine>/test/section_00_0000.wav` into a folder, then train on it once; it appears here."
    )
    st.code(api.command(["run", "logmel-maha", "--data", "FOLDER", "--profile", "quick"]), language="bash")


def simulate() -> None:
    remember("job", api.start_demo(workspace()))


main()
