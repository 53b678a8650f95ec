"""Fusion weights that are tuned on scores: on the branches of one run, or on those of several finished runs.

What tuning is and what it is worth stands in `asd_core.tuning`; here it gets its scores and truth, and its weights
become part of a system.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from typing import Any

import pandas as pd
import yaml

from asd_core import tuning
from asd_core.analysis import labelled_scores
from asd_core.artifacts import Run
from asd_core.config import Component, System, validate
from asd_core.fusion import FUSIONS
from asd_core.fusion.weighted import TUNED, Weighted
from asd_core.pipeline.verdict import stream_scores
from asd_core.tuning import Labelled, Tuning
from asd_core.types import TRAIN, AsdError, Truth

DECISION = {"name": "percentile", "q": 0.9}  # where the systems that are combined have several rules


def wants_tuning(system: System) -> bool:
    """Whether the weights of the fusion are still to be found."""
    return system.fusion.spec.get("weights") == TUNED


def with_weights(system: System, weights: Sequence[float], tuned_on: str = "") -> System:
    """The system with numbers for the weights that are "tuned"; `tuned_on` as of `Weighted`."""
    spec = {key: value for key, value in system.fusion.spec.items() if key != "search"}
    spec |= {"weights": list(weights)} | ({"tuned_on": tuned_on} if tuned_on else {})
    return system.model_copy(update={"fusion": Component(**spec)})


def as_run(system: System, record: Mapping[str, Any]) -> System:
    """The system of a run with the weights that the run has tuned, where it has."""
    if not wants_tuning(system):
        return system
    weights = record["tuning"]["weights"]
    return with_weights(system, [weights[name] for name, _ in system.streams])


def tune(system: System, table: pd.DataFrame, truth: Mapping[str, Truth], machines: Collection[str]) -> Tuning:
    """Tune the weights of a system whose fusion asks for it.

    Args:
        table: one row per clip, training and test, of any machines: clip_id, machine, section, split and the
            system's ``branch:`` columns
        truth: of the test clips of `machines`, which are those to tune on
    """
    fusion = FUSIONS.create(system.fusion.spec, f"{system.name}, fusion")
    assert isinstance(fusion, Weighted)  # no other rule has weights
    names = [name for name, _ in system.streams]
    return tuning.tune(
        labelled(system, table, truth, machines), names, normalise=fusion.normalise, search=fusion.search
    )


def labelled(
    system: System, table: pd.DataFrame, truth: Mapping[str, Truth], machines: Collection[str]
) -> list[Labelled]:
    """What the streams of a system say about each labelled machine and section that has test clips; see `tune`."""
    parts = []
    for (machine, section), rows in table[table["machine"].isin(machines)].groupby(["machine", "section"], sort=True):
        training = (rows["split"] == TRAIN).to_numpy()
        if training.all():
            continue
        streams = stream_scores(system, rows)
        known = pd.DataFrame([(truth[i].label, truth[i].domain) for i in rows["clip_id"][~training]])
        label, domain = known[0].to_numpy(), known[1].to_numpy()
        parts.append(Labelled(str(machine), str(section), streams[training], streams[~training], label, domain))
    return parts


def tune_runs(runs: Sequence[Run], name: str, normalise: str = "ztrain", search: str = "auto") -> tuple[System, Tuning]:
    """Tune the weights of all streams of finished runs on the same clips; the recordings need not be there.

    Args:
        name: of the system that `combine` makes of them
        normalise, search: options of `Weighted`

    Raises:
        AsdError: a run comes twice, or the runs are not of the same clips, or no machine is labelled.
    """
    ids = [run.record["run_id"] for run in runs]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise AsdError(f"{twice[0]} comes more than once. Name every run once; weights tell how much it counts.")
    fusion = {"name": "weighted", "weights": TUNED, "normalise": normalise, "search": search}
    system, table = combine(runs, name, fusion)
    machines = runs[0].record["labelled"]
    if not machines:
        raise AsdError(
            f"No machine of {runs[0].record['data']['name']} is labelled, so there is nothing to tune weights on. "
            f"Tune them on labelled machines and write the system with --output, then run it on these."
        )
    known = labelled_scores(runs[0])
    truth = {
        clip_id: Truth(clip_id, label, domain)
        for clip_id, label, domain in zip(known["clip_id"], known["label"], known["domain"], strict=True)
    }
    return system, tune(system, table, truth, machines)


def combine(runs: Sequence[Run], name: str, fusion: Mapping[str, Any]) -> tuple[System, pd.DataFrame]:
    """Finished runs as one system, whose streams are all of theirs.

    Encoders that are equal are shared. A name that several runs use gets its system in front. What the seed of a run
    is above the lowest becomes the seed of its branches, so the system is to be run with the lowest, and finds every
    training done, but for those of `trained_anew`.

    Args:
        name: of the new system
        fusion: its fusion rule, with options

    Returns:
        The system, with resolved options, and one row per clip as `tune` takes it.

    Raises:
        AsdError: the runs are not of the same clips.
    """
    _require_same_clips(runs)
    systems = [validate(System, run.record["config"], run.record["run_id"]) for run in runs]
    labels = labels_of(runs)
    lowest = min(int(run.record["seed"]) for run in runs)
    shared = Counter(word for system in systems for word in _words(system))
    encoders: dict[str, Any] = {}
    branches: list[dict[str, Any]] = []
    table = runs[0].scores[["clip_id", "machine", "section", "split"]]
    for run, system, label in zip(runs, systems, labels, strict=True):
        own = {word: f"{label}-{word}" if shared[word] > 1 else word for word in _words(system)}
        placed = {key: _place(encoders, key, value.model_dump(), label) for key, value in system.encoders.items()}
        scores = run.scores.set_index("clip_id").loc[table["clip_id"]]
        for branch in system.branches:
            seed = branch.seed + int(run.record["seed"]) - lowest
            changes: dict[str, Any] = {"name": own[branch.name], "seed": seed}
            if branch.encoder is not None:
                changes["encoder"] = placed[branch.encoder]
            if branch.stream is not None:
                changes["stream"] = own[branch.stream]
            branches.append(branch.model_dump() | changes)
            table = table.assign(**{f"branch:{own[branch.name]}": scores[f"branch:{branch.name}"].to_numpy()})
    members = ", ".join(labels)
    values = {
        "name": name,
        "title": f"Fusion of {members}" if len(members) < 60 else f"Fusion of {len(runs)} runs",
        "idea": f"Weighted mean of the scores of {members}, with tuned weights.",
        "family": "Fusions",
        "encoders": encoders,
        "branches": branches,
        "fusion": dict(fusion),
        "decision": rule_of(systems),
    }
    if _share_generated(systems) and systems[0].synthesis:
        values["synthesis"] = systems[0].synthesis.model_dump()
    return validate(System, values, name), table


def rule_of(systems: Sequence[System]) -> dict[str, Any]:
    """How a fusion of systems decides: as they do where they agree, else by `DECISION`."""
    rules = [system.decision.spec for system in systems]
    alike = all(rule == rules[0] for rule in rules) and rules[0].get("fit") != "official_batch"  # that is of one branch
    return rules[0] if alike else DECISION


def trained_anew(runs: Sequence[Run]) -> str:
    """A sentence on each kind of runs whose networks the combined system does not find done, or "": the seed of a
    system is that of the training that its networks start from, and it has one; and it has generated clips in all of
    its trainings or in none."""
    lowest = min(int(run.record["seed"]) for run in runs)
    others = [
        str(run.record["run_id"])
        for run in runs
        if run.record["seed"] > lowest and any(one.get("start") for one in run.record["config"]["encoders"].values())
    ]
    said = []
    if others:
        said.append(
            f"The networks of {', '.join(others)} start from trainings of another seed than {lowest}. In the fusion "
            f"they are trained anew, from the start of seed {lowest}, while the weights were tuned on what they were."
        )
    systems = [validate(System, run.record["config"], run.record["run_id"]) for run in runs]
    if not _share_generated(systems):
        made = [str(run.record["run_id"]) for run, system in zip(runs, systems, strict=True) if system.synthesis]
        said.append(
            f"{', '.join(made)} took generated clips, which a system has for all of its parts or for none. Run from this "
            f"file, they are trained anew, on recorded clips alone."
        )
    return " ".join(said)


def _share_generated(systems: Sequence[System]) -> bool:
    """Whether all systems use the same generated clips in the same way, or none does."""
    return all(system.synthesis == systems[0].synthesis for system in systems)


def system_file(system: System, found: Tuning, runs: Sequence[Run]) -> str:
    """A YAML file of a combined system with its tuned weights; streams without weight are left out."""
    data = runs[0].record["data"]
    on = (
        f"Weights tuned on the labelled test clips of {data['name']} ({data['kind']}), "
        f"machines {', '.join(found.machines)}. {found.said}"
    )
    weights = dict(zip([name for name, _ in system.streams], found.weights, strict=True))
    kept = [branch for branch in system.branches if weights[branch.stream or branch.name] > 0]
    used = {branch.encoder for branch in kept}
    smaller = with_weights(system, [weight for weight in found.weights if weight > 0], on).model_copy(
        update={"branches": kept, "encoders": {key: value for key, value in system.encoders.items() if key in used}}
    )
    told = [on, f"Runs: {', '.join(run.record['run_id'] for run in runs)}."]
    return system_text(smaller, told + ([trained_anew(runs)] if trained_anew(runs) else []))


def system_text(system: System, told: Sequence[str]) -> str:
    """A YAML file of a system that begins with what its reader should know, a sentence each."""
    comment = [line for text in told for line in textwrap.wrap(text, 118, break_long_words=False)]
    values = system.model_dump(mode="json", exclude_defaults=True)
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comment) + body


def _words(system: System) -> set[str]:
    """Names of branches and streams."""
    return {branch.name for branch in system.branches} | {name for name, _ in system.streams}


def labels_of(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: of its system, with the seed or the run's key where that is not enough."""
    systems = [run.record["system"] for run in runs]
    seeded = [f"{run.record['system']}-seed{run.record['seed']}" for run in runs]
    labels = []
    for run, system, with_seed in zip(runs, systems, seeded, strict=True):
        key = run.record["run_id"].rpartition("--")[2]
        labels.append(
            system if systems.count(system) == 1 else with_seed if seeded.count(with_seed) == 1 else f"{system}-{key}"
        )
    return labels


def _place(encoders: dict[str, Any], name: str, encoder: dict[str, Any], label: str) -> str:
    """Enter an encoder under its name, or with a label where another one has that; gives the name it has now."""
    names = chain([name, f"{label}-{name}"], (f"{label}-{name}-{number}" for number in count(2)))
    free = next(one for one in names if encoders.get(one, encoder) == encoder)
    encoders[free] = encoder
    return free


def _require_same_clips(runs: Sequence[Run]) -> None:
    if problem := same_clips(runs):
        raise AsdError(problem)


def same_clips(runs: Sequence[Run]) -> str:
    """How the clips of runs differ, in a sentence, or ""."""
    first = runs[0].record
    for record in (run.record for run in runs[1:]):
        for what, one, other in (
            ("data set", first["data"]["name"], record["data"]["name"]),
            ("machines", ", ".join(sorted(first["machines"])), ", ".join(sorted(record["machines"]))),
            ("recordings of the data set", first["data"]["fingerprint"], record["data"]["fingerprint"]),
        ):
            if one != other:
                return (
                    f"Only scores of the same clips can be fused, and the {what} differ: {one} in {first['run_id']}, "
                    f"{other} in {record['run_id']}. Run both systems on the same clips first."
                )
    return ""
