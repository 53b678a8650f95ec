"""Whether everything is there, from recordings to a package."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from asd_core import weights
from asd_core.api.recordings import data_set, data_sets
from asd_core.api.results import run_stamp, runs
from asd_core.api.training import known_systems
from asd_core.artifacts import Workspace, is_done
from asd_core.data.manifest import REPOSITORY
from asd_core.files import read_json
from asd_core.types import AsdError


@dataclass(frozen=True)
class Line:
    """One line of the readiness list."""

    ready: bool
    title: str
    detail: str
    action: str = ""  # "simulate", "data", "train", "results", "weights", "export" or nothing to do


def readiness(workspace: Workspace) -> list[Line]:
    """Whether everything is there, from recordings to a package, and what to do next where it is not."""
    lines = [_data_line(workspace), _systems_line(), _runs_line(workspace), _weights_line(), _exports_line(workspace)]
    return [*lines, *_machine_lines()]


def _data_line(workspace: Workspace) -> Line:
    parts = []
    for name in data_sets(workspace):
        try:
            found = data_set(workspace, name)
        except AsdError:
            continue
        counts = Counter(clip.split for clip in found.clips)
        numbers = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items(), reverse=True))
        parts.append(f"{name} ({found.kind}): {len(found.machines)} machines, {numbers} clips")
    if not parts:
        return Line(
            False, "Recordings", "No data set is on this machine yet. The demo is simulated in a minute.", "simulate"
        )
    return Line(True, "Recordings", " · ".join(parts), "data")


def _systems_line() -> Line:
    known = known_systems()
    broken = [f"{name} ({error})" for name, error in known.items() if isinstance(error, AsdError)]
    if broken:
        return Line(False, "Systems", f"{len(broken)} of {len(known)} cannot be read: {'; '.join(broken)}", "train")
    return Line(bool(known), "Systems", f"{len(known)} systems can be trained.", "train")


def _runs_line(workspace: Workspace) -> Line:
    finished = runs(workspace)
    if not finished:
        return Line(False, "Results", "Nothing has been trained yet.", "train")
    systems: dict[str, set[str]] = {"scores": set(), "embeddings": set(), "maps of local scores": set()}
    for run in finished:
        for what in ("scores", *_kept(workspace, run.folder, run_stamp(run))):
            systems[what].add(run.record["system"])
    counts = " · ".join(f"{what}: {len(names)}" for what, names in systems.items())
    number = "1 finished run" if len(finished) == 1 else f"{len(finished)} finished runs"
    return Line(True, "Results", f"{number}. Systems with {counts}.", "results")


@lru_cache(maxsize=1024)
def _kept(workspace: Workspace, folder: Path, stamp: str) -> tuple[str, ...]:
    """What lies in the workspace of a run besides its scores."""
    parts = [(one["kind"], one["key"]) for one in read_json(folder / "run.json").get("tasks", ())]
    here = [(kind, workspace.task(kind, key)) for kind, key in parts]
    embedded = any(kind == "embed" and is_done(path) for kind, path in here)
    mapped = any(kind == "score" and any(path.glob("evidence*.npz")) for kind, path in here)
    return (*(("embeddings",) if embedded else ()), *(("maps of local scores",) if mapped else ()))


def _weights_line() -> Line:
    """Whether the published weights are here that the systems of the reports start from."""
    known = weights.statuses()
    missing = sum(one.state in (weights.ABSENT, weights.DAMAGED) for one in known)
    if not missing:
        return Line(True, "Published weights", f"All {len(known)} are here.", "weights")
    told = f"{missing} of {len(known)} are not here. The quick profile does without them."
    return Line(False, "Published weights", told, "weights")


def _exports_line(workspace: Workspace) -> Line:
    packages = sorted(workspace.exports.glob("*.zip"), key=lambda path: path.stat().st_mtime)
    if packages:
        newest = packages[-1].name
        told = f"1 package: {newest}." if len(packages) == 1 else f"{len(packages)} packages; the newest is {newest}."
        return Line(True, "Submission", told, "export")
    return Line(False, "Submission", "No package has been built yet.", "export")


def _machine_lines() -> list[Line]:
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    room = Line(free > 2, "Disk", f"{free:,.0f} GB free." + ("" if free > 2 else " Training may run out of room."))
    gpu = Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None
    words = "An NVIDIA GPU is there." if gpu else "No GPU: the quick profile is made for this machine."
    return [room, Line(True, "Processor", f"{os.cpu_count()} cores. {words}")]
