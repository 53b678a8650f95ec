"""Export: from finished runs to a checked submission package, or a check of a package made elsewhere."""

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
    make, check = st.tabs(["Make a package", "Check a package"])
    with make:
        make_package()
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
    problems = api.package_problems(values)
    step(4, "Check and download")
    if problems:
        st.info(f"Still missing or not in the right form: {', '.join(dict.fromkeys(map(readable, problems)))}.")
    if not machines:
        st.info("Choose at least one machine in step 2.")
    if st.button(
        "Build and check",
        key="build",
        type="primary",
        icon=":material/package_2:",
        disabled=bool(problems or not machines),
    ):
        build(picked, machines, values, report)
    built = st.session_state.get("built")
    if built and built["values"] == (values, tuple(machines)):
        show_package(built)


def step(number: int, title: str) -> None:
    st.subheader(f":primary-badge[{number}] {title}")


def pick_runs(finished: dict[str, api.Run]) -> list[api.Run]:
    step(1, f"Systems (up to {MOST})")

    def describe(run_id: str) -> str:
        record = finished[run_id].record
        return f"{record['system']} · {record['data']['name']} · {record['profile']} · seed {record['seed']}"

    ids = st.multiselect(
        "Runs, in the order in which they are numbered",
        list(finished),
        default=list(cached.leaderboard()["run_id"].head(1)),
        format_func=describe,
        max_selections=MOST,
        placeholder="Choose one to four runs",
        key="export_runs",
        persist_state="session",
    )
    picked = [finished[run_id] for run_id in ids]
    with st.container(horizontal=True):
        for kind in sorted({run.record["data"]["kind"] for run in picked}):
            words.kind_badge(kind)
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
            "Threshold": chosen["threshold"],
            "Flagged": 100 * chosen["share"],
        }
    )
    st.dataframe(
        shown,
        key="shares",
        hide_index=True,
        column_config={
            "Threshold": st.column_config.NumberColumn(format="%.4f", help="Learnt from normal training clips only"),
            "Flagged": st.column_config.ProgressColumn(
                "Flagged", format="%.0f %%", min_value=0, max_value=100, help="Share of test clips called anomalous"
            ),
        },
        alt="Share of flagged test clips by system and machine",
    )
    for row in chosen[chosen["share"].isin([0.0, 1.0])].itertuples():
        everything = "every clip" if row.share else "no clip"
        st.warning(f"System {row.number} flags {everything} of {row.machine}; its decisions carry no information.")
    return list(machines)


def details(picked: list[api.Run], machines: list[str]) -> tuple[dict[str, Any], bytes | None]:
    """What a person must say; checked while it is written."""
    step(3, "Details")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Team and corresponding author**")
        first, last = st.columns(2)
        firstname = first.text_input("First name", key="firstname", persist_state="session")
        lastname = last.text_input(
            "Last name", key="lastname", persist_state="session", help="Part of the label; letters, digits, hyphens."
        )
        email = st.text_input("E-mail", key="email", persist_state="session")
        short, long = st.columns([1, 2])
        institute = short.text_input(
            "Institute, short",
            key="institute",
            persist_state="session",
            help="Part of the label; letters, digits, hyphens.",
        )
        institution = long.text_input("Institution, in full", key="institution", persist_state="session")
        report = st.file_uploader("Technical report (PDF)", type=["pdf"], key="report", max_upload_size=20)
    with right:
        st.markdown("**How the systems introduce themselves**")
        systems = []
        for number, run in enumerate(picked, 1):
            record = run.record
            name_column, short_column = st.columns([3, 1])
            name = name_column.text_input(
                f"System {number}: name", value=record["title"], key=f"name_{number}_{record['run_id']}"
            )
            short_name = short_column.text_input(
                "Short",
                value=record["system"][:10],
                key=f"short_{number}_{record['run_id']}",
                help="At most 10 characters.",
            )
            systems.append({"name": name, "abbreviation": short_name, "runs": [record["run_id"]]})
        st.caption("Features, networks and decision rule are filled in from each run's configuration.")
    author = {"firstname": firstname, "lastname": lastname, "email": email, "corresponding": True}
    values = {
        "last_name": lastname,
        "institute": institute,
        "authors": [author | {"affiliation": {"institution": institution}}],
        "systems": systems,
        "machines": machines,
    }
    return values, report.getvalue() if report else None


LABELS = {
    "last_name": "last name",
    "institute": "institute, short (letters, digits and hyphens)",
    "authors.0.firstname": "first name",
    "authors.0.lastname": "last name",
    "authors.0.email": "e-mail address",
    "authors.0.affiliation.institution": "institution, in full",
}


def readable(problem: str) -> str:
    """A validation message in the words of the form."""
    place, _, message = problem.partition(": ")
    if place.startswith("systems."):
        _, number, name = place.split(".", 2)
        return f"{'short ' if name == 'abbreviation' else ''}name of system {int(number) + 1}"
    return LABELS.get(place, message or problem)


def build(picked: list[api.Run], machines: list[str], values: dict[str, Any], report: bytes | None) -> None:
    try:
        path = api.build_package(workspace(), values, report)
        official = all(run.record["data"]["kind"] == "DCASE 2026" for run in picked)
        expected = None if official else api.expected_clips(picked, machines)
        checks = api.check_package(path, expected)
    except api.AsdError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.session_state["built"] = {"path": path, "checks": checks, "values": (values, tuple(machines))}


def show_package(built: dict[str, Any]) -> None:
    checks, path = built["checks"], built["path"]
    check_list(checks)
    payload = path.read_bytes() if path.is_file() else b""
    failed = bool((checks["ok"] == "fail").any())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download",
            payload,
            file_name=path.name,
            mime="application/zip",
            key="download",
            icon=":material/download:",
            type="primary",
            disabled=failed or not payload,
            help="Not before every rule is kept." if failed else None,
            on_click="ignore",
        )
        st.caption(f"{path.name} · {words.size(len(payload))} · SHA-256 `{api.sha256(payload)}`")


def check_existing() -> None:
    st.markdown("The zip is read in memory and never unpacked. It is compared with the DCASE 2026 evaluation set.")
    upload = st.file_uploader("A package (zip)", type=["zip"], key="existing", max_upload_size=50)
    if upload is None:
        return
    try:
        checks = api.check_package(upload.getvalue())
    except api.AsdError as error:
        st.error(str(error), icon=":material/error:")
        return
    check_list(checks)


def check_list(checks: pd.DataFrame) -> None:
    """The verdict in one line, then what is wrong, then everything."""
    counts = checks["ok"].value_counts()
    failed, warned = int(counts.get("fail", 0)), int(counts.get("warn", 0))
    if failed:
        st.error(
            f"{failed} findings stand in the way" + (f", {warned} are worth a look." if warned else "."),
            icon=":material/cancel:",
        )
    elif warned:
        st.warning(f"Every rule is kept; {warned} findings are worth a look.", icon=":material/warning:")
    else:
        st.success("Every rule is kept.", icon=":material/check_circle:")
    st.dataframe(
        tables.findings(checks),
        hide_index=True,
        height="content" if len(checks) <= 12 else 440,
        column_config={
            "Rule": st.column_config.TextColumn(width="large"),
            "Finding": st.column_config.TextColumn(width="large"),
        },
        alt=f"{len(checks)} checks: {failed} failed, {warned} to look at",
    )


main()
