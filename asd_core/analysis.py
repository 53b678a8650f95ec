"""Tables for the command line and the pages, from runs and score files. Nothing is drawn here.

Metric values in these tables are percent, because they stand beside the published percentages; `metrics` and
metrics.json hold fractions. Rates, percentiles of clips and scores keep the unit their column states.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.artifacts import Run
from asd_core.config import CONFIGS
from asd_core.data.manifest import LABELLED, UNLABELLED, DataSet, attribute_text
from asd_core.decision import false_alarm_rate
from asd_core.files import digest
from asd_core.metrics import DEVELOPMENT, TRIPLE, hmean, machine_hmean
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError

PUBLISHED = CONFIGS.parent / "assets" / "published_results.csv"
COMPARABLE_KIND = "DCASE 2026"
RESTRICTED_TEAMS = ("neu", "unis")  # their reports print domain-restricted AUCs, all others the official ones
OFFICIAL_FILE = re.compile(
    r"(?P<what>anomaly_score|decision_result)_(?P<machine>.+)_section_(?P<section>\d+)_test\.csv"
)
LABELS = {"0": NORMAL, "1": ANOMALY, "normal": NORMAL, "anomaly": ANOMALY}


# ------------------------------------------------------------------------------------------- published results


def published(path: Path = PUBLISHED) -> pd.DataFrame:
    """Every number of the reports' tables: system, machine ("overall" for the whole), metric, percent, set.

    ``set`` tells which AUCs a report prints: "official" or "domain_restricted". The two must not be compared.
    """
    table = pd.read_csv(path)
    restricted = table["system"].str.partition("-")[0].isin(RESTRICTED_TEAMS)
    return table.assign(set=np.where(restricted, "domain_restricted", "official"))


def recompute_omega(table: pd.DataFrame) -> pd.DataFrame:
    """The harmonic mean of each published system from its own per-machine triples, beside the printed one.

    Returns:
        one row per system: system, set, printed, recomputed, difference (percent; None where missing) and ``why``,
        which says in words what is missing
    """
    rows = []
    for (system, which), numbers in table.groupby(["system", "set"], sort=True):
        overall = numbers[numbers["machine"] == "overall"].set_index("metric")["percent"]
        triples = numbers[(numbers["machine"] != "overall") & numbers["metric"].isin(TRIPLE)]["percent"].to_numpy()
        printed = float(overall["hmean"]) if "hmean" in overall else None
        complete = len(triples) == len(TRIPLE) * len(DEVELOPMENT)
        recomputed = float(hmean(triples / 100) * 100) if complete else None
        reasons = []
        if not complete:
            reasons.append(f"{len(triples)} of {len(TRIPLE) * len(DEVELOPMENT)} values per machine are published")
        if printed is None:
            other = ", ".join(f"{name} {value:g}" for name, value in overall.items() if name not in TRIPLE)
            reasons.append("no harmonic mean is printed" + (f", only {other}" if other else ""))
        difference = None if printed is None or recomputed is None else recomputed - printed
        rows.append(
            {
                "system": system,
                "set": which,
                "printed": printed,
                "recomputed": recomputed,
                "difference": difference,
                "why": "; ".join(reasons),
            }
        )
    return _table(rows)


# ---------------------------------------------------------------------------------------------------- run tables


def leaderboard(runs: Iterable[Run], reports: pd.DataFrame) -> pd.DataFrame:
    """One row per system, data set and profile; runs that differ only in their seed share a row.

    Args:
        runs: finished runs; those without labelled machines get a row without figures
        reports: the table of :func:`published`

    Returns:
        best Ω first. Figures of the newest run (percent): ``omega``, ``half_width`` of its 95 % interval,
        ``auc_source``, ``auc_target``, ``pauc`` (harmonic means), ``restricted`` (domain-restricted harmonic mean) and
        one column per machine; over all seeds ``seeds``, ``omega_mean``, ``omega_std``; ``false_alarm_rate`` on
        training normals (fraction), None where ``transductive``: verdicts then depend on the other test clips, and
        those on training clips mean nothing. ``published`` and ``metric_set`` come from the report, and
        ``difference`` is this run minus the report in points of the same metric set, None unless the run is of
        profile full and covers exactly the seven development machines of DCASE 2026.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        record = run.record
        data = record["data"]
        key = (record["system"], data["name"], data.get("fingerprint", ""), record["profile"])
        groups.setdefault((*key, ",".join(sorted(record["machines"])), digest(record.get("config"))), []).append(run)
    rows = [_leader(group, reports) for group in groups.values()]
    table = _table(rows)
    if table.empty:
        return table
    order = pd.to_numeric(table["omega"]).sort_values(ascending=False, na_position="last", kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _leader(runs: Sequence[Run], reports: pd.DataFrame) -> dict[str, Any]:
    by_age = sorted(runs, key=lambda run: run.record["created"])
    per_seed = {run.record["seed"]: run for run in by_age}  # of several runs with one seed the newest counts
    run = by_age[-1]
    record, metrics = run.record, run.metrics
    omegas = [one.metrics["official"]["omega"] for one in per_seed.values() if one.metrics]
    omegas = [value for value in omegas if value is not None]
    metric_set, printed = _report(record, reports)
    is_transductive = bool(record.get("transductive"))
    row: dict[str, Any] = {
        "run_id": record["run_id"],
        "system": record["system"],
        "title": record.get("title", record["system"]),
        "transductive": is_transductive,
        "data": record["data"]["name"],
        "kind": record["data"]["kind"],
        "profile": record["profile"],
        "omega": None,
        "half_width": None,
        "auc_source": None,
        "auc_target": None,
        "pauc": None,
        "restricted": None,
        "seeds": len(per_seed),
        "omega_mean": 100 * float(np.mean(omegas)) if omegas else None,
        "omega_std": 100 * float(np.std(omegas, ddof=1)) if len(omegas) > 1 else None,
        "false_alarm_rate": None if is_transductive else _overall_false_alarms(run),
        "published": printed,
        "metric_set": metric_set,
        "difference": None,
        "created": record["created"],
        "why": "" if metrics else "no machine of this run is labelled",
    }
    if metrics:
        official, restricted = metrics["official"], metrics["domain_restricted"]
        row |= {name: _percent(official[name]) for name in ("omega", *TRIPLE)}
        row["restricted"] = _percent(restricted["hmean"])
        row["why"] = official["why"]
        if official["interval"]:
            low, high = official["interval"]
            row["half_width"] = 50 * (high - low)
        ours = row["omega"] if metric_set == "official" else row["restricted"]
        same_data = record["data"]["kind"] == COMPARABLE_KIND and set(metrics["machines"]) == set(DEVELOPMENT)
        if same_data and record["profile"] == "full" and printed is not None and ours is not None:
            row["difference"] = ours - printed
        row |= {machine: _percent(machine_hmean(sections)) for machine, sections in metrics["machines"].items()}
    return row


def _report(record: dict[str, Any], reports: pd.DataFrame) -> tuple[str | None, float | None]:
    """Metric set and printed harmonic mean of the report a system comes from, if it comes from one."""
    report = (record.get("config") or {}).get("report")
    if report:
        return report["metric"], report["hmean"]
    known = reports[reports["system"] == record["system"]]
    if known.empty:
        return None, None
    means = known[(known["machine"] == "overall") & (known["metric"] == "hmean")]["percent"]
    return str(known["set"].iloc[0]), float(means.iloc[0]) if len(means) else None


def machine_matrix(run: Run) -> pd.DataFrame:
    """Machine and section × figures in percent, each with the ends of its interval, group sizes and reasons.

    Columns: machine, section, then <metric>, <metric>_low, <metric>_high for the official triple, its harmonic mean
    and the domain-restricted figures, n_<domain>_<label>, and ``why`` for figures that are None.
    """
    names = (*TRIPLE, "hmean", "auc_source_restricted", "auc_target_restricted", "hmean_restricted")
    rows = []
    for machine, sections in (run.metrics or {"machines": {}})["machines"].items():
        for section, entry in sections.items():
            row: dict[str, Any] = {"machine": machine, "section": section}
            for name in names:
                low, high = entry["interval"].get(name, (None, None))
                row |= {name: _percent(entry[name]), f"{name}_low": _percent(low), f"{name}_high": _percent(high)}
            row |= {f"n_{group}": count for group, count in entry["n"].items()}
            row["why"] = "; ".join(f"{name}: {why}" for name, why in entry["why"].items() if name in names)
            rows.append(row)
    return _table(rows)


def false_alarms(run: Run) -> pd.DataFrame:
    """How often held-out normal training clips exceed the threshold, by machine, section and domain.

    Columns: machine, section, domain ("all" for both), clips, alarms, rate (fraction), threshold.
    """
    scores = run.scores
    rows = []
    for (machine, section), clips in scores[scores["split"] == TRAIN].groupby(["machine", "section"], sort=True):
        threshold = float(run.record["thresholds"][machine][section])
        for domain in ("all", SOURCE, TARGET):
            own = clips if domain == "all" else clips[clips["domain"] == domain]
            if len(own):
                rate = false_alarm_rate(own["score"].to_numpy(), threshold)
                counts = {"clips": len(own), "alarms": round(rate * len(own)), "rate": rate}
                rows.append(
                    {"machine": machine, "section": section, "domain": domain, **counts, "threshold": threshold}
                )
    return _table(rows)


def _overall_false_alarms(run: Run) -> float | None:
    table = false_alarms(run)
    if table.empty:
        return None
    both = table[table["domain"] == "all"]
    return float(both["alarms"].sum() / both["clips"].sum())


# ---------------------------------------------------------------------------------------------------- clip tables


def clip_table(run: Run, dataset: DataSet) -> pd.DataFrame:
    """Every test clip of a run with its truth, where it is known.

    Columns: clip_id, machine, section, domain, label (0, 1 or None), attributes, score, threshold, margin
    (score − threshold), decision, outcome ("TP", "FP", "TN", "FN" or "" without truth), percentile (share of the
    machine's training normals that score at most this, in percent), and the run's ``branch:`` columns.
    """
    scores = run.scores
    training, test = scores[scores["split"] == TRAIN], scores[scores["split"] == TEST]
    normal = {key: own["score"].to_numpy() for key, own in training.groupby(["machine", "section"])}
    truths = [dataset.truth.get(clip_id) for clip_id in test["clip_id"]]
    below = np.full(len(test), np.nan)
    for key, rows in test.reset_index(drop=True).groupby(["machine", "section"]).groups.items():
        if key in normal:
            own = test["score"].to_numpy()[rows]
            below[rows] = percentile(normal[key], own)
    labels = [None if truth is None else truth.label for truth in truths]
    facts = {
        "clip_id": test["clip_id"].to_numpy(),
        "machine": test["machine"].to_numpy(),
        "section": test["section"].to_numpy(),
        "domain": ["" if truth is None else truth.domain for truth in truths],
        "label": pd.array(labels, dtype="Int64"),
        "attributes": ["" if truth is None else attribute_text(truth.attributes) for truth in truths],
        "score": test["score"].to_numpy(),
        "threshold": test["threshold"].to_numpy(),
        "margin": (test["score"] - test["threshold"]).to_numpy(),
        "decision": test["decision"].to_numpy(),
        "outcome": [outcome(label, flagged) for label, flagged in zip(labels, test["decision"], strict=True)],
        "percentile": below,
    }
    facts |= {name: test[name].to_numpy() for name in test if name.startswith("branch:")}
    return pd.DataFrame(facts)


def percentile(normal: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many percent of the training normals' scores (N,) lie at or below each of `scores` (M,)."""
    return 100 * np.searchsorted(np.sort(normal), scores, side="right") / len(normal)


def outcome(label: int | None, decision: int) -> str:
    """ "TP", "FP", "TN", "FN", or "" where the truth is unknown."""
    if label is None:
        return ""
    return ("T" if label == decision else "F") + ("P" if decision == 1 else "N")


def histogram(clips: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Counts of scores in `bins` equal bins that all groups share: domain, label, low, high, count.

    Rows come per (domain, label) present, label None where unknown; every clip is counted exactly once.
    """
    if clips.empty:
        return pd.DataFrame(columns=["domain", "label", "low", "high", "count"])
    edges = np.histogram_bin_edges(clips["score"], bins)
    parts = []
    for (domain, label), own in clips.groupby(["domain", "label"], dropna=False, sort=True):
        counts, _ = np.histogram(own["score"], edges)
        part = {"domain": domain, "label": None if pd.isna(label) else int(label)}
        parts.append(pd.DataFrame({**part, "low": edges[:-1], "high": edges[1:], "count": counts}))
    return pd.concat(parts, ignore_index=True)


def roc(scores: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """The ROC curve, one row per distinct operating point: threshold, fpr, tpr, from (0, 0) to (1, 1).

    ``score > threshold`` gives exactly the rates of its row, so a point picked on the curve can be used as it is.

    Raises:
        AsdError: there are no normal or no anomalous clips.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=int)
    normals, anomalies = int((labels == NORMAL).sum()), int((labels == ANOMALY).sum())
    if not normals or not anomalies:
        raise AsdError(f"A ROC curve needs normal and anomalous clips; here are {normals} and {anomalies}.")
    distinct, where = np.unique(-scores, return_inverse=True)  # highest score first
    false = np.cumsum(np.bincount(where, weights=labels == NORMAL))
    true = np.cumsum(np.bincount(where, weights=labels == ANOMALY))
    # with threshold = a score, exactly the scores before it in this order are flagged
    thresholds = np.append(-distinct, np.nextafter(-distinct[-1], -np.inf))
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "fpr": np.concatenate([[0], false]) / normals,
            "tpr": np.concatenate([[0], true]) / anomalies,
        }
    )


# ---------------------------------------------------------------------------------------------------- score files


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


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table in which a missing number is None rather than NaN."""
    table = pd.DataFrame(rows)
    gaps = [name for name in table if table[name].isna().any()]
    return table.assign(**{name: table[name].astype(object).where(table[name].notna(), None) for name in gaps})
