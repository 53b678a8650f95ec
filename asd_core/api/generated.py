"""Generated clips: what would be made, what was made, and what is decided about it.

A set of generated clips is what one generator with certain options has drawn, machine by machine; its candidates are
known to `recordings.clip` under the data name ``generated:<key of the machine's generate task>``. What was measured of
them never changes and may be cached by the set's key; verdicts are appended to logs (`verdicts_stamp`).
"""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from asd_core import config, jobs
from asd_core.api.recordings import GENERATED, clip, data_set, data_sets
from asd_core.artifacts import Workspace, is_done, read_arrays, read_table, write_arrays
from asd_core.data.manifest import DataSet
from asd_core.files import digest, read_json
from asd_core.synthesis.conditions import Condition, find_targets
from asd_core.synthesis.verdicts import (
    BlindAnswers,
    Outcome,
    Rule,
    Verdict,
    Verdicts,
    against,
    apply_verdicts,
    keep,
)
from asd_core.types import TRAIN, AsdError, Clip
from asd_core.views.base import MICROPHONES

if TYPE_CHECKING:
    from asd_core.analysis.blind import BlindResult

REVIEW_ORDERS = {
    "Borderline first": "nearest to an edge of the confidence window",
    "Random": "shuffled, the same way every time",
    "Highest confidence": "what the classifier is surest of",
    "As drawn": "condition by condition",
}
COMPARED = 24  # recordings of a condition that a candidate is compared with, evenly chosen
ROUND = 20  # clips of a blind round


def generator(profile: str, name: str = "diffusion") -> config.Generator:
    """A generator of configs/generators as it is under a profile.

    Raises:
        AsdError: there is no such generator or profile.
    """
    return config.resolve_generator(config.load_generator(name), config.load_profile(profile))


def generation_targets(
    data: DataSet, generator: config.Generator, machines: Sequence[str] | None = None
) -> pd.DataFrame:
    """Under-represented conditions: condition, recorded (clips there are), wanted (clips to generate), why.

    Raises:
        AsdError: an unknown machine, or the generator's own numbers name what no clip has.
    """
    clips = [clip for machine in machines or data.machines for clip in data.of(machine, TRAIN)]
    rows = [
        {"condition": one.condition.text, "recorded": one.recorded, "wanted": one.wanted, "why": one.why}
        for one in find_targets(clips, generator.targets)
    ]
    return pd.DataFrame(rows, columns=["condition", "recorded", "wanted", "why"])


# ------------------------------------------------------------------ what is there


@dataclass(frozen=True)
class GeneratedSet:
    """Clips of one generator for one data set."""

    key: str
    generator: str  # its name
    profile: str  # which makes these options of the named generator; "" if none does any more
    options: Mapping[str, Any]  # of config.Generator, as resolved
    tasks: Mapping[str, str]  # machine → key of the generate task
    logs: Mapping[str, str]  # machine → log of verdicts
    counts: Mapping[str, int]  # condition → clips wanted
    judge: str  # key of the task that trained the classifier
    created: float
    drawn: int

    @property
    def rule(self) -> Rule:
        """The generator's own."""
        own = self.options["screening"]
        low, high = own["confidence"]
        return Rule(own["agreement"], (low, high), own["near_copy"], own["level_margin"])


def generated_stamp(workspace: Workspace) -> str:
    """Changes when a set is made or deleted."""
    return digest(sorted((str(path), path.stat().st_mtime_ns) for path in _records(workspace, "generate")))


def generated_sets(workspace: Workspace, data: str) -> list[GeneratedSet]:
    """Of a data set, newest first. A task belongs to the data set that it names, or, if it is older than that habit,
    to one that holds the recordings which its candidates were compared with."""
    groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder, record in _made_from(workspace, "generate"):
        told = {"machine", "generator", "counts", "log"} <= set(record["spec"]) and len(record["inputs"]) == 2
        if told and is_done(folder) and _is_of(workspace, data, folder, record):
            own = digest([record["spec"]["generator"], record["inputs"]])
            groups.setdefault(own, []).append((folder, record))
    profiles = _profiles() if groups else {}
    found = []
    for key, members in groups.items():
        members.sort(key=lambda one: one[1]["created"])  # of two tasks for one machine the newer counts
        specs = {record["spec"]["machine"]: record["spec"] for _, record in members}
        options = members[-1][1]["spec"]["generator"]
        found.append(
            GeneratedSet(
                key=key,
                generator=options["name"],
                profile=profiles.get(digest(options), ""),
                options=options,
                tasks={record["spec"]["machine"]: folder.name for folder, record in members},
                logs={machine: spec["log"] for machine, spec in specs.items()},
                counts={text: wanted for machine in sorted(specs) for text, wanted in specs[machine]["counts"].items()},
                judge=members[-1][1]["inputs"][-1],
                created=max(record["created"] for _, record in members),
                drawn=sum(record["drawn"] for _, record in members),
            )
        )
    return sorted(found, key=lambda one: one.created, reverse=True)


def candidates(workspace: Workspace, made: GeneratedSet) -> pd.DataFrame:
    """What was measured of every candidate of a set: the columns of `synthesis.screening.screen`, and

    machine, data (the name that `clip` takes), number (of the drawing), confidence (the lower of its microphones'),
    edge (how far that is inside the rule's window; negative: outside), copies (whether a microphone calls it a near
    copy).
    """
    tables = []
    for machine, key in sorted(made.tasks.items()):
        table = read_table(workspace.task("generate", key) / "candidates.parquet")
        tables.append(table.assign(machine=machine, data=f"{GENERATED}:{key}"))
    table = pd.concat(tables, ignore_index=True)
    heard = [one for one in MICROPHONES if f"{one}_confidence" in table]
    confidence = table[[f"{one}_confidence" for one in heard]]
    low, high = made.rule.confidence
    found = [rows for _, kind, rows in against(table, made.rule) if kind == "near copy"]
    return table.assign(
        confidence=confidence.min(axis=1),
        edge=np.minimum(confidence.min(axis=1) - low, high - confidence.max(axis=1)),
        copies=np.logical_or.reduce(found) if found else False,
    )


def recorded_confidences(workspace: Workspace, made: GeneratedSet) -> list[float]:
    """How sure the classifier was of held-out recordings, microphone by microphone, sorted; none if its task is gone."""
    path = workspace.task("judge", made.judge) / "meta.json"
    return list(read_json(path).get("confidences", [])) if path.is_file() else []


def confidence_histogram(table: pd.DataFrame, recorded: Sequence[float], bins: int = 40) -> pd.DataFrame:
    """Bins of the classifier's confidence, microphone by microphone: low, high, generated and recorded (percent of
    each; NaN where there are none), count (generated)."""
    columns = [f"{one}_confidence" for one in MICROPHONES if f"{one}_confidence" in table]
    own = table[columns].to_numpy(dtype=float).ravel()
    own = own[~np.isnan(own)]
    edges = np.linspace(0, 1, bins + 1)
    count, real = np.histogram(own, edges)[0], np.histogram(recorded, edges)[0]
    share = lambda found, total: 100 * found / total if total else np.full(bins, np.nan)  # noqa: E731
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "generated": share(count, len(own)),
            "recorded": share(real, len(recorded)),
            "count": count,
        }
    )


def generated_quality(workspace: Workspace, made: GeneratedSet) -> tuple[pd.DataFrame, pd.DataFrame, list[str]] | None:
    """(distances, samples, machines measured before the latest verdicts) of `pipeline.quality`, each machine's newest;
    None if nothing was measured. The distances may look at labelled test clips."""
    screens = {  # of this set
        folder.name: record
        for folder, record in _made_from(workspace, "screen")
        if record["inputs"][0] in made.tasks.values() and "verdicts" in record["spec"]
    }
    newest: dict[str, tuple[float, Path, str]] = {}
    for folder, record in _made_from(workspace, "quality"):
        machine, screen = record["spec"].get("machine"), record["inputs"][0]
        if machine in made.logs and screen in screens and is_done(folder):
            one = (record["created"], folder, screen)
            newest[machine] = max(one, newest.get(machine, one))
    if not newest:
        return None
    distances, samples = (
        pd.concat(
            [_table(newest[machine][1] / f"{name}.parquet", newest[machine][0]) for machine in sorted(newest)],
            ignore_index=True,
        )
        for name in ("distances", "samples")
    )
    stale = [
        machine
        for machine, (_, _, key) in sorted(newest.items())
        if screens[key]["spec"]["verdicts"] != Verdicts(workspace.verdicts(made.logs[machine])).deciding()
    ]
    return distances, samples, stale


# ------------------------------------------------------------------ what is decided


def verdicts_stamp(workspace: Workspace, made: GeneratedSet) -> str:
    """Changes with every verdict on the set's clips."""
    paths = [workspace.verdicts(log) for log in sorted(made.logs.values())]
    return digest([path.stat().st_size if path.is_file() else 0 for path in paths])


def screened(workspace: Workspace, made: GeneratedSet, table: pd.DataFrame) -> pd.DataFrame:
    """`candidates` as training would take them now: passes, reasons, failed and kept after rule, verdicts and quotas,
    said (of people: "keep", "drop", "unsure", or "")."""
    deciding: dict[str, str] = {}
    said: dict[str, str] = {}
    for log in made.logs.values():
        found = Verdicts(workspace.verdicts(log))
        deciding |= found.deciding()
        said |= found.effective()
    judged = apply_verdicts(table, deciding).assign(said=table["clip"].map(said).fillna(""))
    return keep(judged, made.counts)[0] if len(judged) else judged.assign(kept=False)


def rule_preview(made: GeneratedSet, table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """What another rule would do to a table of `screened`, people's verdicts as they are; nothing is written.

    Columns: machine, condition, wanted, drawn; near, far (candidates that pass at this microphone), passes (at all, or
    by hand), kept and before (the clips kept now).
    """
    failing = {one: np.zeros(len(table), dtype=bool) for one in MICROPHONES}
    for one, _, rows in against(table, rule):
        failing[one] |= rows
    passes = ~np.logical_or.reduce(list(failing.values()))
    passes = np.where(table["said"].isin(["keep", "drop"]), table["said"] == "keep", passes)
    judged = table.assign(passes=passes, reasons="", failed="", verdict=table["said"])
    after = keep(judged, made.counts)[0] if len(table) else judged.assign(kept=False)
    heard = {one: table[f"{one}_level"].notna() for one in MICROPHONES if f"{one}_level" in table}
    counted = table[["machine", "condition"]].assign(
        drawn=1,
        **{one: ~failing[one] & there for one, there in heard.items()},
        passes=passes,
        kept=after["kept"],
        before=table["kept"],
    )
    counted = counted.groupby(["machine", "condition"], as_index=False, sort=False).sum()
    counted.insert(2, "wanted", counted["condition"].map(made.counts).fillna(0).astype(int))
    return counted


def apply_window(workspace: Workspace, made: GeneratedSet, table: pd.DataFrame, rule: Rule) -> int:
    """Let another rule decide about a set from now on; returns how many clips it judges unlike the generator's own.

    The generator's YAML stays as it is: another rule there would be another configuration, and its clips might be
    drawn anew. What the rule changes is written into the logs that people's verdicts go into, as outcomes "pass" and
    "fail" of ``rule 0.40–0.90``, for the clips alone whose outcome is another; "rule" takes an earlier one back. They
    lie below people's verdicts and never go over them, and they count within the quotas as any clip that passes. So
    the task that screens gets another key exactly if something else is kept, and a training that is started from now
    on takes what is kept by this rule.
    """
    failing = np.zeros(len(table), dtype=bool)
    own = failing.copy()
    for _, _, rows in against(table, rule):
        failing |= rows
    for _, _, rows in against(table, made.rule):
        own |= rows
    wanted: dict[str, Outcome] = {
        name: "fail" if now else "pass"
        for name, now, before in zip(table["clip"].astype(str), failing, own, strict=True)
        if now != before
    }
    for machine, log in made.logs.items():
        verdicts = Verdicts(workspace.verdicts(log))
        clips = table["clip"][table["machine"] == machine]
        applied, new = verdicts.applied(), {one: wanted[one] for one in clips if one in wanted}
        lines = [{"clip": one, "verdict": outcome} for one, outcome in new.items() if applied.get(one) != outcome]
        lines += [{"clip": one, "verdict": "rule"} for one in applied if one not in new]
        if lines:
            verdicts.append(lines, _rule_name(rule))
    return len(wanted)


def applied_rule(workspace: Workspace, made: GeneratedSet) -> str:
    """The name of the rule that was applied last, as ``rule 0.40–0.90``; "" while the generator's own decides."""
    logs = [Verdicts(workspace.verdicts(log)) for log in made.logs.values()]
    if not any(log.applied() for log in logs):
        return ""
    # a narrower window than the one before only takes outcomes back, and is the one that decides all the same
    lines = [line for log in logs for line in log.said() if line["verdict"] in get_args(Outcome)]
    return max(lines, key=lambda line: line["when"])["who"]


def give_verdicts(workspace: Workspace, made: GeneratedSet, clips: Sequence[str], verdict: Verdict) -> None:
    """Write down what the user says of candidates.

    Raises:
        AsdError: one of them is not of this set, or there is no such verdict; then nothing is written.
    """
    known = _logs(workspace, made)
    if unknown := [one for one in clips if one not in known]:
        raise AsdError(
            f"There is no generated clip {unknown[0]} in this set. Open the page again: it may have changed."
        )
    for log in dict.fromkeys(known[one] for one in clips):
        Verdicts(workspace.verdicts(log)).add_all([one for one in clips if known[one] == log], verdict, user())


def undo_verdict(workspace: Workspace, made: GeneratedSet) -> str:
    """Take back the user's latest verdict that stands, as often as one likes; returns its clip, "" if there is none."""
    mine = [
        (datetime.fromisoformat(line["when"]), place, log, line["clip"])
        for log in made.logs.values()
        for place, line in enumerate(
            line for own in Verdicts(workspace.verdicts(log)).standing().values() for line in own[-1:]
        )
        if line["who"] == user()
    ]
    if not mine:
        return ""
    _, _, log, name = max(mine)
    Verdicts(workspace.verdicts(log)).add(name, "undo", user())
    return name


def review_queue(table: pd.DataFrame, order: str, condition: str = "") -> list[str]:
    """Candidates to listen to, in an order of `REVIEW_ORDERS` that no verdict changes."""
    own = table[table["condition"] == condition] if condition else table
    if order == "Borderline first":
        own = own.iloc[own["edge"].abs().argsort(kind="stable")]
    elif order == "Random":
        own = own.iloc[np.random.default_rng(0).permutation(len(own))]
    elif order == "Highest confidence":
        own = own.sort_values("confidence", ascending=False, kind="stable")
    return list(own["clip"])


def user() -> str:
    """Who says it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "unknown"


# ------------------------------------------------------------------ beside recordings


@dataclass(frozen=True)
class Match:
    """The recording that a generated clip is heard against."""

    clip_id: str
    distance: float  # dB between the mean spectra of the near microphones, root mean square over the rows
    compared: int  # recordings it was chosen from
    recorded: int  # recordings there are
    said: str  # how it was chosen


def matched_recording(workspace: Workspace, data: str, generated: str, clip_id: str) -> Match | None:
    """The recording nearest to a candidate, of its own condition, or of its machine and domain where nobody recorded
    that condition; None if there is none.

    Nearest in the mean over time of the near microphone's mel spectrogram in dB. (The classifier's embeddings would be
    another choice; they are not stored.)

    Args:
        generated: the candidate's data name

    Raises:
        AsdError: the recordings or the candidate are gone.
    """
    found = clip(workspace, generated, clip_id)
    wanted = Condition.of(found)
    own = data_set(workspace, data).of(found.machine, TRAIN)
    exact = [one for one in own if Condition.of(one) == wanted]
    clips = exact or [one for one in own if one.domain == wanted.domain]
    if not clips:
        return None
    some = clips[:: max(1, -(-len(clips) // COMPARED))]
    spectra = _mean_spectra(workspace, some)
    distances = np.sqrt(np.square(spectra - _mean_spectrum(found)).mean(axis=1))
    place = int(distances.argmin())
    kind = "of its condition" if exact else "of its machine and domain, for nobody recorded its condition"
    chosen = f"of {len(some)}" if len(some) == len(clips) else f"of {len(some)} out of {len(clips)}"
    said = f"Nearest mean spectrum {chosen} recordings {kind}"
    return Match(some[place].clip_id, float(distances[place]), len(some), len(clips), said)


def _mean_spectra(workspace: Workspace, clips: Sequence[Clip]) -> np.ndarray:
    """(N, rows) dB; made once."""
    stamps = [(str(one.path), one.path.stat().st_size, one.path.stat().st_mtime_ns) for one in clips]
    path = workspace.cache / "spectra" / f"{digest(stamps)}.npz"
    if not path.is_file():
        write_arrays(path, spectra=np.stack([_mean_spectrum(one) for one in clips]).astype(np.float32))
    return read_arrays(path)["spectra"]


def _mean_spectrum(one: Clip) -> np.ndarray:
    from asd_core.data import audio
    from asd_core.data.spectrogram import spectrogram

    return spectrogram(audio.read(one.path)[0]).mean(axis=1)


# ------------------------------------------------------------------ without knowing


@dataclass(frozen=True)
class BlindClip:
    """One question of a blind round."""

    data: str
    clip_id: str
    condition: str
    truth: Literal["recorded", "generated"]


def blind_round(
    workspace: Workspace, data: str, table: pd.DataFrame, count: int = ROUND, seed: int | None = None
) -> tuple[str, list[BlindClip]]:
    """(name of the round, clips): half of them candidates that are kept, half training recordings, as many of each
    condition, so that a condition tells nothing; shuffled; fewer where there are fewer. Without a seed, another choice
    each time.

    Raises:
        AsdError: the recordings are gone.
    """
    rng = np.random.default_rng(seed)
    kept = table[table["kept"]]
    recordings: dict[str, list[str]] = {}
    for machine in sorted(set(kept["machine"])):
        for one in data_set(workspace, data).of(machine, TRAIN):
            recordings.setdefault(Condition.of(one).text, []).append(one.clip_id)
    pairs = []
    for condition, rows in kept.groupby("condition", sort=True):
        made = [
            BlindClip(place, name, str(condition), "generated")
            for place, name in zip(rows["data"], rows["clip"], strict=True)
        ]
        real = [BlindClip(data, name, str(condition), "recorded") for name in recordings.get(str(condition), ())]
        some = zip(rng.permutation(len(made)), rng.permutation(len(real)), strict=False)  # as many as both have
        pairs += [(made[i], real[j]) for i, j in some]
    drawn = [pairs[place] for place in rng.permutation(len(pairs))[: count // 2]]
    clips = [one for pair in drawn for one in pair]
    return secrets.token_hex(4), [clips[place] for place in rng.permutation(len(clips))]


def answer_blind(workspace: Workspace, made: GeneratedSet, round_name: str, asked: BlindClip, answer: str) -> None:
    """Write down an answer, "recorded" or "generated", in a log of its own: it is no verdict on the clip."""
    if answer not in ("recorded", "generated"):
        raise AsdError(f'"{answer}" is no answer. Say recorded or generated.')
    line = {"round": round_name, "data": asked.data, "clip": asked.clip_id, "condition": asked.condition}
    _blind(workspace, made).append([line | {"truth": asked.truth, "answer": answer}], user())


def blind_results(workspace: Workspace, made: GeneratedSet, round_name: str = "") -> BlindResult:
    """Of one round; or of all rounds about this set, each clip once, by its first answer: who hears a clip again may
    know it."""
    from asd_core.analysis.blind import blind_result

    log = _blind(workspace, made)
    answers = pd.DataFrame(log.said(), columns=[*log.fields, "when", "who"])
    if round_name:
        answers = answers[answers["round"] == round_name]
    return blind_result(answers.drop_duplicates(["data", "clip"]), len(answers))


def _blind(workspace: Workspace, made: GeneratedSet) -> BlindAnswers:
    return BlindAnswers(workspace.verdicts(f"{made.key}-blind"))


# ------------------------------------------------------------------ what is started


def start_generation(
    workspace: Workspace, data: str, profile: str, name: str = "diffusion", measure: bool = False
) -> str:
    """Start, or find, the job that makes and screens generated clips, or with `measure` also says how good they are;
    returns the job's id.

    Raises:
        AsdError: an unknown data set, profile or generator, or nothing to generate.
    """
    if generation_targets(data_set(workspace, data), generator(profile, name)).empty:
        raise AsdError(f"No condition of {data} has too few clips by the targets of {name}. Nothing to generate.")
    arguments = ["quality" if measure else "generate", "--data", data_sets(workspace)[data].argument]
    arguments += ["--profile", profile, "--generator", name, "--workspace", str(workspace.root)]
    title = f"{'Measure' if measure else 'Generate'} clips · {data} · {profile}"
    return jobs.start(workspace.jobs, arguments, title, digest(arguments))


def generation_estimate(options: config.Generator, targets: pd.DataFrame) -> str:
    """What is to be expected of a generation, in words; times as measured (docs/generated.md), none invented."""
    wanted, steps = int(targets["wanted"].sum()), options.train.max_steps
    if options.crop_seconds < 5:
        return (
            f"{steps} training steps, then {wanted} or more clips to draw. On two CPU cores the demo took about 7 "
            f"minutes: 4 to train, the rest to draw."
        )
    return (
        f"{steps} training steps of a large network, then {wanted} or more clips to draw. Meant for a GPU: on a CPU "
        f"this takes days."
    )


def systems_using(made: GeneratedSet) -> list[str]:
    """Systems that would train with exactly the clips of this set, under its profile."""
    from asd_core.api.configs import systems

    if not made.profile:
        return []
    profile, found = config.load_profile(made.profile), []
    for name, system in systems().items():
        if isinstance(system, AsdError) or system.synthesis is None:
            continue
        try:
            resolved = config.resolve(system, profile).synthesis
        except AsdError:  # invalid under this profile; Train says so
            continue
        if resolved and resolved.generator.model_dump(mode="json") == made.options:
            found.append(name)
    return found


# ------------------------------------------------------------------


def _records(workspace: Workspace, kind: str) -> list[Path]:
    return sorted((workspace.root / "tasks" / kind).glob("*/meta.json"))


@lru_cache(maxsize=1024)
def _record(path: Path, stamp: int) -> dict[str, Any] | None:
    """How a task was made; None if it tells too little."""
    try:
        record = read_json(path)
        complete = isinstance(record["spec"], dict) and record["inputs"] and float(record["created"])
    except (AsdError, OSError, KeyError, TypeError, ValueError):
        return None
    return record if complete else None


def _made_from(workspace: Workspace, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders and records of the tasks of a kind, without those that tell too little; each is read once."""
    for path in _records(workspace, kind):
        with suppress(OSError):  # deleted since
            if record := _record(path, path.stat().st_mtime_ns):
                yield path.parent, record


@lru_cache(maxsize=64)
def _table(path: Path, created: float) -> pd.DataFrame:
    return read_table(path)


def _is_of(workspace: Workspace, data: str, folder: Path, record: Mapping[str, Any]) -> bool:
    if "data" in record:
        return bool(record["data"] == data)
    try:
        known = {one.clip_id for one in data_set(workspace, data).of(record["spec"]["machine"], TRAIN)}
    except AsdError:  # the data set is gone, or has no such machine
        return False
    return set(_compared(folder / "candidates.parquet")) <= known


@lru_cache(maxsize=64)
def _compared(path: Path) -> tuple[str, ...]:
    return tuple(pd.read_parquet(path, columns=["near_copy_of"])["near_copy_of"].unique())


def _profiles() -> dict[str, str]:
    """Digest of a generator's options → the profile that makes them."""
    from asd_core.api.configs import profiles

    return {
        digest(config.resolve_generator(config.load_generator(name), profile).model_dump(mode="json")): title
        for name in config.generator_names()
        for title, profile in profiles().items()
    }


def _logs(workspace: Workspace, made: GeneratedSet) -> dict[str, str]:
    """Log of each candidate."""
    return {
        name: made.logs[machine]
        for machine, key in made.tasks.items()
        for name in pd.read_parquet(workspace.task("generate", key) / "candidates.parquet", columns=["clip"])["clip"]
    }


def _rule_name(rule: Rule) -> str:
    """Another for every rule; what is as `Rule` has it anyway is left out."""
    low, high = (f"{one:.2f}" if round(one, 2) == one else str(one) for one in rule.confidence)
    said = [f"rule {low}–{high}"] + ([] if rule.agreement else ["agreement not asked for"])
    said += [f"near copies below {rule.near_copy}"] if rule.near_copy != Rule().near_copy else []
    said += [f"level margin {rule.level_margin} dB"] if rule.level_margin != Rule().level_margin else []
    return ", ".join(said)
