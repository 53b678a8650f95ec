"""The street in order: train → embed → score → (fuse, decide, evaluate). The only module that knows it.

`plan` turns systems into tasks named by content, so that systems share encoders and embeddings and nothing is
computed twice; `execute` does one task. Where tasks run is the business of `engine`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import metrics
from asd_core.analysis import percentile
from asd_core.artifacts import (
    Workspace,
    begin,
    finish,
    is_done,
    load_run,
    read_arrays,
    read_embeddings,
    read_table,
    write_arrays,
    write_embeddings,
    write_table,
)
from asd_core.config import Branch, Encoder, Profile, System, resolve, validate
from asd_core.data import audio
from asd_core.data.manifest import DataSet, fingerprint
from asd_core.data.stream import stream
from asd_core.decision import DECISIONS, Decision
from asd_core.files import digest, read_json, write_json
from asd_core.fusion import FUSIONS, Fusion
from asd_core.scorers import SCORERS
from asd_core.types import SAMPLE_RATE, TEST, TRAIN, AsdError, Clip, EmbeddingSet, Progress, no_progress
from asd_core.views import VIEWS, View

# What is in no plug-in's own version: raise these when results change, so that nothing stale is reused.
READING_VERSION = 1  # data.audio
TRAINING_VERSION = 2  # the loop and the losses
VERDICT_VERSION = 1  # fusion, decision, metrics
BATCH = 32  # clips embedded together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """What all tasks of one invocation have in common."""

    workspace: Workspace
    data: DataSet
    device: str = "auto"
    checkpoint_seconds: float = 30.0  # between two checkpoints of a training

    @cached_property
    def _facts(self) -> dict[tuple[str, ...], Any]:
        return {}

    def fingerprint(self, machine: str, split: str) -> str:
        """Digest of the ids and contents of a machine's clips; read once."""
        place = ("fingerprint", machine, split)
        if place not in self._facts:
            cache = self.workspace.cache / "fingerprints.json"
            self._facts[place] = fingerprint(self.data.of(machine, split), cache)
        return self._facts[place]

    def longest(self, machine: str) -> float:
        """Seconds of a machine's longest training clip; headers are read once."""
        place = ("longest", machine)
        if place not in self._facts:
            self._facts[place] = max(audio.info(clip.path).seconds for clip in self.data.of(machine, TRAIN))
        return self._facts[place]


@dataclass(frozen=True)
class Task:
    """One piece of work. `key` names its resolved options and inputs; equal keys, equal results."""

    kind: str  # "train", "embed", "score" or "run"
    key: str
    title: str
    spec: dict[str, Any] = field(repr=False, compare=False)
    inputs: tuple[Task, ...] = field(default=(), repr=False, compare=False)
    weight: float = field(default=1.0, compare=False)  # rough share of the time

    def folder(self, workspace: Workspace) -> Path:
        if self.kind == "run":
            return workspace.run(self.spec["run_id"])
        return workspace.task(self.kind, self.key)

    def done(self, workspace: Workspace) -> bool:
        folder = self.folder(workspace)
        return is_done(folder) and (self.kind != "run" or read_json(folder / "meta.json").get("key") == self.key)


# ---------------------------------------------------------------- plan


def check(system: System) -> None:
    """Build every part of a system, so that a typo costs a second and not an hour."""
    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES

    backbones = {}
    for name, encoder in system.encoders.items():
        where = f"{system.name}, encoder {name}"
        cls = BACKBONES[encoder.backbone.name]
        objective = OBJECTIVES.create(encoder.objective.spec, where)
        if objective.trains not in cls.outputs:
            raise AsdError(f'{where}: objective "{objective.name}" cannot train backbone "{cls.name}".')
        options = cls.resolve(encoder.backbone.spec, longest_seconds=0.0)
        backbones[name] = BACKBONES.create(options, where).frozen()
        _check_view(VIEWS.create(encoder.view.spec, where), cls.input, where)
    for branch in system.branches:
        where = f"{system.name}, branch {branch.name}"
        scorer = SCORERS.create(branch.scorer.spec, where)
        view = VIEWS.create(_view(branch, system), where)
        if branch.encoder is None:
            _check_view(view, "vector", where)
            continue
        backbone = backbones[branch.encoder]
        _check_view(view, backbone.input, where)
        if branch.output not in backbone.outputs:
            raise AsdError(
                f'{where}: backbone "{backbone.name}" has no output "{branch.output}". '
                f"Allowed: {', '.join(backbone.outputs)}."
            )
        if system.decision.spec.get("fit") == "official_batch":
            fits = branch.output in backbone.batch_outputs and scorer.name == "reconstruction"
            if len(system.branches) > 1 or not fits:
                raise AsdError(f"{where}: decision fit official_batch needs one branch, an autoencoder's own score.")
    FUSIONS.create(system.fusion.spec, f"{system.name}, fusion").fit(np.zeros((2, len(system.branches))))
    DECISIONS.create(system.decision.spec, f"{system.name}, decision")


def _view(branch: Branch, system: System) -> dict[str, Any]:
    """What a branch looks at: its own view, else its encoder's."""
    return branch.view.spec if branch.view is not None else system.encoders[str(branch.encoder)].view.spec


def _check_view(view: View, wanted: str, where: str) -> None:
    if view.kind != wanted:
        fitting = ", ".join(sorted(name for name, cls in VIEWS.classes.items() if cls.kind == wanted))
        raise AsdError(f'{where}: view "{view.name}" gives a {view.kind}, but a {wanted} is needed: {fitting}.')


def try_out(system: System) -> None:
    """Send two seconds of noise through every view and network of a checked system: do their shapes fit?"""
    import torch

    from asd_core.backbones import BACKBONES

    noise = np.random.default_rng(0).normal(size=(2, 2 * SAMPLE_RATE)).astype(np.float32)
    for branch in system.branches:
        if branch.encoder is None:
            continue
        spec = system.encoders[branch.encoder].backbone.spec
        backbone = BACKBONES.create(BACKBONES[spec["name"]].resolve(spec, longest_seconds=0.0)).frozen()
        view = VIEWS.create(_view(branch, system))
        try:
            backbone.embed(torch.from_numpy(backbone.prepare(view(noise)))[None], branch.output)
        except RuntimeError as error:
            where = f"{system.name}, branch {branch.name}"
            raise AsdError(f'{where}: view "{view.name}" does not fit backbone "{backbone.name}": {error}') from error


def plan(
    systems: Sequence[System],
    profile: Profile,
    context: Context,
    machines: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
) -> list[Task]:
    """Tasks for all systems on the given machines (default: all), inputs before what needs them, each once.

    Raises:
        AsdError: an unknown machine, a machine without training or test clips, or a system with a mistake.
    """
    chosen = _machines(context.data, machines)
    tasks: dict[tuple[str, str], Task] = {}

    def add(task: Task) -> None:
        for needed in task.inputs:
            add(needed)
        tasks.setdefault((task.kind, task.key), task)

    for system in systems:
        resolved = resolve(system, profile)
        check(resolved)
        runs = [_run_task(resolved, profile.name, context, chosen, seed) for seed in seeds]
        if not all(run.done(context.workspace) for run in runs):
            try_out(resolved)
        for run in runs:
            add(run)
    return list(tasks.values())


def _machines(data: DataSet, wanted: Sequence[str] | None) -> list[str]:
    """The machines asked for, or all that can be trained and scored.

    Raises:
        AsdError: one that was asked for, or every one, lacks clips.
    """
    lacks = {machine: reason for machine in wanted or data.machines if (reason := _lack(data, machine))}
    chosen = sorted(set(wanted or data.machines) - set(lacks))
    if lacks and (wanted or not chosen):
        raise AsdError(
            f"{next(iter(lacks.values()))} in {data.root}. Add them, or leave the machine out with --machines."
        )
    for reason in lacks.values():
        log.warning("left out: %s", reason)
    return chosen


def _lack(data: DataSet, machine: str) -> str:
    """What keeps a machine from being trained and scored, or an empty string."""
    for split in (TRAIN, TEST):
        if not data.of(machine, split):
            return f"{machine} has no {split} clips"
    data.is_labelled(machine)  # refuses a folder of which only some clips are labelled
    known = {clip.section for clip in data.of(machine, TRAIN)}
    for clip in data.of(machine, TEST):
        if clip.section not in known:
            return f"{machine} has no training clips of section {clip.section}, which {clip.file_name} is of,"
    return ""


def _run_task(system: System, profile: str, context: Context, machines: list[str], seed: int) -> Task:
    trained = {}
    for branch in system.branches:
        if branch.encoder is not None:
            encoder = system.encoders[branch.encoder]
            trained[branch.name] = _train_tasks(branch.encoder, encoder, context, machines, seed + branch.seed)
    scores = [
        _score_task(branch, system, context, machine, trained.get(branch.name, {}).get(machine))
        for machine in machines
        for branch in system.branches
    ]
    values = {"system": system.model_dump(mode="json"), "profile": profile, "seed": seed, "machines": machines}
    key = digest(["run", VERDICT_VERSION, values, context.data.name, [task.key for task in scores]])
    # the key makes the id unique: a run that differs in anything never replaces another
    run_id = f"{system.name}--{context.data.name}--{profile}--seed{seed}--{key[:6]}"
    spec = values | {"run_id": run_id}
    return Task("run", key, f"{system.name} (seed {seed}): fuse, decide, evaluate", spec, tuple(scores), 0.5)


def _train_tasks(name: str, encoder: Encoder, context: Context, machines: list[str], seed: int) -> dict[str, Task]:
    """The training that serves each machine: its own, or one shared by all machines of the run."""
    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES

    scopes = [machines] if encoder.scope == "dataset" else [[machine] for machine in machines]
    backbone, objective = BACKBONES[encoder.backbone.name], OBJECTIVES[encoder.objective.name]
    view = VIEWS[encoder.view.name]
    versions = [READING_VERSION, TRAINING_VERSION, backbone.version, objective.version, view.version]
    tasks: dict[str, Task] = {}
    for scope in scopes:
        longest = max(map(context.longest, scope)) if backbone.needs_length else 0.0
        resolved = encoder.model_dump(mode="json") | {
            "view": VIEWS.resolved(encoder.view.spec),
            "backbone": BACKBONES.resolved(backbone.resolve(encoder.backbone.spec, longest)),
            "objective": OBJECTIVES.resolved(encoder.objective.spec),
        }
        prints = [context.fingerprint(machine, TRAIN) for machine in scope]
        key = digest(["train", resolved, seed, versions, prints])
        title = f"train {name} (seed {seed}) on {scope[0] if len(scope) == 1 else f'{len(scope)} machines'}"
        spec = {"encoder": resolved, "seed": seed, "machines": scope}
        task = Task("train", key, title, spec, (), 2.0 * len(scope) * encoder.train.epochs**0.5)
        tasks |= dict.fromkeys(scope, task)
    return tasks


def _score_task(branch: Branch, system: System, context: Context, machine: str, trained: Task | None) -> Task:
    view = VIEWS.resolved(_view(branch, system))
    spec = {"view": view, "output": branch.output if trained else None, "machine": machine}
    inputs = (trained,) if trained else ()
    prints = [context.fingerprint(machine, split) for split in (TRAIN, TEST)]
    versions = [READING_VERSION, VIEWS[view["name"]].version]
    embed_key = digest(["embed", spec, versions, [t.key for t in inputs], prints])
    embed = Task("embed", embed_key, f"embed {machine} ({branch.name})", spec, inputs, 1.0)
    scorer = SCORERS.resolved(branch.scorer.spec)
    key = digest(["score", scorer, SCORERS[branch.scorer.name].version, embed.key])
    return Task("score", key, f"score {machine} ({branch.name})", {"scorer": scorer, "machine": machine}, (embed,), 0.2)


# ---------------------------------------------------------------- do


def execute(task: Task, context: Context, progress: Progress = no_progress) -> None:
    """Do one task whose inputs are done, unless it is done already. One process at a time per task."""
    folder = task.folder(context.workspace)
    with context.workspace.locked(folder, lambda: progress(0.0, f"{task.title}: waiting for another process")):
        if task.done(context.workspace):
            return
        started = time.time()
        begin(folder)
        facts = _WORK[task.kind](task, context, folder, progress)
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
    from asd_core.training import OBJECTIVES, checkpoint, loop

    encoder, seed = task.spec["encoder"], task.spec["seed"]
    options = validate(Encoder, encoder, task.title).train
    clips = [clip for machine in task.spec["machines"] for clip in context.data.of(machine, TRAIN)]
    progress(0.0, f"{task.title}: reading {len(clips)} clips")
    torch.manual_seed(loop.seed_of(seed, 2**32 - 1))  # initial weights; steps seed themselves
    backbone = BACKBONES.create(encoder["backbone"], task.title)
    objective = OBJECTIVES.create(encoder["objective"], task.title)
    problem = objective.problem(backbone, clips, VIEWS.create(encoder["view"]), seed)
    losses = loop.fit(
        problem.learner,
        problem.examples,
        options,
        seed=seed,
        checkpoint_file=folder / "checkpoint.safetensors",
        checkpoint_seconds=context.checkpoint_seconds,
        device=context.device,
        progress=lambda fraction, message, **values: progress(fraction, f"{task.title}: {message}", **values),
    )
    extra = objective.finish(problem, losses, options.batch_size, seed)
    checkpoint.save_weights(folder / "model.safetensors", backbone)
    write_arrays(folder / "losses.npz", losses=losses)
    write_arrays(folder / "extra.npz", **extra)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    parameters = sum(p.numel() for p in backbone.parameters())
    return {
        "backbone": encoder["backbone"],
        "parameters": parameters,
        "notices": problem.notices,
        "steps": len(losses),
        "device": str(loop.pick_device(context.device)),
    }


def load_encoder(folder: Path) -> Any:
    """The trained backbone of a finished train task, frozen."""
    from asd_core.backbones import BACKBONES
    from asd_core.training import checkpoint

    backbone = BACKBONES.create(read_json(folder / "meta.json")["backbone"])
    checkpoint.load_weights(folder / "model.safetensors", backbone)
    return backbone.frozen()


def _embed(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    clips = context.data.of(task.spec["machine"])
    trained = task.inputs[0].folder(context.workspace) if task.inputs else None
    embeddings = embed(clips, task.spec["view"], trained, task.spec["output"], context.device, progress, task.title)
    splits = np.array([clip.split for clip in clips])
    for split in (TRAIN, TEST):
        write_embeddings(folder / f"{split}.npz", embeddings[splits == split])
    return {}


def embed(
    clips: Sequence[Clip],
    view_spec: dict[str, Any],
    trained: Path | None,
    output: str | None,
    device: str = "auto",
    progress: Progress = no_progress,
    title: str = "embed",
) -> EmbeddingSet:
    """Views of clips, through the trained encoder in folder `trained` if there is one → (N, D)."""
    view = VIEWS.create(view_spec)
    rows: list[np.ndarray] = []
    if trained is None:
        for x in stream(clips, view):
            rows.append(x)
            progress(len(rows) / len(clips), title)
    else:
        import torch

        from asd_core.training import loop

        backbone = load_encoder(trained)
        target = loop.pick_device(device)
        backbone.to(target)
        with torch.inference_mode():
            for batch in _equal_lengths(stream(clips, lambda wave: backbone.prepare(view(wave))), BATCH):
                rows += list(backbone.embed(torch.from_numpy(batch).to(target), output).cpu().numpy())
                progress(len(rows) / len(clips), title)
    return EmbeddingSet(
        np.stack(rows),
        np.array([clip.clip_id for clip in clips]),
        np.array([clip.section for clip in clips]),
        np.array([clip.domain for clip in clips]),
    )


def _equal_lengths(views: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Consecutive views of one shape, stacked (B, …), at most `most` of them."""
    batch: list[np.ndarray] = []
    for x in views:
        if batch and (len(batch) == most or x.shape != batch[0].shape):
            yield np.stack(batch)
            batch = []
        batch.append(x)
    if batch:
        yield np.stack(batch)


def _score(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    embedded = task.inputs[0].folder(context.workspace)
    train, test = (read_embeddings(embedded / f"{split}.npz") for split in (TRAIN, TEST))
    progress(0.0, task.title)
    table = pd.concat(
        [
            pd.DataFrame(
                {"clip_id": part.clip_ids, "section": part.sections, "split": split, "domain": part.domains}
            ).assign(score=scores)
            for split, part, scores in zip(
                (TRAIN, TEST), (train, test), score(task.spec["scorer"], train, test), strict=True
            )
        ],
        ignore_index=True,
    )
    write_table(folder / "scores.parquet", table)
    return {}


def score(spec: dict[str, Any], train: EmbeddingSet, test: EmbeddingSet) -> tuple[np.ndarray, np.ndarray]:
    """Scores of training clips (as if new) and of test clips; each section has its own memory."""
    training, scores = np.zeros(len(train)), np.zeros(len(test))
    strangers = ~np.isin(test.sections, train.sections)
    if strangers.any():
        raise AsdError(
            f"{test.clip_ids[strangers][0]} is of section {test.sections[strangers][0]}, which has no training clips. "
            f"Trained sections: {', '.join(np.unique(train.sections))}."
        )
    for section in np.unique(train.sections):
        known, asked = train.sections == section, test.sections == section
        scorer = SCORERS.create(spec).fit(train[known])
        training[known] = scorer.training_scores()
        if asked.any():
            scores[asked] = scorer.score(test[asked])
    return training, scores


def _run(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    system = validate(System, task.spec["system"], task.title)
    names = [branch.name for branch in system.branches]
    by_machine: dict[str, dict[str, Task]] = {}  # inputs come machine by machine, branches in their order
    for scored, name in zip(task.inputs, names * len(task.spec["machines"]), strict=True):
        by_machine.setdefault(scored.spec["machine"], {})[name] = scored
    tables, thresholds = [], {}
    trained = _inputs_of_kind(task, "train")
    notices = [notice for t in trained for notice in read_json(t.folder(context.workspace) / "meta.json")["notices"]]
    progress(0.0, task.title)
    for machine, branches in by_machine.items():
        streams = [read_table(branches[name].folder(context.workspace) / "scores.parquet") for name in names]
        table = streams[0].drop(columns="score").assign(machine=machine)
        for name, scored_clips in zip(names, streams, strict=True):
            table[f"branch:{name}"] = scored_clips["score"]
        batch = _batch_values(system, branches[names[0]], context)
        table, thresholds[machine], said = decide(system, table, batch)
        notices += [f"{machine}: {sentence}" for sentence in said]
        tables.append(table)
    scores = pd.concat(tables, ignore_index=True)
    columns = ["clip_id", "machine", "section", "split", "domain", "score", "decision", "threshold"]
    write_table(folder / "scores.parquet", scores[columns + [f"branch:{name}" for name in names]])

    progress(0.5, f"{system.name}: evaluate")
    labelled = [machine for machine in by_machine if context.data.is_labelled(machine)]
    if labelled:
        write_json(folder / "metrics.json", metrics.evaluate(with_truth(scores, context.data, labelled)))
    prints = [context.fingerprint(machine, split) for machine in by_machine for split in (TRAIN, TEST)]
    record = {key: task.spec[key] for key in ("run_id", "profile", "seed", "machines")} | {
        "system": system.name,
        "title": system.title,
        "config": task.spec["system"],
        "data": {"name": context.data.name, "kind": context.data.kind, "fingerprint": digest(prints)},
        "labelled": labelled,
        "thresholds": thresholds,
        "tasks": [{"kind": t.kind, "key": t.key, "title": t.title, "machine": _machine(t)} for t in _all_inputs(task)],
        "scores": {machine: {name: t.key for name, t in tasks.items()} for machine, tasks in by_machine.items()},
        "notices": sorted(set(notices)),
        "created": time.time(),
        "seconds": sum(read_json(t.folder(context.workspace) / "meta.json")["seconds"] for t in _all_inputs(task)),
    }
    write_json(folder / "run.json", record)
    return {}


_WORK = {"train": _train, "embed": _embed, "score": _score, "run": _run}


def decide(
    system: System, table: pd.DataFrame, batch: np.ndarray | None = None
) -> tuple[pd.DataFrame, dict[str, float], list[str]]:
    """Fuse the branch columns of one machine and decide, section by section, knowing training clips only.

    Returns:
        The table with score, threshold and decision (0 or 1; −1 for training clips), thresholds by section,
        and what the user should know about them.
    """
    branches = [column for column in table if column.startswith("branch:")]
    parts, thresholds, notices = [], {}, []
    for section, rows in table.groupby("section"):
        training = (rows["split"] == TRAIN).to_numpy()
        fusion, decision = fit_verdict(system, rows.loc[training, branches].to_numpy(), batch)
        fused = fusion.fuse(rows[branches].to_numpy())
        thresholds[str(section)] = decision.threshold_
        notices += [decision.notice_] if decision.notice_ else []
        verdict = np.where(training, -1, decision.decide(fused).astype(int))
        parts.append(rows.assign(score=fused, threshold=decision.threshold_, decision=verdict))
    return pd.concat(parts), thresholds, notices


def fit_verdict(system: System, training: np.ndarray, batch: np.ndarray | None) -> tuple[Fusion, Decision]:
    """Fusion and threshold learnt from training-normal scores (N, branches) of one machine and section."""
    fusion = FUSIONS.create(system.fusion.spec).fit(training)
    fused = None if batch is None else fusion.fuse(batch[:, None])
    return fusion, DECISIONS.create(system.decision.spec).fit(fusion.fuse(training), fused)


def _batch_values(system: System, scored: Task, context: Context) -> np.ndarray | None:
    if system.decision.spec.get("fit") != "official_batch":
        return None
    (trained,) = _inputs_of_kind(scored, "train")
    return read_arrays(trained.folder(context.workspace) / "extra.npz")[f"batch_{system.branches[0].output}"]


def with_truth(scores: pd.DataFrame, data: DataSet, machines: Sequence[str]) -> pd.DataFrame:
    """Test rows of labelled machines with label and domain. Only metrics and analysis may ask for this."""
    rows = scores[(scores["split"] == TEST) & scores["machine"].isin(machines)]
    truth = [data.truth[clip_id] for clip_id in rows["clip_id"]]
    return rows.assign(label=[t.label for t in truth], domain=[t.domain for t in truth])


def _all_inputs(task: Task) -> list[Task]:
    found: dict[tuple[str, str], Task] = {}
    for needed in task.inputs:
        found |= {(t.kind, t.key): t for t in [*_all_inputs(needed), needed]}
    return list(found.values())


def _machine(task: Task) -> str | None:
    """The one machine a task is about; None for a training on several."""
    machines = task.spec.get("machines", [task.spec.get("machine")])
    return machines[0] if len(machines) == 1 else None


def _inputs_of_kind(task: Task, kind: str) -> list[Task]:
    return [t for t in _all_inputs(task) if t.kind == kind]


# ---------------------------------------------------------------- score loose clips


def score_files(
    workspace: Workspace, run_id: str, machine: str, paths: Sequence[Path], section: str = "00", device: str = "auto"
) -> pd.DataFrame:
    """Score any recordings as clips of `machine` with a trained run: file, score, threshold, decision,
    percentile (percent of training normals that score at most this) and one column per branch."""
    run = load_run(workspace, run_id)
    if machine not in run.record["machines"]:
        raise AsdError(f'Run {run_id} has no machine "{machine}". It has: {", ".join(run.record["machines"])}.')
    system = validate(System, run.record["config"], run_id)
    clips = [Clip(f"{machine}/{TEST}/{path.name}", path, machine, TEST, section) for path in paths]
    columns, training = {}, {}
    batch = None
    for branch in system.branches:
        embedded, trained = _stored(workspace, run.record["scores"][machine][branch.name])
        spec = read_json(embedded / "meta.json")["spec"]
        train = read_embeddings(embedded / f"{TRAIN}.npz")
        test = embed(clips, spec["view"], trained, spec["output"], device)
        own = train[train.sections == section]
        if not len(own):
            raise AsdError(f"{machine} has no section {section}. Trained: {', '.join(np.unique(train.sections))}.")
        training[branch.name], columns[f"branch:{branch.name}"] = score(branch.scorer.spec, own, test)
        if system.decision.spec.get("fit") == "official_batch" and trained is not None:
            batch = read_arrays(trained / "extra.npz")[f"batch_{branch.output}"]
    known = np.stack(list(training.values()), axis=1)
    fusion, decision = fit_verdict(system, known, batch)
    fused = fusion.fuse(np.stack(list(columns.values()), axis=1))
    table = pd.DataFrame({"file": [str(path) for path in paths], "machine": machine, "score": fused})
    table["threshold"] = decision.threshold_
    table["decision"] = decision.decide(fused).astype(int)
    table["percentile"] = percentile(fusion.fuse(known), fused)
    return table.assign(**columns)


def _stored(workspace: Workspace, score_key: str) -> tuple[Path, Path | None]:
    """Folders of the embeddings and, if there is one, of the trained encoder behind a score task."""
    embedded = workspace.task("embed", read_json(workspace.task("score", score_key) / "meta.json")["inputs"][0])
    inputs = read_json(embedded / "meta.json")["inputs"]
    return embedded, workspace.task("train", inputs[0]) if inputs else None
