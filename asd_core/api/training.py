"""What can be trained, how far it is, and starting it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from asd_core import config, jobs, pipeline, weights
from asd_core.api.configs import systems
from asd_core.api.recordings import data_set, data_sets, known_fingerprint
from asd_core.api.results import runs
from asd_core.artifacts import Run, Workspace
from asd_core.files import digest
from asd_core.jobs import Job
from asd_core.types import AsdError


def training_arguments(
    workspace: Workspace, names: Sequence[str], data: str, profile: str, seeds: Sequence[int], machines: Sequence[str]
) -> list[str]:
    """The command line that trains and scores systems; no machines means all of them."""
    arguments = ["run", *names, "--data", data, "--profile", profile]
    for seed in seeds:
        arguments += ["--seeds", str(seed)]
    for machine in machines:
        arguments += ["--machines", machine]
    return [*arguments, "--workspace", str(workspace.root)]


def command(arguments: Sequence[str]) -> str:
    """The same work in a terminal, from the repository's folder."""
    return shlex.join(["python", "-m", "asd_core", *arguments])


@dataclass(frozen=True)
class Asked:
    """What the command line of a training job asks for."""

    systems: tuple[str, ...]
    data: str  # as given to --data
    profile: str
    seeds: tuple[int, ...]


def asked_of(job: Job) -> Asked | None:
    """Read back from `training_arguments`; None for a job that trains nothing."""
    words = job.arguments
    if words[:1] != ("run",):
        return None
    options = [place for place, word in enumerate(words) if word.startswith("--")]
    given = [(words[place], words[place + 1]) for place in options if place + 1 < len(words)]
    single = dict(given)
    return Asked(
        tuple(words[1 : options[0]] if options else words[1:]),
        single.get("--data", ""),
        single.get("--profile", ""),
        tuple(int(value) for name, value in given if name == "--seeds"),
    )


def start_training(
    workspace: Workspace,
    name: str,
    data: str,
    profile: str = "quick",
    seeds: Sequence[int] = (0,),
    machines: Sequence[str] = (),
) -> str:
    """Start, or find, the job that trains a system on a data set of `data_sets` and return the job's id.

    Raises:
        AsdError: an unknown system, data set, profile or machine, checked here because a browser may send anything;
            or published weights that are not on this machine.
    """
    system = config.load_system(name)
    if problem := lacking_weights(system, config.load_profile(profile)):
        raise AsdError(problem)
    found = data_set(workspace, data)
    for machine in machines:
        found.of(machine)
    if not seeds or any(not 0 <= seed < 10_000 for seed in seeds):
        raise AsdError(f"Seeds are whole numbers from 0 to 9999; got {list(seeds)}.")
    arguments = training_arguments(workspace, [name], data_sets(workspace)[data].argument, profile, seeds, machines)
    title = f"{system.title} · {data} · {profile} · {seeds_text(seeds)}"
    return jobs.start(workspace.jobs, arguments, title, digest(arguments))


def lacking_weights(system: config.System, profile: config.Profile) -> str:
    """Which published weights a system wants that are not on this machine, and how to get them; "" for none.

    Raises:
        AsdError: the system is not valid under the profile.
    """
    for encoder in config.resolve(system, profile).encoders.values():
        stage: config.Encoder | None = encoder
        while stage:
            if checkpoint := stage.backbone.spec.get("checkpoint"):
                try:
                    weights.locate(checkpoint)
                except AsdError as error:
                    return str(error)
            stage = stage.start
    return ""


def seeds_text(seeds: Sequence[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def computed_seeds(workspace: Workspace, name: str, data: str, profile: str, machines: Sequence[str] = ()) -> list[int]:
    """Seeds whose result is there for these settings and these recordings: training them again would only find it."""
    resolved = config.resolve(config.load_system(name), config.load_profile(profile)).model_dump(mode="json")
    wanted = sorted(machines or data_set(workspace, data).machines)
    prints = known_fingerprint(workspace, data, wanted)
    return sorted(
        run.record["seed"]
        for run in runs(workspace)
        if (run.record["system"], run.record["data"]["name"], run.record["profile"]) == (name, data, profile)
        and (run.record["machines"], run.record["config"]) == (wanted, resolved)
        and run.record["data"]["fingerprint"] == prints
    )


def missing_systems(states: pd.DataFrame) -> list[str]:
    """Names of the rows of `system_states` that could be trained, have no result and are not on their way to one;
    variants are left to be picked one by one."""
    waits = ~states["state"].isin(jobs.ACTIVE) & (states["problem"] == "")
    waits &= ~states["name"].str.contains("+", regex=False)
    return list(states.loc[(states["run_id"] == "") & waits, "name"])


def result_of(workspace: Workspace, job: Job) -> Run | None:
    """The newest run that a finished training job made or found."""
    asked = asked_of(job)
    for run in runs(workspace) if asked else ():
        record = run.record
        data = data_sets(workspace).get(record["data"]["name"])
        if (
            asked
            and record["system"] in asked.systems
            and record["profile"] == asked.profile
            and record["seed"] in asked.seeds
            and data
            and data.argument == asked.data
        ):
            return run
    return None


def start_demo(workspace: Workspace) -> str:
    """Start the job that simulates the demo machines."""
    from asd_core.data.catalogue import load_dataset_config

    arguments = ["data", "simulate", "--root", load_dataset_config("demo").root, "--size", "demo"]
    return jobs.start(workspace.jobs, arguments, "Simulate the demo machines", digest(arguments))


def system_states(workspace: Workspace, data: str, profile: str) -> pd.DataFrame:
    """Every system with how far it is on a data set under a profile.

    Columns: name, title, family, idea, published (percent or None), metric_set, state, omega (fraction or None),
    seconds, run_id and job_id ("" for none), problem (of a system that is invalid by itself or under the profile, or
    weights that are not here), transductive (whether its verdicts depend on the other test clips).
    """
    argument = known.argument if (known := data_sets(workspace).get(data)) else data
    latest: dict[str, Job] = {}
    for one in jobs.list_jobs(workspace.jobs):
        asked = asked_of(one)
        if asked and (asked.data, asked.profile) == (argument, profile):
            for name in asked.systems:
                latest.setdefault(name, one)
    finished: dict[str, Run] = {}
    for run in sorted(runs(workspace), key=lambda one: -len(one.record["machines"])):  # stable: newest first
        if run.record["data"]["name"] == data and run.record["profile"] == profile:
            finished.setdefault(run.record["system"], run)
    rows = []
    overlay = config.load_profile(profile)
    for name, system in systems().items():
        own, last = finished.get(name), latest.get(name)
        state = "done" if own else "not started"
        if last and (
            last.is_active or (last.state != jobs.DONE and (own is None or last.created > own.record["created"]))
        ):
            state = last.state
        metrics = own.metrics if own else None
        row: dict[str, Any] = {
            "name": name,
            "state": state,
            "omega": metrics["official"]["omega"] if metrics else None,
            "seconds": own.record["seconds"] if own else None,
            "run_id": own.record["run_id"] if own else "",
            "job_id": last.id if last else "",
            "problem": "",
            "transductive": False,
        }
        if isinstance(system, AsdError):
            row |= {"title": name, "family": "", "idea": "", "published": None, "metric_set": None}
            row |= {"state": "invalid", "problem": str(system)}
        else:
            report = system.report
            row |= {"title": system.title, "family": system.family, "idea": system.idea}
            row |= {"published": report and report.hmean, "metric_set": report and report.metric}
            try:
                row["transductive"] = pipeline.is_transductive(system)
                row["problem"] = lacking_weights(system, overlay)
            except AsdError as error:
                row |= {"state": "invalid", "problem": str(error)}
        rows.append(row)
    columns = ["name", "title", "family", "idea", "published", "metric_set", "state", "omega", "seconds"]
    return pd.DataFrame(rows, columns=[*columns, "run_id", "job_id", "problem", "transductive"])
