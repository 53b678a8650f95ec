"""Submission packages: making, checking, keeping and comparing them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from asd_core import config
from asd_core.api.results import runs
from asd_core.artifacts import Run, Workspace, load_run
from asd_core.files import read_json, write_bytes, write_json
from asd_core.types import TEST, AsdError

EARLIER = "earlier"  # folder below the exports


def flagged(run: Run) -> pd.DataFrame:
    """How a run's thresholds fall out on its test clips: machine, labelled, clips, rule, threshold, share (fraction)."""
    scores, rule = run.scores, decision_rule(run)
    test = scores[scores["split"] == TEST]
    labelled = (run.metrics or {"machines": {}})["machines"]
    rows = [
        {
            "machine": machine,
            "labelled": machine in labelled,
            "clips": len(own),
            "rule": rule,
            "threshold": float(own["threshold"].iloc[0]),
            "share": float((own["decision"] == 1).mean()),
        }
        for machine, own in test.groupby("machine", sort=True)
    ]
    return pd.DataFrame(rows, columns=["machine", "labelled", "clips", "rule", "threshold", "share"])


def decision_rule(run: Run) -> str:
    """The rule a run decides by, with its options, such as "percentile, q 0.9"; "" where its record does not tell."""
    decision = (run.record.get("config") or {}).get("decision") or {}
    return ", ".join([str(decision.get("name", "")), *(f"{k} {v}" for k, v in decision.items() if k != "name")])


def package_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the details of a package (fields of `export.submission.Package`), one sentence each."""
    from asd_core.export.submission import Package

    try:
        config.validate(Package, dict(values), "the form")
    except AsdError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


@dataclass(frozen=True)
class BuiltPackage:
    """A package in the workspace's exports, or one that a later package of the same name has replaced."""

    path: Path
    sha256: str
    size: int  # bytes
    built: float
    is_newest: bool
    expected: Mapping[str, Sequence[str]] | None  # test clips it was checked against; None: the evaluation set

    @property
    def name(self) -> str:
        return self.path.name


def packages(workspace: Workspace) -> list[BuiltPackage]:
    """All built packages, newest first."""
    newest = list(workspace.exports.glob("*.zip"))
    replaced = (workspace.exports / EARLIER).glob("*/*.zip")
    found = [_built(path, path in newest) for path in (*newest, *replaced)]
    return sorted(found, key=lambda one: one.built, reverse=True)


def build_package(workspace: Workspace, values: Mapping[str, Any], report: bytes | None = None) -> Path:
    """Write the package that `values` describe into the workspace's exports and return its path.

    A package of the same name with other content is kept; `packages` lists both.

    Raises:
        AsdError: invalid details, or runs that do not go together.
    """
    from asd_core.export.submission import Package, build

    details = dict(values)
    if report is not None:
        details["report"] = workspace.exports / "technical_report.pdf"
        write_bytes(details["report"], report)
    package = config.validate(Package, details, "the form")
    target = workspace.exports / package.file_name
    before = (target.read_bytes(), target.stat()) if target.is_file() else None
    build(package, workspace, workspace.exports)
    if before and before[0] != target.read_bytes():
        kept = workspace.exports / EARLIER / hashlib.sha256(before[0]).hexdigest()[:12] / target.name
        write_bytes(kept, before[0])
        os.utime(kept, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
        if _facts(target).is_file():
            _facts(target).replace(_facts(kept))
    picked = [load_run(workspace, run_id) for system in package.systems for run_id in system.runs]
    official = all(run.record["data"]["kind"] == "DCASE 2026" for run in picked)
    expected = None if official or package.machines is None else expected_clips(picked, package.machines)
    write_json(_facts(target), {"expected": expected})
    return target


def compare_packages(old: Path, new: Path) -> pd.DataFrame:
    """What changed, as `export.validator.diff` tells it."""
    from asd_core.export import validator

    return validator.diff(old, new)


def _facts(package: Path) -> Path:
    return package.with_name(f"{package.name}.json")


def _built(path: Path, is_newest: bool) -> BuiltPackage:
    payload, facts = path.read_bytes(), _facts(path)
    expected = read_json(facts)["expected"] if facts.is_file() else None
    moment = path.stat().st_mtime
    return BuiltPackage(path, hashlib.sha256(payload).hexdigest(), len(payload), moment, is_newest, expected)


def check_package(package: Path | bytes, expected: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """Findings on a package, failures first: ok ("pass", "warn", "fail"), rule, meaning, file, row, message.

    `expected` maps machines to the file names of their test clips; None stands for the DCASE 2026 evaluation set.
    """
    from asd_core.export import validator

    rows = [
        (one.ok, one.rule, validator.RULES.get(one.rule, ""), one.file, one.row, one.message)
        for one in validator.check(package, expected)
    ]
    return pd.DataFrame(rows, columns=["ok", "rule", "meaning", "file", "row", "message"])


def expected_clips(picked: Sequence[Run], machines: Sequence[str]) -> dict[str, list[str]]:
    """File names of the test clips of the machines, as the runs scored them: what their package must hold."""
    found: dict[str, list[str]] = {}
    for run in picked:
        scores = run.scores
        test = scores[(scores["split"] == TEST) & scores["machine"].isin(machines)]
        for machine, own in test.groupby("machine"):
            found.setdefault(str(machine), sorted(own["clip_id"].str.rpartition("/")[2]))
    return found


EVALUATION_SET = "the DCASE 2026 evaluation set"


def expectations(workspace: Workspace) -> list[str]:
    """What a package may be compared with: the evaluation set, then every data set with finished runs."""
    return [EVALUATION_SET, *dict.fromkeys(run.record["data"]["name"] for run in runs(workspace))]


def expected_of(workspace: Workspace, name: str) -> dict[str, list[str]] | None:
    """Test clips that a package of `expectations` must hold, for `check_package`: those of its unlabelled machines, or
    of all where all are labelled.

    Raises:
        AsdError: the name is none of `expectations`.
    """
    if name == EVALUATION_SET:
        return None
    own = [run for run in runs(workspace) if run.record["data"]["name"] == name]
    if not own:
        raise AsdError(f'There is no finished run on "{name}", so its clips are not known. Known: {EVALUATION_SET}.')
    widest = max(own, key=lambda run: len(run.record["machines"]))
    labelled = (widest.metrics or {"machines": {}})["machines"]
    unlabelled = [machine for machine in widest.record["machines"] if machine not in labelled]
    return expected_clips([widest], unlabelled or widest.record["machines"])
