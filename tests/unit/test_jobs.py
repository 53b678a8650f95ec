"""Jobs: what a supervisor may conclude from the files, and what a worker leaves in them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from asd_core import jobs
from asd_core.files import read_json, write_json
from asd_core.types import AsdError, Cancelled

FAKE = Path(__file__).parents[1] / "app" / "fake_worker.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "WORKER", (sys.executable, str(FAKE)))
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.1)
    yield tmp_path / "jobs"
    for job in jobs.list_jobs(tmp_path / "jobs"):
        jobs.cancel(job.folder, force=True)
    for job in jobs.list_jobs(tmp_path / "jobs"):
        jobs.cancel(job.folder, force=True)


def wait(folder: Path, job_id: str, *states: str, seconds: float = 20) -> jobs.Job:
    end = time.time() + seconds
    while time.time() < end:
        job = next(job for job in jobs.reconcile(folder) if job.id == job_id)
        if job.state in states:
            return job
        time.sleep(0.03)
    raise AssertionError(
        f"{job.state} ({job.message}) after {seconds} s, expected {states}; {jobs.log_tail(job.folder)}"
    )


def wait_for_work(folder: Path, job_id: str) -> jobs.Job:
    end = time.time() + 20
    while time.time() < end:
        job = jobs.read(folder / job_id)
        if job.values:
            return job
        time.sleep(0.03)
    raise AssertionError("no sign of work")


def test_a_job_runs_and_leaves_its_numbers(folder):
    name = jobs.start(folder, ["short"], "Short", "short")
    job = wait(folder, name, jobs.DONE)
    assert (job.fraction, job.title, job.arguments) == (1.0, "Short", ("short",))
    assert job.started <= job.ended
    assert job.seconds >= 0
    assert [row["loss"] for row in jobs.metrics(job.folder)][:1] == [1.0]  # later ones may come too fast to be kept
    assert "step 1" in jobs.log_tail(job.folder)
    assert jobs.log_tail(job.folder, 1) == ["step 1"]


def test_two_starts_of_one_key_are_one_job(folder):
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: jobs.start(folder, ["work"], "Work", "same"), range(4)))
    assert len(names) == 1 == len(jobs.list_jobs(folder))


def test_one_at_a_time_and_the_queue_moves_on(folder):
    first = jobs.start(folder, ["work"], "First", "1")
    second = jobs.start(folder, ["short"], "Second", "2")
    third = jobs.start(folder, ["short"], "Third", "3")
    by_name = {job.id: job for job in jobs.reconcile(folder)}
    assert [by_name[name].position for name in (first, second, third)] == [0, 1, 2]
    assert [by_name[name].state for name in (first, second)] == [jobs.RUNNING, jobs.QUEUED]
    jobs.cancel(folder / third)
    assert jobs.read(folder / third).state == jobs.CANCELLED
    wait_for_work(folder, first)
    jobs.cancel(folder / first)
    assert jobs.read(folder / first).state in (jobs.CANCELLING, jobs.CANCELLED)
    wait(folder, first, jobs.CANCELLED)
    wait(folder, second, jobs.DONE)


def test_resume_goes_on_from_what_was_finished(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    wait_for_work(folder, name)
    jobs.cancel(folder / name)
    stopped = wait(folder, name, jobs.CANCELLED)
    jobs.resume(stopped.folder)
    wait_for_work(folder, name)
    starts = [line for line in jobs.log_tail(stopped.folder) if line.startswith("starting")]
    assert len(starts) == 2
    assert starts[1] != "starting at step 0"


def test_a_resumed_job_shows_how_far_it_was_until_it_knows(folder, monkeypatch):
    name = jobs.start(folder, ["work"], "Work", "1")
    wait_for_work(folder, name)
    jobs.cancel(folder / name)
    before = wait(folder, name, jobs.CANCELLED).fraction
    assert before > 0
    monkeypatch.setattr(jobs, "_launch", lambda job: None)
    jobs.resume(folder / name)
    write_json(folder / name / "process.json", {"started": time.time() - 100})
    write_json(folder / name / "state.json", {"fraction": 0.0, "message": "planning", "heartbeat": time.time()})
    job = jobs.read(folder / name)
    assert (job.state, job.fraction, job.message) == (jobs.RUNNING, before, "planning")
    assert job.remaining is None, "nothing was done since"
    halfway = before + (1 - before) / 2
    write_json(folder / name / "state.json", {"fraction": halfway, "message": "working", "heartbeat": time.time()})
    assert jobs.read(folder / name).remaining == pytest.approx(100, rel=0.05), "as long again as since it was resumed"
    (folder / name / "process.json").unlink()  # there is no such process


def test_kill_9_is_interrupted_not_running(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    wait_for_work(folder, name)
    os.kill(read_json(folder / name / "process.json")["pid"], signal.SIGKILL)
    job = wait(folder, name, jobs.INTERRUPTED, seconds=5)
    assert not job.is_active
    assert "killed" in job.message


def test_a_job_outlives_the_process_that_started_it(folder, monkeypatch):
    code = (
        "import sys; from pathlib import Path; from asd_core import jobs\n"
        f"jobs.WORKER = {jobs.WORKER!r}\n"
        f"print(jobs.start(Path({str(folder)!r}), ['work'], 'Work', '1'))"
    )
    name = subprocess.run([sys.executable, "-c", code], cwd=jobs.ROOT, capture_output=True, text=True).stdout.strip()
    assert wait_for_work(folder, name).state == jobs.RUNNING
    assert wait(folder, name, jobs.RUNNING).state == jobs.RUNNING
    jobs.cancel(folder / name, force=True)
    assert wait(folder, name, jobs.CANCELLED).message.startswith("Stopped by force")


def test_a_reused_process_id_is_not_the_job(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    wait_for_work(folder, name)
    process = read_json(folder / name / "process.json")
    psutil.Process(process["pid"]).kill()
    me = process | {"pid": os.getpid()}
    write_json(folder / name / "process.json", me)
    wait(folder, name, jobs.INTERRUPTED, seconds=5)


def test_force_stops_a_worker_that_does_not_listen(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    job = wait_for_work(folder, name)
    pid = read_json(folder / name / "process.json")["pid"]
    os.kill(pid, signal.SIGSTOP)
    jobs.cancel(job.folder)
    assert jobs.reconcile(folder)[0].state == jobs.CANCELLING
    jobs.cancel(job.folder, force=True)
    assert jobs.read(job.folder).state == jobs.CANCELLED
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_sigterm_is_a_polite_cancel(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    wait_for_work(folder, name)
    os.kill(read_json(folder / name / "process.json")["pid"], signal.SIGTERM)
    assert wait(folder, name, jobs.CANCELLED).message.startswith("Cancelled")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("fail", "The data are missing. Get them first."),
        ("bug", "ZeroDivisionError: division by zero"),
        ("crash-early", "It ended before its work began: no such command"),
    ],
)
def test_failures_say_why(folder, what, message):
    job = wait(folder, jobs.start(folder, [what], what, what), jobs.FAILED)
    assert job.message == message
    assert jobs.log_tail(job.folder)


def test_delete_only_what_is_over(folder):
    name = jobs.start(folder, ["work"], "Work", "1")
    with pytest.raises(AsdError, match="cancel it first"):
        jobs.delete(folder / name)
    jobs.cancel(folder / name, force=True)
    jobs.delete(folder / name)
    assert jobs.list_jobs(folder) == []
    with pytest.raises(AsdError, match="no job"):
        jobs.find(folder, name)


def test_broken_folders_are_passed_over(folder):
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "spec.json").write_text("{")
    assert jobs.reconcile(folder) == []
    assert jobs.reconcile(folder / "absent") == []


def test_a_long_work_plots_fewer_points(tmp_path):
    """Pages read the whole curve again and again."""
    write_json(tmp_path / "spec.json", {"title": "", "key": "", "arguments": [], "created": 0})
    with jobs.reporting(tmp_path) as progress:
        progress.began -= 40_000  # s ago: a point every ten seconds
        progress(0.1, "training", loss=1.0)
        progress.plotted -= 5
        progress(0.2, "training", loss=2.0)
        progress.plotted -= 6
        progress(0.3, "training", loss=3.0)
    assert [row["loss"] for row in jobs.metrics(tmp_path)] == [1.0, 3.0]


def test_nobody_starts_while_the_queue_is_held(folder):
    with ThreadPoolExecutor() as pool:
        with jobs.idle(folder):
            started = pool.submit(jobs.start, folder, ["work"], "Work", "1")
            time.sleep(0.2)
            assert not started.done()
            assert jobs.list_jobs(folder) == []
        started.result(timeout=20)
    with pytest.raises(AsdError, match="queued or running"), jobs.idle(folder):
        pass


def test_cancelled_reaches_the_work_and_is_recorded(tmp_path):
    (tmp_path / "CANCEL").touch()
    write_json(tmp_path / "spec.json", {"title": "", "key": "", "arguments": [], "created": 0})
    with pytest.raises(Cancelled), jobs.reporting(tmp_path) as progress:
        progress(0.5, "half way", loss=2.0)
    assert read_json(tmp_path / "result.json")["state"] == jobs.CANCELLED
    assert read_json(tmp_path / "state.json")["values"] == {"loss": 2.0}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
