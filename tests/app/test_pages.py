"""Every page in every state a workspace can be in: it says what is so and what to do, never a traceback."""

import time

import pytest

from asd_core import api, jobs
from asd_core.data.manifest import DataSet, scan
from asd_core.files import write_json
from tests.app import example

PAGES = ("home", "results", "train", "export")


def texts(app) -> str:
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success")
    return "\n".join(one.value for kind in kinds for one in app.get(kind))


def place(app, key: str) -> str:
    """A choice as the address has it."""
    value = app.query_params[key]
    return value[0] if isinstance(value, list) else value


@pytest.mark.parametrize("page", PAGES)
def test_empty_workspace(open_app, empty, page):
    app = open_app(empty, page)
    assert app.title
    assert not app.error
    assert not empty.root.exists(), "looking must not write"


@pytest.mark.parametrize("page", PAGES)
def test_full_workspace(open_app, full, page):
    app = open_app(full, page)
    assert app.title
    assert not app.error
    assert not app.warning


@pytest.mark.parametrize("page", PAGES)
def test_nonsense_in_the_address(open_app, full, page):
    odd = "../../etc/passwd"
    app = open_app(full, page, data=odd, run=odd, machine=odd, clip=odd, system=odd, job=odd, show=odd, profile=odd)
    assert not app.error
    said = " ".join(one.value for one in app.warning)
    if page == "results":
        assert all(word in said for word in ("data set", "run", "machine", "clip"))
    if page == "train":
        assert "system" in said
        assert "job" in said


@pytest.mark.parametrize("page", PAGES)
def test_broken_run_folder(open_app, full, page):
    folder = full.run(full.run_ids()[0])
    (folder / "run.json").write_text("{ not json")
    (full.run(full.run_ids()[1]) / "scores.parquet").unlink()
    app = open_app(full, page)
    if page in ("home", "results"):
        assert len(app.warning) == 2
        assert folder.name in texts(app)


def test_unlabelled_data(open_app, tmp_path, built):
    sounds = tmp_path / "sounds"
    source = built / "sounds" / example.UNLABELLED
    sounds.mkdir()
    (sounds / example.UNLABELLED).symlink_to(source)
    data = scan(sounds, "unlabelled", "local recordings")
    workspace = api.Workspace(tmp_path / "workspace")
    write_json(
        workspace.dataset(data.name) / "dataset.json", {"name": data.name, "kind": data.kind, "root": str(sounds)}
    )
    example.add_run(workspace, data, "logmel-knn", 1.0)
    app = open_app(workspace, "results")
    assert "carry no labels" in texts(app)
    assert not app.error
    assert len(app.get("plotly_chart")) == 1  # the histogram; no ROC
    assert app.get("bidi_component")


def test_an_unlabelled_machine_among_labelled_ones(open_app, full):
    app = open_app(full, "results", machine=example.UNLABELLED)
    assert f"Without labels, so without figures: {example.UNLABELLED}" in texts(app)
    assert "Scores of drone" in texts(app)


def test_missing_recording(open_app, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    run = api.runs(workspace)[0]
    clip_id = api.clip_table(workspace, run)["clip_id"].iloc[0]
    (tmp_path / "sounds" / clip_id).unlink()
    app = open_app(workspace, "results", run=run.record["run_id"], clip=clip_id, show="By name")
    assert len(app.error) == 1
    assert clip_id in app.error[0].value


def test_all_recordings_gone(open_app, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    app = open_app(workspace, "results")
    assert "cannot be shown" in app.error[0].value
    assert not open_app(workspace, "home").error
    app = open_app(workspace, "train")
    assert not app.exception


def test_a_link_shows_exactly_its_clip(open_app, full):
    clip_id = "fan/test/section_00_target_test_anomaly_0002_speed_9.wav"
    app = open_app(full, "results", clip=clip_id)
    assert "Scores of fan" in texts(app)
    assert clip_id.rpartition("/")[2].removesuffix(".wav") in [one.value for one in app.subheader]


def test_next_and_previous_follow_the_list_as_shown(open_app, full):
    app = open_app(full, "results", show="By name", machine="valve")
    run = next(run for run in api.runs(full) if run.record["run_id"] == place(app, "run"))
    clips = api.clip_table(full, run)
    ids = list(api.select_clips(clips[clips["machine"] == "valve"], "By name")["clip_id"])
    assert place(app, "clip") == ids[0]
    app.button(key="next").click().run()
    app.button(key="next").click().run()
    assert place(app, "clip") == ids[2]
    app.button(key="previous").click().run()
    assert place(app, "clip") == ids[1]


def test_a_filter_keeps_the_clip_not_the_row_number(open_app, full):
    app = open_app(full, "results", show="By name", machine="valve")
    app.button(key="next").click().run()
    clip_id = place(app, "clip")
    app.selectbox(key="show").set_value("Highest scores").run()
    assert place(app, "clip") == clip_id
    app.text_input(key="text").set_value("no such clip").run()
    assert "No clip fits" in texts(app)
    assert place(app, "clip") == clip_id


def test_figures_are_those_of_the_core(open_app, full):
    board = api.leaderboard(full)
    shown = open_app(full, "results").dataframe[0].value
    assert list(shown["Ω"]) == pytest.approx(list(board["omega"]))
    assert list(shown["Ω"]) == sorted(shown["Ω"], reverse=True)


def test_a_run_over_fewer_machines_never_leads(open_app, full, built):
    part = scan(built / "sounds", "workshop", "simulated")
    part = DataSet(part.name, part.kind, part.root, part.of("fan"), part.truth)
    part_id = example.add_run(full, part, "tsz-baseline", 50.0)  # perfect, on one machine
    board = api.leaderboard(full)
    assert board["omega"].iloc[-1] == board["omega"].max()
    assert board["run_id"].iloc[-1] == part_id
    app = open_app(full, "results")
    assert place(app, "run") != part_id
    assert "fewer machines" in texts(app)


def test_training_is_one_click_and_one_job(open_app, full):
    app = open_app(full, "train", system="logmel-maha")
    app.button(key="train").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(full.jobs)
    assert job.arguments[:2] == ("run", "logmel-maha")
    assert place(app, "job") == job.id
    again = open_app(full, "train", system="logmel-maha")  # another tab, or this one refreshed
    assert again.button(key="train").disabled
    assert job.title in texts(again)
    again.button(key=f"cancel_{job.id}").click().run()
    end = time.time() + 10
    while jobs.reconcile(full.jobs)[0].is_active and time.time() < end:
        time.sleep(0.05)
    app = open_app(full, "train", job=job.id)
    assert jobs.read(job.folder).state == jobs.CANCELLED
    app.button(key=f"resume_{job.id}").click().run()
    assert jobs.read(job.folder).is_active
    jobs.cancel(job.folder, force=True)


@pytest.mark.parametrize("state", [jobs.QUEUED, jobs.DONE, jobs.FAILED, jobs.CANCELLED, jobs.INTERRUPTED])
@pytest.mark.parametrize("page", ["home", "train"])
def test_a_job_in_each_state(open_app, full, monkeypatch, page, state):
    folder = full.jobs / "one"
    spec = {"title": "Official autoencoder", "key": "k", "arguments": ["run", "official-mse"], "created": time.time()}
    write_json(folder / "spec.json", spec)
    if state == jobs.QUEUED:
        monkeypatch.setattr(jobs, "_launch", lambda job: None)
    else:
        write_json(folder / "process.json", {"pid": 1, "created": 0, "host": "elsewhere", "started": time.time()})
        write_json(folder / "result.json", {"state": state, "message": "It was so.", "ended": time.time()})
        (folder / "log.txt").write_text("a line\n")
        (folder / "metrics.jsonl").write_text(
            '{"time": 1, "fraction": 0.1, "message": "train: epoch 1", "loss": 2.0}\n'
        )
    app = open_app(full, page, job="one")
    assert state in texts(app) or page == "home"
    assert "Official autoencoder" in texts(app)


def test_the_demo_is_offered_and_started(open_app, empty, monkeypatch):
    monkeypatch.setattr(api, "data_sets", lambda workspace: {})
    app = open_app(empty, "home")
    app.button(key="demo").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(empty.jobs)
    assert job.arguments[:2] == ("data", "simulate")
    jobs.cancel(job.folder, force=True)


def test_a_package_is_built_and_checked(open_app, full):
    app = open_app(full, "export")
    assert app.button(key="build").disabled
    entries = {"firstname": "Ada", "lastname": "Byron", "email": "ada@example.org", "institute": "LU"}
    for key, value in (entries | {"institution": "London University"}).items():
        app.text_input(key=key).set_value(value)
    app.run()
    app.button(key="build").click().run()
    assert not app.exception
    assert (full.exports / "Byron_LU_task2.zip").is_file()
    findings = app.dataframe[-1].value
    failed = findings[findings["Result"].str.startswith("✗")]
    assert set(failed["Rule"]) == {"the technical report, a PDF"}  # the one thing that was left out
    assert app.get("download_button")[0].disabled
