"""Fusing finished runs: what weights are worth, suggestions for them, and keeping a fusion as a system of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core import config, jobs
from asd_core.analysis.runs import tuned_on as weights_tuned_on
from asd_core.api.configs import systems
from asd_core.api.results import runs
from asd_core.artifacts import Run, Workspace, is_done
from asd_core.files import digest, read_json
from asd_core.jobs import Job
from asd_core.types import AsdError

if TYPE_CHECKING:
    from asd_core.pipeline.members import Members, Scaled

MOST_MEMBERS = 6
NORMALISATIONS = {
    "ztrain": "z-score on training normals",
    "ecdf": "percentile among training normals",
    "rank_test": "rank among test clips (transductive)",
    "none": "none: scores as they are",
}
DRAWS = 500  # of clips, for the intervals: a quarter of a second at 12 machines with 200 test clips
WEIGHT_DIGITS = 2  # of the sliders
FLIPS = {
    (0, 0): "false alarm gone",
    (1, 0): "anomaly now missed",
    (0, 1): "new false alarm",
    (1, 1): "anomaly now found",
}


@dataclass(frozen=True)
class Aligned:
    """Runs brought together clip by clip, on one scale. `says` are sentences on clips that not all of them have."""

    members: Members
    scaled: Sequence[Scaled]
    normalise: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.members.names

    @property
    def run_ids(self) -> tuple[str, ...]:
        return self.members.run_ids

    @property
    def missing(self) -> tuple[str, ...]:
        return self.members.missing

    @property
    def left_out(self) -> list[str]:
        return self.members.left_out

    @property
    def differs(self) -> str:
        """Why these runs cannot be kept as one system, or ""."""
        return self.members.differs

    @property
    def is_labelled(self) -> bool:
        return bool(self.members.measured)


def align_runs(picked: Sequence[Run], normalise: str = "ztrain") -> Aligned:
    """The final scores of two to six runs on the clips that all of them have.

    Raises:
        AsdError: too few or too many runs, runs of different data, no clip in common, an unknown normalisation.
    """
    from asd_core.pipeline import members

    if normalise not in NORMALISATIONS:
        raise AsdError(f'There is no normalisation "{normalise}". Known: {", ".join(NORMALISATIONS)}.')
    found = members.align(picked)
    return Aligned(found, members.scaled(found, normalise), normalise)  # type: ignore[arg-type]


def rank_correlations(aligned: Aligned) -> pd.DataFrame:
    """Spearman correlation of test scores, mean over machines: members × members, NaN where undefined."""
    from asd_core.pipeline import members

    return pd.DataFrame(members.correlations(aligned.members), aligned.names, aligned.names)


@dataclass(frozen=True)
class FusionFigures:
    """What weights are worth on labelled machines; percent."""

    omega: float
    best: str  # name of the best single member
    best_run: str
    omega_best: float
    members: pd.DataFrame  # name, run_id, weight (fraction), alone, without (None: no other has weight), contribution
    machines: pd.DataFrame  # machine, fused, best: harmonic means


def fusion_figures(aligned: Aligned, weights: Sequence[float]) -> FusionFigures | None:
    """Official figures of weights, one per member; None where no machine is labelled."""
    from asd_core.pipeline import members

    found = members.worth(aligned.members, aligned.scaled, weights)
    if found is None:
        return None
    table = pd.DataFrame(
        {
            "name": aligned.names,
            "run_id": aligned.run_ids,
            "weight": members.shares(weights),
            "alone": 100 * np.array(found.alone),
            "without": [np.nan if value is None else 100 * value for value in found.without],
        }
    )
    table["contribution"] = 100 * found.omega - table["without"]
    machines = {"machine": found.machines, "fused": found.fused, "best": found.single}
    by_machine = pd.DataFrame(machines).assign(fused=lambda t: 100 * t["fused"], best=lambda t: 100 * t["best"])
    name, run_id = aligned.names[found.best], aligned.run_ids[found.best]
    return FusionFigures(100 * found.omega, name, run_id, 100 * found.alone[found.best], table, by_machine)


def fusion_interval(
    aligned: Aligned, weights: Sequence[float], run_id: str
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """95 % intervals of Ω (percent) and of its gain over the member `run_id` (points), by drawing clips anew; None
    where a group of clips is too small."""
    from asd_core.pipeline import members

    best = aligned.run_ids.index(run_id)
    found = members.chance(aligned.members, aligned.scaled, weights, best, bootstrap=DRAWS)
    if found is None:
        return None
    (low, high), (least, most) = found.omega, found.gain
    return (100 * low, 100 * high), (100 * least, 100 * most)


def decision_flips(aligned: Aligned, weights: Sequence[float], run_id: str) -> pd.DataFrame:
    """Test clips that the fusion judges otherwise than the member `run_id`, those with known truth first.

    Columns: clip_id, machine, domain, label (0, 1 or None), member_score, score, threshold, margin, decision (of the
    fusion), change (a word of `FLIPS`, or "now flagged", "now quiet"), right (True, False or None).
    """
    from asd_core.pipeline import members

    table = members.flips(aligned.members, aligned.scaled, weights, aligned.run_ids.index(run_id))
    plain = {0: "now quiet", 1: "now flagged"}
    pairs = list(zip(table["label"], table["decision"], strict=True))
    table["change"] = [plain[new] if pd.isna(label) else FLIPS[int(label), new] for label, new in pairs]
    table["right"] = pd.array([None if pd.isna(label) else label == new for label, new in pairs], dtype="boolean")
    order = table.assign(unknown=table["right"].isna()).sort_values(["unknown", "machine", "clip_id"]).index
    return table.loc[order].reset_index(drop=True)


def fusion_candidates(picked: Sequence[Run]) -> pd.DataFrame:
    """Runs that can be fused, best first: run_id, system, title, profile, seed, omega and half_width (percent, NaN
    where there are none), machines (number), transductive, fused (whether it is a fusion that was saved)."""
    rows = []
    for run in picked:
        record, official = run.record, (run.metrics or {}).get("official") or {}
        omega, interval = official.get("omega"), official.get("interval")
        rows.append(
            {
                "run_id": record["run_id"],
                "system": record["system"],
                "title": record.get("title", record["system"]),
                "profile": record["profile"],
                "seed": record["seed"],
                "omega": np.nan if omega is None else 100 * omega,
                "half_width": 50 * (interval[1] - interval[0]) if interval else np.nan,
                "machines": len(record["machines"]),
                "transductive": bool(record.get("transductive")),
                "fused": bool(record.get("members")),
            }
        )
    table = pd.DataFrame(rows)
    keys, down = ["machines", "omega"], [False, False]  # Ω over fewer machines is of another set
    return table if table.empty else table.sort_values(keys, ascending=down, kind="stable", ignore_index=True)


def best_candidates(candidates: pd.DataFrame) -> list[str]:
    """Ids of the two best systems of `fusion_candidates`, or of the two best runs if there is only one system. Saved
    fusions stand back: the best one mostly holds the best system already."""
    order = candidates.sort_values("fused", kind="stable")
    best = list(order.drop_duplicates("system")["run_id"].head(2))
    return best + [one for one in order["run_id"] if one not in best][: 2 - len(best)]


def overlaps(workspace: Workspace, picked: Sequence[Run]) -> list[str]:
    """Sentences on members that are fusions of other members, or share runs with them: what they share counts twice."""
    known = {run.record["run_id"]: run for run in runs(workspace)}
    inside = {run.record["run_id"]: _held(run.record["run_id"], known) for run in picked}
    names = {run.record["run_id"]: f"{run.record['system']} (seed {run.record['seed']})" for run in picked}
    said = []
    for first, second in combinations(inside, 2):
        if not inside[first] & inside[second]:
            continue
        if inside[first] < inside[second]:
            first, second = second, first
        how = "contains" if inside[second] < inside[first] else "shares members with"
        said.append(f"{names[first]} {how} {names[second]}: what both hold counts twice.")
    return said


def _held(run_id: str, known: Mapping[str, Run]) -> set[str]:
    """The runs, themselves no fusions, that a run is made of; a member that was deleted counts as none."""
    members = known[run_id].record.get("members", ()) if run_id in known else ()
    return set().union(*(_held(one, known) for one in members)) if members else {run_id}


def rebalanced(weights: Sequence[float], moved: int) -> list[float]:
    """Weights that sum to 1 after one of them was moved: it stays, the others keep their proportions.

    All are multiples of 0.01. Where the others are all zero, they share what is left.
    """
    units = 10**WEIGHT_DIGITS
    mine = min(max(round(units * weights[moved]), 0), units)
    others = np.array([0.0 if i == moved else max(weight, 0.0) for i, weight in enumerate(weights)])
    if others.sum() <= 0:
        others = np.array([0.0 if i == moved else 1.0 for i in range(len(weights))])
    exact = (units - mine) * others / others.sum()
    whole = np.floor(exact + 1e-9)
    missing = round(units - mine - whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    whole[moved] = mine
    return [float(one) for one in whole / units]


def equal_weights(members: int) -> list[float]:
    """Weights of 0.01 steps that sum to 1 and differ by one step at most."""
    units = 10**WEIGHT_DIGITS
    return [(units // members + (i < units % members)) / units for i in range(members)]


def counts_alike(weights: Sequence[float]) -> bool:
    """Whether weights count all members alike, up to the step of the sliders."""
    return max(weights) - min(weights) < 1.5 / 10**WEIGHT_DIGITS


# ------------------------------------------------------------------------------------------------------- suggestions


def suggestion(workspace: Workspace, picked: Sequence[Run], normalise: str) -> dict[str, Any] | None:
    """The stored result of tuning one weight per run (`Tuning.record`, fractions), or None."""
    from asd_core.pipeline.members import tuning_task

    folder = tuning_task(workspace, picked, normalise)
    return read_json(folder / "tuning.json") if is_done(folder) else None


def suggestion_arguments(workspace: Workspace, picked: Sequence[Run], normalise: str) -> list[str]:
    ids = [run.record["run_id"] for run in picked]
    return ["tune", *ids, "--by-run", "--normalise", normalise, "--workspace", str(workspace.root)]


def start_suggestion(workspace: Workspace, picked: Sequence[Run], normalise: str) -> str:
    """Start, or find, the job that tunes one weight per run on the labelled machines; gives its id."""
    arguments = suggestion_arguments(workspace, picked, normalise)
    names = ", ".join(dict.fromkeys(run.record["system"] for run in picked))
    return jobs.start(workspace.jobs, arguments, f"Tune the weights of {names}", digest(arguments))


def suggestion_job(workspace: Workspace, picked: Sequence[Run], normalise: str) -> Job | None:
    """The newest job of `start_suggestion` for these runs."""
    key = digest(suggestion_arguments(workspace, picked, normalise))
    return next((job for job in jobs.list_jobs(workspace.jobs) if job.key == key), None)


def suggestion_figures(found: dict[str, Any]) -> pd.DataFrame:
    """What tuned weights are worth on machines left out of their tuning, and what they compare with. Members that were
    tuned themselves may know these machines: `told_of_left_out`.

    Columns: Weights, Ω (percent), Tuned minus this (points), 95 % (text).
    """
    rows: list[tuple[str, float | None, dict[str, Any] | None]] = [
        ("tuned, on these very machines", found["omega_tuned"], None),
        ("tuned without the machine", found["omega_lomo"], None),
        ("equal weights", found["omega_equal"], found["over_equal"]),
        ("member best on the others", found["omega_lomo_single"], found["over_single"]),
    ]
    return pd.DataFrame(
        {
            "Weights": name,
            "Ω": np.nan if omega is None else 100 * omega,
            "Tuned minus this": 100 * gain["difference"] if gain else np.nan,
            "95 %": " to ".join(f"{100 * edge:+.2f}".replace("-", "−") for edge in gain["interval"])
            if gain and gain["interval"]
            else "",
        }
        for name, omega, gain in rows
    )


def suggested_weights(found: dict[str, Any], members: Sequence[str]) -> list[float]:
    """Weights of a suggestion, in the order of the members and in steps of the sliders."""
    units = 10**WEIGHT_DIGITS
    exact = units * np.array([found["weights"][name] for name in members])
    whole = np.floor(exact + 1e-9)
    whole[np.argsort(whole - exact, kind="stable")[: round(units - whole.sum())]] += 1
    return [float(one) for one in whole / units]


def told_of_weights(
    picked: Sequence[Run], members: Sequence[str], weights: Sequence[float], found: dict[str, Any] | None
) -> str:
    """What has to stand beside results of these weights, where known labels were at work; else ""."""
    about = picked[0].record["data"]
    where = f"the labelled test clips of {about['name']} ({about['kind']})"
    if not picked[0].record["labelled"] or counts_alike(weights):
        return ""
    if found and suggested_weights(found, members) == list(weights):
        told = f"Weights tuned on {where}, machines {', '.join(found['machines'])}. {found['said']}"
        return " ".join(filter(None, [told, told_of_left_out(picked)]))
    return f"Weights set by hand in view of Ω on {where}, so that it may flatter them."


def told_of_members(picked: Sequence[Run], members: Sequence[str], candidates: pd.DataFrame) -> list[str]:
    """What has to stand beside figures of these members, whatever their weights: known labels picked them, and some may
    have been tuned. (A saved fusion tells of tuned members by itself.)

    Args:
        candidates: the table of `fusion_candidates` that they were picked from
    """
    said = []
    if picked[0].record["labelled"]:
        about = picked[0].record["data"]
        where = f"the labelled test clips of {about['name']} ({about['kind']})"
        is_best = {run.record["run_id"] for run in picked} == set(best_candidates(candidates))
        how = "by their" if is_best else "in view of"
        said.append(f"Members picked {how} Ω on {where}. These figures are of the same clips and may flatter.")
    within = [(name, weights_tuned_on(run.record)) for name, run in zip(members, picked, strict=True)]
    return said + [f"{name} was tuned itself. {told}" for name, told in within if told]


def told_of_left_out(picked: Sequence[Run]) -> str:
    """What figures of machines left out of tuning do not say where members were tuned themselves; else ""."""
    from asd_core.pipeline.members import tuned_before

    return tuned_before(picked)


# ------------------------------------------------------------------------------------------------------------ keeping


def free_fusion_name(workspace: Workspace) -> str:
    return next(name for name in map("fusion-{}".format, count(1)) if not fusion_name_problem(workspace, name))


def fusion_file(workspace: Workspace, name: str) -> Path:
    """Where the system of a fusion is written."""
    return workspace.fusion(name)


def fusion_name_problem(workspace: Workspace, name: str) -> str:
    """Why a fusion cannot have this name, in a sentence, or ""."""
    if not config.SAFE_NAME.fullmatch(name) or "+" in name or name != name.strip():
        return "A name may hold letters, digits, spaces and . _ -, at most 64 of them, and must not begin with a dot."
    taken = {*systems(), *(run.record["system"] for run in runs(workspace))}
    if name in taken:
        return f"There is a system {name} already. Give the fusion another name."
    if (path := fusion_file(workspace, name)).exists():
        return f"{path} exists. Give the fusion another name, or delete that file first."
    return ""


def save_fusion(
    workspace: Workspace,
    picked: Sequence[Run],
    name: str,
    normalise: str,
    weights: Sequence[float],
    tuned_on: str = "",
) -> str:
    """Keep a fusion: its system as a YAML file (`fusion_file`) and a run made of the members' stored scores.

    Members without weight are left out.

    Args:
        tuned_on: what to say of weights that come from known labels

    Returns:
        the run's id

    Raises:
        AsdError: the name is taken or not allowed, the runs are not of the same clips, or only one has weight.
    """
    from asd_core.pipeline import members

    if problem := fusion_name_problem(workspace, name):
        raise AsdError(problem)
    kept = [(run, weight) for run, weight in zip(picked, weights, strict=True) if weight > 0]
    if len(kept) < 2:
        raise AsdError("A fusion takes two members with weight; use the run itself instead.")
    own, shares = [run for run, _ in kept], [weight for _, weight in kept]
    system, table = members.fused_system(own, name, normalise, shares, tuned_on)  # type: ignore[arg-type]
    return members.save_fusion(workspace, own, system, table, fusion_file(workspace, name))
