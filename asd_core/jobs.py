"""Long work as detached processes of the command line, with everything known about them on disk.

::

    jobs/<id>/
      spec.json      what was asked; never changes
      process.json   pid, start time and host of the process that works on it; absent while queued
      queue.json     its turn, if it was moved in the queue; without it, jobs take turns as they were made
      state.json     written by the worker: fraction, message, latest numbers, heartbeat
      resumed.json   how far it was when it was resumed; absent before that
      metrics.jsonl  one line per reported set of numbers
      log.txt        what the process printed
      CANCEL         a wish
      result.json    how it ended; written last

A job's state is read off these files and stored nowhere else, so a browser refresh, a second tab or a restart
of the server cannot lose or contradict it. Only the worker writes ``state.json``; everything that a
supervisor decides (starting, declaring dead) happens under one file lock.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from asd_core.files import read_json, write_json
from asd_core.types import AsdError, Cancelled, Progress

QUEUED, RUNNING, CANCELLING = "queued", "running", "cancelling"
CANCELLED, INTERRUPTED, FAILED, DONE = "cancelled", "interrupted", "failed", "done"
ACTIVE = (QUEUED, RUNNING, CANCELLING)

WORKER = (sys.executable, "-m", "asd_core")
ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT_SECONDS = 1.0
WRITE_SECONDS = 0.25  # between two state files, however often progress is reported
CURVE_POINTS = 4000  # of the numbers, for each e-fold of the time it works: pages read them all every two seconds
SILENCE_SECONDS = 120.0  # after which a job of another host counts as dead

_children: list[subprocess.Popen[bytes]] = []  # started by this process; kept to be waited for


@dataclass(frozen=True)
class Job:
    """A job as it stood when its folder was read."""

    id: str
    folder: Path
    title: str
    key: str
    arguments: tuple[str, ...]
    state: str
    created: float
    fraction: float = 0.0
    resumed_at: float = 0.0  # fraction that was done before it was resumed
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    position: int = 0  # in the queue, from 1; 0 when not queued
    turn: float = 0.0  # orders the queue
    started: float | None = None
    ended: float | None = None
    heartbeat: float | None = None  # time of the last sign of life

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def seconds(self) -> float:
        """Time spent working."""
        return 0.0 if self.started is None else (self.ended or time.time()) - self.started

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to go; None while too little is done to tell."""
        worked = self.fraction - self.resumed_at
        if self.state != RUNNING or worked < 0.02:
            return None
        return self.seconds * (1 - self.fraction) / worked

    @property
    def cancelling_for(self) -> float:
        """Seconds since a job that still works was asked to stop."""
        if self.state != CANCELLING:
            return 0.0
        try:
            return time.time() - (self.folder / "CANCEL").stat().st_mtime
        except FileNotFoundError:  # it has just been resumed
            return 0.0

    @property
    def silence(self) -> float:
        """Seconds since the worker's last sign of life, for a job that is being worked on."""
        last = self.heartbeat or self.started
        return 0.0 if last is None or self.state not in (RUNNING, CANCELLING) else max(0.0, time.time() - last)


# the supervisor's side


def start(jobs: Path, arguments: Sequence[str], title: str, key: str) -> str:
    """Queue ``python -m asd_core ARGUMENTS`` and return the job's id.

    `key` names the work: while a job with the same key is active, that job's id is returned instead.
    """
    with _lock(jobs):
        for job in list_jobs(jobs):
            if job.key == key and job.is_active:
                return job.id
        name = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
        spec = {"id": name, "title": title, "key": key, "arguments": list(arguments), "created": time.time()}
        write_json(jobs / name / "spec.json", spec)
        _advance(jobs)
    return name


@contextmanager
def idle(jobs: Path) -> Iterator[None]:
    """Hold the queue: nobody starts a job until this is over.

    Raises:
        AsdError: a job is active.
    """
    with _lock(jobs):
        if any(job.is_active for job in list_jobs(jobs)):
            raise AsdError("A job is queued or running and may need these parts. Wait for it or cancel it first.")
        yield


def list_jobs(jobs: Path) -> list[Job]:
    """All jobs, newest first; a folder that cannot be read is passed over."""
    found = []
    for path in jobs.glob("*/spec.json"):
        with suppress(AsdError, OSError, KeyError):  # being deleted, or broken by hand
            found.append(_read(path.parent))
    found.sort(key=lambda job: (job.created, job.id))
    waiting = [job.id for job in sorted(found, key=lambda job: job.turn) if job.state == QUEUED]
    placed = [_with_position(job, waiting.index(job.id) + 1) if job.state == QUEUED else job for job in found]
    return placed[::-1]


def find(jobs: Path, job_id: str) -> Job:
    """The job with this id; the id is compared with the known ones and never becomes part of a path."""
    for job in list_jobs(jobs):
        if job.id == job_id:
            return job
    raise AsdError(f'There is no job "{job_id}"; it may have been deleted.')


def read(folder: Path) -> Job:
    return find(folder.parent, folder.name)


def cancel(folder: Path, force: bool = False) -> None:
    """Ask a job to stop at its next report; with `force`, kill its processes now."""
    with _lock(folder.parent):
        job = read(folder)
        if not job.is_active:
            return
        (folder / "CANCEL").touch()
        if job.state == QUEUED:
            _end(folder, CANCELLED, "Cancelled before it began.")
        elif force:
            _kill(folder)
            _advance(folder.parent)


def resume(folder: Path) -> None:
    """Queue a stopped job again: the same command finds what was finished and goes on from there."""
    with _lock(folder.parent):
        job = read(folder)
        if job.is_active:
            return
        write_json(folder / "resumed.json", {"fraction": job.fraction})
        for name in ("result.json", "process.json", "state.json", "CANCEL"):
            (folder / name).unlink(missing_ok=True)
        _advance(folder.parent)


def delete(folder: Path) -> None:
    """Forget a job that is over or has not begun. What it computed stays in the workspace."""
    with _lock(folder.parent):
        if read(folder).state in (RUNNING, CANCELLING):
            raise AsdError("A job that is running cannot be deleted; cancel it first.")
        shutil.rmtree(folder)


def move(folder: Path, by: int) -> None:
    """Let a queued job change places with the one before it (`by` −1) or after it (+1); at the ends nothing happens."""
    with _lock(folder.parent):
        waiting = {job.position: job for job in list_jobs(folder.parent) if job.state == QUEUED}
        here = next((place for place, job in waiting.items() if job.id == folder.name), None)
        if here is None:
            raise AsdError("The job is not in the queue any more: it has begun, or was removed.")
        if other := waiting.get(here + by):
            write_json(folder / "queue.json", {"turn": other.turn})
            write_json(other.folder / "queue.json", {"turn": waiting[here].turn})


def reconcile(jobs: Path) -> list[Job]:
    """Declare dead what died without a word, start the next job in the queue, and list all jobs."""
    listed = list_jobs(jobs)
    if not any(job.is_active for job in listed):
        return listed
    with _lock(jobs):
        _advance(jobs)
    return list_jobs(jobs)


def log_tail(folder: Path, lines: int = 200) -> list[str]:
    """The last lines of what the job printed."""
    path = folder / "log.txt"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 400 * lines))
        return file.read().decode(errors="replace").replace("\r", "\n").splitlines()[-lines:]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The numbers reported so far, one dictionary per report, with ``time``, ``fraction`` and ``message``."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):  # the line being written right now
            rows.append(json.loads(line))
    return rows


def _lock(jobs: Path) -> FileLock:
    jobs.mkdir(parents=True, exist_ok=True)
    return FileLock(jobs / ".lock", is_singleton=True)


def _read(folder: Path) -> Job:
    spec = read_json(folder / "spec.json")
    process = _optional(folder / "process.json")
    state = _optional(folder / "state.json")
    result = _optional(folder / "result.json")
    before = _optional(folder / "resumed.json").get("fraction", 0.0)
    if result:
        name = result["state"]
    elif not process:
        name = QUEUED
    else:
        name = CANCELLING if (folder / "CANCEL").exists() else RUNNING
    return Job(
        id=folder.name,
        folder=folder,
        title=spec["title"],
        key=spec["key"],
        arguments=tuple(spec["arguments"]),
        state=name,
        created=spec["created"],
        turn=_optional(folder / "queue.json").get("turn", spec["created"]),
        fraction=1.0 if name == DONE else state.get("fraction") or before,  # 0 while it looks for what is finished
        resumed_at=before,
        message=result.get("message") or state.get("message", ""),
        values=state.get("values", {}),
        started=process.get("started"),
        ended=result.get("ended"),
        heartbeat=state.get("heartbeat"),
    )


def _optional(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return {}


def _with_position(job: Job, position: int) -> Job:
    return Job(**(vars(job) | {"position": position}))


def _advance(jobs: Path) -> None:
    """Under the lock: settle the dead, then start the first job of the queue if none is being worked on."""
    busy = False
    _children[:] = [child for child in _children if child.poll() is None]
    for job in reversed(list_jobs(jobs)):
        if job.state in (RUNNING, CANCELLING):
            if _is_alive(job):
                busy = True
            elif not (job.folder / "result.json").exists():  # looked at after the process: it is written before the end
                _settle(job)
    first = next((job for job in list_jobs(jobs) if job.position == 1), None)
    if first and not busy:
        _launch(first)


def _is_alive(job: Job) -> bool:
    """Whether the very process that was started still works.

    A process id alone proves nothing: ids are reused, and a killed child stays in the table as a zombie. A
    silent but living process is left alone (it may be deep in one long call); the app shows its silence.
    """
    process = _optional(job.folder / "process.json")
    if process["host"] != socket.gethostname():
        return job.silence < SILENCE_SECONDS
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["created"]) < 2.0
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _settle(job: Job) -> None:
    if job.state == CANCELLING:
        _end(job.folder, CANCELLED, "Stopped by force; what was finished is kept.")
    elif job.heartbeat is None and (tail := [line for line in log_tail(job.folder) if line.strip()]):
        _end(job.folder, FAILED, f"It ended before its work began: {tail[-1].strip()}")
    else:
        _end(job.folder, INTERRUPTED, "The process ended without a word: killed, out of memory, or a power cut.")


def _end(folder: Path, state: str, message: str) -> None:
    write_json(folder / "result.json", {"state": state, "message": message, "ended": time.time()})


def _launch(job: Job) -> None:
    with (job.folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [*WORKER, *job.arguments, "--job", str(job.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
    _children.append(child)
    try:
        created = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:  # over already; its result or its absence tells the rest
        created = time.time()
    identity = {"pid": child.pid, "created": created, "host": socket.gethostname(), "started": time.time()}
    write_json(job.folder / "process.json", identity)


def _kill(folder: Path) -> None:
    process = _optional(folder / "process.json")
    if process["host"] != socket.gethostname():
        raise AsdError(f"The job runs on {process['host']}; it can be stopped by force only there.")
    if _is_alive(read(folder)):
        with suppress(ProcessLookupError):
            os.killpg(process["pid"], signal.SIGKILL)  # its own session: the group is the worker and its helpers
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(process["pid"]).wait(timeout=5)


# the worker's side


@contextmanager
def reporting(folder: Path) -> Iterator[Progress]:
    """Yield the progress callback of a job and record how the work ends.

    The callback raises `Cancelled` once the job was asked to stop, by its CANCEL file or by SIGTERM.
    Exceptions are recorded and go on: the command line decides what it prints and with which code it exits.
    """
    reporter = _Reporter(folder)
    previous = signal.signal(signal.SIGTERM, lambda *_: reporter.stop.set())
    reporter.beat.start()
    try:
        yield reporter
    except (Cancelled, KeyboardInterrupt):
        reporter.close(CANCELLED, "Cancelled; what was finished is kept.")
        raise
    except AsdError as error:
        reporter.close(FAILED, str(error))
        raise
    except BaseException as error:
        reporter.close(FAILED, f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    else:
        reporter.close(DONE, "")
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Reporter:
    """Writes state.json a few times a second at most, and once a second as a sign of life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = threading.Event()
        self.over = threading.Event()
        self.beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.lock = threading.Lock()
        self.state: dict[str, Any] = {"fraction": 0.0, "message": "Starting", "values": {}}
        self.written = self.plotted = 0.0
        self.began = time.monotonic()
        self._write()

    def __call__(self, fraction: float, message: str, **values: float) -> None:
        fraction = min(max(float(fraction), 0.0), 1.0)
        numbers = {name: float(value) for name, value in values.items()}
        with self.lock:
            self.state.update(fraction=fraction, message=message, values=self.state["values"] | numbers)
        # one point per step would be hundreds of megabytes in a long training; a curve needs a few per second
        pause = max(WRITE_SECONDS, (time.monotonic() - self.began) / CURVE_POINTS)
        if numbers and (time.monotonic() - self.plotted > pause or fraction == 1):
            self.plotted = time.monotonic()
            row = {"time": time.time(), "fraction": fraction, "message": message} | numbers
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if time.monotonic() - self.written > WRITE_SECONDS:
            self._write()
        if self.stop.is_set() or (self.folder / "CANCEL").exists():
            raise Cancelled(f"cancelled during: {message}")

    def close(self, state: str, message: str) -> None:
        self.over.set()
        if self.beat.is_alive():
            self.beat.join()
        self._write()
        _end(self.folder, state, message)

    def _beat(self) -> None:
        while not self.over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError, AsdError):  # a full disk must not end the work by way of its heartbeat
                self._write()

    def _write(self) -> None:
        with self.lock:
            self.written = time.monotonic()
            write_json(self.folder / "state.json", self.state | {"heartbeat": time.time()})
