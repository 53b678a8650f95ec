"""The workspace: everything computed, on disk, named by content.

::

    workspace/
      tasks/<kind>/<key>/        payload, then meta.json last: a folder without meta.json is unfinished
      runs/<run id>/             run.json  scores.parquet  metrics.json      what the app and `table` read
      datasets/<name>/           dataset.json  manifest.parquet  truth.parquet
      exports/<name>/            submission packages
      jobs/<id>/                 see `jobs`
      cache/                     fingerprints, spectrogram pictures; may be deleted at any time

A task's key is the digest of its resolved options and of its inputs' keys, so equal work is found again.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from asd_core import __version__
from asd_core.files import read_json, write_json, write_with
from asd_core.types import AsdError, EmbeddingSet

RECORDED_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "librosa", "soundfile")


@dataclass(frozen=True)
class Workspace:
    root: Path

    def task(self, kind: str, key: str) -> Path:
        return self.root / "tasks" / kind / key

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / name

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def run_ids(self) -> list[str]:
        """Finished runs, newest first."""
        records = [path for path in (self.root / "runs").glob("*/run.json") if is_done(path.parent)]
        return [path.parent.name for path in sorted(records, key=lambda p: p.stat().st_mtime, reverse=True)]

    def lock(self, folder: Path) -> FileLock:
        """One writer per folder; a second process waits and then finds the work done."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(folder.with_name(f".{folder.name}.lock"))


def is_done(folder: Path) -> bool:
    return (folder / "meta.json").is_file()


def finish(folder: Path, **facts: Any) -> None:
    """Declare a folder complete: the record of how it was made, written last."""
    packages = {name: version(name) for name in RECORDED_PACKAGES}
    meta = {"created": time.time(), "asd_studio": __version__, "git": git_commit(), "packages": packages}
    write_json(folder / "meta.json", meta | facts)


@cache
def git_commit() -> str | None:
    """Commit of the code that is running, with a + if files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None:
        return None
    say = lambda *words: subprocess.run([git, "-C", str(here), *words], capture_output=True, text=True)  # noqa: E731
    commit = say("rev-parse", "--short=12", "HEAD")
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if say("status", "--porcelain", "--untracked-files=no", ".").stdout else "")


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_with(path, lambda file: table.to_parquet(file, index=False))


def read_table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    write_with(path, lambda file: np.savez(file, **dict[str, Any](arrays)))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an npz file; object arrays (pickles) are refused."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except ValueError as error:
        raise AsdError(f"{path} cannot be read safely ({error}). Delete it and repeat the command.") from error


def write_embeddings(path: Path, embeddings: EmbeddingSet) -> None:
    e = embeddings
    write_arrays(
        path, x=e.x, clip_ids=e.clip_ids.astype("U"), sections=e.sections.astype("U"), domains=e.domains.astype("U")
    )


def read_embeddings(path: Path) -> EmbeddingSet:
    return EmbeddingSet(**read_arrays(path))


@dataclass(frozen=True)
class Run:
    """One system, trained and scored on one data set with one seed, as the app and `table` read it.

    record:  run.json: run_id, system, title, data {name, kind, fingerprint}, profile, seed, machines,
             config (resolved system), tasks [{kind, key, machine}], thresholds {machine: {section: value}},
             notices [str], seconds, created, git
    scores:  one row per clip: clip_id, machine, section, split, domain ("" for test), score,
             decision (0/1; -1 for training clips), threshold, and one column branch:<name> per branch.
             Training rows hold the leave-one-out / k-fold score of that normal clip.
    metrics: metrics.json or None when no machine is labelled
    """

    folder: Path
    record: dict[str, Any]

    @property
    def scores(self) -> pd.DataFrame:
        return read_table(self.folder / "scores.parquet")

    @property
    def metrics(self) -> dict[str, Any] | None:
        path = self.folder / "metrics.json"
        return read_json(path) if path.is_file() else None


def load_run(workspace: Workspace, run_id: str) -> Run:
    folder = workspace.run(run_id)
    if run_id not in workspace.run_ids():
        raise AsdError(f'There is no finished run "{run_id}" in {workspace.root}. `python -m asd_core run` makes one.')
    return Run(folder, json.loads((folder / "run.json").read_text()))


def list_runs(workspace: Workspace) -> list[Run]:
    """Finished runs, newest first."""
    return [load_run(workspace, run_id) for run_id in workspace.run_ids()]
