"""Why a clip got its score: what each stream adds to it, and where in the clip the evidence of each branch lies.

Everything is read from the tables that a run has left; no recording and no network is needed, and no truth is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asd_core.analysis import percentile
from asd_core.artifacts import Run, Workspace, how_again, read_evidence
from asd_core.config import Branch, System, validate
from asd_core.fusion import FUSIONS
from asd_core.fusion.base import Fusion
from asd_core.fusion.minimum import Minimum
from asd_core.fusion.weighted import Weighted
from asd_core.pipeline.tasks import evidence_file
from asd_core.pipeline.tuned import as_run
from asd_core.pipeline.verdict import stream_scores
from asd_core.types import TEST, TRAIN, AsdError, Evidence

PLACES = 5  # of a branch that are listed
NEAR = 3  # clips that are named where there is none of a name


@dataclass(frozen=True)
class Stream:
    """What one stream says of a clip, and what that does to the fused score.

    Contributions are w · (N(s) − mean of N over the training normals), so they add up to the clip's score less the
    mean score of the training normals; a share is a contribution divided by that sum.
    """

    name: str
    branches: tuple[str, ...]  # whose mean it is
    score: float
    percentile: float  # percent of the training normals that score at most this
    normalised: float | None  # N(s); None where the fusion is of a kind that has none
    weight: float | None  # w, all sum to 1; None where the fusion has no weights
    contribution: float | None  # in units of the fused score; None where the fusion has no weights
    share: float | None  # None too for a clip that scores no higher than the mean training normal
    decides: bool  # whether the fused score is this stream's alone: the smallest one of "minimum"


@dataclass(frozen=True)
class Place:
    """A stretch of time of one frequency band, and the normal clip it was compared with."""

    start: float  # s
    stop: float | None  # s, possibly past the end of the clip; None: to the end
    low: float  # Hz
    high: float  # Hz
    score: float  # local, in units of the branch's score
    match: str | None  # clip id of the nearest normal training clip; None: a made-up one
    match_start: float | None  # s in that clip; None: not known
    match_stop: float | None  # s; None: to the end, or not known


@dataclass(frozen=True)
class Map:
    """Local scores of a clip: U stretches of time × F frequency bands, with the normal clips they were compared with."""

    values: np.ndarray  # (U, F) float32, in units of the branch's score
    start: np.ndarray  # (U,) s
    stop: np.ndarray  # (U,) s; infinite: to the end of the clip
    edges: np.ndarray  # (F + 1,) Hz, band f lies between edges f and f + 1
    match: np.ndarray  # (U, F) str, training clip ids; "" where there is none
    match_start: np.ndarray  # (U, F) s in the matched clip; NaN where not known
    match_stop: np.ndarray  # (U, F) s; infinite: to the end; NaN where not known


@dataclass(frozen=True)
class BranchEvidence:
    """What one branch says of a clip."""

    name: str
    scorer: str
    score: float
    places: tuple[Place, ...]  # highest local scores first; no two of one band overlap
    map: Map | None  # None: no evidence is kept, see `why_no_evidence`


@dataclass(frozen=True)
class Explanation:
    """What a run says of one test clip and why."""

    run_id: str
    system: str
    clip_id: str
    machine: str
    section: str
    score: float
    threshold: float
    is_anomalous: bool  # the run's decision
    percentile: float | None  # percent of the training normals that score at most this; None where not comparable
    usual: float  # mean score of the training normals, which contributions count from
    fusion: str  # name of the rule
    normalise: str | None  # how it brings streams to one scale
    streams: tuple[Stream, ...]
    branches: tuple[BranchEvidence, ...]


def find_clip(run: Run, name: str) -> str:
    """The id of a run's test clip, given as its id, or as its file name where no other machine has one of that name.

    Raises:
        AsdError: there is none, or several, or it is a training clip; the message names what comes near.
    """
    scores = run.scores
    test = scores.loc[scores["split"] == TEST, "clip_id"].tolist()
    if name in test:
        return name
    found = [clip_id for clip_id in test if clip_id.rpartition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    run_id = run.record["run_id"]
    if found:
        raise AsdError(f"{len(found)} clips of {run_id} are called {name}; give an id: {', '.join(found)}.")
    training = scores.loc[scores["split"] == TRAIN, "clip_id"].tolist()
    if name in training or any(clip_id.rpartition("/")[2] == name for clip_id in training):
        raise AsdError(f"{name} is a training clip. What a run keeps evidence of are its test clips.")
    known = test if "/" in name else sorted({clip_id.rpartition("/")[2] for clip_id in test})
    near = [clip_id for clip_id in known if name in clip_id][:NEAR] or difflib.get_close_matches(name, known, NEAR)
    hint = f"Near it: {', '.join(near)}." if near else f"Give an id such as {test[0]}, or a file name."
    raise AsdError(f'{run_id} has no test clip "{name}". {hint}')


def explain(workspace: Workspace, run: Run, clip_id: str) -> Explanation:
    """Everything the workspace knows about why a test clip of a run got its score.

    Raises:
        AsdError: the run has no such test clip, or its scores were fused by rules that have changed since.
    """
    clip_id = find_clip(run, clip_id)
    record = run.record
    system = as_run(validate(System, record["config"], record["run_id"]), record)
    scores = run.scores
    clip = scores[scores["clip_id"] == clip_id].iloc[0]
    rows = scores[(scores["machine"] == clip["machine"]) & (scores["section"] == clip["section"])]
    training, test = rows[rows["split"] == TRAIN], rows[rows["split"] == TEST]
    known, asked = stream_scores(system, training), stream_scores(system, test)
    row = int(np.flatnonzero(test["clip_id"] == clip_id)[0])
    fusion = FUSIONS.create(system.fusion.spec).fit(known)
    fused = fusion.fuse(asked)[row]
    if not np.isclose(fused, clip["score"], rtol=1e-9, atol=1e-12):
        raise AsdError(
            f"{record['run_id']} gave {clip_id} the score {clip['score']:.6g}; fusing its streams now gives "
            f"{fused:.6g}. It was made by an earlier version: run again ({how_again(run)})."
        )
    own = training["score"].to_numpy()
    return Explanation(
        run_id=record["run_id"],
        system=record["system"],
        clip_id=clip_id,
        machine=str(clip["machine"]),
        section=str(clip["section"]),
        score=float(clip["score"]),
        threshold=float(clip["threshold"]),
        is_anomalous=bool(clip["decision"] == 1),
        percentile=None if fusion.transductive else _percentile(own, clip["score"]),
        usual=float(own.mean()),
        fusion=fusion.name,
        normalise=getattr(fusion, "normalise", None),
        streams=_streams(system.streams, fusion, known, asked, row),
        branches=tuple(_evidence(workspace, run, branch, clip) for branch in system.branches),
    )


def why_no_evidence(branch: BranchEvidence, run: Run) -> str:
    """A sentence for a branch without a map. Loads the scorers' libraries, so it is not for the app."""
    from asd_core.scorers import SCORERS

    if not SCORERS[branch.scorer].gives_evidence:
        return f"scorer {branch.scorer} judges a clip as a whole and cannot tell where its score comes from."
    return (
        f"no evidence is kept; the run was made before it was, or its files are gone. Run again ({how_again(run)}): "
        f"the scores are computed anew, nothing is trained that is still there."
    )


def _streams(
    members: Sequence[tuple[str, list[str]]], fusion: Fusion, known: np.ndarray, asked: np.ndarray, row: int
) -> tuple[Stream, ...]:
    """What streams, with the branches that make them up, say of clip `row` of the test clips.

    Args:
        fusion: fitted to `known`
        known, asked: (N, S) and (M, S) scores of the training normals and the test clips of one machine and section
    """
    nothing = np.full(len(members), None)
    normalised = weights = contribution = share = nothing
    decides = np.zeros(len(members), dtype=bool)
    if isinstance(fusion, Weighted | Minimum):
        normalised = fusion.normalise_(asked)[row]
    if isinstance(fusion, Weighted):
        weights = fusion.weights_
        contribution = weights * (normalised - fusion.normalise_(known).mean(axis=0))
        share = contribution / contribution.sum() if contribution.sum() > 0 else nothing
    if isinstance(fusion, Minimum):
        decides[normalised.argmin()] = True
    return tuple(
        Stream(
            name=name,
            branches=tuple(branches),
            score=float(asked[row, i]),
            percentile=_percentile(known[:, i], asked[row, i]),
            normalised=_number(normalised[i]),
            weight=_number(weights[i]),
            contribution=_number(contribution[i]),
            share=_number(share[i]),
            decides=bool(decides[i]),
        )
        for i, (name, branches) in enumerate(members)
    )


def _evidence(workspace: Workspace, run: Run, branch: Branch, clip: pd.Series) -> BranchEvidence:
    key = run.record.get("scores", {}).get(clip["machine"], {}).get(branch.name)
    found = read_evidence(evidence_file(workspace.task("score", key), clip["section"])) if key else None
    row = np.flatnonzero(found[1] == clip["clip_id"]) if found else np.array([], dtype=int)
    own = clip_map(found[0], int(row[0]), found[2]) if found and len(row) else None
    score = float(clip[f"branch:{branch.name}"])
    return BranchEvidence(branch.name, branch.scorer.name, score, () if own is None else places(own), own)


def clip_map(evidence: Evidence, row: int, training_ids: np.ndarray) -> Map:
    """The map of one of the clips that `evidence` is about; stretches past the clip's end are left out."""
    units = int(np.isfinite(evidence.values[row]).any(axis=1).sum())
    clip, unit = evidence.clip[row, :units], evidence.unit[row, :units]
    matched = clip >= 0
    return Map(
        values=evidence.values[row, :units],
        start=evidence.start[:units],
        stop=evidence.stop[:units],
        edges=evidence.edges,
        match=np.where(matched, training_ids[clip], ""),
        match_start=np.where(matched, _moment(evidence.start, unit), np.nan),
        match_stop=np.where(matched, _moment(evidence.stop, unit), np.nan),
    )


def _moment(times: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """When stretches `unit` of a clip begin or end. A normal clip may be longer than those that `times` (U,) are of:
    then its stretches go on at the same pace; NaN where there is none to go by."""
    beyond = np.maximum(unit - (len(times) - 1), 0)
    pace = times[-1] - times[-2] if len(times) > 1 else np.nan
    return times[np.minimum(unit, len(times) - 1)] + np.where(beyond > 0, beyond * pace, 0.0)


def places(where: Map, count: int = PLACES) -> tuple[Place, ...]:
    """The `count` highest local scores of a map. Units may overlap in time: of those that do, in one band, the
    highest stands for all."""
    kept: list[tuple[int, int]] = []
    highest_first = np.argsort(-where.values, axis=None, kind="stable")
    for unit, band in zip(*np.unravel_index(highest_first, where.values.shape), strict=True):
        overlaps = (
            other == band and min(where.stop[unit], where.stop[u]) - max(where.start[unit], where.start[u]) > 1e-9
            for u, other in kept
        )
        if np.isfinite(where.values[unit, band]) and not any(overlaps):
            kept.append((int(unit), int(band)))
        if len(kept) == count:
            break
    return tuple(
        Place(
            start=float(where.start[u]),
            stop=_number(where.stop[u]),
            low=float(where.edges[f]),
            high=float(where.edges[f + 1]),
            score=float(where.values[u, f]),
            match=str(where.match[u, f]) or None,
            match_start=_number(where.match_start[u, f]),
            match_stop=_number(where.match_stop[u, f]),
        )
        for u, f in kept
    )


def _percentile(normal: np.ndarray, score: float) -> float:
    return float(percentile(normal, np.array([score]))[0])


def _number(value: float | None) -> float | None:
    """A float, or None for what is missing or infinite."""
    return float(value) if value is not None and np.isfinite(value) else None
