"""What pages and notebooks may ask for. Nothing heavy is imported before it is needed: the app's process never
loads a learning library, it reads what the command line has left in the workspace and starts jobs.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import config, jobs
from asd_core.artifacts import Run, Workspace, load_run
from asd_core.data.manifest import REPOSITORY, DataSet, scan
from asd_core.data.spectrogram import AXES, Axis, ticks
from asd_core.files import digest, read_json, write_bytes, write_json, write_with
from asd_core.jobs import Job
from asd_core.registry import did_you_mean
from asd_core.types import ANOMALY, FAR, NEAR, TEST, TRAIN, AsdError, Clip

__all__ = [
    "AXES",
    "FAR",
    "NEAR",
    "AsdError",
    "Axis",
    "ClipFacts",
    "DataInfo",
    "Job",
    "Run",
    "Workspace",
    "ticks",
    "write_bytes",
]

DEFAULT_WORKSPACE = REPOSITORY / "workspace"
CHANNELS = {"near": NEAR, "far": FAR}
SCALE_CLIPS = 12  # training clips that set a machine's loudness scale
SMALLEST_RANGE_DB = 40.0  # of that scale; less would paint silence as a storm


# systems and profiles


def systems() -> dict[str, config.System | AsdError]:
    """Every system of configs/systems by name; an invalid file stands there as its error."""
    found: dict[str, config.System | AsdError] = {}
    for name in config.system_names():
        try:
            found[name] = config.load_system(name)
        except AsdError as error:
            found[name] = error
    return found


def system_yaml(name: str, profile: str | None = None) -> str:
    """The system's file as it was written, or resolved under a profile."""
    import yaml

    system = config.load_system(name)
    if profile is None:
        return (config.CONFIGS / "systems" / f"{name}.yaml").read_text()
    resolved = config.resolve(system, config.load_profile(profile))
    return yaml.safe_dump(resolved.model_dump(exclude_defaults=True), sort_keys=False, allow_unicode=True)


def profiles() -> dict[str, config.Profile]:
    names = sorted(path.stem for path in (config.CONFIGS / "profiles").glob("*.yaml"))
    return {name: config.load_profile(name) for name in names}


# data sets and clips


@dataclass(frozen=True)
class DataInfo:
    """A data set that was used in this workspace or is known and on this machine."""

    name: str
    kind: str
    root: Path
    argument: str  # what --data takes
    fingerprint: str = ""  # "" before the first run


def data_sets(workspace: Workspace) -> dict[str, DataInfo]:
    """By name: first those used in this workspace, then the known ones that are on this machine."""
    from asd_core.data.catalogue import dataset_names, load_dataset_config

    found: dict[str, DataInfo] = {}
    for path in sorted((workspace.root / "datasets").glob("*/dataset.json")):
        try:
            about = read_json(path)
            root = REPOSITORY / about["root"]
            found[about["name"]] = DataInfo(
                about["name"], about["kind"], root, str(root), str(about.get("fingerprint", ""))
            )
        except (AsdError, KeyError, TypeError):
            continue
    for name in dataset_names():
        known = load_dataset_config(name)
        root = REPOSITORY / known.root
        if name in found and found[name].root == root:
            found[name] = DataInfo(name, known.kind, root, name, found[name].fingerprint)
        elif name not in found and root.is_dir():
            found[name] = DataInfo(name, known.kind, root, name)
    return found


def data_set(workspace: Workspace, name: str) -> DataSet:
    """The clips of a data set as they lie on disk now.

    Raises:
        AsdError: unknown name, or its folder is gone or holds no clip.
    """
    known = data_sets(workspace)
    if name not in known:
        raise AsdError(f'There is no data set "{name}" in this workspace.{did_you_mean(name, known)}')
    info = known[name]
    return _scanned(info.root, info.name, info.kind, _stamp(info.root))


def clip(workspace: Workspace, data: str, clip_id: str) -> Clip:
    """The clip with this id. The id is looked up; it never becomes part of a path.

    Raises:
        AsdError: unknown data set, or no file for this id.
    """
    clips = _by_id(data_set(workspace, data))
    if clip_id not in clips:
        raise AsdError(f"{clip_id} is missing from {data}. Restore the file, or run again to leave it out.")
    return clips[clip_id]


@dataclass(frozen=True)
class ClipFacts:
    seconds: float
    sample_rate: int
    channels: int
    size: int  # bytes
    place: str  # relative to the data set's folder
    levels: tuple[tuple[float, float], ...]  # (peak, RMS) in dBFS per channel

    @property
    def is_clipped(self) -> bool:
        return any(peak > -0.01 for peak, _ in self.levels)

    @property
    def is_silent(self) -> bool:
        return any(rms < -100 for _, rms in self.levels)


def clip_facts(workspace: Workspace, data: str, clip_id: str) -> ClipFacts:
    from asd_core.data import audio

    found = clip(workspace, data, clip_id)
    header = audio.info(found.path)
    wave = audio.read(found.path)
    measured = np.stack([np.abs(wave).max(axis=1), np.sqrt((wave.astype(np.float64) ** 2).mean(axis=1))], axis=1)
    decibel = 20 * np.log10(np.maximum(measured, 1e-7))
    return ClipFacts(
        header.seconds,
        header.sample_rate,
        header.channels,
        found.path.stat().st_size,
        found.path.relative_to(data_sets(workspace)[data].root.resolve()).as_posix(),
        tuple((float(peak), float(rms)) for peak, rms in decibel),
    )


def sound(workspace: Workspace, data: str, clip_id: str, channel: str) -> Path:
    """A WAV file of one channel, sample for sample as recorded: no gain, no resampling."""
    import soundfile

    found = clip(workspace, data, clip_id)
    header = soundfile.info(found.path)
    if header.channels == 1 and channel == "near":
        return found.path
    if CHANNELS[channel] >= header.channels:
        raise AsdError(f"{clip_id} has one channel; there is no {channel} recording.")
    path = workspace.cache / "sounds" / f"{digest([data, channel, *_identity(found)])}.wav"
    if not path.is_file():
        samples, rate = soundfile.read(found.path, dtype="int16", always_2d=True)
        one = samples[:, CHANNELS[channel]]
        write_with(path, lambda file: soundfile.write(file, one, rate, subtype="PCM_16", format="WAV"))
    return path


def spectrogram(workspace: Workspace, data: str, clip_id: str, channel: str, axis: Axis = "mel") -> np.ndarray:
    """(rows, frames) in dBFS, low frequencies first, to be shown on the machine's `loudness_scale`."""
    from asd_core.data import audio
    from asd_core.data.spectrogram import spectrogram as analyse

    wave = audio.read(clip(workspace, data, clip_id).path)
    if CHANNELS[channel] >= len(wave):
        raise AsdError(f"{clip_id} has one channel; there is no {channel} recording.")
    return analyse(wave[CHANNELS[channel]], axis)


def loudness_scale(workspace: Workspace, data: str, machine: str) -> tuple[float, float]:
    """(darkest, brightest) level in dBFS of all pictures of a machine, near and far, so that they can be compared.

    From the training clips: 1 % of their spectrograms lies below and 0.1 % above, to the next 5 dB.
    """
    clips = data_set(workspace, data).of(machine, TRAIN) or data_set(workspace, data).of(machine)
    some = clips[:: max(1, len(clips) // SCALE_CLIPS)][:SCALE_CLIPS]
    path = workspace.cache / "scales" / f"{digest([_identity(one) for one in some])}.json"
    if not path.is_file():
        from asd_core.data import audio
        from asd_core.data.spectrogram import spectrogram as analyse

        levels = [np.percentile(analyse(channel), (1, 99.9)) for one in some for channel in audio.read(one.path)]
        low, high = np.median(levels, axis=0)
        write_json(path, [float(5 * np.floor(low / 5)), float(5 * np.ceil(high / 5))])
    low, high = read_json(path)
    return low, max(high, low + SMALLEST_RANGE_DB)


def picture_key(workspace: Workspace, data: str, clip_id: str) -> str:
    """Changes when the clip's file or its machine's loudness scale does; part of a cached picture's name."""
    found = clip(workspace, data, clip_id)
    return digest([*_identity(found), loudness_scale(workspace, data, found.machine)])


def _identity(found: Clip) -> list[Any]:
    stat = found.path.stat()
    return [str(found.path), stat.st_size, stat.st_mtime_ns]


@lru_cache(maxsize=4)
def _scanned(root: Path, name: str, kind: str, stamp: str) -> DataSet:
    return scan(root, name, kind)


@lru_cache(maxsize=4)
def _indexed(root: Path, name: str, kind: str, stamp: str) -> Mapping[str, Clip]:
    return {one.clip_id: one for one in _scanned(root, name, kind, stamp).clips}


def _by_id(data: DataSet) -> Mapping[str, Clip]:
    return _indexed(data.root, data.name, data.kind, _stamp(data.root))


def _stamp(root: Path) -> str:
    """Changes when files are added to or removed from the folders of clips; looks at folders only."""
    seen = []
    for folder, below, _ in os.walk(root):
        seen.append((folder, Path(folder).stat().st_mtime_ns))
        if Path(folder).name in (TRAIN, TEST):
            below.clear()
    return digest(sorted(seen))


# runs


def runs(workspace: Workspace) -> list[Run]:
    """Finished runs, newest first; `broken_runs` names the folders that were passed over."""
    return [run for run, _ in _runs(workspace) if run is not None]


def broken_runs(workspace: Workspace) -> list[str]:
    """One sentence per run folder that cannot be read."""
    return [why for run, why in _runs(workspace) if run is None]


def _runs(workspace: Workspace) -> list[tuple[Run | None, str]]:
    found: list[tuple[Run | None, str]] = []
    for run_id in workspace.run_ids():
        try:
            run = load_run(workspace, run_id)
            missing = {"run_id", "system", "data", "machines", "thresholds", "created"} - set(run.record)
            if missing or not (run.folder / "scores.parquet").is_file():
                what = ", ".join(sorted(missing)) or "scores.parquet"
                found.append((None, f"{run_id}: {what} is missing. Delete the folder and run the system again."))
            else:
                found.append((run, ""))
        except (AsdError, ValueError, OSError) as error:
            found.append((None, f"{run_id}: {error} Delete the folder and run the system again."))
    return found


def run_stamp(run: Run) -> str:
    """Changes when a run is made anew; part of the key of anything cached from it."""
    return digest([str(run.folder), (run.folder / "meta.json").stat().st_mtime_ns])


def leaderboard(workspace: Workspace) -> pd.DataFrame:
    """The table of `analysis.leaderboard` with ``measured``, the number of machines a row's Ω covers.

    Rows over fewer machines than others of the same data stand below them: their Ω is of an easier or harder set.
    """
    from asd_core import analysis

    finished = runs(workspace)
    board = analysis.leaderboard(finished, analysis.published())
    machines = sorted({machine for run in finished for machine in run.record["machines"]} & set(board))
    board["measured"] = board[machines].notna().sum(axis=1) if machines else 0
    return board.sort_values("measured", ascending=False, kind="stable").reset_index(drop=True)


def machine_matrix(run: Run) -> pd.DataFrame:
    from asd_core import analysis

    return analysis.machine_matrix(run)


def clip_table(workspace: Workspace, run: Run) -> pd.DataFrame:
    """The run's test clips with their truth, where the recordings are on this machine and tell it."""
    from asd_core import analysis

    about = run.record["data"]
    try:
        data = data_set(workspace, about["name"])
    except AsdError:
        data = DataSet(about["name"], about["kind"], workspace.root, ())
    return analysis.clip_table(run, data)


def histogram(clips: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    from asd_core import analysis

    return analysis.histogram(clips, bins)


def roc_curves(clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """ROC curves behind the official figures of one machine's clip table, as far as they are defined.

    "source" and "target" set the normals of that domain against all anomalies (auc_source, auc_target), "all" sets
    all normals against all anomalies (pauc).
    """
    from asd_core import analysis

    known = clips[clips["label"].notna()]
    curves = {}
    for name in ("source", "target", "all"):
        own = known[(known["domain"] == name) | (known["label"] == ANOMALY)] if name != "all" else known
        if own["label"].nunique() == 2:
            curves[name] = analysis.roc(own["score"].to_numpy(), own["label"].to_numpy(dtype=int))
    return curves


PRESETS = {
    "Worst false alarms": "normal clips above the threshold, highest first",
    "Missed anomalies": "anomalous clips below the threshold, lowest first",
    "Closest to threshold": "the clips that could tip over first",
    "Highest scores": "all clips, most anomalous first",
    "By name": "all clips in order of their names",
}
LABEL_FREE_PRESETS = ("Closest to threshold", "Highest scores", "By name")


def select_clips(
    clips: pd.DataFrame,
    preset: str = "By name",
    domains: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    text: str = "",
) -> pd.DataFrame:
    """Rows of a clip table that a preset of `PRESETS` and the filters keep, in the preset's order.

    Args:
        domains: "source", "target"; empty for both
        outcomes: "TP", "FP", "TN", "FN"; empty for all
        text: must occur in the clip's id or attributes, in any case
    """
    kept = clips
    if domains:
        kept = kept[kept["domain"].isin(domains)]
    if outcomes:
        kept = kept[kept["outcome"].isin(outcomes)]
    if text.strip():
        words = kept["clip_id"].str.lower() + " " + kept["attributes"].str.lower()
        kept = kept[words.str.contains(text.strip().lower(), regex=False)]
    if preset == "Worst false alarms":
        return kept[kept["outcome"] == "FP"].sort_values(["margin", "clip_id"], ascending=[False, True])
    if preset == "Missed anomalies":
        return kept[kept["outcome"] == "FN"].sort_values(["margin", "clip_id"])
    if preset == "Closest to threshold":
        return kept.iloc[kept["margin"].abs().argsort(kind="stable")]
    if preset == "Highest scores":
        return kept.sort_values(["score", "clip_id"], ascending=[False, True])
    return kept.sort_values("clip_id")


# jobs


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
        AsdError: an unknown system, data set, profile or machine; checked here because a browser may send anything.
    """
    system = config.load_system(name)
    config.load_profile(profile)
    found = data_set(workspace, data)
    for machine in machines:
        found.of(machine)
    if not seeds or any(not 0 <= seed < 10_000 for seed in seeds):
        raise AsdError(f"Seeds are whole numbers from 0 to 9999; got {list(seeds)}.")
    arguments = training_arguments(workspace, [name], data_sets(workspace)[data].argument, profile, seeds, machines)
    return jobs.start(workspace.jobs, arguments, f"{system.title} · {data} · {profile}", digest(arguments))


def start_demo(workspace: Workspace) -> str:
    """Start the job that simulates the demo machines."""
    from asd_core.data.catalogue import load_dataset_config

    arguments = ["data", "simulate", "--root", load_dataset_config("demo").root, "--size", "demo"]
    return jobs.start(workspace.jobs, arguments, "Simulate the demo machines", digest(arguments))


def all_jobs(workspace: Workspace) -> list[Job]:
    """All jobs, newest first, after the dead were found and the queue was moved on."""
    return jobs.reconcile(workspace.jobs)


def job(workspace: Workspace, job_id: str) -> Job:
    return jobs.find(workspace.jobs, job_id)


def cancel(workspace: Workspace, job_id: str, force: bool = False) -> None:
    jobs.cancel(job(workspace, job_id).folder, force)


def resume(workspace: Workspace, job_id: str) -> None:
    jobs.resume(job(workspace, job_id).folder)


def delete_job(workspace: Workspace, job_id: str) -> None:
    jobs.delete(job(workspace, job_id).folder)


def job_log(job: Job, lines: int = 200) -> list[str]:
    return jobs.log_tail(job.folder, lines)


def job_curve(job: Job, value: str = "loss", points: int = 500) -> pd.DataFrame:
    """Reported values by stage (the words before the first colon of the message): stage, step, value."""
    rows = [row for row in jobs.metrics(job.folder) if value in row]
    table = pd.DataFrame(
        {
            "stage": [row["message"].partition(":")[0] for row in rows],
            "value": [row[value] for row in rows],
        }
    )
    table["step"] = table.groupby("stage").cumcount() + 1
    return table.iloc[:: max(1, len(table) // points)]


# what stands where


def system_states(workspace: Workspace, data: str, profile: str) -> pd.DataFrame:
    """Every system with how far it is on a data set under a profile.

    Columns: name, title, family, idea, published (percent or None), metric_set, state, omega (fraction or None),
    seconds, run_id and job_id ("" for none), problem (of an invalid file).
    """
    argument = known.argument if (known := data_sets(workspace).get(data)) else data
    latest: dict[str, Job] = {}
    for one in jobs.list_jobs(workspace.jobs):
        words = one.arguments
        if words[:1] == ("run",) and f"--data {argument} --profile {profile} " in " ".join(words) + " ":
            for name in words[1 : words.index("--data")]:
                latest.setdefault(name, one)
    finished: dict[str, Run] = {}
    for run in sorted(runs(workspace), key=lambda one: -len(one.record["machines"])):  # stable: newest first
        if run.record["data"]["name"] == data and run.record["profile"] == profile:
            finished.setdefault(run.record["system"], run)
    rows = []
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
        }
        if isinstance(system, AsdError):
            row |= {"title": name, "family": "", "idea": "", "published": None, "metric_set": None}
            row |= {"state": "invalid", "problem": str(system)}
        else:
            report = system.report
            row |= {"title": system.title, "family": system.family, "idea": system.idea}
            row |= {"published": report and report.hmean, "metric_set": report and report.metric}
        rows.append(row)
    columns = ["name", "title", "family", "idea", "published", "metric_set", "state", "omega", "seconds"]
    return pd.DataFrame(rows, columns=[*columns, "run_id", "job_id", "problem"])


@dataclass(frozen=True)
class Line:
    """One line of the readiness list."""

    ready: bool
    title: str
    detail: str
    action: str = ""  # "simulate", "train", "results", "export" or nothing to do


def readiness(workspace: Workspace) -> list[Line]:
    """Whether everything is there, from recordings to a package, and what to do next where it is not."""
    return [_data_line(workspace), _systems_line(), _runs_line(workspace), _exports_line(workspace), *_machine_lines()]


def _data_line(workspace: Workspace) -> Line:
    parts = []
    for name in data_sets(workspace):
        try:
            found = data_set(workspace, name)
        except AsdError:
            continue
        parts.append(f"{name} ({found.kind}): {len(found.machines)} machines, {len(found.clips):,} clips")
    if not parts:
        return Line(
            False, "Recordings", "No data set is on this machine yet. The demo is simulated in a minute.", "simulate"
        )
    return Line(True, "Recordings", " · ".join(parts), "train")


def _systems_line() -> Line:
    known = systems()
    broken = [f"{name} ({error})" for name, error in known.items() if isinstance(error, AsdError)]
    if broken:
        return Line(False, "Systems", f"{len(broken)} of {len(known)} cannot be read: {'; '.join(broken)}", "train")
    return Line(bool(known), "Systems", f"{len(known)} systems can be trained.", "train")


def _runs_line(workspace: Workspace) -> Line:
    finished = runs(workspace)
    if not finished:
        return Line(False, "Results", "Nothing has been trained yet.", "train")
    names = {run.record["system"] for run in finished}
    return Line(True, "Results", f"{len(finished)} finished runs of {len(names)} systems.", "results")


def _exports_line(workspace: Workspace) -> Line:
    packages = sorted(workspace.exports.glob("*.zip"), key=lambda path: path.stat().st_mtime)
    if packages:
        return Line(True, "Submission", f"{len(packages)} packages; the newest is {packages[-1].name}.", "export")
    return Line(False, "Submission", "No package has been built yet.", "export")


def _machine_lines() -> list[Line]:
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    room = Line(free > 2, "Disk", f"{free:,.0f} GB free." + ("" if free > 2 else " Training may run out of room."))
    gpu = Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None
    words = "An NVIDIA GPU is there." if gpu else "No GPU: the quick profile is made for this machine."
    return [room, Line(True, "Processor", f"{os.cpu_count()} cores. {words}")]


# submission packages


def flagged(run: Run) -> pd.DataFrame:
    """How a run's thresholds fall out on its test clips: machine, labelled, clips, threshold, share (fraction)."""
    scores = run.scores
    test = scores[scores["split"] == TEST]
    labelled = (run.metrics or {"machines": {}})["machines"]
    rows = [
        {
            "machine": machine,
            "labelled": machine in labelled,
            "clips": len(own),
            "threshold": float(own["threshold"].iloc[0]),
            "share": float((own["decision"] == 1).mean()),
        }
        for machine, own in test.groupby("machine", sort=True)
    ]
    return pd.DataFrame(rows, columns=["machine", "labelled", "clips", "threshold", "share"])


def package_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the details of a package (fields of `export.submission.Package`), one sentence each."""
    from asd_core.export.submission import Package

    try:
        config.validate(Package, dict(values), "the form")
    except AsdError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


def build_package(workspace: Workspace, values: Mapping[str, Any], report: bytes | None = None) -> Path:
    """Write the package that `values` describe into the workspace's exports and return its path.

    Raises:
        AsdError: invalid details, or runs that do not go together.
    """
    from asd_core.export.submission import Package, build

    details = dict(values)
    if report is not None:
        details["report"] = workspace.exports / "technical_report.pdf"
        write_bytes(details["report"], report)
    return build(config.validate(Package, details, "the form"), workspace, workspace.exports)


def check_package(package: Path | bytes, expected: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """Findings on a package, failures first: ok ("pass", "warn", "fail"), rule, meaning, file, row, message.

    `expected` maps machines to the file names of their test clips; None stands for the DCASE 2026 evaluation set.
    """
    from asd_core.export import validator

    rows = [
        (one.ok, one.rule, validator.RULES.get(one.rule, ""), one.file, one.row, one.message)
        for one in validator.check(package, expected)
    ]
    return pd.DataFrame(rows, columns=["ok", "rule", "meaning", "file", "row", "message"])


def expected_clips(picked: Sequence[Run], machines: Sequence[str]) -> dict[str, list[str]]:
    """File names of the test clips of the machines, as the runs scored them: what their package must hold."""
    found: dict[str, list[str]] = {}
    for run in picked:
        scores = run.scores
        test = scores[(scores["split"] == TEST) & scores["machine"].isin(machines)]
        for machine, own in test.groupby("machine"):
            found.setdefault(str(machine), sorted(own["clip_id"].str.rpartition("/")[2]))
    return found


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
