"""The street in order: train → embed → score → (fuse, decide, evaluate). The only module that knows it.

`plan` turns systems into tasks named by content, so that systems share encoders and embeddings and nothing is
computed twice; `execute` does one task. Where tasks run is the business of `engine`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from asd_core.files import digest, file_digest, read_json, write_json
from asd_core.fusion import FUSIONS
from asd_core.scorers import SCORERS
from asd_core.types import SAMPLE_RATE, TEST, TRAIN, AsdError, Clip, EmbeddingSet, Progress, no_progress
from asd_core.views import VIEWS, View

# What is in no plug-in's own version: raise these when results change, so that nothing stale is reused.
READING_VERSION = 1  # data.audio
TRAINING_VERSION = 2  # the loop and the losses
VERDICT_VERSION = 1  # fusion, decision, metrics
VIEW_ITSELF = "view"  # what is scored where there is no network

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

    def digest(self, path: Path) -> str:
        """Digest of a file's content; read once."""
        place = ("digest", str(path))
        if place not in self._facts:
            self._facts[place] = file_digest(path)
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
    import torch

    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES

    backbones = {}
    for name, encoder in system.encoders.items():
        for stage, where in ((encoder.start, f"{system.name}, start of {name}"), (encoder, f"{system.name}, {name}")):
            if stage is None:
                continue
            cls = BACKBONES[stage.backbone.name]
            objective = OBJECTIVES.create(stage.objective.spec, where)
            if objective.trains not in cls.outputs:
                raise AsdError(f'{where}: objective "{objective.name}" cannot train backbone "{cls.name}".')
            options = cls.resolve(stage.backbone.spec, longest_seconds=0.0)
            with torch.device("meta"):  # shapes without numbers: a base encoder would take a second and 360 MB
                backbones[name] = BACKBONES.create(options, where)
            _check_view(VIEWS.create(stage.view.spec, where), cls.input, where)
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
    FUSIONS.create(system.fusion.spec, f"{system.name}, fusion").fit(np.zeros((2, len(system.streams))))
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
    for name, encoder in system.encoders.items():
        spec = encoder.backbone.spec
        backbone = BACKBONES.create(BACKBONES[spec["name"]].resolve(spec, longest_seconds=0.0)).frozen()
        for branch in (branch for branch in system.branches if branch.encoder == name):
            view = VIEWS.create(_view(branch, system))
            try:
                backbone.embed(torch.from_numpy(backbone.prepare(view(noise)))[None], branch.output)
            except RuntimeError as error:
                where = f"{system.name}, branch {branch.name}"
                raise AsdError(
                    f'{where}: view "{view.name}" does not fit backbone "{backbone.name}": {error}'
                ) from error


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
    scores = []
    for machine in machines:
        # branches that look at one view through one network are embedded in one pass
        looks = {
            branch.name: (digest(_view(branch, system)), trained.get(branch.name, {}).get(machine))
            for branch in system.branches
        }
        for branch in system.branches:
            same = [other for other in system.branches if looks[other.name] == looks[branch.name]]
            embedded = _embed_task(same, system, context, machine, looks[branch.name][1])
            scores.append(_score_task(branch, machine, embedded))
    values = {"system": system.model_dump(mode="json"), "profile": profile, "seed": seed, "machines": machines}
    key = digest(["run", VERDICT_VERSION, values, context.data.name, [task.key for task in scores]])
    # the key makes the id unique: a run that differs in anything never replaces another
    run_id = f"{system.name}--{context.data.name}--{profile}--seed{seed}--{key[:6]}"
    spec = values | {"run_id": run_id}
    return Task("run", key, f"{system.name} (seed {seed}): fuse, decide, evaluate", spec, tuple(scores), 0.5)


def _train_tasks(name: str, encoder: Encoder, context: Context, machines: list[str], seed: int) -> dict[str, Task]:
    """The training that serves each machine: its own, or one shared by all machines of the run.

    Raises:
        AsdError: it starts from published weights that are not on this machine.
    """
    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES

    scopes = [machines] if encoder.scope == "dataset" else [[machine] for machine in machines]
    backbone, objective = BACKBONES[encoder.backbone.name], OBJECTIVES[encoder.objective.name]
    view = VIEWS[encoder.view.name]
    versions = [READING_VERSION, TRAINING_VERSION, backbone.version, objective.version, view.version]
    earlier = _train_tasks(f"start of {name}", encoder.start, context, machines, seed) if encoder.start else {}
    try:
        files = [context.digest(path) for path in backbone.files(encoder.backbone.spec)]
    except AsdError as error:
        raise AsdError(f"{name}: {error}") from error
    tasks: dict[str, Task] = {}
    for scope in scopes:
        longest = max(map(context.longest, scope)) if backbone.needs_length else 0.0
        resolved = encoder.model_dump(mode="json") | {
            "view": VIEWS.resolved(encoder.view.spec),
            "backbone": BACKBONES.resolved(backbone.resolve(encoder.backbone.spec, longest)),
            "objective": OBJECTIVES.resolved(encoder.objective.spec),
        }
        prints = [context.fingerprint(machine, TRAIN) for machine in scope]
        inputs = tuple({earlier[machine].key: earlier[machine] for machine in scope if earlier}.values())
        if len(inputs) > 1:
            raise AsdError(f"{name} has scope dataset, but its start has scope machine: which one should it take?")
        matters = {key: value for key, value in resolved.items() if key not in ("notice", "start")}
        key = digest(["train", matters, seed, versions, prints, files, [t.key for t in inputs]])
        title = f"train {name} (seed {seed}) on {scope[0] if len(scope) == 1 else f'{len(scope)} machines'}"
        spec = {"encoder": resolved, "seed": seed, "machines": scope}
        task = Task("train", key, title, spec, inputs, 2.0 * len(scope) * encoder.train.epochs**0.5)
        tasks |= dict.fromkeys(scope, task)
    return tasks


def _embed_task(
    branches: Sequence[Branch], system: System, context: Context, machine: str, trained: Task | None
) -> Task:
    view = VIEWS.resolved(_view(branches[0], system))
    outputs = sorted({branch.output for branch in branches}) if trained else []
    spec = {"view": view, "outputs": outputs, "machine": machine}
    inputs = (trained,) if trained else ()
    prints = [context.fingerprint(machine, split) for split in (TRAIN, TEST)]
    versions = [READING_VERSION, VIEWS[view["name"]].version]
    key = digest(["embed", spec, versions, [t.key for t in inputs], prints])
    return Task("embed", key, f"embed {machine} ({', '.join(b.name for b in branches)})", spec, inputs, 1.0)


def _score_task(branch: Branch, machine: str, embedded: Task) -> Task:
    scorer = SCORERS.resolved(branch.scorer.spec)
    output = branch.output if embedded.inputs else VIEW_ITSELF
    key = digest(["score", scorer, SCORERS[branch.scorer.name].version, output, embedded.key])
    spec = {"scorer": scorer, "output": output, "machine": machine}
    return Task("score", key, f"score {machine} ({branch.name})", spec, (embedded,), 0.2)


# ---------------------------------------------------------------- do


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
    progress(0.0, f"{task.title}: reading {len(clips)} clips")
    torch.manual_seed(loop.seed_of(seed, 2**32 - 1))  # initial weights; steps seed themselves
    backbone = BACKBONES.create(encoder["backbone"], task.title)
    backbone.begin(load_encoder(task.inputs[0].folder(context.workspace)) if task.inputs else None)
    objective = OBJECTIVES.create(encoder["objective"], task.title)
    # hidden: what only serves the work is deleted once the task is declared done
    problem = objective.problem(backbone, clips, VIEWS.create(encoder["view"]), seed, folder / ".scratch")
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

    if options.warmup_steps and options.warmup_steps >= len(history.losses):
        problem.notices.append(
            f"The training ended after {len(history.losses)} steps, in the middle of its warm-up of "
            f"{options.warmup_steps}: these clips are few for this recipe."
        )

    def keep() -> dict[str, Any]:
        extra = objective.finish(problem, history.losses, options.batch_size, seed)
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
    bf16 = _embeds_in_bf16(trained, context.device)
    found = embed(clips, task.spec["view"], trained, task.spec["outputs"], context.device, bf16, progress, task.title)
    splits = np.array([clip.split for clip in clips])
    for output, embeddings in found.items():
        for split in (TRAIN, TEST):
            write_embeddings(_embeddings_file(folder, split, output), embeddings[splits == split])
    return {"bf16": bf16}


def _embeds_in_bf16(trained: Path | None, device: str) -> bool:
    """What the precision of a training means for embedding on this device."""
    if trained is None:
        return False
    from asd_core.training import loop

    precision = read_json(trained / "meta.json")["spec"]["encoder"]["train"]["precision"]
    return loop.use_bf16(precision, loop.pick_device(device))


def _embeddings_file(folder: Path, split: str, output: str) -> Path:
    return folder / f"{split}-{output}.npz"


def embed(
    clips: Sequence[Clip],
    view_spec: dict[str, Any],
    trained: Path | None,
    outputs: Sequence[str] = (),
    device: str = "auto",
    bf16: bool = False,
    progress: Progress = no_progress,
    title: str = "embed",
) -> dict[str, EmbeddingSet]:
    """Views of clips, through the trained encoder in folder `trained` if there is one; by output, "view" without."""
    view = VIEWS.create(view_spec)
    rows: dict[str, list[np.ndarray]] = {output: [] for output in outputs or [VIEW_ITSELF]}
    done = 0
    if trained is None:
        for x in stream(clips, view):
            rows[VIEW_ITSELF].append(x)
            done += 1
            progress(done / len(clips), title)
    else:
        import torch

        from asd_core.training import loop

        backbone = load_encoder(trained)
        target = loop.pick_device(device)
        backbone.to(target)
        with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=bf16):
            for batch in _equal_lengths(
                stream(clips, lambda wave: backbone.prepare(view(wave))), backbone.batch_on(target)
            ):
                found = backbone.embed_all(torch.from_numpy(batch).to(target), outputs)
                for output, values in found.items():
                    rows[output] += list(values.cpu().numpy())
                done += len(batch)
                progress(done / len(clips), title)
    ids, sections, domains = zip(*((clip.clip_id, clip.section, clip.domain) for clip in clips), strict=True)
    return {
        output: EmbeddingSet(np.stack(own), np.array(ids), np.array(sections), np.array(domains))
        for output, own in rows.items()
    }


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
    files = [_embeddings_file(embedded, split, task.spec["output"]) for split in (TRAIN, TEST)]
    train, test = map(read_embeddings, files)
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
    notices = [encoder.notice for encoder in system.encoders.values() if encoder.notice]
    notices += [said for t in trained for said in read_json(t.folder(context.workspace) / "meta.json")["notices"]]
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
        "transductive": is_transductive(system),
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
    parts, thresholds, notices = [], {}, []
    for section, rows in table.groupby("section"):
        training = (rows["split"] == TRAIN).to_numpy()
        streams = stream_scores(system, rows)
        fused = np.empty(len(rows))
        fused[training], fused[~training], decision = verdict(system, streams[training], streams[~training], batch)
        thresholds[str(section)] = decision.threshold_
        notices += [decision.notice_] if decision.notice_ else []
        called = np.where(training, -1, decision.decide(fused).astype(int))
        parts.append(rows.assign(score=fused, threshold=decision.threshold_, decision=called))
    return pd.concat(parts), thresholds, notices


def stream_scores(system: System, table: pd.DataFrame) -> np.ndarray:
    """(N, streams): the mean of the branch columns that make up each stream."""
    members = [[f"branch:{name}" for name in names] for _, names in system.streams]
    return np.stack([table[columns].mean(axis=1).to_numpy() for columns in members], axis=1)


def verdict(
    system: System, training: np.ndarray, test: np.ndarray, batch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Decision]:
    """Fused scores (N,) of training-normal and (M,) of test clips of one machine and section, from their streams
    (N, S) and (M, S), and the fitted threshold. Only what is marked transductive looks at more than one test clip."""
    fusion = FUSIONS.create(system.fusion.spec).fit(training)
    decision = DECISIONS.create(system.decision.spec)
    known, asked = fusion.fuse(training), fusion.fuse(test)
    decision.fit(
        known,
        batch=None if batch is None else fusion.fuse(batch[:, None]),
        test=(asked if len(asked) else known) if decision.transductive else None,  # known: there is nothing to decide
    )
    return known, asked, decision


def is_transductive(system: System) -> bool:
    """Whether a clip's score or verdict depends on the other test clips."""
    fusion, decision = FUSIONS.create(system.fusion.spec), DECISIONS.create(system.decision.spec)
    return fusion.transductive or decision.transductive


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
        embedded, trained = _stored(workspace, run.record["scores"][machine][branch.name])
        meta = read_json(embedded / "meta.json")
        output = branch.output if trained else VIEW_ITSELF
        train = read_embeddings(_embeddings_file(embedded, TRAIN, output))
        if embedded not in passes:
            spec = meta["spec"]
            passes[embedded] = embed(clips, spec["view"], trained, spec["outputs"], device, meta["bf16"])
        test = passes[embedded][output]
        own = train[train.sections == section]
        if not len(own):
            raise AsdError(f"{machine} has no section {section}. Trained: {', '.join(np.unique(train.sections))}.")
        name = f"branch:{branch.name}"
        training[name], columns[name] = score(branch.scorer.spec, own, test)
        if system.decision.spec.get("fit") == "official_batch" and trained is not None:
            batch = read_arrays(trained / "extra.npz")[f"batch_{branch.output}"]
    normal, asked = (stream_scores(system, pd.DataFrame(part)) for part in (training, columns))
    known, fused, decision = verdict(system, normal, asked, batch)
    table = pd.DataFrame({"file": [str(path) for path in paths], "machine": machine, "score": fused})
    table["threshold"] = decision.threshold_
    table["decision"] = decision.decide(fused).astype(int)
    table["percentile"] = percentile(known, fused)
    return table.assign(**columns)


def _stored(workspace: Workspace, score_key: str) -> tuple[Path, Path | None]:
    """Folders of the embeddings and, if there is one, of the trained encoder behind a score task."""
    embedded = workspace.task("embed", read_json(workspace.task("score", score_key) / "meta.json")["inputs"][0])
    inputs = read_json(embedded / "meta.json")["inputs"]
    return embedded, workspace.task("train", inputs[0]) if inputs else None
