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

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, TypeAlias

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
COMPARED = ("auc_source", "auc_target", "pauc", "hmean")  # of each machine and section, by `compare`
ROUNDING = 1e-12  # areas closer than this are the same

Group = tuple[str, int]  # (domain, label)
Tables: TypeAlias = pd.DataFrame | Mapping[int, pd.DataFrame]  # scores of one system, or of each of its seeds


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
            means: {machine: {hmean, hmean_restricted, interval: {…}}}          harmonic means over its sections
            official: {omega, interval, auc_source, auc_target, pauc, intervals: {auc_source: …}, why}
            domain_restricted: {hmean, interval, auc_source, auc_target, pauc, intervals, why}
            bootstrap: number of resamples

        The columns auc_source, auc_target, pauc of the last two are harmonic means over machines and sections. An
        undefined value is None and `why` says so. Where Ω is undefined because of some machines, ``official`` also
        holds ``defined``: {omega, interval, machines} over the others. An interval needs two normals and two
        anomalies; a mapping of intervals leaves out those that lack them.

    Raises:
        AsdError: a column is missing, a clip comes twice, a label or domain is unknown, a score is not finite.
    """
    machines, triples = _measure(table, bootstrap, seed)
    result: dict[str, Any] = {"machines": machines, "means": _means(machines, triples), "bootstrap": bootstrap}
    for key, total, names in (("official", "omega", TRIPLE), ("domain_restricted", "hmean", TRIPLE_RESTRICTED)):
        result[key] = _summary(machines, triples[key], total, names)
    return result


def compare(table: Tables, reference: Tables, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """How much system a, `table`, is better than system b, `reference`, on the same clips.

    Chance in the choice of clips hits both systems alike, so the interval of the difference is narrower than the
    two intervals suggest; where it excludes 0 the systems differ on clips like these. AUCs are compared by `delong`,
    pAUC and means by resampling the clips in pairs.

    Args:
        table, reference: of one training each, or of several by their seed: then every figure is the mean over
            the seeds, on each resample too. Seeds that both have are paired and the others left out; where none is
            common, all of each count. Intervals and p are about the choice of clips, for these very trainings;
            what another seed changes is in ``over_seeds``.

    Returns:
        ::

            official (Ω), domain_restricted: {a, b, difference, interval, p, over_seeds}
            machines: {machine: {section: {auc_source, auc_target, pauc, hmean: {a, b, difference, interval, p,
                                                                                 p_holm, method}}}}
            seeds: {a: […], b: […], paired}       bootstrap: number of resamples

        ``over_seeds`` holds {mean, std} of a and b and, of paired seeds, of the difference; std is None for one seed.
        p is two-sided; ``p_holm`` is corrected for asking it of every machine and section. None where undefined.

    Raises:
        AsdError: the tables hold different clips or disagree on their truth; and as of :func:`evaluate`.
    """
    tables: list[dict[int, pd.DataFrame]] = [
        dict(one) if isinstance(one, Mapping) else {0: one} for one in (table, reference)
    ]
    common = tables[0].keys() & tables[1].keys()
    seeds = [sorted(common or one) for one in tables]
    ordered = [
        [_checked(one[s]).sort_values(["machine", "section", "clip"], ignore_index=True) for s in chosen]
        for one, chosen in zip(tables, seeds, strict=True)
    ]
    for other in (*ordered[0][1:], *ordered[1]):
        _require_same_clips(ordered[0][0], other)
    # system → seed → metric set → (sections, 1 + B, 3)
    measured = [
        [_measure(one[s], bootstrap, seed)[1] for s in chosen] for one, chosen in zip(tables, seeds, strict=True)
    ]
    result: dict[str, Any] = {"machines": _compare_sections(ordered, measured)}
    for name in ("official", "domain_restricted"):
        a, b = (np.stack([_overall(triples[name]) for triples in own]) for own in measured)
        result[name] = _resampled_difference(a, b) | {"over_seeds": _over_seeds(a[:, 0], b[:, 0], bool(common))}
    result["seeds"] = {"a": seeds[0], "b": seeds[1], "paired": bool(common)}
    return result | {"bootstrap": bootstrap}


def delong(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Two areas under the ROC curve on the same clips: do they differ? [DeLong, DeLong & Clarke-Pearson 1988]

    An area is the mean, over anomalies, of the share of normals that score lower, ties counting half; and likewise
    over normals. How these shares of the two systems differ from clip to clip gives the standard error of the
    difference. Shares come from mid-ranks [Sun & Xu 2014], in O(N log N).

    Args:
        scores_a, scores_b: (N,), or (seeds, N): then shares are means over the seeds, and so is the area
        labels: (N,) of NORMAL and ANOMALY

    Returns:
        {a, b, difference, error, z, p, interval}: difference a − b, two-sided p and 95 % interval from the normal
        distribution. Where no clip sets the systems apart p is 1. Otherwise error, z, p and interval are None where
        there are fewer than two normals or two anomalies, or where every clip shows the very same difference: an
        error of 0 says that the sample is too small to tell, not that the difference is certain.

    Raises:
        AsdError: no normal or no anomalous clip, scores that are not finite, or not one per label.
    """
    labels = np.asarray(labels)
    anomalous = labels == ANOMALY
    M, N = int(anomalous.sum()), int((labels == NORMAL).sum())
    if not M or not N or len(labels) > M + N:
        raise AsdError(
            f"Areas are compared on normal (0) and anomalous (1) clips; here are {N} and {M} of {len(labels)} clips."
        )
    (anomalies_a, normals_a), (anomalies_b, normals_b) = (
        _placements(np.atleast_2d(np.asarray(scores, dtype=float)), anomalous) for scores in (scores_a, scores_b)
    )
    difference = anomalies_a - anomalies_b, normals_a - normals_b
    found: dict[str, Any] = {"a": float(anomalies_a.mean() / N), "b": float(anomalies_b.mean() / N)}
    found["difference"] = float(difference[0].mean() / N)
    if max(np.abs(part).max() for part in difference) < ROUNDING:
        return found | {"error": 0.0, "z": 0.0, "p": 1.0, "interval": [0.0, 0.0]}
    error = 0.0
    if min(M, N) > 1:
        error = math.sqrt(difference[0].var(ddof=1) / N**2 / M + difference[1].var(ddof=1) / M**2 / N)
    if error < ROUNDING:
        return found | dict.fromkeys(("error", "z", "p", "interval"))
    z = found["difference"] / error
    reach = NormalDist().inv_cdf((1 + COVERAGE) / 2) * error
    interval = [found["difference"] - reach, found["difference"] + reach]
    return found | {"error": error, "z": z, "p": math.erfc(abs(z) / math.sqrt(2)), "interval": interval}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number [Holm 1979]: where one is ≤ α, the chance that any of those called
    significant is so by accident is ≤ α. None, a test that could not be made, stays None and is not counted."""
    ranked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(ranked):
        least = corrected[place] = min(1.0, max(least, p * (len(ranked) - rank)))
    return corrected


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


def _compare_sections(
    ordered: Sequence[Sequence[pd.DataFrame]], measured: Sequence[Sequence[Mapping[str, np.ndarray]]]
) -> dict[str, Any]:
    """The entries of `compare` by machine and section, from the tables (rows alike) and triples of both systems."""
    clips = ordered[0][0]
    scores = [np.stack([one["score"].to_numpy() for one in own]) for own in ordered]  # (seeds, clips)
    triples = [np.stack([one["official"] for one in own]) for own in measured]  # (seeds, sections, 1 + B, 3)
    machines: dict[str, Any] = {}
    entries = []
    for i, ((machine, section), rows) in enumerate(clips.groupby(["machine", "section"], sort=True).indices.items()):
        label, domain = clips["label"].to_numpy()[rows], clips["domain"].to_numpy()[rows]
        entry: dict[str, dict[str, Any]] = {}
        for name, own_domain in zip(TRIPLE, DOMAINS, strict=False):  # the two AUCs
            kept = (label == ANOMALY) | (domain == own_domain)
            a, b = (one[:, rows[kept]] for one in scores)
            undefined = len(set(label[kept])) < 2
            found = dict.fromkeys(("a", "b", "difference", "error", "z", "p", "interval"))
            entry[name] = (found if undefined else delong(a, b, label[kept])) | {"method": "DeLong"}
        for name, values in (
            ("pauc", [one[:, i, :, 2] for one in triples]),
            ("hmean", [hmean(one[:, i]) for one in triples]),
        ):
            entry[name] = _resampled_difference(*values) | {"method": "paired bootstrap"}
        machines.setdefault(str(machine), {})[str(section)] = entry
        entries.append(entry)
    for name in COMPARED:
        for entry, p in zip(entries, holm([entry[name]["p"] for entry in entries]), strict=True):
            entry[name]["p_holm"] = p
    return machines


def _resampled_difference(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """{a, b, difference, interval, p} of the means over seeds; `a` and `b` are (seeds, 1 + B), row 0 of B the values.

    p is twice the share of resamples on the other side of 0, and never less than one resample's share.
    """
    a, b = a.mean(0), b.mean(0)
    difference, resampled = (a - b)[0], (a - b)[1:]
    found = {"a": _number(a[0]), "b": _number(b[0]), "difference": _number(difference), "p": None}
    interval = _interval(resampled)
    if interval:
        beyond = min((resampled <= ROUNDING).sum(), (resampled >= -ROUNDING).sum())
        found["p"] = float(min(1.0, max(2 * beyond, 1) / len(resampled)))
    return found | {"interval": interval}


def _over_seeds(a: np.ndarray, b: np.ndarray, paired: bool) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of two systems and, where they are paired, of the difference."""
    said: dict[str, Any] = {}
    for name, values in (("a", a), ("b", b), ("difference", a - b if paired else None)):
        if values is not None and np.isfinite(values).all():
            std = float(values.std(ddof=1)) if len(values) > 1 else None
            said[name] = {"mean": float(values.mean()), "std": std}
        else:
            said[name] = None
    return said


def _placements(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the rows of `scores` (seeds, N): normals below each anomaly, anomalies above each normal.

    Counts, ties as one half: sums of them are exact, so that equal systems differ by exactly 0.
    """
    if scores.shape[1] != len(anomalous) or not np.isfinite(scores).all():
        raise AsdError(
            f"Areas are compared on one finite score per clip; got {scores.shape} for {len(anomalous)} clips."
        )
    rank = np.stack([_midranks(row) for row in scores])
    below = rank[:, anomalous] - np.stack([_midranks(row) for row in scores[:, anomalous]])
    not_above = rank[:, ~anomalous] - np.stack([_midranks(row) for row in scores[:, ~anomalous]])
    return below.mean(0), (anomalous.sum() - not_above).mean(0)


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _require_same_clips(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Raise an AsdError that says how two checked tables differ in machines, clips or truth."""
    place, truth = ["machine", "section", "clip"], ["label", "domain"]
    problem = "Only systems scored on the same clips can be compared"
    machines = [set(table["machine"]) for table in (one, other)]
    if machines[0] != machines[1]:
        told = [
            f"only the {which} has {', '.join(sorted(own))}"
            for which, own in (("first", machines[0] - machines[1]), ("second", machines[1] - machines[0]))
            if own
        ]
        raise AsdError(f"{problem}: of the machines, {' and '.join(told)}.")
    clips = [set(table[place].itertuples(index=False, name=None)) for table in (one, other)]
    if odd := sorted(clips[0] ^ clips[1]):
        which = "first" if odd[0] in clips[0] else "second"
        raise AsdError(
            f"{problem}: {len(odd)} clips are in one table only, such as {odd[0][0]} {odd[0][2]} in the {which}."
        )
    both = one[[*place, *truth]].merge(other[[*place, *truth]], on=place, suffixes=("", "_other"))
    differ = (both["label"] != both["label_other"]) | (both["domain"] != both["domain_other"])
    if differ.any():
        first = both[differ].iloc[0]
        raise AsdError(
            f"{problem}: they disagree on the truth of {differ.sum()} clips, such as {first['machine']} {first['clip']}."
        )


def _means(machines: Mapping[str, Any], triples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Harmonic means over the sections of each machine, with intervals. `triples` as of `_measure`."""
    owner = np.array([machine for machine, sections in machines.items() for _ in sections])
    found: dict[str, Any] = {}
    for machine in machines:
        entry: dict[str, Any] = {"interval": {}}
        for name, key in (("hmean", "official"), ("hmean_restricted", "domain_restricted")):
            values = _overall(triples[key][owner == machine])
            entry[name] = _number(values[0])
            if interval := _interval(values[1:]):
                entry["interval"][name] = interval
        found[machine] = entry
    return found


def _overall(triples: np.ndarray) -> np.ndarray:
    """(1 + B,) harmonic mean of all values of all sections; `triples` is (sections, 1 + B, 3)."""
    return hmean(triples.swapaxes(0, 1).reshape(triples.shape[1], -1))


def _summary(machines: dict[str, Any], triples: np.ndarray, total: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Means over all machines and sections. `triples` is (sections, 1 + B, 3); row 0 of B holds the values."""
    overall = _overall(triples)
    columns = hmean(triples, axis=0)  # (1 + B, 3)
    names_here = [(machine, section) for machine, sections in machines.items() for section in sections]
    lacking = [
        f"{machine}, section {section}: {machines[machine][section]['why'][name]}"
        for machine, section in names_here
        for name in names
        if name in machines[machine][section]["why"]
    ]
    summary: dict[str, Any] = {total: _number(overall[0]), "interval": _interval(overall[1:])}
    summary |= {name: _number(value) for name, value in zip(TRIPLE, columns[0], strict=True)}
    intervals = {name: _interval(values) for name, values in zip(TRIPLE, columns[1:].T, strict=True)}
    summary["intervals"] = {name: interval for name, interval in intervals.items() if interval is not None}
    summary["why"] = "; ".join(dict.fromkeys(lacking))
    defined = np.isfinite(triples[:, 0]).all(-1)
    if lacking and defined.any():
        kept = [machine for (machine, _), ok in zip(names_here, defined, strict=True) if ok]
        values = _overall(triples[defined])
        summary["defined"] = {
            total: _number(values[0]),
            "interval": _interval(values[1:]),
            "machines": list(dict.fromkeys(kept)),
        }
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
