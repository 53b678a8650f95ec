"""What a data set consists of, and whether its recordings are sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from asd_core import jobs
from asd_core.api.recordings import data_set, data_sets, known_fingerprint
from asd_core.artifacts import Workspace
from asd_core.files import digest
from asd_core.jobs import Job
from asd_core.types import TRAIN, AsdError

BYTES_PER_SECOND = 60e6  # that one core examines; measured 80e6 with the files in memory


@dataclass(frozen=True)
class Inventory:
    """The clips of a data set as their names tell."""

    clips: pd.DataFrame  # as of `analysis.inventory.clip_frame`
    counts: pd.DataFrame  # as of `DataSet.counts`
    balance: pd.DataFrame  # as of `analysis.inventory.balance`
    headers: pd.DataFrame  # of each machine's first training clip: machine, seconds, rate, channels, problem
    problems: tuple[str, ...]  # files that were passed over
    stamp: str  # of the files, see `files_stamp`


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, as far as configs/datasets knows."""

    name: str
    kind: str
    is_here: bool
    licence: str
    citation: str


@dataclass(frozen=True)
class Check:
    """What `doctor` found in a data set's recordings."""

    findings: pd.DataFrame  # severity, rule, title, advice, subject, found; errors first
    facts: pd.DataFrame  # one row per readable clip, `doctor.CLIP_COLUMNS`
    sounds: pd.DataFrame  # `analysis.inventory.sound_facts`
    microphones: pd.DataFrame  # `analysis.inventory.microphones`
    files: int  # that were opened
    created: float  # s since 1970
    stamp: str  # of the files as they were examined


def files_stamp(workspace: Workspace, data: str) -> str:
    """Changes when a file of the data set is added, removed or written; 60 ms for 14,400 files.

    Raises:
        AsdError: unknown data set, or its folder is gone.
    """
    from asd_core.data import doctor

    root = _root(workspace, data)
    return doctor.stamp(root)


def inventory(workspace: Workspace, data: str) -> Inventory:
    """Count a data set's clips. Reads names, and one header per machine.

    Raises:
        AsdError: unknown data set, or its folder is gone or holds no clip.
    """
    from asd_core.analysis import inventory as analysis

    stamp = files_stamp(workspace, data)
    found = data_set(workspace, data)
    clips = analysis.clip_frame(found)
    headers = [_header(machine, (found.of(machine, TRAIN) or found.of(machine))[0].path) for machine in found.machines]
    return Inventory(
        clips,
        found.counts(),
        analysis.balance(clips),
        pd.DataFrame(headers, columns=["machine", "seconds", "rate", "channels", "problem"]),
        found.problems,
        stamp,
    )


def _header(machine: str, path: Path) -> tuple[str, float, int | None, int | None, str]:
    from asd_core.data import audio

    try:
        header = audio.info(path)
    except AsdError as error:
        return machine, float("nan"), None, None, str(error)
    return machine, header.seconds, header.sample_rate, header.channels, ""


def sources() -> list[Source]:
    """The data sets of configs/datasets and how to get them."""
    from asd_core.data.catalogue import dataset_names, load_dataset_config
    from asd_core.data.manifest import REPOSITORY

    known = map(load_dataset_config, dataset_names())
    return [Source(one.name, one.kind, (REPOSITORY / one.root).is_dir(), one.licence, one.citation) for one in known]


def fingerprint_of(workspace: Workspace, data: str) -> str:
    """What runs record of a data set's contents, all machines; "" before the command line has read all files."""
    return current_fingerprint(workspace, data, data_set(workspace, data).machines)


def current_fingerprint(workspace: Workspace, data: str, machines: Sequence[str]) -> str:
    """`known_fingerprint`, computed again only when a file was written; finding that out is one look at every file.

    Raises:
        AsdError: unknown data set or machine, or the folder is gone.
    """
    cache = workspace.fingerprints
    known = cache.stat().st_mtime_ns if cache.is_dir() else 0
    return _fingerprint(workspace, data, tuple(machines), files_stamp(workspace, data), known)


@lru_cache(maxsize=16)
def _fingerprint(workspace: Workspace, data: str, machines: tuple[str, ...], stamp: str, known: int) -> str:
    return known_fingerprint(workspace, data, machines)


def check(workspace: Workspace, data: str) -> Check | None:
    """The last finished check of a data set; None before the first. Compare its stamp with `files_stamp`."""
    from asd_core.analysis import inventory as analysis
    from asd_core.data import doctor

    _root(workspace, data)
    found = doctor.kept(_place(workspace, data))
    if found is None:
        return None
    return Check(
        found.findings,
        found.clips,
        analysis.sound_facts(found.clips),
        analysis.microphones(found.clips),
        found.files,
        found.created,
        found.stamp,
    )


def check_stamp(workspace: Workspace, data: str) -> str:
    """Changes with every finished check; "" before the first."""
    path = _place(workspace, data) / "meta.json"
    return digest(path.stat().st_mtime_ns) if data in data_sets(workspace) and path.is_file() else ""


def check_seconds(workspace: Workspace, data: str) -> float:
    """About how long a check takes on this machine, from the size of the recordings."""
    size = sum(clip.path.stat().st_size for clip in data_set(workspace, data).clips)
    return size / (BYTES_PER_SECOND * (os.cpu_count() or 1)) + 2  # to start


def start_check(workspace: Workspace, data: str) -> str:
    """Start, or find, the job that examines every recording of a data set and return the job's id.

    Raises:
        AsdError: unknown data set, or its folder is gone.
    """
    arguments = check_arguments(workspace, data)
    return jobs.start(workspace.jobs, arguments, f"Check the recordings of {data}", digest(arguments))


def check_arguments(workspace: Workspace, data: str) -> list[str]:
    return ["doctor", str(_root(workspace, data)), "--output", str(_place(workspace, data))]


def check_job(workspace: Workspace, data: str) -> Job | None:
    """The newest job that checks a data set."""
    wanted = tuple(check_arguments(workspace, data))
    return next((job for job in jobs.reconcile(workspace.jobs) if job.arguments == wanted), None)


def attribute_keys(clips: pd.DataFrame) -> list[str]:
    """Keys of the attributes that some rows of an inventory's clips have."""
    from asd_core.analysis import inventory as analysis

    return analysis.attribute_keys(clips)


def attribute_counts(clips: pd.DataFrame, key: str = "") -> pd.DataFrame:
    """Rows of an inventory's clips counted as by `analysis.inventory.by_attribute`."""
    from asd_core.analysis import inventory as analysis

    return analysis.by_attribute(clips, key)


def select_recordings(clips: pd.DataFrame, machine: str, split: str, domain: str = "", text: str = "") -> pd.DataFrame:
    """Rows of an inventory's clips of one machine and split, of one domain or all, whose id holds `text`, in any case."""
    kept = clips[(clips["machine"] == machine) & (clips["split"] == split)]
    if domain:
        kept = kept[kept["domain"] == domain]
    if text.strip():
        kept = kept[kept["clip_id"].str.lower().str.contains(text.strip().lower(), regex=False)]
    return kept


def level_histogram(facts: pd.DataFrame) -> pd.DataFrame:
    """Counts of clip levels by microphone: microphone, low, high (dB of full scale), count."""
    from asd_core.analysis import inventory as analysis

    return analysis.levels(facts)


def _root(workspace: Workspace, data: str) -> Path:
    return data_set(workspace, data).root


def _place(workspace: Workspace, data: str) -> Path:
    return workspace.dataset(data) / "check"
