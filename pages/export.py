"""Export: from finished runs to a checked submission package; the packages made so far; a check of any other."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components import cached, tables, words
from pages.components.context import page, workspace

MOST = 4  # systems in a package


def main() -> None:
    st.title("Export")
    st.markdown("Make a DCASE Task 2 submission package, with every rule of the evaluator checked before you send it.")
    make, kept, check = st.tabs(["Make a package", "Packages", "Check a package"], key="tab", bind="query-params")
    with make:
        make_package()
    with kept:
        packages()
    with check:
        check_existing()


def make_package() -> None:
    finished = cached.runs()
    if not finished:
        st.info("A package is made of finished runs, and there are none yet.")
        st.page_link(page("train"), label="Open Train", icon=":material/model_training:")
        return
    picked = pick_runs(finished)
    if not picked:
        return
    machines = thresholds(picked)
    values, report = details(picked, machines)
    lacking = missing(api.package_problems(values), report, machines)
    step(4, "Check and download")
    if lacking:
        st.info(f"Still missing or not in the right form: {lacking}.")
    if st.button("Build and check", key="build", type="primary", icon=":material/package_2:", disabled=bool(lacking)):
        build(values, report)
    built = st.session_state.get("built")
    if built and built["values"] == values:
        made = next((one for one in api.packages(workspace()) if one.path == built["path"]), None)
        if made:
            show_package(made, "new")


def step(number: int, title: str) -> None:
    st.header(f"{number} · {title}", anchor=f"step-{number}")


def pick_runs(finished: dict[str, api.Run]) -> list[api.Run]:
    step(1, f"Systems (up to {MOST})")
    ranked = cached.fusion_candidates(tuple(finished)).set_index("run_id")

    def describe(run_id: str) -> str:
        record, omega = finished[run_id].record, ranked["omega"][run_id]
        name = words.marked(record["system"], bool(record.get("transductive")))
        return f"{name} · {words.omega(omega)} · {record['data']['name']} · {record['profile']} · seed {record['seed']}"

    ids = st.multiselect(
        "Runs, in the order in which they are numbered",
        list(ranked.index),
        default=list(ranked.index[:1]),
        format_func=describe,
        max_selections=MOST,
        select_all=False,
        help="The list begins with the best; runs over fewer machines stand at its end.",
        placeholder="Choose one to four runs",
        key="export_runs",
        persist_state="session",
    )
    picked = [finished[run_id] for run_id in ids]
    with st.container(horizontal=True):
        for kind in sorted({run.record["data"]["kind"] for run in picked}):
            words.kind_badge(kind)
    if named := sorted({run.record["system"] for run in picked if run.record.get("transductive")}):
        st.warning(
            f"{words.plain(' and '.join(named))}: transductive. Every verdict depends on the other test clips; the meta file says so.",
            icon=":material/warning:",
        )
    return picked


def thresholds(picked: list[api.Run]) -> list[str]:
    """Share of flagged test clips per machine; returns the machines to export."""
    step(2, "Machines and thresholds")
    parts = [api.flagged(run).assign(number=number) for number, run in enumerate(picked, 1)]
    table = pd.concat(parts, ignore_index=True)
    every = sorted(table["machine"].unique())
    unlabelled = sorted(table.loc[~table["labelled"], "machine"].unique())
    machines = st.multiselect(
        "Machines",
        every,
        default=unlabelled or every,
        key="export_machines",
        help="The evaluation machines are those without labels. Labelled ones can be exported to try the way.",
    )
    chosen = table[table["machine"].isin(machines)]
    if chosen.empty:
        return []
    shown = pd.DataFrame(
        {
            "System": chosen["number"].map(lambda number: f"{number} · {picked[number - 1].record['system']}"),
            "Machine": chosen["machine"],
            "Clips": chosen["clips"],
            "Rule": chosen["rule"],
            "Threshold": chosen["threshold"],
            "Flagged": 100 * chosen["share"],
        }
    )
    st.dataframe(
        shown,
        key="shares",
        hide_index=True,
        column_config={
            "Threshold": st.column_config.NumberColumn(
                format="%.4f", help="Learnt from normal training clips only, unless the system is transductive"
            ),
            "Flagged": st.column_config.ProgressColumn(
                "Flagged", format="%.0f %%", min_value=0, max_value=100, help="Share of test clips called anomalous"
            ),
        },
        alt="Share of flagged test clips by system and machine",
    )
    for row in chosen[chosen["share"].isin([0.0, 1.0])].itertuples():
        everything = "every clip" if row.share else "no clip"
        told = f"System {row.number} flags {everything} of {row.machine}; its decisions carry no information."
        st.warning(words.plain(told), icon=":material/warning:")
    return list(machines)


def details(picked: list[api.Run], machines: list[str]) -> tuple[dict[str, Any], bytes | None]:
    """What a person must say; checked while it is written."""
    step(3, "Details")
    left, right = st.columns(2, gap="large")
    with left:
        authors = author_list()
    with right:
        systems = system_names(picked)
        st.markdown("**Team and report**")
        institute = st.text_input(
            "Institute, short",
            key="institute",
            persist_state="session",
            help="Part of the label; letters, digits, hyphens.",
        )
        report = st.file_uploader(
            "Technical report (PDF)", type=["pdf"], key="report", max_upload_size=20, help="A package must hold one."
        )
    last_name = label_part(next(author["lastname"] for author in authors if author["corresponding"]))
    if last_name and institute:
        st.caption(f"The label of the first system will read `{last_name}_{institute}_task2_1`.")
    values = {
        "last_name": last_name,
        "institute": institute,
        "authors": authors,
        "systems": systems,
        "machines": machines,
    }
    return values, report.getvalue() if report else None


def author_list() -> list[dict[str, Any]]:
    """One box per author; the first is there from the start, exactly one is corresponding."""
    st.markdown("**Authors, in their order**")
    rows = st.session_state.setdefault("authors", [0])
    authors = []
    for number, row in enumerate(rows, 1):
        with st.container(border=True, gap="small"):
            first, last = st.columns(2)
            whose = f" of author {number}" if len(rows) > 1 else ""
            author = {
                "firstname": field(first, f"First name{whose}", f"firstname_{row}"),
                "lastname": field(last, f"Last name{whose}", f"lastname_{row}"),
                "email": field(first, f"E-mail{whose}", f"email_{row}"),
                "affiliation": {"institution": field(last, f"Institution{whose}, in full", f"institution_{row}")},
            }
            authors.append(author)
            if len(rows) > 1:
                st.button(
                    f"Remove author {number}",
                    key=f"remove_{row}",
                    icon=":material/person_remove:",
                    type="tertiary",
                    on_click=rows.remove,
                    args=(row,),
                )
    st.button("Add an author", key="add_author", icon=":material/person_add:", on_click=add_author)
    corresponding = rows[0]
    if len(rows) > 1:
        names = [author["lastname"] or f"author {number}" for number, author in enumerate(authors, 1)]
        if st.session_state.get("corresponding") not in rows:
            st.session_state["corresponding"] = rows[0]
        corresponding = st.radio(
            "Corresponding author",
            rows,
            format_func=dict(zip(rows, names, strict=True)).__getitem__,
            key="corresponding",
            horizontal=True,
            help="The last name becomes part of the label.",
            persist_state="session",
        )
    return [author | {"corresponding": row == corresponding} for row, author in zip(rows, authors, strict=True)]


def field(where: Any, label: str, key: str) -> str:
    return where.text_input(label, key=key, persist_state="session")


def add_author() -> None:
    rows = st.session_state["authors"]
    rows.append(max(rows) + 1)


def system_names(picked: list[api.Run]) -> list[dict[str, Any]]:
    st.markdown("**How the systems introduce themselves**")
    systems = []
    for number, run in enumerate(picked, 1):
        record = run.record
        name_column, short_column, count_column = st.columns([5, 2, 3])
        name = name_column.text_input(
            f"System {number}: name", value=record["title"], key=f"name_{number}_{record['run_id']}"
        )
        short_name = short_column.text_input(
            "Short",
            value=record["system"][:10],
            key=f"short_{number}_{record['run_id']}",
            help="At most 10 characters.",
        )
        parameters = count_column.number_input(
            "Parameters",
            value=None,
            min_value=0,
            step=1,
            placeholder="counted",
            key=f"parameters_{number}_{record['run_id']}",
            help="Of all its networks. Left empty, they are counted where the run recorded them. Without a network: 0.",
        )
        systems.append(
            {"name": name, "abbreviation": short_name, "runs": [record["run_id"]], "total_parameters": parameters}
        )
    st.caption("Features, networks and decision rule are filled in from each run's configuration.")
    return systems


def label_part(name: str) -> str:
    """A name in the letters that a label may have: accents go, as do spaces and apostrophes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "".join(letter for letter in plain if letter.isalnum() or letter == "-")


LABELS = {
    "last_name": "last name of the corresponding author (in Latin letters)",
    "institute": "institute, short (letters, digits and hyphens)",
    "firstname": "first name",
    "lastname": "last name",
    "email": "e-mail address",
    "affiliation.institution": "institution, in full",
}


def readable(problem: str) -> str:
    """A validation message in the words of the form."""
    place, _, message = problem.partition(": ")
    if place.startswith("systems."):
        _, number, name = place.split(".", 2)
        return f"{'short ' if name == 'abbreviation' else ''}name of system {int(number) + 1}"
    if place.startswith("authors."):
        _, number, name = place.split(".", 2)
        whose = f" of author {int(number) + 1}" if len(st.session_state["authors"]) > 1 else ""
        return LABELS[name] + whose
    return LABELS.get(place, message or problem)


def missing(problems: list[str], report: bytes | None, machines: list[str]) -> str:
    """What the form still lacks, as Markdown with links to the steps; without a last name there is no label either,
    which need not be said twice."""
    if any(problem.startswith("authors.") and ".lastname" in problem for problem in problems):
        problems = [problem for problem in problems if not problem.startswith("last_name")]
    lacks = [] if machines else ["[at least one machine (step 2)](#step-2)"]
    said = [*dict.fromkeys(map(readable, problems)), *([] if report else ["technical report (PDF)"])]
    return ", ".join([*lacks, *(f"[{words.plain(one)}](#step-3)" for one in said)])


STEPS = {  # where findings of a rule are mended: step and what to look at there
    "label": (3, "last name and institute"),
    "csv": (1, "runs"),
    "score": (1, "runs"),
    "decision": (2, "machines and thresholds"),
    "meta.authors": (3, "authors"),
    "meta.fields": (3, "names and parameters of the systems"),
    "meta.types": (3, "names and parameters of the systems"),
    "meta.results": (1, "runs on the development machines"),
    "report": (3, "technical report"),
}


def mending(found: pd.DataFrame) -> str:
    """Links to the steps of the form that findings are about, as Markdown; "" for none."""
    rules = found.loc[found["ok"] != "pass", "rule"]
    places = [STEPS.get(rule) or STEPS.get(rule.partition(".")[0]) for rule in rules]
    return ", ".join(
        f"[{what} (step {number})](#step-{number})" for number, what in dict.fromkeys(filter(None, places))
    )


def build(values: dict[str, Any], report: bytes | None) -> None:
    try:
        path = api.build_package(workspace(), values, report)
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return
    st.session_state["built"] = {"path": path, "values": values}


def packages() -> None:
    """Everything in the workspace's exports, to be looked at and downloaded at any time."""
    kept = api.packages(workspace())
    if not kept:
        st.info("No package has been built yet.")
        return
    verdicts = [verdict(checks(one)) for one in kept]
    shown = pd.DataFrame(
        {
            "Package": [one.name for one in kept],
            "Built": [pd.Timestamp(one.built, unit="s", tz="UTC") for one in kept],
            "Version": ["newest" if one.is_newest else "replaced" for one in kept],
            "Check": verdicts,
            "Size": [words.size(one.size) for one in kept],
            "SHA-256": [one.sha256 for one in kept],
        }
    )
    digests = [one.sha256 for one in kept]
    picked = st.session_state.get("package")
    place = digests.index(picked) if picked in digests else 0
    tables.pick_row("packages", place)
    st.dataframe(
        shown,
        key="packages",
        hide_index=True,
        selection_mode="single-row-required",
        on_select=lambda: pick_package(digests),
        height="content" if len(kept) <= 8 else 330,
        column_config={
            "Built": st.column_config.DatetimeColumn("Built", format="YYYY-MM-DD HH:mm:ss", timezone=timezone()),
            "SHA-256": st.column_config.TextColumn("SHA-256", width="medium"),
        },
        alt=f"{len(kept)} packages; pick one to see its checks and to download it",
    )
    show_package(kept[place], "kept")


def pick_package(digests: list[str]) -> None:
    row = tables.picked_row("packages")
    if row is not None and row < len(digests):
        st.session_state["package"] = digests[row]


def timezone() -> str | None:
    return st.context.timezone


def show_package(package: api.BuiltPackage, where: str) -> None:
    """Verdict and download, then what changed since the package of the same name before it."""
    found = checks(package)
    failed = bool((found["ok"] == "fail").any())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download",
            package.path.read_bytes(),
            file_name=package.name,
            mime="application/zip",
            key=f"download_{where}",
            icon=":material/download:",
            type="primary",
            disabled=failed,
            help="Not before every rule is kept." if failed else None,
            on_click="ignore",
        )
        st.caption(f"{package.name} · {words.size(package.size)} · SHA-256 `{package.sha256}`")
    check_list(found, where)
    changes(package, where)


def changes(package: api.BuiltPackage, where: str) -> None:
    """What is other than in an earlier package, by default the one of the same name before it."""
    earlier = [one for one in api.packages(workspace()) if one.built < package.built]
    if not earlier:
        return
    digests = [one.sha256 for one in earlier]
    before = next((place for place, one in enumerate(earlier) if one.name == package.name), None)
    key = f"compare_{where}_{package.sha256[:12]}"
    st.markdown("**Changes since an earlier package**")
    picked = st.selectbox(
        "Compare with",
        digests,
        index=before,
        format_func=lambda digest: describe_package(earlier[digests.index(digest)]),
        key=key,
        placeholder="Choose a package",
        width=480,
    )
    if picked not in digests:
        return
    try:
        found = api.compare_packages(earlier[digests.index(picked)].path, package.path)
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return
    same = found[["added", "removed", "changed_scores", "changed_decisions"]].eq(0).all(axis=None)
    if same:
        st.caption("The same scores and decisions for the same clips; only the descriptions differ.")
        return
    st.dataframe(
        tables.changes(found),
        key=f"changes_{where}",
        hide_index=True,
        column_config={
            "Rank correlation": st.column_config.NumberColumn(
                format="%.4f", help="Spearman, of the scores of the clips in both; 1 means the same order"
            )
        },
        placeholder="–",
        alt=f"Changes of {len(found)} files since the package before",
    )


def describe_package(package: api.BuiltPackage) -> str:
    return f"{package.name}, {words.ago(package.built)}, SHA-256 {package.sha256[:8]}…"


def checks(package: api.BuiltPackage) -> pd.DataFrame:
    return _checks(package.sha256, str(package.path), package.expected)


@st.cache_data(show_spinner=False, max_entries=32)
def _checks(sha256: str, path: str, expected: Mapping[str, Sequence[str]] | None) -> pd.DataFrame:
    return api.check_package(Path(path), expected)


def verdict(found: pd.DataFrame) -> str:
    counts = found["ok"].value_counts()
    if failed := int(counts.get("fail", 0)):
        return f"✗ {failed} failed"
    return f"! {counts['warn']} to look at" if counts.get("warn") else "✓ passed"


def check_existing() -> None:
    st.markdown("The zip is read in memory and never unpacked to disk.")
    against = st.selectbox(
        "Its clips should be those of",
        api.expectations(workspace()),
        key="against",
        width=480,
        help="Of a data set: the test clips of its unlabelled machines, or of all where all are labelled.",
    )
    upload = st.file_uploader("A package (zip)", type=["zip"], key="existing", max_upload_size=50)
    if upload is None:
        return
    try:
        found = api.check_package(upload.getvalue(), api.expected_of(workspace(), against))
    except api.AsdError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        return
    check_list(found, "uploaded")


def check_list(found: pd.DataFrame, where: str) -> None:
    """The verdict in one line, then what is wrong, then everything."""
    counts = found["ok"].value_counts()
    failed, warned = int(counts.get("fail", 0)), int(counts.get("warn", 0))
    worth = f"{warned} {'is' if warned == 1 else 'are'} worth a look."
    if failed:
        standing = "1 finding stands" if failed == 1 else f"{failed} findings stand"
        st.error(f"{standing} in the way" + (f", {worth}" if warned else "."), icon=":material/cancel:")
    elif warned:
        st.warning(f"Every rule is kept; {worth}", icon=":material/warning:")
    else:
        st.success("Every rule is kept.", icon=":material/check_circle:")
    if where == "new" and (links := mending(found)):
        st.markdown(f"Where to mend it: {links}.")
    st.dataframe(
        tables.findings(found),
        key=f"findings_{where}",
        hide_index=True,
        height="content" if len(found) <= 12 else 440,
        placeholder="–",
        column_config={
            "Rule": st.column_config.TextColumn(width="large"),
            "Finding": st.column_config.TextColumn(width="large"),
        },
        alt=f"{len(found)} checks: {failed} failed, {warned} to look at",
    )


main()
