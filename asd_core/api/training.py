"""What can be trained, how far it is, and starting it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from asd_core import analysis, config, jobs, pipeline, weights
from asd_core.api.configs import systems
from asd_core.api.generated import generation_targets
from asd_core.api.inventory import current_fingerprint
from asd_core.api.recordings import data_set, data_sets
from asd_core.api.results import run_stamp, runs
from asd_core.artifacts import Run, Workspace
from asd_core.engine.cluster import load_cluster
from asd_core.files import digest, read_json
from asd_core.jobs import Job
from asd_core.registry import did_you_mean
from asd_core.types import AsdError


def training_arguments(
    workspace: Workspace,
    names: Sequence[str],
    data: str,
    profile: str,
    seeds: Sequence[int],
    machines: Sequence[str],
    cluster: str = "",
) -> list[str]:
    """The command line that trains and scores systems; no machines means all of them.

    Args:
        cluster: address of the Ray cluster that does it; "" for this computer
    """
    arguments = ["run", *names, "--data", data, "--profile", profile]
    for seed in seeds:
        arguments += ["--seeds", str(seed)]
    for machine in machines:
        arguments += ["--machines", machine]
    if cluster:
        arguments += ["--engine", "ray", "--address", cluster]
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
    cluster: str = "",
) -> str:
    """Start, or find, the job that trains a system on a data set of `data_sets` and return the job's id.

    Args:
        cluster: `cluster_address`, for the nodes there to do the work; "" for this computer

    Raises:
        AsdError: an unknown system, data set, profile or machine, checked here because a browser may send anything;
            published weights that are not on this machine; or a cluster that is not, or no more, the configured one.
    """
    system = config.load_system(name)
    if problem := lacking_weights(system, config.load_profile(profile)):
        raise AsdError(problem)
    found = data_set(workspace, data)
    for machine in machines:
        found.of(machine)
    if not seeds or any(not 0 <= seed < 10_000 for seed in seeds):
        raise AsdError(f"Seeds are whole numbers from 0 to 9999; got {list(seeds)}.")
    if cluster and cluster != cluster_address():
        raise AsdError(f"The configured Ray cluster is not at {cluster}. Reload the page and choose again.")
    argument = data_sets(workspace)[data].argument
    arguments = training_arguments(workspace, [name], argument, profile, seeds, machines, cluster)
    title = f"{system.title} · {data} · {profile} · {seeds_text(seeds)}{_restricted(machines)}"
    title += f" · on {cluster}" if cluster else ""
    return jobs.start(workspace.jobs, arguments, title, digest(arguments))


def cluster_address() -> str:
    """HOST:PORT of the Ray cluster of configs/cluster.yaml or RAY_ADDRESS; "" where none is configured.

    Raises:
        AsdError: what is written there is not valid.
    """
    return load_cluster().address or ""


def _restricted(machines: Sequence[str]) -> str:
    """What a job's title says of the machines that it is restricted to."""
    if not machines:
        return ""
    return f" · {', '.join(machines) if len(machines) < 3 else f'{len(machines)} machines'}"


def lacking_weights(system: config.System, profile: config.Profile) -> str:
    """Which published weights a system wants that are not on this machine, and how to get them; "" for none.

    Raises:
        AsdError: the system is not valid under the profile.
    """
    return _lacking(analysis.system_table({system.name: system}, profile)["weights"].iloc[0])


def _lacking(checkpoints: Sequence[str]) -> str:
    for checkpoint in checkpoints:
        try:
            weights.locate(checkpoint)
        except AsdError as error:
            return str(error)
    return ""


def config_stamp() -> str:
    """Changes when a file of configs/ does; part of the key of anything read from there."""
    files = sorted((str(path), path.stat().st_mtime_ns) for path in config.CONFIGS.glob("*/*.yaml"))
    return digest([str(config.CONFIGS), *files])


def known_systems() -> Mapping[str, config.System | AsdError]:
    """`systems`, read again only when a file of configs/ changed."""
    return _systems(config_stamp())


@lru_cache(maxsize=2)
def _systems(stamp: str) -> Mapping[str, config.System | AsdError]:
    return systems()


@lru_cache(maxsize=8)
def _described(profile: str, stamp: str) -> Mapping[str, Mapping[str, Any]]:
    """What the files say of every system under a profile: the columns of `system_states` that no run or job changes."""
    overlay = config.load_profile(profile)
    found: dict[str, Mapping[str, Any]] = {}
    for name, system in _systems(stamp).items():
        row: dict[str, Any] = {"name": name, "title": name, "family": "", "idea": "", "published": None}
        row |= {"metric_set": None, "transductive": False, "generated": False, "two_microphones": False}
        row |= {"weights": (), "networks": "", "invalid": ""}
        if isinstance(system, AsdError):
            found[name] = row | {"invalid": str(system)}
            continue
        report = system.report
        row |= {"title": system.title, "family": system.family, "idea": system.idea}
        row |= {"published": report and report.hmean, "metric_set": report and report.metric}
        try:
            needs = analysis.system_table({name: system}, overlay).iloc[0]
            row |= {"weights": tuple(needs["weights"]), "networks": needs["networks"]}
            row |= {"two_microphones": bool(needs["two_microphones"]), "generated": system.synthesis is not None}
            row["transductive"] = pipeline.is_transductive(system)
        except AsdError as error:
            row["invalid"] = str(error)
        found[name] = row
    return found


@lru_cache(maxsize=64)
def _resolved(name: str, profile: str, stamp: str) -> dict[str, Any]:
    return config.resolve(config.load_system(name), config.load_profile(profile)).model_dump(mode="json")


def config_changes(name: str, profile: str) -> pd.DataFrame:
    """What a profile makes of a system that was written otherwise: option (dotted), written, used.

    Raises:
        AsdError: unknown system or profile, or the system is not valid under it.
    """
    written = config.load_system(name).model_dump(mode="json", exclude={"variants"})
    used = {key: value for key, value in _resolved(name, profile, config_stamp()).items() if key != "variants"}
    before, after = dict(_leaves(written)), dict(_leaves(used))
    rows = [
        {"option": key, "written": before.get(key, "–"), "used": after.get(key, "–")}
        for key in [*after, *(key for key in before if key not in after)]
        if before.get(key) != after.get(key)
    ]
    return pd.DataFrame(rows, columns=["option", "written", "used"])


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(dotted place, value as text) of everything inside that is not a mapping; lists of mappings by number or name."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = {str(one.get("name", number)): one for number, one in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}".lstrip("."))
    else:
        yield place, "none" if value is None else str(value)


@dataclass(frozen=True)
class Estimate:
    """How long a training may take and how much room it needs at most; None where no earlier run tells."""

    seconds: float | None
    bytes: int | None
    source: str  # which run tells it


def estimate(workspace: Workspace, name: str, profile: str, machines: int, seeds: int = 1) -> Estimate:
    """From the newest run of this system under the profile, or else of one with the same networks and kind of branches,
    in proportion to the number of machines. At most: finished parts, which runs share, are not computed again."""
    described = _described(profile, config_stamp())
    if name not in described:
        raise AsdError(f'There is no system "{name}".{did_you_mean(name, described)}')
    like = described[name]
    earlier = [run for run in runs(workspace) if run.record["profile"] == profile and run.record.get("seconds")]
    own = [run for run in earlier if run.record["system"] == name]
    alike = [
        run
        for run in earlier
        if like["networks"] not in ("", "none")
        and (known := described.get(run.record["system"]))
        and all(known[part] == like[part] for part in ("family", "networks", "generated"))
    ]
    if not (found := own or alike):
        return Estimate(None, None, "")
    run = found[0]
    share = seeds * machines / max(1, len(run.record["machines"]))
    about = f"{run.record['system']} on {len(run.record['machines'])} machines of {run.record['data']['name']}"
    return Estimate(share * run.record["seconds"], round(share * _stored(workspace, run.folder, run_stamp(run))), about)


@lru_cache(maxsize=64)
def _stored(workspace: Workspace, folder: Path, stamp: str) -> int:
    """Bytes of a run and of the parts that it was made of."""
    total = 0
    parts = [workspace.task(one["kind"], one["key"]) for one in read_json(folder / "run.json").get("tasks", ())]
    for part in (folder, *parts):
        with suppress(AsdError, OSError, KeyError):  # a part may have been deleted since
            total += sum(read_json(part / "meta.json")["files"].values())
    return total


def seeds_text(seeds: Sequence[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def computed_seeds(workspace: Workspace, name: str, data: str, profile: str, machines: Sequence[str] = ()) -> list[int]:
    """Seeds whose result is there for these settings and these recordings: training them again would only find it."""
    resolved = _resolved(name, profile, config_stamp())
    wanted = sorted(machines or data_set(workspace, data).machines)
    prints = current_fingerprint(workspace, data, wanted)
    return sorted(
        run.record["seed"]
        for run in runs(workspace)
        if (run.record["system"], run.record["data"]["name"], run.record["profile"]) == (name, data, profile)
        and (run.record["machines"], run.record["config"]) == (wanted, resolved)
        and run.record["data"]["fingerprint"] == prints
    )


def other_settings(
    workspace: Workspace, name: str, data: str, profile: str, machines: Sequence[str] = ()
) -> tuple[list[int], list[str]]:
    """Seeds of the runs of this name on this data set that were made with other settings or from other recordings, and
    in what the newest of them differs, a few words each; nothing where there is none.

    Raises:
        AsdError: unknown system, profile, data set or machine, or the recordings are gone.
    """
    wanted = sorted(machines or data_set(workspace, data).machines)
    used = dict(_leaves(_resolved(name, profile, config_stamp())))
    prints = current_fingerprint(workspace, data, wanted)
    seeds: list[int] = []
    told: list[str] = []
    for run in runs(workspace):
        record = run.record
        if (record["system"], record["data"]["name"], record["profile"]) != (name, data, profile):
            continue
        before = dict(_leaves(record["config"]))
        found = [
            f"{option} was {before.get(option, 'not there')}, is {used.get(option, 'not there')}"
            for option in dict.fromkeys([*used, *before])
            if before.get(option) != used.get(option)
        ]
        if record["machines"] != wanted:
            found.append(f"machines: {', '.join(record['machines'])}")
        elif record["data"]["fingerprint"] != prints:
            found.append("the recordings have changed")
        if found:
            seeds.append(record["seed"])
            told = told or found
    return sorted(set(seeds)), told


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


def generated_for(workspace: Workspace, name: str, data: str, profile: str) -> pd.DataFrame:
    """What a system would have generated for its training: `generation_targets`; empty for one that uses none.

    Raises:
        AsdError: unknown system, profile or data set.
    """
    system = config.resolve(config.load_system(name), config.load_profile(profile))
    found = data_set(workspace, data)
    if system.synthesis is None:
        return pd.DataFrame(columns=["condition", "recorded", "wanted", "why"])
    return generation_targets(found, system.synthesis.generator)


def start_demo(workspace: Workspace) -> str:
    """Start the job that simulates the demo machines."""
    from asd_core.data.catalogue import load_dataset_config

    arguments = ["data", "simulate", "--root", load_dataset_config("demo").root, "--size", "demo"]
    return jobs.start(workspace.jobs, arguments, "Simulate the demo machines", digest(arguments))


def system_states(workspace: Workspace, data: str, profile: str) -> pd.DataFrame:
    """Every system with how far it is on a data set under a profile.

    Columns: name, title, family, idea, published (percent or None), metric_set, state, omega (fraction or None),
    seconds, run_id and job_id ("" for none), problem (of a system that is invalid by itself or under the profile, or
    weights that are not here), transductive (whether its verdicts depend on the other test clips); and what it needs:
    networks, weights (names), two_microphones, generated (whether it has training clips generated).
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
    lacking: dict[tuple[str, ...], str] = {}
    for name, about in _described(profile, config_stamp()).items():
        own, last = finished.get(name), latest.get(name)
        state = "done" if own else "not started"
        stopped = (jobs.FAILED, jobs.INTERRUPTED)  # a cancelled job takes nothing away from a result before it
        if last and own and not last.is_active:
            is_news = last.state in stopped and last.created > own.record["created"]
        else:
            is_news = last is not None and last.state != jobs.DONE
        if last and is_news:
            state = last.state
        if about["weights"] not in lacking:
            lacking[about["weights"]] = _lacking(about["weights"])
        row = {key: value for key, value in about.items() if key != "invalid"} | {
            "state": "invalid" if about["invalid"] else state,
            "omega": _omega(own.folder, run_stamp(own)) if own else None,
            "seconds": own.record["seconds"] if own else None,
            "run_id": own.record["run_id"] if own else "",
            "job_id": last.id if last else "",
            "problem": about["invalid"] or lacking[about["weights"]],
        }
        rows.append(row)
    columns = ["name", "title", "family", "idea", "published", "metric_set", "state", "omega", "seconds", "run_id"]
    needs = ["networks", "weights", "two_microphones", "generated"]
    return pd.DataFrame(rows, columns=[*columns, "job_id", "problem", "transductive", *needs])


@lru_cache(maxsize=1024)
def _omega(folder: Path, stamp: str) -> float | None:
    metrics = Run(folder, {}).metrics
    return metrics["official"]["omega"] if metrics else None
