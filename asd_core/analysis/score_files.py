"""Score tables of any system, from CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.data.manifest import LABELLED, UNLABELLED
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError

OFFICIAL_FILE = re.compile(
    r"(?P<what>anomaly_score|decision_result)_(?P<machine>.+)_section_(?P<section>\d+)_test\.csv"
)
LABELS = {"0": NORMAL, "1": ANOMALY, "normal": NORMAL, "anomaly": ANOMALY}


def read_score_table(path: Path, truth: Path | None = None) -> pd.DataFrame:
    """Scores of any system from CSV files, ready for `metrics.evaluate`.

    Two forms are read: a CSV with a header that has ``file_name`` and ``score`` and, where the names do not carry
    them, ``machine``, ``section``, ``domain`` and ``label`` (0/1 or normal/anomaly), optionally ``decision``; and the
    challenge's CSV without a header, ``anomaly_score_<machine>_section_<ss>_test.csv``, beside which the matching
    ``decision_result_…`` is read too. The machine comes from the column, else from a path in file_name
    (``fan/test/section_…wav``), else from the name of the CSV.

    Args:
        path: a CSV file or a folder; of a folder every CSV is read, at any depth
        truth: a CSV with file_name, domain, label for clips whose names do not tell; file_name may carry the
            machine as a path, or a column ``machine`` may

    Returns:
        machine, section, file_name (without folders), domain, label, score, and decision where known

    Raises:
        AsdError: names the file and the row (counted from 1, header included) of the first problem.
    """
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    verdicts = {
        file for file in files if (match := OFFICIAL_FILE.fullmatch(file.name)) and match["what"] != "anomaly_score"
    }
    apart = {file.resolve() for file in (*verdicts, truth) if file}
    files = [file for file in files if file.resolve() not in apart]
    if not files:
        raise AsdError(f"{path} holds no score table (*.csv).")
    known = _read_truth(truth) if truth else {}
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for file in files:
        for number, row in _score_rows(file):
            place = f"{file}, row {number}"
            entry = _score_entry(row, file, place, known)
            key = (entry["machine"], entry["section"], entry["file_name"])
            if key in rows:
                raise AsdError(f"{place}: {entry['machine']} {entry['file_name']} comes a second time.")
            rows[key] = entry
    table = pd.DataFrame(list(rows.values()))
    if "decision" in table and table["decision"].isna().any():
        first = table[table["decision"].isna()].iloc[0]
        raise AsdError(f"Decisions are there for some clips but not for {first['machine']} {first['file_name']}.")
    return table


def _score_rows(file: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Row number and fields; a headerless file becomes file_name, score and, from its sibling, decision."""
    rows = _csv_rows(file)
    if not rows:
        raise AsdError(f"{file} is empty.")
    first = [name.strip() for name in rows[0][1]]
    if "file_name" in first or "score" in first:
        for name in ("file_name", "score"):
            if name not in first:
                raise AsdError(f'{file}, row 1: the header lacks "{name}". It has: {", ".join(first)}.')
        if not rows[1:]:
            raise AsdError(f"{file} has a header and no rows.")
        return [(number, _fields(file, number, first, row)) for number, row in rows[1:]]
    if not OFFICIAL_FILE.fullmatch(file.name):
        raise AsdError(
            f"{file}, row 1: no header with file_name and score. A table without a header must be called "
            f"anomaly_score_<machine>_section_<ss>_test.csv."
        )
    sibling = file.with_name(file.name.replace("anomaly_score", "decision_result", 1))
    decisions = {}
    if sibling.is_file():
        pairs = [
            (number, _fields(sibling, number, ["file_name", "decision"], row)) for number, row in _csv_rows(sibling)
        ]
        decisions = {fields["file_name"]: fields["decision"] for _, fields in pairs}
    found = []
    for number, row in rows:
        fields = _fields(file, number, ["file_name", "score"], row)
        extra = {"decision": decisions[fields["file_name"]]} if fields["file_name"] in decisions else {}
        found.append((number, fields | extra))
    return found


def _score_entry(
    row: dict[str, str], file: Path, place: str, known: dict[tuple[str, str], tuple[str, int]]
) -> dict[str, Any]:
    folders, _, name = row["file_name"].replace("\\", "/").rpartition("/")
    official = OFFICIAL_FILE.fullmatch(file.name)
    machine = row.get("machine") or _machine_in(folders) or (official["machine"] if official else "")
    if not machine:
        raise AsdError(
            f"{place}: which machine is {name} of? Give a column machine, a path such as fan/test/{name} in "
            f"file_name, or call the file anomaly_score_<machine>_section_<ss>_test.csv."
        )
    told = LABELLED.fullmatch(name)
    named = told or UNLABELLED.fullmatch(name)
    section = row.get("section") or (named["section"] if named else official["section"] if official else "00")
    domain, label = row.get("domain", ""), _label(row.get("label", ""), place)
    known_domain, known_label = known.get((machine, name), known.get(("", name), ("", None)))
    if told:
        known_domain = known_domain or told["domain"]
        known_label = LABELS[told["label"]] if known_label is None else known_label
    domain, label = domain or known_domain, known_label if label is None else label
    if domain not in (SOURCE, TARGET) or label is None:
        what = "label" if domain in (SOURCE, TARGET) else "domain (source or target)"
        raise AsdError(f"{place}: the {what} of {name} is not known. Add the column or give a truth CSV.")
    try:
        score = float(row["score"])
    except ValueError:
        raise AsdError(f"{place}: the score {row['score']!r} of {name} is not a number.") from None
    if not np.isfinite(score):
        raise AsdError(f"{place}: the score {row['score']} of {name} is not finite.")
    entry: dict[str, Any] = {"machine": machine, "section": section.zfill(2), "file_name": name}
    entry |= {"domain": domain, "label": label, "score": score}
    if "decision" in row:
        if row["decision"] not in ("0", "1", "0.0", "1.0"):
            raise AsdError(f"{place}: the decision {row['decision']!r} of {name} is neither 0 nor 1.")
        entry["decision"] = int(float(row["decision"]))
    return entry


def _read_truth(file: Path) -> dict[tuple[str, str], tuple[str, int]]:
    """(machine or "", file name) → (domain, label)."""
    rows = _csv_rows(file)
    header = [name.strip() for name in rows[0][1]] if rows else []
    if lacking := [name for name in ("file_name", "domain", "label") if name not in header]:
        raise AsdError(
            f"{file}, row 1: a truth CSV needs a header with file_name, domain, label; {lacking[0]} is missing."
        )
    known: dict[tuple[str, str], tuple[str, int]] = {}
    for number, row in rows[1:]:
        fields = _fields(file, number, header, row)
        folders, _, name = fields["file_name"].rpartition("/")
        label = _label(fields["label"], f"{file}, row {number}")
        if label is None or fields["domain"] not in (SOURCE, TARGET):
            raise AsdError(f"{file}, row {number}: {name} needs a domain (source or target) and a label (0 or 1).")
        key = (fields.get("machine") or _machine_in(folders), name)
        if known.setdefault(key, (fields["domain"], label)) != (fields["domain"], label):
            raise AsdError(f"{file}, row {number}: {name} comes twice with different truth; add a column machine.")
    return known


def _csv_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with their numbers from 1."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            return [(number, row) for number, row in enumerate(csv.reader(lines), 1) if any(map(str.strip, row))]
    except FileNotFoundError:
        raise AsdError(f"{file} does not exist.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise AsdError(f"{file} is not a CSV table in UTF-8 ({error}).") from error


def _fields(file: Path, number: int, header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise AsdError(f"{file}, row {number}: {len(row)} columns, expected {len(header)} ({', '.join(header)}).")
    return {name: value.strip() for name, value in zip(header, row, strict=True)}


def _machine_in(folders: str) -> str:
    """fan/test → fan, fan → fan, data/fan/test → fan."""
    parts = [part for part in folders.split("/") if part]
    if parts and parts[-1] in (TRAIN, TEST):
        parts.pop()
    return parts[-1] if parts else ""


def _label(text: str, place: str) -> int | None:
    if not text:
        return None
    if text.lower() not in LABELS:
        raise AsdError(f"{place}: the label {text!r} is not one of {', '.join(LABELS)}.")
    return LABELS[text.lower()]
