"""Doing one task: train, embed, score, or the run that fuses, decides and evaluates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import metrics
from asd_core.artifacts import (
    begin,
    finish,
    read_arrays,
    read_embeddings,
    read_table,
    write_arrays,
    write_embeddings,
    write_evidence,
    write_table,
)
from asd_core.config import Encoder, System, validate
from asd_core.files import digest, read_json, write_json
from asd_core.pipeline import generated, quality
from asd_core.pipeline.embedding import embed_parts, embeds_in_bf16, load_encoder
from asd_core.pipeline.tasks import (
    GENERATED,
    Context,
    Task,
    all_inputs,
    embeddings_file,
    evidence_file,
    input_of_kind,
    inputs_of_kind,
    machine_of,
)
from asd_core.pipeline.tuned import tune, wants_tuning, with_weights
from asd_core.pipeline.verdict import decide, is_transductive, with_truth
from asd_core.scorers import SCORERS
from asd_core.types import TEST, TRAIN, AsdError, EmbeddingSet, Evidence, Progress, no_progress
from asd_core.views import VIEWS


def execute(task: Task, context: Context, progress: Progress = no_progress) -> None:
    """Do one task whose inputs are done, unless it is done already. One process at a time per task."""
    with opened(task, context, progress) as needed:
        if needed:
            work(task, context, progress)


@contextmanager
def opened(task: Task, context: Context, progress: Progress) -> Iterator[bool]:
    """Hold a task's folder ready for writing; gives False if the task turns out to be done."""
    folder = task.folder(context.workspace)
    with context.workspace.locked(folder, lambda: progress(0.0, f"{task.title}: waiting for another process")):
        needed = not task.done(context.workspace)
        if needed:
            begin(folder)
        yield needed


def work(task: Task, context: Context, progress: Progress, writes: bool = True) -> None:
    """Do a task in its opened folder. Of processes that train together, one `writes`."""
    folder, started = task.folder(context.workspace), time.time()
    facts = _WORK[task.kind](task, context, folder, progress)
    if writes:
        inputs = [needed.key for needed in task.inputs]
        seconds = time.time() - started
        finish(folder, key=task.key, kind=task.kind, spec=task.spec, inputs=inputs, seconds=seconds, **facts)


def register(context: Context) -> None:
    """Tell the workspace where the data set lies: the app finds clips and truth there.

    Raises:
        AsdError: another data set of the same name is in use.
    """
    path = context.workspace.dataset(context.data.name) / "dataset.json"
    about = {"name": context.data.name, "kind": context.data.kind, "root": str(context.data.root)}
    known = read_json(path) if path.is_file() else {}
    if known and known["root"] != about["root"] and Path(known["root"]).is_dir():
        raise AsdError(
            f'The data set name "{context.data.name}" already stands for {known["root"]} in this workspace, not for '
            f'{context.data.root}. Name one of them in a dataset.json ({{"name": …}}), or use another --workspace.'
        )
    if known != about:
        write_json(path, about)


def _train(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    import torch

    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES, checkpoint, distributed, loop

    encoder, seed = task.spec["encoder"], task.spec["seed"]
    options = validate(Encoder, encoder, task.title).train
    clips = [clip for machine in task.spec["machines"] for clip in context.data.of(machine, TRAIN)]
    clips += generated.kept_clips([t for t in task.inputs if t.kind == "screen"], context.workspace)
    start = input_of_kind(task, "train")
    progress(0.0, f"{task.title}: reading {len(clips)} clips")
    torch.manual_seed(loop.seed_of(seed, 2**32 - 1))  # initial weights; steps seed themselves
    backbone = BACKBONES.create(encoder["backbone"], task.title)
    backbone.begin(load_encoder(start.folder(context.workspace)) if start else None)
    objective = OBJECTIVES.create(encoder["objective"], task.title)
    # hidden: what only serves the work is deleted once the task is declared done
    problem = objective.problem(backbone, clips, VIEWS.create(encoder["view"]), seed, folder / ".scratch")
    history = loop.History(np.zeros(0), np.zeros(0))
    if options is not None:
        history = loop.fit(
            problem.learner,
            problem.examples,
            options,
            seed=seed,
            held_out=problem.held_out,
            depths=problem.depths,
            weights=problem.weights,
            checkpoint_file=folder / ".checkpoint.safetensors",
            checkpoint_seconds=context.checkpoint_seconds,
            device=context.device,
            progress=lambda fraction, message, **values: progress(fraction, f"{task.title}: {message}", **values),
        )

    if options and options.warmup_steps and options.warmup_steps >= len(history.losses):
        problem.notices.append(
            f"The training ended after {len(history.losses)} steps, in the middle of its warm-up of "
            f"{options.warmup_steps}: these clips are few for this recipe."
        )

    def keep() -> dict[str, Any]:
        extra = objective.finish(problem, history.losses, options.batch_size if options else 1, seed)
        checkpoint.save_weights(folder / "model.safetensors", backbone)
        write_arrays(folder / "losses.npz", losses=history.losses, held_out=history.held_out)
        write_arrays(folder / "extra.npz", **extra)
        parameters = sum(p.numel() for p in backbone.parameters())
        return {
            "backbone": encoder["backbone"],
            "parameters": parameters,
            "notices": problem.notices,
            "steps": len(history.losses),
            "best_epoch": history.best_epoch,
            "stopped_early": history.stopped_early,
            "device": str(loop.pick_device(context.device)),
        }

    return distributed.join(context.device).by_main(keep)  # alone: simply keep()


def _embed(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    bank, encoder = input_of_kind(task, "screen"), input_of_kind(task, "train")
    parts = {split: context.data.of(task.spec["machine"], split) for split in (TEST, TRAIN)}
    if made := generated.kept_clips([bank] if bank else [], context.workspace):
        parts[GENERATED] = made
    trained = encoder.folder(context.workspace) if encoder else None
    bf16 = embeds_in_bf16(trained, context.device)
    view, outputs = task.spec["view"], task.spec["outputs"]
    found = embed_parts(parts, view, trained, outputs, context.device, bf16, progress, task.title, folder)
    for split, own in found.items():
        for output, embeddings in own.items():
            write_embeddings(embeddings_file(folder, split, output), embeddings, with_rows=False)
    return {"bf16": bf16}


def _score(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    embedded = task.inputs[0].folder(context.workspace)
    files = [embeddings_file(embedded, split, task.spec["output"]) for split in (TRAIN, TEST)]
    train, test = map(read_embeddings, files)
    progress(0.0, task.title)
    scored = score(task.spec["scorer"], train, test, generated_embeddings(embedded, task.spec["output"]))
    for section, (evidence, asked, known) in scored.evidence.items():
        write_evidence(evidence_file(folder, section), evidence, test.clip_ids[asked], train.clip_ids[known])
    table = pd.concat(
        [
            pd.DataFrame(
                {"clip_id": part.clip_ids, "section": part.sections, "split": split, "domain": part.domains}
            ).assign(score=scores)
            for split, part, scores in ((TRAIN, train, scored.training), (TEST, test, scored.test))
        ],
        ignore_index=True,
    )
    write_table(folder / "scores.parquet", table)
    return {"notices": scored.notices}


@dataclass(frozen=True)
class Scored:
    """What a scorer says of one machine's clips."""

    training: np.ndarray  # (N,) scores of training clips, each as if it were new
    test: np.ndarray  # (M,)
    # by section, if the scorer can tell: evidence, test rows (M,) bool it is about, training rows (N,) bool it counts
    evidence: dict[str, tuple[Evidence, np.ndarray, np.ndarray]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def generated_embeddings(embedded: Path, output: str) -> EmbeddingSet | None:
    """Of generated clips, in the folder of an embed task that has embedded some."""
    path = embeddings_file(embedded, GENERATED, output)
    return read_embeddings(path) if path.is_file() else None


def score(
    spec: dict[str, Any], train: EmbeddingSet, test: EmbeddingSet, generated: EmbeddingSet | None = None
) -> Scored:
    """Fit a scorer to training clips, and to generated ones if there are any, and judge test clips; each section has
    its own memory."""
    scored = Scored(np.zeros(len(train)), np.zeros(len(test)))
    strangers = ~np.isin(test.sections, train.sections)
    if strangers.any():
        raise AsdError(
            f"{test.clip_ids[strangers][0]} is of section {test.sections[strangers][0]}, which has no training clips. "
            f"Trained sections: {', '.join(np.unique(train.sections))}."
        )
    for section in np.unique(train.sections):
        known, asked = train.sections == section, test.sections == section
        more = None if generated is None else generated[generated.sections == section]
        scorer = SCORERS.create(spec).fit(train[known], more)
        scored.training[known] = scorer.training_scores()
        scored.notices.extend(scorer.notices_)
        if asked.any():
            scored.test[asked], evidence = scorer.judge(test[asked])
            if evidence is not None:
                scored.evidence[str(section)] = (evidence, asked, known)
    return scored


def _run(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    system = validate(System, task.spec["system"], task.title)
    names = [branch.name for branch in system.branches]
    by_machine: dict[str, dict[str, Task]] = {}  # inputs come machine by machine, branches in their order
    for scored, name in zip(task.inputs, names * len(task.spec["machines"]), strict=True):
        by_machine.setdefault(scored.spec["machine"], {})[name] = scored
    tables, thresholds, tuning = {}, {}, {}
    labelled = [machine for machine in by_machine if context.data.is_labelled(machine)]
    needed = all_inputs(task)
    trained = [t for t in needed if t.kind == "train"]
    notices = [encoder.notice for encoder in system.encoders.values() if encoder.notice]
    told = {t.key: read_json(t.folder(context.workspace) / "meta.json") for t in needed}
    notices += [said for t in trained for said in told[t.key]["notices"]]
    for machine, branches in by_machine.items():
        notices += [f"{machine}: {said}" for t in branches.values() for said in told[t.key].get("notices", ())]
    made = {t.spec["machine"]: generated.facts(t, context.workspace) for t in needed if t.kind == "screen"}
    notices += generated.notices(made)
    if is_transductive(system):
        notices.append(
            "Transductive: what is said of a clip depends on the other test clips. Not for a running machine."
        )
    progress(0.0, task.title)
    for machine, branches in by_machine.items():
        streams = [read_table(branches[name].folder(context.workspace) / "scores.parquet") for name in names]
        table = streams[0].drop(columns="score").assign(machine=machine)
        for name, scored_clips in zip(names, streams, strict=True):
            table[f"branch:{name}"] = scored_clips["score"]
        tables[machine] = table
    if wants_tuning(system):
        found = tune(system, pd.concat(tables.values()), context.data.truth, labelled)
        system = with_weights(system, found.weights)
        tuning = {"tuning": found.record()}
        notices += [found.said, *found.left_out]
    elif system.fusion.spec.get("tuned_on"):
        notices.append(system.fusion.spec["tuned_on"])
    for machine, table in tables.items():
        batch = _batch_values(system, by_machine[machine][names[0]], context)
        tables[machine], thresholds[machine], said = decide(system, table, batch)
        notices += [f"{machine}: {sentence}" for sentence in said]
    scores = pd.concat(tables.values(), ignore_index=True)
    columns = ["clip_id", "machine", "section", "split", "domain", "score", "decision", "threshold"]
    write_table(folder / "scores.parquet", scores[columns + [f"branch:{name}" for name in names]])

    progress(0.5, f"{system.name}: evaluate")
    if labelled:
        write_json(folder / "metrics.json", metrics.evaluate(with_truth(scores, context.data, labelled)))
    prints = [context.fingerprint(machine, split) for machine in by_machine for split in (TRAIN, TEST)]
    record = {key: task.spec[key] for key in ("run_id", "profile", "seed", "machines")} | {
        "system": system.name,
        "title": system.title,
        "config": task.spec["system"],
        "data": {"name": context.data.name, "kind": context.data.kind, "fingerprint": digest(prints)},
        "labelled": labelled,
        "transductive": is_transductive(system),
        "thresholds": thresholds,
        "tasks": [{"kind": t.kind, "key": t.key, "title": t.title, "machine": machine_of(t)} for t in needed],
        "scores": {machine: {name: t.key for name, t in tasks.items()} for machine, tasks in by_machine.items()},
        "notices": sorted(set(notices)),
        "created": time.time(),
        "seconds": sum(told[t.key]["seconds"] for t in needed),
    }
    if made:
        record["generated"] = made  # by machine: clips drawn, kept, and short of what was wanted
    if "file" in task.spec:
        record["file"] = task.spec["file"]  # where the system is written
    write_json(folder / "run.json", record | tuning)
    return {}


_WORK = {
    "generator": generated.train_generator,
    "judge": generated.train_judge,
    "generate": generated.generate,
    "screen": generated.screen,
    "quality": quality.measure,
    "train": _train,
    "embed": _embed,
    "score": _score,
    "run": _run,
}
KINDS = tuple(_WORK)
TOGETHER = ("generator", "judge", "train")  # what several processes do side by side, the others wait for


def _batch_values(system: System, scored: Task, context: Context) -> np.ndarray | None:
    if system.decision.spec.get("fit") != "official_batch":
        return None
    (trained,) = inputs_of_kind(scored, "train")
    return read_arrays(trained.folder(context.workspace) / "extra.npz")[f"batch_{system.branches[0].output}"]
