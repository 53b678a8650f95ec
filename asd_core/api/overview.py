"""Whether everything is there, from recordings to a package."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from asd_core.api.configs import systems
from asd_core.api.recordings import data_set, data_sets
from asd_core.api.results import runs
from asd_core.artifacts import Workspace
from asd_core.data.manifest import REPOSITORY
from asd_core.types import AsdError


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
