"""The side branch of the street: generator and judge → candidates → what is kept of them.

Tasks like all others, so that clips which several systems train on are made once, and a run without them has no task in
common with one that has them but the recordings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core import config
from asd_core.artifacts import Workspace, read_arrays, read_table, write_arrays, write_table
from asd_core.config import Screening, validate
from asd_core.data import audio
from asd_core.files import digest, read_json, replacing
from asd_core.pipeline.tasks import READING_VERSION, TRAINING_VERSION, Context, Task, inputs_of_kind
from asd_core.types import SAMPLE_RATE, TRAIN, AsdError, Clip, Progress

if TYPE_CHECKING:
    from asd_core.synthesis.verdicts import Rule, Verdicts

GENERATOR_VERSION = 1  # synthesis.generator, network, representation, diffusion
JUDGE_VERSION = 1  # synthesis.judge
SCREENING_VERSION = 1  # synthesis.screening, verdicts


# ------------------------------------------------------------------ planning


def kept_tasks(options: config.Generator, context: Context, machines: Sequence[str]) -> dict[str, Task]:
    """By machine, the task whose folder tells which generated clips are kept; none for a machine that needs none."""
    from asd_core.synthesis.conditions import check_counts, find_targets
    from asd_core.views.logmel import LogMel

    clips = {machine: context.data.of(machine, TRAIN) for machine in machines}
    check_counts([clip for own in clips.values() for clip in own], options.targets)
    targets = {machine: find_targets(own, options.targets) for machine, own in clips.items()}
    if not any(targets.values()):
        return {}
    prints = [context.fingerprint(machine, TRAIN) for machine in machines]
    versions = [READING_VERSION, TRAINING_VERSION]
    values = options.model_dump(mode="json")
    parts = {name: values[name] for name in ("network", "train", "crop_seconds", "balance", "untold", "seed")}
    shared = {"generator": values, "machines": list(machines)}
    count = len(machines)
    generator = Task(
        "generator",
        digest(["generator", GENERATOR_VERSION, versions, parts, prints]),
        f"train the generator on {count} machines",
        shared,
        (),
        4.0 * count,
    )
    key = digest(["judge", JUDGE_VERSION, LogMel.version, versions, values["judge"], options.seed, prints])
    judge = Task("judge", key, f"train the judge on {count} machines", shared, (), 1.0 * count)
    kept = {}
    for machine, wanted in targets.items():
        if not wanted:
            continue
        counts = {target.condition.text: target.wanted for target in wanted}
        parts = {name: values[name] for name in ("sampling", "screening")}
        versions = [SCREENING_VERSION, LogMel.version]
        key = digest(["generate", versions, parts, counts, machine, generator.key, judge.key])
        # the same clips come again when other numbers are asked for or the rule changes, and so do verdicts on them
        log = digest(["verdicts", parts["sampling"], machine, generator.key])
        spec = {"generator": values, "machine": machine, "counts": counts, "log": log}
        drawn = Task("generate", key, f"generate clips of {machine}", spec, (generator, judge), 2.0)
        said = verdicts(context.workspace, log).deciding()
        key = digest(["screen", SCREENING_VERSION, said, drawn.key])
        kept[machine] = Task("screen", key, f"screen clips of {machine}", spec | {"verdicts": said}, (drawn,), 0.1)
    return kept


def verdicts(workspace: Workspace, log: str) -> Verdicts:
    """What people said of a machine's candidates; `log` stands in the spec of the tasks that make and screen them."""
    from asd_core.synthesis.verdicts import Verdicts

    return Verdicts(workspace.verdicts(log))


def kept_clips(tasks: Sequence[Task], workspace: Workspace) -> tuple[Clip, ...]:
    """The generated clips that finished screen tasks keep, as training clips."""
    return tuple(
        clip
        for task in tasks
        for clip in candidates(task.inputs[0].folder(workspace), read_table(task.folder(workspace) / "kept.parquet"))
    )


def candidates(folder: Path, table: pd.DataFrame) -> list[Clip]:
    """The clips of some rows of a table of candidates, whose recordings lie in the folder of a generate task."""
    from asd_core.synthesis.conditions import Condition

    found = []
    for clip_id, text in zip(table["clip"], table["condition"], strict=True):
        c = Condition.parse(text)
        path = folder / clip_id.rpartition("/")[2]
        found.append(Clip(clip_id, path, c.machine, TRAIN, c.section, c.domain, c.attributes, "generated"))
    return found


# ------------------------------------------------------------------ work


def train_generator(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    from asd_core.synthesis.generator import train_generator

    options = validate(config.Generator, task.spec["generator"], task.title)
    own = _titled(task, progress)
    return train_generator(_recorded(task, context), options, folder, context.device, context.checkpoint_seconds, own)


def train_judge(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    from asd_core.synthesis.judge import train_judge

    options = validate(config.Generator, task.spec["generator"], task.title)
    judge, seconds = options.judge, context.checkpoint_seconds
    clips, own = _recorded(task, context), _titled(task, progress)
    return train_judge(clips, judge.train, judge.held_out, options.seed, folder, context.device, seconds, own)


def generate(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    """Draw candidates of each condition, batch by batch, until enough pass or too many were drawn. After each batch the
    table is written, so that a killed task goes on with the next."""
    from asd_core.synthesis.conditions import Condition
    from asd_core.synthesis.generator import load_generator
    from asd_core.synthesis.judge import load_judge
    from asd_core.synthesis.screening import RealClips, screen

    options = validate(config.Generator, task.spec["generator"], task.title)
    machine, counts = task.spec["machine"], task.spec["counts"]
    (trained,), (judging,) = (inputs_of_kind(task, kind) for kind in ("generator", "judge"))
    progress(0.0, f"{task.title}: listening to recorded clips")
    generator = load_generator(trained.folder(context.workspace), options, context.device)
    judge = load_judge(judging.folder(context.workspace), context.device)
    rule = rule_of(options.screening)
    real = RealClips(context.data.of(machine, TRAIN), generator.channels)
    samples = int(context.longest(machine) * SAMPLE_RATE)
    saved, tuned = folder / ".candidates.parquet", folder / ".equalisers.npz"
    table = read_table(saved) if saved.is_file() else pd.DataFrame(columns=["condition", "passes"])
    equalisers = read_arrays(tuned) if tuned.is_file() else {}

    def draw(text: str, numbers: Sequence[int], tell: Callable[[float], object]) -> pd.DataFrame:
        """Candidates with these numbers: drawn, written, read again (rounded, cut at full scale), and screened."""
        condition = Condition.parse(text)
        drawn = generator.draw(condition, samples, numbers, tell)
        if text not in equalisers:
            equalisers[text] = generator.equaliser(drawn.white)
            write_arrays(tuned, **equalisers)
        names = [condition.file_name(number) for number in numbers]
        waves = generator.coloured(drawn, equalisers[text])
        if not np.isfinite(waves).all():
            raise AsdError(f"The generator gave samples of {text} that are not finite. Lower its learning rate.")
        for name, wave in zip(names, waves, strict=True):
            with replacing(folder / name) as temporary:
                audio.write(temporary, wave)
        heard = [audio.read(folder / name) for name in names]
        clips = [f"{machine}/generated/{name}" for name in names]
        return screen(heard, [text] * len(names), real, judge, rule, clips).assign(number=list(numbers))

    started, before = time.monotonic(), len(table)
    for place, (text, wanted) in enumerate(counts.items()):
        while True:
            own = table[table["condition"] == text]
            passed = int(own["passes"].sum())
            if passed >= wanted or len(own) >= options.screening.most * wanted:
                break
            told = f"{task.title}: {text}, {passed} of {wanted} pass after {len(own)}"
            tell = partial(_tell, progress, (place + passed / wanted) / len(counts), 1 / len(counts) / wanted, told)
            last = min(len(own) + options.sampling.batch, math.ceil(options.screening.most * wanted))
            fresh = draw(text, range(len(own), last), tell)
            table = pd.concat([table, fresh], ignore_index=True) if len(table) else fresh
            write_table(saved, table)
    write_table(folder / "candidates.parquet", table)
    seconds, audio_seconds = time.monotonic() - started, (len(table) - before) * samples / SAMPLE_RATE
    return {
        "drawn": len(table),
        "audio_seconds": audio_seconds,
        "drawing_seconds": seconds,
        "data": context.data.name,  # whose loudness scale its pictures share
    }


def _tell(progress: Progress, start: float, share: float, message: str, fraction: float) -> None:
    progress(min(start + share * fraction, 1.0), message)


def screen(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    """What is kept of the candidates, by rule and by hand: candidates.parquet, kept.parquet and shortfall.parquet."""
    from asd_core.synthesis.verdicts import apply_verdicts, keep

    progress(0.0, task.title)
    drawn = task.inputs[0]
    table = read_table(drawn.folder(context.workspace) / "candidates.parquet")
    table, shortfall = keep(apply_verdicts(table, task.spec["verdicts"]), task.spec["counts"])
    write_table(folder / "candidates.parquet", table)
    write_table(folder / "kept.parquet", table[table["kept"]].reset_index(drop=True))
    write_table(folder / "shortfall.parquet", shortfall)
    return {"drawn": len(table), "kept": int(table["kept"].sum()), "short": int(shortfall["short"].sum())}


def facts(task: Task, workspace: Workspace) -> dict[str, int]:
    """Clips drawn, kept, and short of what was wanted, by a finished screen task."""
    meta = read_json(task.folder(workspace) / "meta.json")
    return {name: meta[name] for name in ("drawn", "kept", "short")}


def notices(made: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What to know about the generated clips of a run, by machine."""
    if not made:
        return []
    drawn, kept, short = (sum(one[name] for one in made.values()) for name in ("drawn", "kept", "short"))
    lacking = f", {short} fewer than wanted" if short else ""
    return [f"Trained with {kept} generated clips, kept of {drawn} drawn{lacking}; `screen` tells which and why."]


def rule_of(options: Screening) -> Rule:
    from asd_core.synthesis.verdicts import Rule

    return Rule(options.agreement, options.confidence, options.near_copy, options.level_margin)


def _recorded(task: Task, context: Context) -> list[Clip]:
    return [clip for machine in task.spec["machines"] for clip in context.data.of(machine, TRAIN)]


def _titled(task: Task, progress: Progress) -> Progress:
    def own(fraction: float, message: str, **values: float) -> None:
        progress(fraction, f"{task.title}: {message}", **values)

    return own
