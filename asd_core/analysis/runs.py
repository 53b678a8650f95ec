"""Runs as tables: the leaderboard, machines, false alarms, and published results beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.analysis.cells import percent_of, table_of
from asd_core.artifacts import Run
from asd_core.config import CONFIGS
from asd_core.decision import false_alarm_rate
from asd_core.files import digest
from asd_core.metrics import DEVELOPMENT, TRIPLE, hmean, machine_hmean
from asd_core.types import SOURCE, TARGET, TRAIN

PUBLISHED = CONFIGS.parent / "assets" / "published_results.csv"
COMPARABLE_KIND = "DCASE 2026"
RESTRICTED_TEAMS = ("neu", "unis")  # their reports print domain-restricted AUCs, all others the official ones


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
    return table_of(rows)


def leaderboard(runs: Iterable[Run], reports: pd.DataFrame) -> pd.DataFrame:
    """One row per system, data set and profile; runs that differ only in their seed share a row.

    Args:
        runs: finished runs; those without labelled machines get a row without figures
        reports: the table of :func:`published`

    Returns:
        best Ω first. Figures of the newest run (percent): ``omega``, ``half_width`` of its 95 % interval,
        ``omega_lomo`` where the run has tuned its weights (each machine with weights tuned on the others),
        ``auc_source``, ``auc_target``, ``pauc`` (harmonic means), ``restricted`` (domain-restricted harmonic mean) and
        one column per machine; over all seeds ``seeds``, ``omega_mean``, ``omega_std`` and for every machine
        ``<machine> mean``, ``<machine> std``, None for one seed; ``false_alarm_rate`` on
        training normals (fraction), None where ``transductive``: verdicts then depend on the other test clips, and
        those on training clips mean nothing. ``tuned_on`` is the sentence that stands with weights of a fusion that
        were tuned on known labels, "" for others. ``published`` and ``metric_set`` come from the report, and
        ``difference`` is this run minus the report in points of the same metric set, None unless the run is of
        profile full and covers exactly the seven development machines of DCASE 2026.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(made_of(run), []).append(run)
    rows = [_leader(group, reports) for group in groups.values()]
    table = table_of(rows)
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
        "omega_lomo": percent_of(record.get("tuning", {}).get("omega_lomo")),
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
        "tuned_on": tuned_on(record),
    }
    if metrics:
        official, restricted = metrics["official"], metrics["domain_restricted"]
        row |= {name: percent_of(official[name]) for name in ("omega", *TRIPLE)}
        row["restricted"] = percent_of(restricted["hmean"])
        row["why"] = official["why"]
        if official["interval"]:
            low, high = official["interval"]
            row["half_width"] = 50 * (high - low)
        ours = row["omega"] if metric_set == "official" else row["restricted"]
        same_data = record["data"]["kind"] == COMPARABLE_KIND and set(metrics["machines"]) == set(DEVELOPMENT)
        if same_data and record["profile"] == "full" and printed is not None and ours is not None:
            row["difference"] = ours - printed
        row |= {machine: percent_of(machine_hmean(sections)) for machine, sections in metrics["machines"].items()}
        row |= _over_seeds(metrics["machines"], [one.metrics["machines"] for one in per_seed.values() if one.metrics])
    return row


def tuned_on(record: Mapping[str, Any]) -> str:
    """What is to be said of a fusion's weights that come from known labels, or ""."""
    fusion, tuning = (record.get("config") or {}).get("fusion") or {}, record.get("tuning")
    if tuning and tuning.get("search") != "equal":  # equal weights take no labels
        return str(tuning["said"])
    return str(fusion.get("tuned_on") or "")


def _over_seeds(machines: Iterable[str], seeds: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """``<machine> mean`` and ``<machine> std`` of the harmonic mean over the entries ``machines`` of several seeds."""
    row: dict[str, float | None] = {}
    for machine in machines:
        found = [machine_hmean(one[machine]) for one in seeds if machine in one]
        values = [100 * value for value in found if value is not None]
        row[f"{machine} mean"] = float(np.mean(values)) if values else None
        row[f"{machine} std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
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
                row |= {name: percent_of(entry[name]), f"{name}_low": percent_of(low), f"{name}_high": percent_of(high)}
            row |= {f"n_{group}": count for group, count in entry["n"].items()}
            row["why"] = "; ".join(f"{name}: {why}" for name, why in entry["why"].items() if name in names)
            rows.append(row)
    return table_of(rows)


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
    return table_of(rows)


def _overall_false_alarms(run: Run) -> float | None:
    table = false_alarms(run)
    if table.empty:
        return None
    both = table[table["domain"] == "all"]
    return float(both["alarms"].sum() / both["clips"].sum())


def machine_results(runs: Iterable[Run], reports: pd.DataFrame) -> pd.DataFrame:
    """The rows of `leaderboard` machine by machine, beside what the reports print of these machines.

    Columns: system, transductive, tuned_on, data, kind, profile, machine, metric_set, ``ours`` (harmonic mean in the metric set
    of the report, percent) of the newest run with ``low``, ``high`` of its 95 % interval, ``published``, ``difference``
    in points, and ``why`` there is no difference ("" where there is one).
    """
    finished = {run.record["run_id"]: run for run in runs}
    rows = []
    for row in leaderboard(finished.values(), reports).to_dict(orient="records"):
        run = finished[row["run_id"]]
        metric_set = row["metric_set"] or "official"
        name = "hmean" if metric_set == "official" else "hmean_restricted"
        printed = _printed(str(row["system"]).partition("+")[0], reports)
        found = run.metrics or {"machines": {}}
        for machine, sections in found["machines"].items():
            ours, theirs = percent_of(machine_hmean(sections, name)), printed.get(machine)
            low, high = found.get("means", {}).get(machine, {}).get("interval", {}).get(name, (None, None))
            why = _incomparable(run, machine, ours, theirs, bool(printed))
            rows.append(
                {
                    **{key: row[key] for key in ("system", "transductive", "tuned_on", "data", "kind", "profile")},
                    "machine": machine,
                    "metric_set": metric_set,
                    "ours": ours,
                    "low": percent_of(low),
                    "high": percent_of(high),
                    "published": theirs,
                    "difference": None if why or ours is None or theirs is None else ours - theirs,
                    "why": why,
                }
            )
    return table_of(rows)


def _printed(system: str, reports: pd.DataFrame) -> dict[str, float]:
    """The harmonic mean by machine that a report prints, or that follows from the triples it prints; percent."""
    own = reports[(reports["system"] == system) & (reports["machine"] != "overall")]
    found = {}
    for machine, values in own.groupby("machine"):
        by_metric = values.set_index("metric")["percent"]
        if "hmean" in by_metric:
            found[str(machine)] = float(by_metric["hmean"])
        elif set(TRIPLE) <= set(by_metric.index):
            found[str(machine)] = float(100 * hmean(by_metric[list(TRIPLE)].to_numpy() / 100))
    return found


def _incomparable(run: Run, machine: str, ours: float | None, theirs: float | None, is_published: bool) -> str:
    """Why a machine's figure cannot be set against a report's, or ""."""
    record = run.record
    encoders = ((record.get("config") or {}).get("encoders") or {}).values()
    if not is_published:
        return f"no report prints figures by machine of {record['system']}"
    if record["data"]["kind"] != COMPARABLE_KIND:
        return f"{record['data']['name']} is {record['data']['kind']}, not the recordings of the reports"
    if theirs is None:
        return f"the report of {record['system']} prints no figure of {machine}"
    if record["profile"] != "full":
        return f"profile {record['profile']} is not what the reports describe"
    if any(one.get("scope") == "dataset" for one in encoders) and not set(DEVELOPMENT) <= set(record["machines"]):
        return f"{record['system']} learns from all machines, and not all seven were there"
    return f"{machine} has no defined figure" if ours is None else ""


def made_of(run: Run) -> tuple[Any, ...]:
    """What runs that differ in their seed alone have in common."""
    record = run.record
    data = record["data"]
    place = (record["system"], data["name"], data.get("fingerprint", ""), record["profile"])
    return (*place, ",".join(sorted(record["machines"])), digest(record.get("config")))
