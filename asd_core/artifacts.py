"""The workspace: everything computed, on disk, named by content.

::

    workspace/
      tasks/<kind>/<key>/        payload, then meta.json last: a folder without meta.json is unfinished
      runs/<run id>/             run.json  scores.parquet  metrics.json      what the app and `table` read
      datasets/<name>/           dataset.json: name, kind and root of the recordings; check/: what `doctor` found
      exports/<name>/            submission packages
      verdicts/<key>.jsonl       what people said of generated clips
      reports/<run>/             one page per run or comparison, to read elsewhere
      uploads/<id>/              clip.wav, upload.json: a recording that somebody dropped to have it scored
      scored/<key>/              what came of it
      jobs/<id>/                 see `jobs`
      cache/                     fingerprints, spectrogram pictures; may be deleted at any time

A task's key is the digest of its resolved options and of its inputs' keys, so equal work is found again.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from asd_core import __version__
from asd_core.files import read_json, replacing, write_json, write_with
from asd_core.types import AsdError, EmbeddingSet, Evidence, Grid

RECORDED_PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "imbalanced-learn", "faiss-cpu", "torch", "accelerate", "peft", "diffusers"),
    *("librosa", "soundfile", "soxr"),
)

EVIDENCE = tuple(part.name for part in fields(Evidence))
MIXED = "mixed"  # the profile of a fusion whose members are of several
UNREADABLE = (ValueError, EOFError, BadZipFile)  # what numpy raises for pickles and for damaged files


@dataclass(frozen=True)
class Workspace:
    root: Path

    def task(self, kind: str, key: str) -> Path:
        return self.root / "tasks" / kind / key

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / name

    def fusion(self, name: str) -> Path:
        """Where the system of a saved fusion is written."""
        return self.root / "systems" / f"{name}.yaml"

    def verdicts(self, log: str) -> Path:
        return self.root / "verdicts" / f"{log}.jsonl"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def fingerprints(self) -> Path:
        """What `data.manifest.fingerprint` remembers."""
        return self.cache / "fingerprints"

    def run_ids(self) -> list[str]:
        """Finished runs, newest first."""
        records = [path for path in (self.root / "runs").glob("*/run.json") if is_done(path.parent)]
        return [path.parent.name for path in sorted(records, key=lambda p: p.stat().st_mtime, reverse=True)]

    @contextmanager
    def locked(self, folder: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """One writer per folder. A second process waits, calling `waiting` every second, and then finds the
        work done."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                waiting()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def unused(self, folders: Iterable[Path]) -> Iterator[None]:
        """Several folders locked at once, to be deleted, without waiting for anybody.

        Raises:
            AsdError: somebody works on one of them.
        """
        with ExitStack() as held:
            for folder in dict.fromkeys(folders):
                try:
                    held.enter_context(_lock(folder).acquire(timeout=0))
                except Timeout as error:
                    raise AsdError(
                        f"{folder} is being worked on, perhaps by a command in a terminal. Wait for it or end it first."
                    ) from error
            yield

    def unfinished(self) -> list[Path]:
        """Folders of tasks that are being worked on, or were left by a process that ended."""
        return [folder for folder in (self.root / "tasks").glob("*/*") if folder.is_dir() and not is_done(folder)]

    def clean(self) -> int:
        """Delete caches and the remains of unfinished tasks that nobody works on; returns how many."""
        shutil.rmtree(self.cache, ignore_errors=True)
        removed = 0
        for folder in self.unfinished():
            with suppress(Timeout), _lock(folder).acquire(timeout=0):
                if not is_done(folder):  # it may have been finished since
                    shutil.rmtree(folder)
                    removed += 1
        return removed


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def require_own(folder: Path, *names: str) -> None:
    """Refuse a folder, chosen by a person, that holds anything but what was written there before: `begin` and `finish`
    remove what is hidden and replace meta.json.

    Args:
        names: of the files that belong there, as patterns

    Raises:
        AsdError: it is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise AsdError(f"{folder} is a file. Name a new or empty folder.")
    own = ("meta.json", ".*.part", *names)
    there = list(folder.iterdir()) if folder.is_dir() else []
    if strange := [one.name for one in there if not any(one.match(name) for name in own)]:
        raise AsdError(f"{folder} holds other things, such as {min(strange)}. Name a new or empty folder.")


def begin(folder: Path) -> None:
    """Open a folder for (re)writing: unfinished from now on, without the remains of a killed write."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").unlink(missing_ok=True)
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def finish(folder: Path, **facts: Any) -> None:
    """Declare a folder complete: the record of how it was made and of what it holds, written last. Hidden files, such
    as checkpoints, served the work and go."""
    files = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}
    meta = {"created": time.time(), "asd_studio": __version__, "git": git_commit(), "packages": package_versions()}
    write_json(folder / "meta.json", meta | {"files": files} | facts)
    remove_hidden(folder)


def remove_hidden(folder: Path) -> None:
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_done(folder: Path) -> bool:
    """Whether a folder was declared complete and still holds what it held then."""
    try:
        files = json.loads((folder / "meta.json").read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


@cache
def package_versions() -> dict[str, str]:
    """Of `RECORDED_PACKAGES`; each is a file that is read once, not once per task."""
    return {name: version(name) for name in RECORDED_PACKAGES}


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
    except UNREADABLE as error:
        raise AsdError(f"{path} cannot be read safely ({error}). Delete it and repeat the command.") from error


class RowFile:
    """Patches or bands (N, …) of N clips, written clip by clip into an open .npy file, so that no more than one of them
    is in memory. Of rows (T, …) of different length, the longest so far sets T; beyond a clip's end are zeros.
    """

    def __init__(self, file: BinaryIO, count: int) -> None:
        self.file, self.count, self.written = file, count, 0

    def append(self, row: np.ndarray) -> None:
        """(T, …) of the next clip; the first one's type is that of all."""
        if not self.written:
            self.dtype = row.dtype
            self._begin(row.shape)
        elif len(row) > self.shape[0]:
            self._begin_longer(row.shape)
        self._write(row)
        self.written += 1

    def _begin(self, shape: tuple[int, ...]) -> None:
        self.shape: tuple[int, ...] = shape
        self.file.seek(0)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *shape)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()

    def _begin_longer(self, shape: tuple[int, ...]) -> None:
        """Write all rows again, now of this shape. Seldom: a machine's clips are alike."""
        short, size = self.shape, self.dtype.itemsize * int(np.prod(self.shape))
        with tempfile.TemporaryFile(dir=Path(self.file.name).parent) as before:
            self.file.seek(self.start)
            shutil.copyfileobj(self.file, before)
            before.seek(0)
            self._begin(shape)
            for _ in range(self.written):
                self._write(np.frombuffer(before.read(size), self.dtype).reshape(short))

    def _write(self, row: np.ndarray) -> None:
        whole = np.zeros(self.shape, self.dtype)
        whole[: len(row)] = row
        self.file.write(whole.data)


@contextmanager
def writing_rows(path: Path, count: int) -> Iterator[RowFile]:
    """The `RowFile` of embeddings that `path` will name: there once all rows are written, else not at all."""
    with replacing(rows_file(path)) as temporary, temporary.open("w+b") as file:
        yield RowFile(file, count)


def read_rows(path: Path) -> np.ndarray:
    """(N, …) patches or bands of the embeddings that `path` names, of which only what is used will be loaded."""
    file = rows_file(path)
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise AsdError(f"{file} cannot be read safely ({error}). Delete its folder.") from error


def rows_file(path: Path) -> Path:
    return path.with_suffix(".npy")


def write_embeddings(path: Path, embeddings: EmbeddingSet, with_rows: bool = True) -> None:
    """Patches and bands go into a file of their own beside `path`, of which reading loads only what is used.

    Args:
        with_rows: False where that file is there already, see `writing_rows`
    """
    e = embeddings
    words = {name: getattr(e, name).astype("U") for name in ("clip_ids", "sections", "domains")}
    more = {name: value for name in ("attributes", "steps") if (value := getattr(e, name)) is not None}
    if e.grid is not None:
        more |= {"step": np.array(e.grid.step), "edges": np.array(e.grid.edges)}
    if e.x.ndim == 2:
        more["x"] = e.x
    elif with_rows:
        write_with(rows_file(path), lambda file: np.save(file, e.x))
    write_arrays(path, **words, **more)


def read_embeddings(path: Path) -> EmbeddingSet:
    stored: dict[str, Any] = {**read_arrays(path)}
    if "x" not in stored:
        stored["x"] = read_rows(path)
    if "edges" in stored:
        stored["grid"] = Grid(float(stored.pop("step")), tuple(stored.pop("edges").tolist()))
    return EmbeddingSet(**stored)


def write_evidence(path: Path, evidence: Evidence, clip_ids: np.ndarray, training_ids: np.ndarray) -> None:
    """Evidence for the scores of `clip_ids` (N,), found among `training_ids`."""
    parts = {name: getattr(evidence, name) for name in EVIDENCE}
    write_arrays(path, **parts, clip_ids=clip_ids.astype("U"), training_ids=training_ids.astype("U"))


def read_evidence(path: Path) -> tuple[Evidence, np.ndarray, np.ndarray] | None:
    """Evidence, the clips it is about, and the training clips that `Evidence.clip` counts; None where there is none."""
    if not path.is_file():
        return None
    stored = read_arrays(path)
    return Evidence(**{name: stored[name] for name in EVIDENCE}), stored["clip_ids"], stored["training_ids"]


@dataclass(frozen=True)
class Run:
    """One system, trained and scored on one data set with one seed, as the app and `table` read it.

    record:  run.json: run_id, system, title, data {name, kind, fingerprint}, profile, seed, machines,
             labelled [machine], config (resolved system), tasks [{kind, key, title, machine}],
             scores {machine: {branch: key}}, thresholds {machine: {section: value}}, notices [str], seconds, created
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
    """A finished run. The id is compared with the known ones before it becomes part of a path.

    Raises:
        AsdError: there is no such run, or its record is broken.
    """
    known = {path.name for path in (workspace.root / "runs").glob("*")}
    if run_id not in known or not is_done(workspace.run(run_id)):
        raise AsdError(f'There is no finished run "{run_id}" in {workspace.root}. `python -m asd_core run` makes one.')
    return Run(workspace.run(run_id), read_json(workspace.run(run_id) / "run.json"))


def how_again(run: Run, data: str = "") -> str:
    """The command that makes a run's results again.

    What is no system of configs/systems is run from its file, and a saved fusion as it stands there, which is what
    "full" means, where its members were of several profiles.

    Args:
        data: what to say for the data set where its name is not enough
    """
    about = run.record
    system, profile = about["system"], "full" if about["profile"] == MIXED else about["profile"]
    path = Workspace(run.folder.parents[1]).fusion(system)
    if about.get("members") or path.is_file():  # what was run from the file has no members
        system = str(path)
    words = [
        "python",
        "-m",
        "asd_core",
        "run",
        about.get("file", system),
        "--data",
        data or about["data"]["name"],
        "--profile",
        profile,
    ]
    return shlex.join([*words, "--seeds", str(about["seed"])])


def require_made(folder: Path, run: Run) -> Path:
    """The folder of a task behind a run, if what it made is still there.

    Raises:
        AsdError: it is gone or damaged; the message says how to make it again.
    """
    if not is_done(folder):
        raise AsdError(
            f"What {run.record['run_id']} has made in {folder} is gone or damaged. Run again ({how_again(run)}): only "
            f"what is missing is computed."
        )
    return folder


def list_runs(workspace: Workspace) -> list[Run]:
    """Finished runs, newest first."""
    return [Run(workspace.run(name), read_json(workspace.run(name) / "run.json")) for name in workspace.run_ids()]
