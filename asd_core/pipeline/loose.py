"""Any recordings, scored with what a run has trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.analysis import percentile
from asd_core.analysis.evidence import distances, pooled, scale_of
from asd_core.artifacts import (
    Run,
    Workspace,
    begin,
    finish,
    load_run,
    read_arrays,
    read_embeddings,
    read_evidence,
    require_made,
    require_own,
    write_evidence,
    write_table,
)
from asd_core.config import System, validate
from asd_core.files import read_json
from asd_core.pipeline.embedding import embed
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file, evidence_file
from asd_core.pipeline.tuned import as_run
from asd_core.pipeline.verdict import is_transductive, stream_scores, verdict
from asd_core.pipeline.work import generated_embeddings, score
from asd_core.types import TEST, TRAIN, AsdError, Clip, EmbeddingSet, Evidence, Progress, no_progress

NEIGHBOURS = 5


@dataclass(frozen=True)
class Local:
    """Where a branch's scores of N recordings come from."""

    evidence: Evidence  # a row per recording
    training_ids: np.ndarray  # that `Evidence.clip` counts
    scale: tuple[float, float, float]  # as of `evidence.scale_of`, of the run's own test clips, else of these
    of_run: bool  # whether the scale is that of the run's test clips
    is_calm: bool  # whether it is that of those alone which the run does not flag
    channel: str  # "near", "far", or "" where the branch hears both


@dataclass(frozen=True)
class Judged:
    """What a run says of recordings that are not its own."""

    table: pd.DataFrame  # as of `score_files`
    neighbours: pd.DataFrame
    """Nearest training clips by branch: row (of `table`), branch, rank, clip_id, distance, domain, attributes, metric."""
    local: dict[str, Local]  # by branch, of those that can tell


def score_files(
    workspace: Workspace, run_id: str, machine: str, paths: Sequence[Path], section: str = "00", device: str = "auto"
) -> pd.DataFrame:
    """Score any recordings as clips of `machine` with a trained run: file, score, threshold, decision,
    percentile (percent of training normals that score at most this) and one column per branch.

    Raises:
        AsdError: as of `judge_files`.
    """
    return judge_files(workspace, run_id, machine, paths, section, device).table


def judge_files(
    workspace: Workspace,
    run_id: str,
    machine: str,
    paths: Sequence[Path],
    section: str = "00",
    device: str = "auto",
    progress: Progress = no_progress,
) -> Judged:
    """Scores of any recordings, as clips of `machine`, and what stands behind them.

    Raises:
        AsdError: no such run, machine or section; a system whose scores depend on the other test clips; what the run
            has trained is gone; a recording that cannot be read.
    """
    run = load_run(workspace, run_id)
    if machine not in run.record["machines"]:
        raise AsdError(f'Run {run_id} has no machine "{machine}". It has: {", ".join(run.record["machines"])}.')
    system = as_run(validate(System, run.record["config"], run_id), run.record)
    if is_transductive(system):
        raise AsdError(
            f"{system.name} ranks clips among all test clips, so it cannot score clips by themselves. Use a system "
            f"that is not marked transductive."
        )
    clips = [Clip(f"{machine}/{TEST}/{path.name}", path, machine, TEST, section) for path in paths]
    scores = run.scores
    unflagged = scores.loc[(scores["split"] == TEST) & (scores["decision"] != 1), "clip_id"]
    columns, training = {}, {}
    near, local = [], {}
    batch = None
    passes: dict[Path, dict[str, EmbeddingSet]] = {}  # branches may share one
    for number, branch in enumerate(system.branches):
        progress(number / len(system.branches), f"{system.name}: {branch.name}")
        stored, embedded, trained = _stored(workspace, run, machine, branch.name)
        meta = read_json(embedded / "meta.json")
        output = branch.output if trained else VIEW_ITSELF
        train = read_embeddings(embeddings_file(embedded, TRAIN, output))
        if embedded not in passes:
            spec = meta["spec"]
            passes[embedded] = embed(clips, spec["view"], trained, spec["outputs"], device, meta["bf16"])
        test = passes[embedded][output]
        own = train[train.sections == section]
        if not len(own):
            raise AsdError(f"{machine} has no section {section}. Trained: {', '.join(np.unique(train.sections))}.")
        name = f"branch:{branch.name}"
        scored = score(branch.scorer.spec, own, test, generated_embeddings(embedded, output))
        training[name], columns[name] = scored.training, scored.test
        near.append(_nearest(own, test, branch.scorer.spec).assign(branch=branch.name))
        if section in scored.evidence:
            channel = meta["spec"]["view"].get("channel")
            told = scored.evidence[section][0]
            kept = read_evidence(evidence_file(stored, section))
            calm = np.isin(kept[1], unflagged) if kept else np.zeros(len(paths), dtype=bool)
            low, high, rare, is_calm = scale_of(kept[0].values if kept else told.values, calm)
            local[branch.name] = Local(
                told,
                own.clip_ids,
                (low, high, rare),
                kept is not None,
                is_calm,
                channel if channel in ("near", "far") else "",
            )
        if system.decision.spec.get("fit") == "official_batch" and trained is not None:
            batch = read_arrays(trained / "extra.npz")[f"batch_{branch.output}"]
    normal, asked = (stream_scores(system, pd.DataFrame(part)) for part in (training, columns))
    known, fused, decision = verdict(system, normal, asked, batch)
    table = pd.DataFrame({"file": [str(path) for path in paths], "machine": machine, "score": fused})
    table["threshold"] = decision.threshold_
    table["decision"] = decision.decide(fused).astype(int)
    table["percentile"] = percentile(known, fused)
    return Judged(table.assign(**columns), pd.concat(near, ignore_index=True), local)


def require_place(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier verdict, as `artifacts.require_own` does."""
    require_own(folder, "scores.parquet", "neighbours.parquet", "evidence-*.npz")


def keep(judged: Judged, folder: Path, run_id: str, machine: str, section: str) -> None:
    """Write a verdict to a folder of its own: scores.parquet, neighbours.parquet, evidence-<number>.npz by branch.

    Raises:
        AsdError: as of `require_place`.
    """
    require_place(folder)
    begin(folder)
    write_table(folder / "scores.parquet", judged.table)
    write_table(folder / "neighbours.parquet", judged.neighbours)
    branches = []
    for number, (name, local) in enumerate(judged.local.items()):
        files = np.array(judged.table["file"])
        write_evidence(folder / f"evidence-{number}.npz", local.evidence, files, local.training_ids)
        told = {"scale": local.scale, "of_run": local.of_run, "is_calm": local.is_calm, "channel": local.channel}
        branches.append({"name": name, "file": f"evidence-{number}.npz"} | told)
    finish(folder, run_id=run_id, machine=machine, section=section, local=branches)


def _nearest(train: EmbeddingSet, test: EmbeddingSet, scorer: dict[str, Any]) -> pd.DataFrame:
    """The nearest training clips of each test clip in a branch's embedding; none where it is a single number."""
    if train.x.shape[-1] < 2:
        return pd.DataFrame(columns=["clip_id", "distance", "domain", "attributes", "row", "rank", "metric"])
    known, asked = pooled(train.x, train.steps), pooled(test.x, test.steps)
    attributes = np.full(len(train), "") if train.attributes is None else train.attributes
    parts = []
    for row, query in enumerate(asked):
        found, metric = distances(known, query, scorer)
        first = np.argsort(found, kind="stable")[:NEIGHBOURS]
        facts = {"clip_id": train.clip_ids, "distance": found, "domain": train.domains, "attributes": attributes}
        part = pd.DataFrame({name: values[first] for name, values in facts.items()})
        parts.append(part.assign(row=row, rank=np.arange(1, len(first) + 1), metric=metric))
    return pd.concat(parts, ignore_index=True)


def _stored(workspace: Workspace, run: Run, machine: str, branch: str) -> tuple[Path, Path, Path | None]:
    """Folders of the scores, the embeddings and, if there is one, the trained encoder behind a branch of a run."""
    scored = require_made(workspace.task("score", run.record["scores"][machine][branch]), run)
    embedded = require_made(workspace.task("embed", read_json(scored / "meta.json")["inputs"][0]), run)
    encoder = next(one.encoder for one in validate(System, run.record["config"], "").branches if one.name == branch)
    inputs = read_json(embedded / "meta.json")["inputs"]
    return scored, embedded, require_made(workspace.task("train", inputs[0]), run) if encoder else None
