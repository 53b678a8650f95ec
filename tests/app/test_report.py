"""The Report button, in every state a report can be in."""

import os
import shutil
import time

import pytest
from streamlit.testing.v1 import AppTest

from asd_core import api, jobs
from asd_core.artifacts import load_run
from asd_core.files import write_bytes, write_json
from pages.components import context

RUN = "logmel-maha--workshop--quick--seed0"
OTHER = "logmel-knn--workshop--quick--seed0"
PICTURE = "![p](http://127.0.0.1:9/p.png) <img src=x>"


def draw(run_id: str, other: str) -> None:
    """The script under test: nothing but the button."""
    from pages.components import cached, jobs, report

    jobs.show_problems()
    report.button(cached.runs()[run_id], cached.runs().get(other))


@pytest.fixture
def open_button(monkeypatch):
    def open_it(workspace: api.Workspace, other: str = "") -> AppTest:
        monkeypatch.setattr("sys.argv", ["app.py", "--workspace", str(workspace.root)])
        context.workspace.cache_clear()
        app = AppTest.from_function(draw, default_timeout=30, args=(RUN, other))
        app.run()
        assert not app.exception, [one.value for one in app.exception]
        return app

    return open_it


def texts(app: AppTest) -> str:
    return "\n".join(one.value for kind in ("markdown", "info", "error") for one in app.get(kind))


def downloads(app: AppTest) -> list[str]:
    return [one.proto.label for one in app.get("download_button")]


def put(workspace: api.Workspace, name: str) -> None:
    for form in ("html", "pdf"):
        write_bytes(workspace.root / "reports" / RUN / f"{name}.{form}", b"x" * 2000)


def test_nothing_is_made_yet(open_button, full):
    app = open_button(full)
    assert "One file on this run" in texts(app)
    assert app.button(key="make_report").label == "Make the report"
    assert downloads(app) == []
    assert not (full.root / "reports").exists(), "looking must not write"


def test_one_click_starts_one_job(open_button, full):
    app = open_button(full, OTHER)
    assert "logmel-knn, quick, seed 0" in texts(app)
    app.button(key="make_report").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(full.jobs)
    assert job.arguments[:5] == ("report", "--run", RUN, "--against", OTHER)
    assert job.title == "Report · logmel-maha, workshop, quick, seed 0 against logmel-knn, workshop, quick, seed 0"
    again = open_button(full, OTHER)  # another tab
    assert "It is being made" in texts(again)
    assert not again.button
    assert open_button(full).button(key="make_report"), "the report of the run alone is another one"
    assert api.start_report(full, RUN, OTHER) == job.id
    jobs.cancel(job.folder, force=True)


def test_finished_ones_are_handed_out(open_button, full):
    put(full, "alone")
    put(full, OTHER)
    app = open_button(full)
    assert downloads(app) == ["HTML, 2 kB", "PDF, 2 kB"] * 2
    assert "Against logmel-knn, quick, seed 0" in texts(app)
    assert "older than the run" not in texts(app)
    assert app.button(key="make_report").label == "Make it again"
    names = {one.name(form) for one in api.reports(full, load_run(full, RUN)) for form in one.files}
    assert names == {f"{RUN}{end}.{form}" for end in ("", f"--against--{OTHER}") for form in ("html", "pdf")}


def test_a_report_of_an_earlier_make_says_so(open_button, full):
    put(full, "alone")
    put(full, OTHER)
    shutil.rmtree(full.run(OTHER))  # what it compares with is gone
    later = time.time() + 60
    os.utime(full.run(RUN) / "meta.json", (later, later))
    app = open_button(full)
    assert texts(app).count("older than the run") == 2
    assert f"Against {OTHER}" in texts(app)
    assert app.button(key="make_report").label == "Make the report"


def test_a_failure_is_told_as_it_is(open_button, full):
    first = open_button(full)
    first.button(key="make_report").click().run()
    (job,) = jobs.list_jobs(full.jobs)
    jobs.cancel(job.folder, force=True)
    write_json(job.folder / "result.json", {"state": "failed", "message": PICTURE, "ended": 2.0})
    (error,) = open_button(full).error
    assert "p.png" in error.value
    assert "![" not in error.value
    assert "<img" not in error.value.replace("\\<", "")


def test_readers_take_known_runs_only(full):
    for odd in ("../../etc/passwd", "nobody", ""):
        with pytest.raises(api.AsdError):
            api.start_report(full, odd)
    with pytest.raises(api.AsdError, match="with itself"):
        api.start_report(full, RUN, RUN)
    with pytest.raises(api.AsdError, match="no finished run"):
        api.start_report(full, RUN, "../x")
    assert jobs.list_jobs(full.jobs) == []
