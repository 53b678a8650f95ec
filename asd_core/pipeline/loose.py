"""Any recordings, scored with what a run has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from asd_core.analysis import percentile
from asd_core.artifacts import (
    Run,
    Workspace,
    is_done,
    load_run,
    read_arrays,
    read_embeddings,
)
from asd_core.config import System, validate
from asd_core.files import read_json
from asd_core.pipeline.embedding import embed
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file
from asd_core.pipeline.tuned import as_run
from asd_core.pipeline.verdict import is_transductive, stream_scores, verdict
from asd_core.pipeline.work import generated_embeddings, score
from asd_core.types import TEST, TRAIN, AsdError, Clip, EmbeddingSet


def score_files(
    workspace: Workspace, run_id: str, machine: str, paths: Sequence[Path], section: str = "00", device: str = "auto"
) -> pd.DataFrame:
    """Score any recordings as clips of `machine` with a trained run: file, score, threshold, decision,
    percentile (percent of training normals that score at most this) and one column per branch.

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
    columns, training = {}, {}
    batch = None
    passes: dict[Path, dict[str, EmbeddingSet]] = {}  # branches may share one
    for branch in system.branches:
        embedded, trained = _stored(workspace, run, machine, branch.name)
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
        if system.decision.spec.get("fit") == "official_batch" and trained is not None:
            batch = read_arrays(trained / "extra.npz")[f"batch_{branch.output}"]
    normal, asked = (stream_scores(system, pd.DataFrame(part)) for part in (training, columns))
    known, fused, decision = verdict(system, normal, asked, batch)
    table = pd.DataFrame({"file": [str(path) for path in paths], "machine": machine, "score": fused})
    table["threshold"] = decision.threshold_
    table["decision"] = decision.decide(fused).astype(int)
    table["percentile"] = percentile(known, fused)
    return table.assign(**columns)


def _stored(workspace: Workspace, run: Run, machine: str, branch: str) -> tuple[Path, Path | None]:
    """Folders of the embeddings and, if there is one, of the trained encoder behind a branch of a run."""
    scored = _done(workspace.task("score", run.record["scores"][machine][branch]), run)
    embedded = _done(workspace.task("embed", read_json(scored / "meta.json")["inputs"][0]), run)
    encoder = next(one.encoder for one in validate(System, run.record["config"], "").branches if one.name == branch)
    inputs = read_json(embedded / "meta.json")["inputs"]
    return embedded, _done(workspace.task("train", inputs[0]), run) if encoder else None


def _done(folder: Path, run: Run) -> Path:
    if not is_done(folder):
        about = run.record
        raise AsdError(
            f"What {about['run_id']} has made in {folder} is gone or damaged. Run again "
            f"({about['system']} --data {about['data']['name']} --profile {about['profile']} --seeds {about['seed']}): "
            f"only what is missing is computed."
        )
    return folder
