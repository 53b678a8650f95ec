"""How well scores separate normal from anomalous clips: the official figures of DCASE Task 2 and their uncertainty.

Truth enters here and nowhere earlier. All values are fractions, never percent; a higher score means more anomalous.

===========================  ==========================================================================
auc_source, auc_target       normals of the domain against the anomalies of *both* domains
pauc                         all normals against all anomalies, false-positive rate up to 0.1, McClish-standardised
hmean                        harmonic mean of these three; over all machines and sections it is Ω
auc_source_restricted, …     normals of the domain against the anomalies of the same domain: some reports use this
hmean_restricted             harmonic mean of the two restricted AUCs and pauc
pauc_source, pauc_target     clips of that domain only; for information
precision_…, recall_…, f1_…  clips of that domain only, from the decisions
===========================  ==========================================================================

Every figure is a function of four histograms: how much weight the source normals, source anomalies, target normals
and target anomalies put on each distinct score. Weight 1 per clip gives the official value; weights that count how
often each clip was drawn with replacement give one bootstrap resample, and a whole batch of resamples is one array.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, AsdError

DEVELOPMENT = ("ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu")  # machines of 2026
MAX_FPR = 0.1
FLOOR = float(np.finfo(float).eps)  # the official code raises every value to this before a harmonic mean
DOMAINS = (SOURCE, TARGET)
TRIPLE = ("auc_source", "auc_target", "pauc")
TRIPLE_RESTRICTED = ("auc_source_restricted", "auc_target_restricted", "pauc")
AREAS = (*TRIPLE, "pauc_source", "pauc_target", "auc_source_restricted", "auc_target_restricted")
VERDICTS = tuple(f"{name}_{domain}" for name in ("precision", "recall", "f1") for domain in DOMAINS)
METRICS = (*AREAS, *VERDICTS, "hmean", "hmean_restricted")
COVERAGE = 0.95  # of the intervals

Group = tuple[str, int]  # (domain, label)


def auc(normal: np.ndarray, anomaly: np.ndarray) -> np.ndarray:
    """Area under the ROC curve = P(anomaly scores higher) + P(both score the same) / 2.

    Args:
        normal, anomaly: (..., U) weight on each distinct score, highest score first
    """
    above = np.cumsum(anomaly, axis=-1) - anomaly / 2
    return (normal * above).sum(-1) / (normal.sum(-1) * anomaly.sum(-1))


def pauc(normal: np.ndarray, anomaly: np.ndarray, max_fpr: float = MAX_FPR) -> np.ndarray:
    """Partial area A up to `max_fpr` = f, standardised as (1 + (A − f²/2) / (f − f²/2)) / 2 [McClish 1989].

    Chance is 0.5 and perfect is 1. The curve is cut at f by linear interpolation, as scikit-learn does it.
    Arguments as of :func:`auc`.
    """
    fpr = np.cumsum(normal, axis=-1) / normal.sum(-1, keepdims=True)
    tpr = np.cumsum(anomaly, axis=-1) / anomaly.sum(-1, keepdims=True)
    step = np.diff(fpr, axis=-1, prepend=0.0)
    rise = np.diff(tpr, axis=-1, prepend=0.0)
    inside = np.clip(max_fpr - (fpr - step), 0.0, step)  # the part of each step that lies left of the cut
    slope = rise / np.where(step > 0, step, 1.0)
    area = (inside * (tpr - rise + slope * inside / 2)).sum(-1)
    chance = max_fpr**2 / 2
    return (1 + (area - chance) / (max_fpr - chance)) / 2


def hmean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Harmonic mean of fractions, each raised to the floor first, so that one zero gives ~0 and not an error."""
    return values.shape[axis] / (1 / np.maximum(values, FLOOR)).sum(axis)


def evaluate(table: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All figures of a labelled score table, with 95 % bootstrap intervals.

    Args:
        table: one row per clip with machine, section, file_name or clip_id, score, label (0 normal, 1 anomaly),
            domain ("source"/"target") and optionally decision (0/1). The order of rows has no influence.
        bootstrap: number of resamples, drawn with replacement inside each (machine, section, domain, label);
            0 for none. Machines are drawn independently of each other.
        seed: of the resampling. Two systems scored on the same clips see the same resamples.

    Returns:
        what metrics.json holds::

            machines: {machine: {section: {<metric>: value or None, n: {source_normal: …}, why: {metric: sentence},
                                           interval: {metric: [low, high]}}}}
            official: {omega, interval, auc_source, auc_target, pauc, why}      columns as harmonic means
            domain_restricted: {hmean, interval, auc_source, auc_target, pauc, why}
            bootstrap: number of resamples

        An undefined value is None and `why` says so. Where Ω is undefined because of some machines, ``official``
        also holds ``defined``: {omega, machines} over the others. An interval needs two normals and two anomalies;
        ``interval`` of a section leaves out those that lack them.

    Raises:
        AsdError: a column is missing, a clip comes twice, a label or domain is unknown, a score is not finite.
    """
    machines, triples = _measure(table, bootstrap, seed)
    result: dict[str, Any] = {"machines": machines, "bootstrap": bootstrap}
    for key, total, names in (("official", "omega", TRIPLE), ("domain_restricted", "hmean", TRIPLE_RESTRICTED)):
        result[key] = _summary(machines, triples[key], total, names)
    return result


def compare(
    table: pd.DataFrame, reference: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How much `table` is better than `reference` on the same clips, resampled in pairs.

    Chance in the choice of clips hits both systems alike, so the interval of the difference is narrower than the
    two intervals suggest; where it excludes 0 the systems differ on clips like these.

    Returns:
        for "official" (Ω) and "domain_restricted": {difference, interval}; None where either is undefined

    Raises:
        AsdError: the tables hold different clips or disagree on their truth; and as of :func:`evaluate`.
    """
    key = ["machine", "section", "clip", "label", "domain"]
    clips = [set(_checked(one)[key].itertuples(index=False, name=None)) for one in (table, reference)]
    if odd := sorted(clips[0] ^ clips[1]):
        raise AsdError(
            f"Only systems scored on the same clips can be compared; {len(odd)} differ or carry another truth, "
            f"the first is {odd[0][0]} {odd[0][2]}."
        )
    better, worse = (_measure(one, bootstrap, seed)[1] for one in (table, reference))
    result = {}
    for name in better:
        difference = _overall(better[name]) - _overall(worse[name])
        result[name] = {"difference": _number(difference[0]), "interval": _interval(difference[1:])}
    return result


def machine_hmean(sections: Mapping[str, Mapping[str, Any]], name: str = "hmean") -> float | None:
    """A machine's harmonic mean over its sections; None where one of them is undefined."""
    values = [section[name] for section in sections.values()]
    return None if None in values else float(hmean(np.array(values, dtype=float)))


def _measure(table: pd.DataFrame, bootstrap: int, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Entries by machine and section, and for both metric sets the triples (sections, 1 + B, 3)."""
    machines: dict[str, dict[str, Any]] = {}
    triples: dict[str, list[np.ndarray]] = {"official": [], "domain_restricted": []}
    for (machine, section), clips in _checked(table).groupby(["machine", "section"], sort=True):
        entry, values = _section(clips, bootstrap, _generator(seed, f"{machine}/{section}"))
        machines.setdefault(str(machine), {})[str(section)] = entry
        triples["official"].append(np.stack([values[name] for name in TRIPLE], axis=-1))
        triples["domain_restricted"].append(np.stack([values[name] for name in TRIPLE_RESTRICTED], axis=-1))
    return machines, {name: np.stack(parts) for name, parts in triples.items()}


def _overall(triples: np.ndarray) -> np.ndarray:
    """(1 + B,) harmonic mean of all values of all sections; `triples` is (sections, 1 + B, 3)."""
    return hmean(triples.swapaxes(0, 1).reshape(triples.shape[1], -1))


def _summary(machines: dict[str, Any], triples: np.ndarray, total: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Means over all machines and sections. `triples` is (sections, 1 + B, 3); row 0 of B holds the values."""
    overall = _overall(triples)
    columns = hmean(triples[:, 0], axis=0)
    names_here = [(machine, section) for machine, sections in machines.items() for section in sections]
    lacking = [
        f"{machine}, section {section}: {machines[machine][section]['why'][name]}"
        for machine, section in names_here
        for name in names
        if name in machines[machine][section]["why"]
    ]
    summary: dict[str, Any] = {total: _number(overall[0]), "interval": _interval(overall[1:])}
    summary |= {name: _number(value) for name, value in zip(TRIPLE, columns, strict=True)}
    summary["why"] = "; ".join(dict.fromkeys(lacking))
    defined = np.isfinite(triples[:, 0]).all(-1)
    if lacking and defined.any():
        kept = [machine for (machine, _), ok in zip(names_here, defined, strict=True) if ok]
        value = hmean(triples[defined, 0].reshape(1, -1))
        summary["defined"] = {total: _number(value[0]), "machines": list(dict.fromkeys(kept))}
    return summary


def _section(
    clips: pd.DataFrame, bootstrap: int, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The entry of one machine and section, and every metric as (1 + B,): its value, then its resamples."""
    clips = clips.sort_values("clip", kind="stable")
    domain, label = clips["domain"].to_numpy(), clips["label"].to_numpy()
    members = {(d, lab): np.flatnonzero((domain == d) & (label == lab)) for d in DOMAINS for lab in (NORMAL, ANOMALY)}
    n = {group: len(rows) for group, rows in members.items()}
    weights = np.concatenate([np.ones((1, len(clips))), _draw(members, len(clips), bootstrap, rng)])
    histogram = _histograms(clips["score"].to_numpy(), weights, members)

    values: dict[str, np.ndarray] = {}
    why: dict[str, str] = {}
    thin: set[str] = set()  # metrics of too few clips for an interval
    undefined = np.full(len(weights), np.nan)
    for name, area, normals, anomalies in _areas():
        sizes = sum(n[group] for group in normals), sum(n[group] for group in anomalies)
        if min(sizes) == 0:
            why[name] = "there are no " + _words(normals if sizes[0] == 0 else anomalies)
            values[name] = undefined
        else:
            values[name] = area(_sum(histogram, normals), _sum(histogram, anomalies))
        if min(sizes) < 2:
            thin.add(name)
    for domain_name in DOMAINS:
        names = [f"{name}_{domain_name}" for name in ("precision", "recall", "f1")]
        reason = _no_verdict(clips, n, domain_name)
        if reason:
            why |= dict.fromkeys(names, reason)
            values |= dict.fromkeys(names, undefined)
        else:
            flagged = clips["decision"].to_numpy() == 1
            values |= zip(names, _verdicts(weights, flagged, members, domain_name), strict=True)
        if min(n[domain_name, NORMAL], n[domain_name, ANOMALY]) < 2:
            thin.update(names)
    for name, parts in (("hmean", TRIPLE), ("hmean_restricted", TRIPLE_RESTRICTED)):
        values[name] = hmean(np.stack([values[part] for part in parts], axis=-1))
        reasons = [why[part] for part in parts if part in why]
        if reasons:
            why[name] = "; ".join(dict.fromkeys(reasons))
        if thin.intersection(parts):
            thin.add(name)
    for name in thin:
        values[name] = np.concatenate([values[name][:1], undefined[1:]])

    entry: dict[str, Any] = {name: _number(values[name][0]) for name in METRICS}
    entry["n"] = {f"{d}_{'anomaly' if lab else 'normal'}": size for (d, lab), size in n.items()}
    entry["why"] = why
    intervals = {name: _interval(values[name][1:]) for name in METRICS}
    entry["interval"] = {name: interval for name, interval in intervals.items() if interval is not None}
    return entry, values


def _areas() -> Iterator[tuple[str, Any, tuple[Group, ...], tuple[Group, ...]]]:
    """Name, formula, normal groups, anomalous groups of every area."""
    anomalies = tuple((domain, ANOMALY) for domain in DOMAINS)
    yield "pauc", pauc, tuple((domain, NORMAL) for domain in DOMAINS), anomalies
    for domain in DOMAINS:
        normals, own = ((domain, NORMAL),), ((domain, ANOMALY),)
        yield f"auc_{domain}", auc, normals, anomalies
        yield f"auc_{domain}_restricted", auc, normals, own
        yield f"pauc_{domain}", pauc, normals, own


def _draw(members: Mapping[Group, np.ndarray], n: int, bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """(B, N) how often each clip was drawn; every group keeps its size."""
    weights = np.zeros((bootstrap, n))
    for rows in members.values():
        if len(rows) and bootstrap:
            drawn = rng.integers(len(rows), size=(bootstrap, len(rows)))
            cells = drawn + len(rows) * np.arange(bootstrap)[:, None]
            counts = np.bincount(cells.ravel(), minlength=bootstrap * len(rows))
            weights[:, rows] = counts.reshape(bootstrap, len(rows))
    return weights


def _histograms(
    scores: np.ndarray, weights: np.ndarray, members: Mapping[Group, np.ndarray]
) -> dict[Group, np.ndarray]:
    """Per group the weight on each distinct score, highest first: (1 + B, U). Scores are compared exactly."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    histograms = {}
    for group, rows in members.items():
        own = np.zeros_like(weights)
        own[:, rows] = weights[:, rows]
        histograms[group] = np.add.reduceat(own[:, order], starts, axis=1)
    return histograms


def _sum(histogram: Mapping[Group, np.ndarray], groups: tuple[Group, ...]) -> np.ndarray:
    first, *rest = (histogram[group] for group in groups)
    for other in rest:
        first = first + other
    return first


def _verdicts(
    weights: np.ndarray, flagged: np.ndarray, members: Mapping[Group, np.ndarray], domain: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 inside one domain; divisors are floored, so 0/0 is 0 as in the official code."""
    normal, anomaly = members[domain, NORMAL], members[domain, ANOMALY]
    hits = weights[:, anomaly] @ flagged[anomaly]
    alarms = hits + weights[:, normal] @ flagged[normal]
    precision = hits / np.maximum(alarms, FLOOR)
    recall = hits / np.maximum(weights[:, anomaly].sum(1), FLOOR)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, FLOOR)


def _no_verdict(clips: pd.DataFrame, n: Mapping[Group, int], domain: str) -> str:
    """Why precision, recall and F1 of a domain are undefined, or ''."""
    for label in (NORMAL, ANOMALY):
        if n[domain, label] == 0:
            return "there are no " + _words(((domain, label),))
    return "" if "decision" in clips else "the table holds no decisions"


def _words(groups: tuple[Group, ...]) -> str:
    kind = "anomalous clips" if groups[0][1] else "normal clips"
    return kind if len(groups) > 1 else f"{groups[0][0]} {kind}"


def _generator(seed: int, name: str) -> np.random.Generator:
    """Numbers that depend on the seed and the machine alone: another machine in the table changes nothing."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _number(value: np.floating | float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(resamples: np.ndarray) -> list[float] | None:
    """The middle 95 % of the resampled values [Efron's percentile interval]."""
    if not len(resamples) or not np.isfinite(resamples).all():
        return None
    low, high = np.quantile(resamples, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return [float(low), float(high)]


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that matter, clip names in ``clip``, or an error that names the clips at fault."""
    clip = next((name for name in ("clip_id", "file_name") if name in table), None)
    missing = [name for name in ("machine", "section", "score", "label", "domain") if name not in table]
    if clip is None:
        missing.append("clip_id (or file_name)")
    if missing:
        raise AsdError(f"The score table lacks {', '.join(missing)}. It has: {', '.join(map(str, table.columns))}.")
    if table.empty:
        raise AsdError("The score table is empty: there is nothing to evaluate.")
    columns = ["machine", "section", "score", "label", "domain", *(["decision"] if "decision" in table else [])]
    checked = table[columns].assign(clip=table[clip].astype(str), score=pd.to_numeric(table["score"], errors="coerce"))

    def refuse(bad: pd.Series, problem: str) -> None:
        if bad.any():
            names = (checked["machine"].astype(str) + " " + checked["clip"])[bad]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise AsdError(f"{problem}: {', '.join(names[:5])}{more}.")

    refuse(~np.isfinite(checked["score"]), "Scores must be finite numbers, these are not")
    refuse(~checked["label"].isin([NORMAL, ANOMALY]), "Labels must be 0 (normal) or 1 (anomaly), these are not")
    refuse(~checked["domain"].isin(DOMAINS), f"Domains must be {SOURCE} or {TARGET}, these are not")
    refuse(checked.duplicated(["machine", "section", "clip"]), "These clips come more than once")
    if "decision" in checked:
        refuse(~checked["decision"].isin([0, 1]), "Decisions must be 0 or 1, these are not")
    return checked.astype({"score": float, "label": int})
