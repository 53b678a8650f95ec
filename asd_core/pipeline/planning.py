"""Systems → tasks. They share encoders and embeddings, and nothing is computed twice."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from asd_core.analysis import hears_both, needs_two_microphones
from asd_core.artifacts import read_table
from asd_core.config import Branch, Encoder, Generator, Profile, System, resolve
from asd_core.data import audio
from asd_core.data.manifest import DataSet
from asd_core.decision import DECISIONS
from asd_core.files import digest
from asd_core.fusion import FUSIONS
from asd_core.pipeline.generated import kept_tasks, verdicts
from asd_core.pipeline.quality import check_listener, quality_task
from asd_core.pipeline.tasks import (
    EMBEDDING_VERSION,
    READING_VERSION,
    SCORING_VERSION,
    TRAINING_VERSION,
    VERDICT_VERSION,
    VIEW_ITSELF,
    Context,
    Task,
    all_inputs,
)
from asd_core.pipeline.tuned import wants_tuning, with_weights
from asd_core.scorers import SCORERS
from asd_core.tuning import TUNING_VERSION, check_search
from asd_core.types import FAR, SAMPLE_RATE, TEST, TRAIN, AsdError, Clip
from asd_core.views import VIEWS, View

log = logging.getLogger(__name__)


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
            if objective.steps != (stage.train is not None):
                verb = "needs" if objective.steps else "trains nothing and takes no"
                raise AsdError(f'{where}: objective "{objective.name}" {verb} section "train".')
            options = cls.resolve(stage.backbone.spec, longest_seconds=0.0)
            with torch.device("meta"):  # shapes without numbers: a base encoder would take a second and 360 MB
                backbones[name] = BACKBONES.create(options, where)
            _check_view(VIEWS.create(stage.view.spec, where), cls.input, where)
    for branch in system.branches:
        where = f"{system.name}, branch {branch.name}"
        scorer = SCORERS.create(branch.scorer.spec, where)
        if system.synthesis is not None and system.synthesis.bank and not scorer.takes_generated:
            raise AsdError(
                f'{where}: scorer "{scorer.name}", as it is set, cannot compare with generated clips. Write bank: false '
                f"under synthesis, so that they serve the training of encoders only."
            )
        view = VIEWS.create(view_of(branch, system), where)
        if branch.encoder is None:
            _check_view(view, scorer.takes, where)
            continue
        backbone = backbones[branch.encoder]
        _check_view(view, backbone.input, where)
        if branch.output not in backbone.outputs:
            raise AsdError(
                f'{where}: backbone "{backbone.name}" has no output "{branch.output}". '
                f"Allowed: {', '.join(backbone.outputs)}."
            )
        if (kind := backbone.kind_of(branch.output)) != scorer.takes:
            fitting = [output for output in backbone.outputs if backbone.kind_of(output) == scorer.takes]
            raise AsdError(
                f'{where}: output "{branch.output}" gives a clip\'s {kind}, but scorer "{scorer.name}" takes '
                f"{scorer.takes}: {', '.join(fitting) or 'this network has none'}."
            )
    if system.decision.spec.get("fit") == "official_batch":
        first = system.branches[0]
        outputs = () if first.encoder is None else backbones[first.encoder].batch_outputs
        if len(system.branches) > 1 or first.scorer.name != "reconstruction" or first.output not in outputs:
            raise AsdError(f"{system.name}: decision fit official_batch needs one branch, an autoencoder's own score.")
    FUSIONS.create(system.fusion.spec, f"{system.name}, fusion")
    if wants_tuning(system):
        check_search(system.fusion.spec.get("search", "auto"), len(system.streams))
    fused = with_weights(system, [1.0] * len(system.streams)) if wants_tuning(system) else system
    FUSIONS.create(fused.fusion.spec).fit(np.zeros((2, len(system.streams))))
    DECISIONS.create(system.decision.spec, f"{system.name}, decision")


def view_of(branch: Branch, system: System) -> dict[str, Any]:
    """What a branch looks at: its own view, else its encoder's."""
    return branch.view.spec if branch.view is not None else system.encoders[str(branch.encoder)].view.spec


def _check_view(view: View, wanted: str, where: str) -> None:
    if view.kind != wanted:
        fitting = ", ".join(sorted(name for name, cls in VIEWS.classes.items() if cls.kind == wanted))
        raise AsdError(
            f'{where}: view "{view.name}" gives a {view.kind}, but a {wanted} is needed: '
            f"{fitting or 'no view gives it, only an encoder'}."
        )


def try_out(system: System) -> None:
    """Send two seconds of noise through every view and network of a checked system: do their shapes fit?"""
    import torch

    from asd_core.backbones import BACKBONES

    if system.synthesis is not None:
        from asd_core.synthesis.network import Denoiser

        try:
            with torch.device("meta"):
                Denoiser(system.synthesis.generator.network, words=1, channels=2)
        except ValueError as error:
            raise AsdError(f"{system.name}, generator {system.synthesis.generator.name}: {error}") from error
    noise = np.random.default_rng(0).normal(size=(2, 2 * SAMPLE_RATE)).astype(np.float32)
    for name, encoder in system.encoders.items():
        spec = encoder.backbone.spec
        backbone = BACKBONES.create(BACKBONES[spec["name"]].resolve(spec, longest_seconds=0.0)).frozen()
        for branch in (branch for branch in system.branches if branch.encoder == name):
            view = VIEWS.create(view_of(branch, system))
            try:
                x = backbone.embed(torch.from_numpy(backbone.prepare(view(noise)))[None], branch.output)
                SCORERS.create(branch.scorer.spec).expect(tuple(x.shape[1:]))
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
    files: Mapping[str, str] = MappingProxyType({}),
) -> list[Task]:
    """Tasks for all systems on the given machines (default: all), inputs before what needs them, each once.

    Args:
        files: by name, where the systems are written that are not of configs/systems; their runs keep it

    Raises:
        AsdError: an unknown machine, a machine without training or test clips, a system with a mistake, or one that
            needs two microphones where a recording has one.
    """
    chosen = _machines(context.data, machines)
    tasks: dict[tuple[str, str], Task] = {}

    @cache
    def one_channel(machine: str, split: str) -> Clip | None:
        """The first clip without a far microphone."""
        return next((clip for clip in context.data.of(machine, split) if audio.info(clip.path).channels <= FAR), None)

    def require_microphones(system: System) -> None:
        if not needs_two_microphones(system):
            return
        scored = any(hears_both(view_of(branch, system)) for branch in system.branches)  # else they serve training only
        for machine in chosen:
            if clip := one_channel(machine, TRAIN) or (one_channel(machine, TEST) if scored else None):
                raise AsdError(
                    f"{clip.path} has one channel, but {system.name} needs the near and the far microphone. Record both, "
                    f"leave {machine} out with --machines, or use a system that needs one; `systems` tells which do."
                )

    for system in systems:
        resolved = resolve(system, profile)
        check(resolved)
        told = {"file": files[resolved.name]} if resolved.name in files else {}
        runs = [_run_task(resolved, profile.name, context, chosen, seed, told) for seed in seeds]
        if not all(run.done(context.workspace) for run in runs):
            require_microphones(resolved)
            try_out(resolved)
        for run in runs:
            for task in [*all_inputs(run), run]:
                tasks.setdefault((task.kind, task.key), task)
    return list(tasks.values())


def plan_generated(
    generator: Generator, context: Context, machines: Sequence[str] | None = None, quality: bool = False
) -> list[Task]:
    """Tasks that make and screen generated clips of some machines, and measure them if asked to; they are those of a
    system that uses them. The generator learns from all machines of the data.

    Raises:
        AsdError: an unknown machine, one without clips, or nothing to generate.
    """
    every, chosen = _machines(context.data, None), _machines(context.data, machines)
    kept = {machine: task for machine, task in kept_tasks(generator, context, every).items() if machine in chosen}
    if not kept:
        raise AsdError(
            f"No condition of {', '.join(chosen)} has too few clips by the generator's targets. Raise targets.share in "
            f"its YAML, or ask for numbers in targets.counts."
        )
    last = list(kept.values())
    if quality:
        check_listener(generator)
        start = generator.listener.start
        listeners = _train_tasks("start of the listener", start, context, every, generator.seed) if start else {}
        last = [quality_task(task, context, listeners.get(machine)) for machine, task in kept.items()]
    return list({(t.kind, t.key): t for task in last for t in [*all_inputs(task), task]}.values())


def record_verdicts(generator: Generator, context: Context, said: Sequence[tuple[str, str]]) -> None:
    """Write down what the user says of candidates: (clip, "keep", "drop", "unsure" or "undo").

    Raises:
        AsdError: there is no such candidate; then nothing is written.
    """
    drawn = [task.inputs[0] for task in kept_tasks(generator, context, _machines(context.data, None)).values()]
    known: dict[str, str] = {}
    for task in drawn:
        if task.done(context.workspace):
            table = read_table(task.folder(context.workspace) / "candidates.parquet")
            known |= dict.fromkeys(table["clip"], task.spec["log"])
    for clip, _ in said:
        if clip not in known:
            raise AsdError(
                f"There is no generated clip {clip} with these settings. "
                + (f"Such as: {next(iter(known))}; `screen --clips` lists them." if known else "`generate` makes some.")
            )
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        who = "unknown"
    for clip, verdict in said:
        verdicts(context.workspace, known[clip]).add(clip, verdict, who)  # type: ignore[arg-type]  # checked there


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


def _run_task(
    system: System, profile: str, context: Context, machines: list[str], seed: int, told: Mapping[str, str]
) -> Task:
    """The run of a system with all it takes; what is `told` of it makes no difference to what comes out."""
    trained = {}
    synthesis = system.synthesis
    made = kept_tasks(synthesis.generator, context, _machines(context.data, None)) if synthesis else {}
    kept = {machine: task for machine, task in made.items() if machine in machines}
    if synthesis and not kept:
        log.warning("%s: no condition has too few clips, so none are generated", system.name)
    for branch in system.branches:
        if branch.encoder is not None:
            encoder = system.encoders[branch.encoder]
            trained[branch.name] = _train_tasks(branch.encoder, encoder, context, machines, seed, branch.seed, kept)
    scores = []
    for machine in machines:
        # branches that look at one view through one network are embedded in one pass
        looks = {
            branch.name: (digest(view_of(branch, system)), trained.get(branch.name, {}).get(machine))
            for branch in system.branches
        }
        for branch in system.branches:
            same = [other for other in system.branches if looks[other.name] == looks[branch.name]]
            bank = kept.get(machine) if synthesis and synthesis.bank else None
            embedded = _embed_task(same, system, context, machine, looks[branch.name][1], bank)
            scores.append(_score_task(branch, machine, embedded))
    values = {"system": system.model_dump(mode="json"), "profile": profile, "seed": seed, "machines": machines}
    versions = [VERDICT_VERSION, TUNING_VERSION] if wants_tuning(system) else VERDICT_VERSION
    key = digest(["run", versions, values, context.data.name, context.data.kind, [t.key for t in scores]])
    # the key makes the id unique: a run that differs in anything never replaces another
    run_id = f"{system.name}--{context.data.name}--{profile}--seed{seed}--{key[:6]}"
    spec = values | {"run_id": run_id, **told}
    return Task("run", key, f"{system.name} (seed {seed}): fuse, decide, evaluate", spec, tuple(scores), 0.5)


def _train_tasks(
    name: str,
    encoder: Encoder,
    context: Context,
    machines: Sequence[str],
    run_seed: int,
    branch_seed: int = 0,
    kept: Mapping[str, Task] = MappingProxyType({}),
) -> dict[str, Task]:
    """The training that serves each machine: its own, or one shared by all machines of the run.

    Trainings of one run that differ in their seed have their start in common, as they would a published checkpoint;
    it knows nothing of the generated clips, which tasks `kept` tell by machine.

    Raises:
        AsdError: it starts from published weights that are not on this machine.
    """
    from asd_core.backbones import BACKBONES
    from asd_core.training import OBJECTIVES

    scopes = [list(machines)] if encoder.scope == "dataset" else [[machine] for machine in machines]
    backbone, objective = BACKBONES[encoder.backbone.name], OBJECTIVES[encoder.objective.name]
    view = VIEWS[encoder.view.name]
    versions = [READING_VERSION, TRAINING_VERSION, backbone.version, objective.version, view.version]
    earlier = _train_tasks(f"start of {name}", encoder.start, context, machines, run_seed) if encoder.start else {}
    seed = run_seed + branch_seed
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
        more = tuple(kept[machine] for machine in scope if machine in kept)
        inputs += more
        key = digest(["train", matters, seed, versions, prints, files, [t.key for t in inputs]])
        title = f"train {name} (seed {seed}) on {scope[0] if len(scope) == 1 else f'{len(scope)} machines'}"
        title += " and generated clips" if more else ""
        spec = {"encoder": resolved, "seed": seed, "machines": scope}
        epochs = encoder.train.epochs if encoder.train else 0
        task = Task("train", key, title, spec, inputs, 2.0 * len(scope) * epochs**0.5)
        tasks |= dict.fromkeys(scope, task)
    return tasks


def _embed_task(
    branches: Sequence[Branch],
    system: System,
    context: Context,
    machine: str,
    trained: Task | None,
    bank: Task | None = None,
) -> Task:
    view = VIEWS.resolved(view_of(branches[0], system))
    outputs = sorted({branch.output for branch in branches}) if trained else []
    spec = {"view": view, "outputs": outputs, "machine": machine}
    inputs = tuple(task for task in (trained, bank) if task)
    prints = [context.fingerprint(machine, split) for split in (TRAIN, TEST)]
    versions = [READING_VERSION, EMBEDDING_VERSION, VIEWS[view["name"]].version]
    key = digest(["embed", spec, versions, [t.key for t in inputs], prints])
    return Task("embed", key, f"embed {machine} ({', '.join(b.name for b in branches)})", spec, inputs, 1.0)


def _score_task(branch: Branch, machine: str, embedded: Task) -> Task:
    scorer = SCORERS.resolved(branch.scorer.spec)
    output = branch.output if branch.encoder is not None else VIEW_ITSELF
    key = digest(["score", scorer, SCORING_VERSION, SCORERS[branch.scorer.name].version, output, embedded.key])
    spec = {"scorer": scorer, "output": output, "machine": machine}
    return Task("score", key, f"score {machine} ({branch.name})", spec, (embedded,), 0.2)
