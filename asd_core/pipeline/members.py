"""Finished runs fused by their final scores: what a fusion is worth, what each member adds, and a run made of it.

A member counts with its final score, as its own rule fuses it; `tune_runs` weighs the streams inside the runs
instead. All of this reads stored scores and is light enough for the app's process: Ω of 12 machines with 200 test clips
takes a few milliseconds, intervals some tenths of a second. Values are fractions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import metrics, tuning
from asd_core.analysis import labelled_scores
from asd_core.analysis.runs import tuned_on as weights_tuned_on
from asd_core.artifacts import MIXED, Run, Workspace, begin, finish, write_table
from asd_core.config import System, validate
from asd_core.decision import DECISIONS
from asd_core.files import digest, write_json, write_text
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
from asd_core.pipeline.tasks import VERDICT_VERSION
from asd_core.pipeline.tuned import as_run, combine, labels_of, rule_of, same_clips, system_text, trained_anew
from asd_core.pipeline.verdict import decide, is_transductive
from asd_core.tuning import Labelled, Tuning, triples
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError

MOST = 6  # members of a fusion


@dataclass(frozen=True)
class Part:
    """What S members say of the clips of one machine and section that all of them have scored."""

    machine: str
    section: str
    clips: np.ndarray  # (M,) ids of test clips
    training: np.ndarray  # (N, S) final scores of training normals
    scores: np.ndarray  # (M, S) final scores
    decisions: np.ndarray  # (M, S) 0 or 1, as each member decides
    label: np.ndarray | None = None  # (M,) of labelled machines
    domain: np.ndarray | None = None  # (M,)

    @property
    def known(self) -> Labelled | None:
        if self.label is None or self.domain is None:
            return None
        return Labelled(self.machine, self.section, self.training, self.scores, self.label, self.domain)


@dataclass(frozen=True)
class Members:
    """Runs on the same data, clip by clip."""

    names: tuple[str, ...]  # short, all different
    run_ids: tuple[str, ...]
    parts: tuple[Part, ...]
    rule: Mapping[str, Any]  # how the fusion decides
    missing: tuple[str, ...]  # a sentence for each member that lacks clips which others have
    differs: str  # why they cannot be saved as one system, or ""

    @property
    def measured(self) -> list[int]:
        """Parts that have all kinds of clips an official figure needs."""
        return [i for i, part in enumerate(self.parts) if (known := part.known) and not known.lack]

    @property
    def left_out(self) -> list[str]:
        """A sentence for each labelled machine without figures."""
        known = [part.known for part in self.parts]
        return [f"{one.machine}, section {one.section}, has no {one.lack}." for one in known if one and one.lack]


def align(runs: Sequence[Run]) -> Members:
    """The final scores of runs on the clips that all of them have; truth is read from the names of labelled clips.

    Raises:
        AsdError: fewer than two or more than `MOST` runs, one that comes twice, runs of different data sets, or no
            clip in common.
    """
    ids = [run.record["run_id"] for run in runs]
    if not 2 <= len(runs) <= MOST or len(set(ids)) < len(ids):
        raise AsdError(f"A fusion takes 2 to {MOST} different runs; got {', '.join(ids) or 'none'}.")
    if len(kinds := {run.record["data"]["name"] for run in runs}) > 1:
        raise AsdError(f"Only runs on one data set can be fused; these are on {', '.join(sorted(kinds))}.")
    tables = [run.scores.set_index("clip_id") for run in runs]
    names = tuple(labels_of(runs))
    common = reduce(pd.Index.intersection, (table.index for table in tables))
    if tables[0].loc[common, "split"].ne(TEST).all():
        raise AsdError("These runs have no test clip in common, so there is nothing to fuse.")
    first = tables[0].loc[common]
    scores = np.column_stack([table.loc[common, "score"].to_numpy(dtype=np.float64) for table in tables])
    decisions = np.column_stack([table.loc[common, "decision"].to_numpy() for table in tables])
    told = labelled_scores(runs[0]).set_index("clip_id")[["label", "domain"]].reindex(common)
    label, domain = told["label"].to_numpy(), told["domain"].to_numpy()
    training = (first["split"] == TRAIN).to_numpy()
    parts = []
    for (machine, section), rows in first.groupby(["machine", "section"], sort=True).indices.items():
        normal, asked = rows[training[rows]], rows[~training[rows]]
        if not len(asked) or not len(normal):
            continue
        is_known = machine in runs[0].record["labelled"] and not pd.isna(label[asked]).any()
        parts.append(
            Part(
                str(machine),
                str(section),
                common.to_numpy(dtype=str)[asked],
                scores[normal],
                scores[asked],
                decisions[asked],
                label[asked].astype(int) if is_known else None,
                domain[asked].astype(str) if is_known else None,
            )
        )
    systems = [validate(System, run.record["config"], run.record["run_id"]) for run in runs]
    return Members(names, tuple(ids), tuple(parts), rule_of(systems), _missing(names, tables), same_clips(runs))


def _missing(names: Sequence[str], tables: Sequence[pd.DataFrame]) -> tuple[str, ...]:
    every = reduce(pd.Index.union, (table.index for table in tables))
    said = []
    for name, table in zip(names, tables, strict=True):
        lacking = every.difference(table.index)
        if len(lacking):
            machines = sorted(set(lacking.str.partition("/").get_level_values(0)))
            said.append(f"{name} lacks {len(lacking)} clips that others have, of {', '.join(machines)}.")
    return tuple(said)


# ------------------------------------------------------------------------------------------------------ what it is worth


@dataclass(frozen=True)
class Scaled:
    """The members of a part on one scale."""

    training: np.ndarray  # (N, S)
    test: np.ndarray  # (M, S)


def scaled(members: Members, normalise: Normalise) -> list[Scaled]:
    """Each part on the scale of a rule of `fusion.normalise`; training and test clips in calls of their own."""
    found = []
    for part in members.parts:
        rule = NORMALISATIONS[normalise]().fit(part.training)
        found.append(Scaled(rule(part.training), rule(part.scores)))
    return found


def correlations(members: Members) -> np.ndarray:
    """(S, S) Spearman correlation of test scores, mean over machines and sections; NaN where a member says the same of
    all clips."""
    with np.errstate(invalid="ignore", divide="ignore"):
        each = [
            np.corrcoef(np.column_stack([pd.Series(column).rank() for column in part.scores.T]), rowvar=False)
            for part in members.parts
            if len(part.scores) > 1
        ]
    if not each:
        return np.full((len(members.names),) * 2, np.nan)
    stacked = np.stack(each)
    known = np.isfinite(stacked)
    return np.where(known, stacked, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


@dataclass(frozen=True)
class Worth:
    """Official figures of one vector of weights, with those of the members beside it."""

    omega: float
    alone: tuple[float, ...]  # Ω of each member
    without: tuple[float | None, ...]  # Ω of the fusion without each member; None where no other has weight
    machines: tuple[str, ...]
    fused: tuple[float, ...]  # harmonic mean of each machine
    single: tuple[float, ...]  # of the best member
    best: int  # the member with the highest Ω


def worth(members: Members, on: Sequence[Scaled], weights: Sequence[float]) -> Worth | None:
    """What weights give on the labelled machines; None where there are none.

    Args:
        on: the members on one scale, as of `scaled`
        weights: one per member, none negative, not all zero
    """
    if not members.measured:
        return None
    S = len(shares(weights))
    rests = np.asarray(weights, dtype=np.float64) * (1 - np.eye(S))
    kept = rests.sum(axis=1) > 0
    candidates = [shares(row) for row in (weights, *np.eye(S), *np.where(kept[:, None], rests, 1))]
    values = np.stack([_triples(members.parts[i], on[i].test, candidates) for i in members.measured])
    omegas = metrics.hmean(values.transpose(1, 0, 2).reshape(len(candidates), -1))
    best = 1 + int(np.argmax(omegas[1 : S + 1]))
    machines = [members.parts[i].machine for i in members.measured]
    names = tuple(dict.fromkeys(machines))
    by_machine = {
        name: metrics.hmean(values[[one == name for one in machines]][:, [0, best]].transpose(1, 0, 2).reshape(2, -1))
        for name in names
    }
    return Worth(
        float(omegas[0]),
        tuple(map(float, omegas[1 : S + 1])),
        tuple(float(value) if is_kept else None for value, is_kept in zip(omegas[S + 1 :], kept, strict=True)),
        names,
        tuple(float(by_machine[name][0]) for name in names),
        tuple(float(by_machine[name][1]) for name in names),
        best - 1,
    )


def shares(weights: Sequence[float]) -> np.ndarray:
    """(S,) weights that sum to 1.

    Raises:
        AsdError: a weight is negative or not a number, or all are zero.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise AsdError(f"Weights must not be negative and not all zero; got {', '.join(f'{one:g}' for one in w)}.")
    return w / w.sum()


def _triples(part: Part, scores: np.ndarray, candidates: Sequence[np.ndarray]) -> np.ndarray:
    """(K, 3) of scores (M, S) with K vectors of weights; one product each, so that ties are those of a run."""
    assert part.label is not None
    assert part.domain is not None
    return triples(np.stack([scores @ w for w in candidates], axis=1), part.label, part.domain)


@dataclass(frozen=True)
class Chance:
    """95 % intervals of Ω and of its gain over the best member, from the same draws of clips."""

    omega: tuple[float, float]
    gain: tuple[float, float]


def chance(
    members: Members, on: Sequence[Scaled], weights: Sequence[float], best: int, *, bootstrap: int = 1000, seed: int = 0
) -> Chance | None:
    """Intervals by resampling the clips of each machine, section, domain and label; None where a group of them has
    fewer than two clips."""
    rng = np.random.default_rng(seed)
    w = shares(weights)
    inverse = np.zeros((2, bootstrap))
    for i in members.measured:
        part = members.parts[i]
        groups = [
            np.flatnonzero((part.domain == domain) & (part.label == label))
            for domain in (SOURCE, TARGET)
            for label in (NORMAL, ANOMALY)
        ]
        if min(len(groups[0]), len(groups[2]), len(groups[1]) + len(groups[3])) < 2:
            return None
        counts = _draw(groups, len(part.scores), bootstrap, rng)
        for column, scores in enumerate((on[i].test @ w, on[i].test[:, best])):
            values = _resampled(scores, groups, counts)
            inverse[column] += (1 / np.maximum(values, metrics.FLOOR)).sum(axis=0)
    omega = len(members.measured) * len(metrics.TRIPLE) / inverse
    edges = [(1 - metrics.COVERAGE) / 2, (1 + metrics.COVERAGE) / 2]
    low, high = np.quantile(omega[0], edges)
    least, most = np.quantile(omega[0] - omega[1], edges)
    return Chance((float(low), float(high)), (float(least), float(most)))


def _draw(groups: Sequence[np.ndarray], n: int, bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """(B, n) how often each clip was drawn; every group keeps its size."""
    counts = np.zeros((bootstrap, n))
    for rows in groups:
        if len(rows):
            cells = rng.integers(len(rows), size=(bootstrap, len(rows))) + len(rows) * np.arange(bootstrap)[:, None]
            counts[:, rows] = np.bincount(cells.ravel(), minlength=bootstrap * len(rows)).reshape(bootstrap, -1)
    return counts


def _resampled(scores: np.ndarray, groups: Sequence[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """(3, B) official triples of scores (M,) whose clips count as often as `counts` (B, M) says; ties are exact."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered = counts[:, order]

    def histogram(*rows: np.ndarray) -> np.ndarray:
        own = ordered * np.isin(order, np.concatenate(rows))
        return own if len(starts) == len(order) else np.add.reduceat(own, starts, axis=1)

    source, target, anomaly = histogram(groups[0]), histogram(groups[2]), histogram(groups[1], groups[3])
    return np.stack(
        [metrics.auc(source, anomaly), metrics.auc(target, anomaly), metrics.pauc(source + target, anomaly)]
    )


def flips(members: Members, on: Sequence[Scaled], weights: Sequence[float], single: int) -> pd.DataFrame:
    """Test clips that the fusion judges otherwise than one member does.

    Columns: clip_id, machine, domain, label ("" and None where unknown), member_score, score, threshold, margin
    (score − threshold), decision of the fusion (0 or 1).
    """
    w = shares(weights)
    rows = []
    for part, scale in zip(members.parts, on, strict=True):
        test = scale.test @ w
        rule = DECISIONS.create(members.rule).fit(scale.training @ w, test=test)
        decision = rule.decide(test).astype(int)
        turned = np.flatnonzero(decision != part.decisions[:, single])
        rows.append(
            pd.DataFrame(
                {
                    "clip_id": part.clips[turned],
                    "machine": part.machine,
                    "domain": "" if part.domain is None else part.domain[turned],
                    "label": pd.array([None] * len(turned) if part.label is None else part.label[turned], "Int64"),
                    "member_score": part.scores[turned, single],
                    "score": test[turned],
                    "threshold": rule.threshold_,
                    "margin": test[turned] - rule.threshold_,
                    "decision": decision[turned],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------ tuning


def tune_members(runs: Sequence[Run], normalise: Normalise = "ztrain", search: str = "auto") -> Tuning:
    """Tune one weight per run, for its final score.

    Raises:
        AsdError: as of `align`; or no machine is labelled; or a search that there is not.
    """
    if search not in ("auto", *tuning.SEARCHES):
        raise AsdError(f'There is no search "{search}". Known: auto, {", ".join(tuning.SEARCHES)}.')
    if normalise not in NORMALISATIONS:
        raise AsdError(f'There is no normalisation "{normalise}". Known: {", ".join(NORMALISATIONS)}.')
    members = align(runs)
    parts = [known for part in members.parts if (known := part.known)]
    if not parts:
        raise AsdError(
            f"No machine of {runs[0].record['data']['name']} is labelled, so there is nothing to tune weights on. "
            f"Tune them on labelled machines, or count all members alike."
        )
    return tuning.tune(parts, members.names, normalise=normalise, search=search)  # type: ignore[arg-type]


def tuning_task(workspace: Workspace, runs: Sequence[Run], normalise: str, search: str = "auto") -> Path:
    """Where the result of `tune_members` is kept: tuning.json in a folder named by what went in."""
    made = [(run.record["run_id"], run.record["created"]) for run in runs]
    return workspace.task("tune", digest(["tune", tuning.TUNING_VERSION, made, normalise, search]))


def keep_tuning(workspace: Workspace, runs: Sequence[Run], normalise: str, search: str, found: Tuning) -> None:
    folder = tuning_task(workspace, runs, normalise, search)
    with workspace.locked(folder):
        begin(folder)
        write_json(folder / "tuning.json", found.record())
        finish(folder, runs=[run.record["run_id"] for run in runs])


# ------------------------------------------------------------------------------------------------------------ saving


def fused_system(
    runs: Sequence[Run], name: str, normalise: Normalise, weights: Sequence[float], tuned_on: str = ""
) -> tuple[System, pd.DataFrame]:
    """Runs as one system that weighs their final scores, and one row per clip with its ``branch:`` columns.

    Args:
        weights: one per run, all above zero
        tuned_on: what to say of weights that come from known labels; what is to be said of weights inside the members
            is added

    Raises:
        AsdError: the runs are not of the same clips.
    """
    within = [(label, weights_tuned_on(run.record)) for run, label in zip(runs, labels_of(runs), strict=True)]
    tuned_on = " ".join(filter(None, [tuned_on, *(f"{label}: {said}" for label, said in within if said)]))
    w = [round(float(share), 6) for share in shares(weights)]
    systems = [as_run(validate(System, run.record["config"], run.record["run_id"]), run.record) for run in runs]
    spec: dict[str, Any] = {"name": "weighted", "weights": w, "normalise": normalise}
    if not all(_is_its_stream(system) for system in systems):  # then a member's own rule has something to do
        parts = [[len(system.streams), system.fusion.spec] for system in systems]
        spec = {"name": "members", "parts": parts, "weights": w, "normalise": normalise}
    spec |= {"tuned_on": tuned_on} if tuned_on else {}
    system, table = combine(runs, name, spec)
    told = ", ".join(f"{share:.3g} × {label}" for share, label in zip(w, labels_of(runs), strict=True))
    return system.model_copy(update={"idea": f"Weighted scores of finished systems: {told}."}), table


def fused_file(runs: Sequence[Run], name: str, found: Tuning) -> str:
    """A YAML file of the system of `fused_system` with tuned weights; members without weight are left out."""
    data = runs[0].record["data"]
    on = (
        f"Weights tuned on the labelled test clips of {data['name']} ({data['kind']}), "
        f"machines {', '.join(found.machines)}. {found.said}"
    )
    on = " ".join(filter(None, [on, tuned_before(runs)]))
    kept = [(run, weight) for run, weight in zip(runs, found.weights, strict=True) if weight > 0]
    own = [run for run, _ in kept]
    system, _ = fused_system(own, name, found.normalise, [weight for _, weight in kept], on)
    return system_text(system, told_of(own, on))


def tuned_before(runs: Sequence[Run]) -> str:
    """What figures of machines left out do not say where members were tuned themselves; else ""."""
    names = [label for run, label in zip(runs, labels_of(runs), strict=True) if weights_tuned_on(run.record)]
    if not names:
        return ""
    return (
        f"No machine is known to be new to {', '.join(names)}, tuned before: figures of machines left out may flatter."
    )


def told_of(runs: Sequence[Run], tuned_on: str) -> list[str]:
    """What the reader of a fusion's YAML file should know, a sentence each."""
    members = f"Members: {', '.join(run.record['run_id'] for run in runs)}."
    return [said for said in (tuned_on, members, trained_anew(runs)) if said]


def _is_its_stream(system: System) -> bool:
    """Whether the system's score is that of its only stream."""
    fusion = system.fusion
    return len(system.streams) == 1 and fusion.name == "weighted" and fusion.spec.get("normalise", "none") == "none"


def save_fusion(workspace: Workspace, runs: Sequence[Run], system: System, table: pd.DataFrame, path: Path) -> str:
    """Write a system of `fused_system` as a YAML file, and its run, made of the stored scores; gives the run's id.

    Args:
        path: of the new YAML file

    Raises:
        AsdError: the file is there already.
    """
    tuned_on = system.fusion.spec.get("tuned_on")
    parts, thresholds, notices = [], {}, [tuned_on] if tuned_on else []
    for machine, own in table.groupby("machine", sort=True):
        decided, thresholds[str(machine)], said = decide(system, own)
        parts.append(decided)
        notices += [f"{machine}: {sentence}" for sentence in said]
    if is_transductive(system):
        notices.append(
            "Transductive: what is said of a clip depends on the other test clips. Not for a running machine."
        )
    first = runs[0].record
    domains = runs[0].scores.set_index("clip_id")["domain"]
    scores = pd.concat(parts, ignore_index=True)
    scores.insert(4, "domain", domains.loc[scores["clip_id"]].to_numpy())
    branches = [f"branch:{branch.name}" for branch in system.branches]
    columns = ["clip_id", "machine", "section", "split", "domain", "score", "decision", "threshold", *branches]
    profiles = {run.record["profile"] for run in runs}
    facts = {
        "profile": profiles.pop() if len(profiles) == 1 else MIXED,
        "seed": min(int(run.record["seed"]) for run in runs),
        "machines": first["machines"],
        "config": system.model_dump(mode="json"),
    }
    members = [run.record["run_id"] for run in runs]
    key = digest(["fused", VERDICT_VERSION, facts, first["data"], members, [run.record["created"] for run in runs]])
    run_id = f"{system.name}--{first['data']['name']}--{facts['profile']}--seed{facts['seed']}--{key[:6]}"
    record = facts | {
        "run_id": run_id,
        "system": system.name,
        "title": system.title,
        "data": first["data"],
        "labelled": first["labelled"],
        "transductive": is_transductive(system),
        "thresholds": thresholds,
        "members": members,
        "tasks": list({task["key"]: task for run in runs for task in run.record["tasks"]}.values()),
        "scores": _score_tasks(runs, system),
        "notices": sorted(set(notices)),
        "created": time.time(),
        "seconds": sum(run.record["seconds"] for run in runs),
    }
    known = labelled_scores(runs[0]).set_index("clip_id")[["label", "domain"]]
    rows = scores[scores["machine"].isin(first["labelled"]) & (scores["split"] == TEST)]
    folder = workspace.run(run_id)
    with workspace.locked(path), workspace.locked(folder):  # other weights of this name go into another folder
        if path.exists():
            raise AsdError(f"{path} exists. Give the fusion another name, or delete that file first.")
        begin(folder)
        write_table(folder / "scores.parquet", scores[columns])
        if len(rows):
            truth = known.loc[rows["clip_id"]]
            told_rows = rows.assign(label=truth["label"].to_numpy(), domain=truth["domain"].to_numpy())
            write_json(folder / "metrics.json", metrics.evaluate(told_rows))
        write_json(folder / "run.json", record)
        write_text(path, system_text(system, told_of(runs, system.fusion.spec.get("tuned_on", ""))))
        finish(folder, key=key, kind="run")
    return run_id


def _score_tasks(runs: Sequence[Run], system: System) -> dict[str, dict[str, str]]:
    """Machine → branch of the combined system → the task that scored it; branches come run by run in their order."""
    own = [(run, branch["name"]) for run in runs for branch in run.record["config"]["branches"]]
    found: dict[str, dict[str, str]] = {}
    for branch, (run, name) in zip(system.branches, own, strict=True):
        for machine, tasks in run.record.get("scores", {}).items():
            found.setdefault(machine, {})[branch.name] = tasks[name]
    return found
