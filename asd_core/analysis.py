"""Tables for the command line and the pages, from runs and score files. Nothing is drawn here.

Metric values in these tables are percent, because they stand beside the published percentages; `metrics` and
metrics.json hold fractions. Rates, percentiles of clips and scores keep the unit their column states.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import weights
from asd_core.artifacts import Run
from asd_core.config import CONFIGS, Encoder, Profile, System, resolve
from asd_core.data.manifest import LABELLED, UNLABELLED, DataSet, attribute_text, parse_name
from asd_core.decision import false_alarm_rate
from asd_core.files import digest
from asd_core.metrics import DEVELOPMENT, TRIPLE, compare, hmean, machine_hmean
from asd_core.registry import did_you_mean
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError

PUBLISHED = CONFIGS.parent / "assets" / "published_results.csv"
COMPARABLE_KIND = "DCASE 2026"
RESTRICTED_TEAMS = ("neu", "unis")  # their reports print domain-restricted AUCs, all others the official ones
OFFICIAL_FILE = re.compile(
    r"(?P<what>anomaly_score|decision_result)_(?P<machine>.+)_section_(?P<section>\d+)_test\.csv"
)
SIGNIFICANT = 0.05  # of a corrected p
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
        groups.setdefault(_made(run), []).append(run)
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
        "omega_lomo": _percent(record.get("tuning", {}).get("omega_lomo")),
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
        "tuned_on": _tuned_on(record),
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
        row |= _over_seeds(metrics["machines"], [one.metrics["machines"] for one in per_seed.values() if one.metrics])
    return row


def _tuned_on(record: Mapping[str, Any]) -> str:
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


# ------------------------------------------------------------------------------------------------ two systems


def runs_named(runs: Sequence[Run], name: str, data: str | None = None, profile: str | None = None) -> list[Run]:
    """The run with this id; or, of the system with this name, every seed as its newest run was made.

    Args:
        data, profile: which runs of the system; needed where it was run on several data sets or profiles

    Raises:
        AsdError: there is none, or several data sets or profiles fit; the message lists what there is.
    """
    if by_id := [run for run in runs if run.record["run_id"] == name]:
        return by_id
    own = [run for run in runs if run.record["system"] == name]
    if not own:
        known = [*dict.fromkeys(run.record["system"] for run in runs), *(run.record["run_id"] for run in runs)]
        raise AsdError(
            f'There is no finished run or system "{name}".{did_you_mean(name, known)} `table --json` lists the ids.'
        )
    fitting = [
        run for run in own if data in (None, run.record["data"]["name"]) and profile in (None, run.record["profile"])
    ]
    made = sorted({f"--data {run.record['data']['name']} --profile {run.record['profile']}" for run in fitting or own})
    if not fitting:
        raise AsdError(f"{name} has no finished run with {_given(data, profile)}. There is: {'; '.join(made)}.")
    if len(made) > 1:
        raise AsdError(f"{name} was run more than one way; say which: {'; '.join(made)}.")
    newest = max(fitting, key=lambda run: run.record["created"])
    return [run for run in fitting if _made(run) == _made(newest)]


def _given(data: str | None, profile: str | None) -> str:
    pairs = (("data", data), ("profile", profile))
    return " ".join(f"--{option} {value}" for option, value in pairs if value is not None)


def _made(run: Run) -> tuple[Any, ...]:
    """What runs that differ in their seed alone have in common."""
    record = run.record
    data = record["data"]
    place = (record["system"], data["name"], data.get("fingerprint", ""), record["profile"])
    return (*place, ",".join(sorted(record["machines"])), digest(record.get("config")))


def labelled_scores(run: Run) -> pd.DataFrame:
    """The test clips of a run whose names tell their truth, with columns label and domain; needs no recording."""
    scores = run.scores
    rows = scores[scores["split"] == TEST]
    truths = [
        parse_name(machine, Path(clip_id))[1] for machine, clip_id in zip(rows["machine"], rows["clip_id"], strict=True)
    ]
    known = np.array([truth is not None for truth in truths], dtype=bool)
    told = [truth for truth in truths if truth is not None]
    return rows[known].assign(label=[truth.label for truth in told], domain=[truth.domain for truth in told])


def compare_runs(first: Sequence[Run], second: Sequence[Run], *, bootstrap: int = 1000) -> dict[str, Any]:
    """`metrics.compare` of system a, `first`, with system b, `second`: one finished run of each, or one per seed.

    Returns:
        what `metrics.compare` returns (fractions), and ``systems``: {a, b: {system, title, profile, run_ids,
        transductive}}, ``data``: {name, kind}, ``clips``: how many were compared, and ``said``: sentences that say
        what follows and what does not

    Raises:
        AsdError: the runs were not made on the same recordings, or none of these is labelled.
    """
    sides = {"a": list(first), "b": list(second)}
    _require_same_recordings(*sides.values())
    tables = []
    for runs in sides.values():
        by_age = sorted(runs, key=lambda run: run.record["created"])
        tables.append({run.record["seed"]: labelled_scores(run) for run in by_age})  # the newest of each seed
    if any(table.empty for own in tables for table in own.values()):
        raise AsdError("No test clip of these runs is labelled, so that nothing tells which system is better.")
    found = compare(*tables, bootstrap=bootstrap)
    found["systems"] = {
        side: {
            "system": runs[0].record["system"],
            "title": runs[0].record.get("title", runs[0].record["system"]),
            "profile": runs[0].record["profile"],
            "run_ids": [run.record["run_id"] for run in runs],
            "transductive": bool(runs[0].record.get("transductive")),
        }
        for side, runs in sides.items()
    }
    data = sides["a"][0].record["data"]
    found["data"] = {"name": data["name"], "kind": data["kind"]}
    found["clips"] = len(next(iter(tables[0].values())))
    trained = any((runs[0].record.get("config") or {}).get("encoders") for runs in sides.values())
    names = _two_names(found["systems"])
    found["said"] = list(_said(found, *names, trained))
    for name, runs in zip(names, sides.values(), strict=True):
        if told := _tuned_on(runs[0].record):
            found["said"].append(
                f"The fusion of {name} has weights from known labels, so these figures may flatter it. {told}"
            )
    return found


def _require_same_recordings(first: Sequence[Run], second: Sequence[Run]) -> None:
    """Raise an AsdError that says how the data of two groups of runs differ."""
    one = first[0].record
    for run in (*first[1:], *second):
        other = run.record
        kinds = [f"{record['data']['name']} ({record['data']['kind']})" for record in (one, other)]
        machines = [", ".join(sorted(record["machines"])) for record in (one, other)]
        if kinds[0] != kinds[1]:
            told = kinds
        elif machines[0] != machines[1]:
            told = machines
        elif one["data"].get("fingerprint") != other["data"].get("fingerprint"):
            told = [kinds[0], "recordings of that name that were changed in between"]
        else:
            continue
        raise AsdError(
            f"Only runs on the same clips can be compared: {one['run_id']} was made on {told[0]}, {other['run_id']} on "
            f"{told[1]}. Run both on the same data and machines."
        )


def _two_names(systems: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """What the two systems are called in a sentence; what tells them apart is added where the names do not."""
    names = [str(systems[side]["system"]) for side in ("a", "b")]
    if names[0] == names[1]:
        names = [f"{systems[side]['system']} ({systems[side]['profile']})" for side in ("a", "b")]
    if names[0] == names[1]:
        names = [str(systems[side]["run_ids"][0]) for side in ("a", "b")]
    return ("the first", "the second") if names[0] == names[1] else (names[0], names[1])


def _said(found: Mapping[str, Any], a: str, b: str, trained: bool) -> Iterator[str]:
    """Sentences on a comparison: the difference of Ω, the machines, the seeds."""
    omega = found["official"]
    if omega["difference"] is None:
        yield "Ω is undefined, because a machine lacks clips of some kind: see machine by machine."
    elif omega["interval"] is None:
        yield f"Ω differs by {_points(omega['difference'])}, but a group of clips is too small to tell chance from more."
    else:
        low, high = omega["interval"]
        span = f"95 %: {_points(low)} to {_points(high)}"
        if low == high == 0:
            yield f"Ω of {a} and of {b} is the same, whichever clips are drawn."
        elif low <= 0 <= high:
            side = "above" if omega["difference"] > 0 else "below"
            size = f"{abs(100 * omega['difference']):.1f} points {side} that of {b}"
            yield f"The difference is within chance: Ω of {a} is {size} ({span})."
        else:
            better, worse = (a, b) if low > 0 else (b, a)
            least, most = sorted((abs(low), abs(high)))
            size = f"{abs(100 * omega['difference']):.1f} points of Ω (95 %: {100 * least:.1f} to {100 * most:.1f})"
            yield f"{better} is better than {worse} by {size}."
    means = [
        (machine, entry["hmean"]) for machine, sections in found["machines"].items() for entry in sections.values()
    ]
    sure = [(machine, one) for machine, one in means if one["p_holm"] is not None and one["p_holm"] <= SIGNIFICANT]
    for name, sign in ((a, 1), (b, -1)):
        if won := list(dict.fromkeys(machine for machine, one in sure if sign * one["difference"] > 0)):
            yield f"{name} is better on {', '.join(won)}."
    if not sure and len(means) > 1:
        yield "On no machine by itself does the harmonic mean differ by more than chance."
    over = omega["over_seeds"]
    if over["a"] and over["b"] and max(len(found["seeds"]["a"]), len(found["seeds"]["b"])) > 1:
        told = [
            f"{name} {100 * over[side]['mean']:.1f}"
            + (f" ± {100 * over[side]['std']:.1f}" if over[side]["std"] is not None else " (one seed)")
            for name, side in ((a, "a"), (b, "b"))
        ]
        paired = over["difference"]
        if paired and paired["std"] is not None:
            told.append(f"difference {_points(paired['mean'])} ± {100 * paired['std']:.1f}")
        yield f"Ω over seeds: {', '.join(told)}."
    elif trained:
        yield "Each was trained once: what another seed would change is not in these figures."


def _points(fraction: float) -> str:
    """A difference of fractions in points of percent, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


# ------------------------------------------------------------------------------------- systems and their reports


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
            ours, theirs = _percent(machine_hmean(sections, name)), printed.get(machine)
            low, high = found.get("means", {}).get(machine, {}).get("interval", {}).get(name, (None, None))
            why = _incomparable(run, machine, ours, theirs, bool(printed))
            rows.append(
                {
                    **{key: row[key] for key in ("system", "transductive", "tuned_on", "data", "kind", "profile")},
                    "machine": machine,
                    "metric_set": metric_set,
                    "ours": ours,
                    "low": _percent(low),
                    "high": _percent(high),
                    "published": theirs,
                    "difference": None if why or ours is None or theirs is None else ours - theirs,
                    "why": why,
                }
            )
    return _table(rows)


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


def system_table(systems: Mapping[str, System], profile: Profile | None = None) -> pd.DataFrame:
    """What each system comes from and what it takes to run it; weights are looked up, not opened.

    Columns: system, from (its family), report ("team number" or "ours"), origin ("published" or "ours"), published
    (percent or None), metric ("official", "domain-restricted" or "–"), networks, weights (names of the checkpoints it
    starts from), two_microphones, needs, status ("ready", or the weights that are not here and what recordings must
    have), idea.

    Args:
        profile: under which it would be run; default: as the systems are written

    Raises:
        AsdError: a system is not valid under the profile.
    """
    rows = []
    here: dict[str, bool] = {}
    for name, system in systems.items():
        resolved = resolve(system, profile) if profile else system
        report = system.report
        wanted = list(dict.fromkeys(_checkpoints(resolved)))
        here |= {one: _is_here(one) for one in wanted if one not in here}
        lacking = [one for one in wanted if not here[one]]
        missing = [f"needs weights {', '.join(lacking)}"] if lacking else []
        stereo = needs_two_microphones(resolved)
        rows.append(
            {
                "system": name,
                "from": system.family,
                "report": f"{report.team} {report.system}" if report else "ours",
                "origin": "published" if report else "ours",
                "published": report.hmean if report else None,
                "metric": report.metric.replace("_", "-") if report else "–",
                "networks": ", ".join(sorted({encoder.backbone.name for encoder in resolved.encoders.values()}))
                or "none",
                "weights": wanted,
                "two_microphones": stereo,
                "needs": ", ".join([*wanted, *(["two microphones"] if stereo else [])]) or "nothing",
                "status": "; ".join([*missing, *(["needs two microphones"] if stereo else [])]) or "ready",
                "idea": system.idea,
            }
        )
    return _table(rows)


def _checkpoints(system: System) -> Iterator[str]:
    """Published weights that the trainings of a resolved system start from."""
    for encoder in system.encoders.values():
        stage: Encoder | None = encoder
        while stage:
            if checkpoint := stage.backbone.spec.get("checkpoint"):
                yield str(checkpoint)
            stage = stage.start


def _is_here(checkpoint: str) -> bool:
    try:
        weights.locate(checkpoint)
    except AsdError:
        return False
    return True


def needs_two_microphones(system: System) -> bool:
    """Whether a resolved system cannot do without the far microphone, in training or in scoring."""
    return hears_both(system.model_dump(mode="json", exclude={"variants"}))


def hears_both(spec: Any) -> bool:
    """The same of a part of a resolved system's configuration. (Wiener filters and far-field mixing can do without:
    one-channel recordings pass them unchanged.)"""
    if isinstance(spec, dict):
        asks = "far" in (spec.get("channel"), *(spec.get("channels") or ())) or spec.get("name") == "stereo"
        return asks or any(map(hears_both, spec.values()))
    return isinstance(spec, list) and any(map(hears_both, spec))


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
