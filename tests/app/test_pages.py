"""Every page in every state a workspace can be in: it says what is so and what to do, never a traceback."""

import gc
import shutil
import time
import zipfile

import numpy as np
import pytest
import streamlit as st
import yaml

from asd_core import api, jobs, tuning
from asd_core.api import overview
from asd_core.data.manifest import DataSet, scan
from asd_core.files import write_json
from asd_core.tuning import Labelled
from pages.components import words
from tests.app import example

PAGES = ("home", "results", "train", "export", "weights")


def texts(app) -> str:
    kinds = ("title", "header", "markdown", "caption", "info", "warning", "error", "success")
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
    assert words.plain(clip_id) in app.error[0].value


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
    assert words.plain(words.clip_title(clip_id)) in [one.value for one in app.header]


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


def test_another_list_begins_with_its_first_clip(open_app, full):
    last = "valve/test/section_00_target_test_normal_0003_speed_9.wav"
    app = open_app(full, "results", show="By name", machine="valve", clip=last)
    assert place(app, "clip") == last, "an address says which clip"
    app.selectbox(key="show").set_value("Highest scores").run()
    assert "1 of 16" in texts(app)
    assert place(app, "clip") != last
    first = place(app, "clip")
    app.text_input(key="text").set_value("no such clip").run()
    assert "No clip fits" in texts(app)
    app.text_input(key="text").set_value("").run()
    assert place(app, "clip") == first
    app.button(key="next").click().run()
    assert place(app, "clip") != first
    app.pills(key="domain").set_value(["target"]).run()
    assert "1 of 8" in texts(app)


def test_a_plus_in_a_typed_address_arrives_as_a_space(open_app, full):
    app = open_app(full, "train", system="unis-3 submitted")
    assert not app.warning
    assert place(app, "system") == "unis-3+submitted"
    run_id = example.add_run(full, api.data_set(full, "workshop"), "unis-3+submitted", 1.0)
    app = open_app(full, "results", run=run_id.replace("+", " "))
    assert not app.warning
    assert place(app, "run") == run_id


def test_transductive_systems_are_marked_everywhere(open_app, full):
    run_id = example.add_run(full, api.data_set(full, "workshop"), "unis-3+submitted", 50.0, transductive=True)
    mark = "as submitted (transductive)"
    listed = open_app(full, "train").dataframe[0].value["System"]
    assert listed.str.endswith(mark).sum() == 2
    board = open_app(full, "results").dataframe[0].value
    assert board["System"].str.endswith(mark).sum() == 1
    assert board.loc[board["System"].str.endswith(mark), "False alarms"].isna().all()
    assert mark in texts(open_app(full, "home"))
    app = open_app(full, "export")
    assert app.multiselect(key="export_runs").value == [run_id], "the best"
    assert "unis-3+submitted (transductive)" in "".join(app.multiselect(key="export_runs").options)
    assert "unis-3+submitted" in app.warning[0].value
    assert "transductive" in app.warning[0].value


def test_the_screen_says_that_tuned_noise_is_no_gain(open_app, full):
    """Twenty streams that know nothing, weighted until they seem to."""
    rng = np.random.default_rng(0)
    label, domain = np.tile(np.repeat([0, 1], 20), 2), np.repeat(["source", "target"], 40)
    parts = [
        Labelled(name, "00", rng.normal(size=(30, 20)), rng.normal(size=(80, 20)), label, domain) for name in "abcdef"
    ]
    tuned = tuning.tune(parts, [f"stream {i}" for i in range(20)])
    run_id = example.add_run(full, api.data_set(full, "workshop"), "wistlab-2+tuned", 1.0, tuned=tuned)
    app = open_app(full, "results", run=run_id)
    assert "Ω lomo" in app.dataframe[0].value
    assert tuned.omega_tuned > 0.53
    assert f"On machines it was not tuned on: {100 * tuned.omega_lomo:.1f}" in texts(app)
    assert "is not real" in texts(app) or "is not shown" in texts(app)


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
    assert api.asked_of(job).seeds == (1,), "seed 0 is there already"
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


def test_equal_work_is_not_offered_again(open_app, full):
    app = open_app(full, "train", system="logmel-maha")
    assert "Already computed with these settings (seed 0)" in texts(app)
    assert app.button(key="train").label == "Train with seed 1"
    assert "--seeds 1" in app.code[0].value
    app.multiselect(key="seeds").set_value([0, 2, 3]).run()
    assert app.button(key="train").label == "Train with seeds 2, 3"
    assert "Seed 0: already computed" in texts(app)
    assert "--seeds 2 --seeds 3" in app.code[0].value
    app.multiselect(key="machines_workshop").set_value(["fan"]).run()
    assert app.button(key="train").label == "Train with seeds 0, 2, 3"
    assert "--machines fan" in app.code[0].value
    app.segmented_control(key="profile").set_value("full").run()
    assert "lready computed" not in texts(app)
    example.add_run(full, api.data_set(full, "workshop"), "logmel-maha", 1.0, seed=1)
    app = open_app(full, "train", system="logmel-maha")
    assert "(seeds 0, 1)" in texts(app)
    assert app.button(key="train").label == "Train with seed 2"


def test_other_recordings_are_other_work(full, tmp_path, built):
    shutil.copytree(built / "sounds", tmp_path / "sounds")
    about = {"name": "workshop", "kind": "simulated", "root": str(tmp_path / "sounds")}
    write_json(full.dataset("workshop") / "dataset.json", about)
    assert api.computed_seeds(full, "logmel-maha", "workshop", "quick") == []  # not known to be the same yet
    again = api.data_set(full, "workshop")
    example.add_run(full, again, "logmel-maha", 2.0)
    assert api.computed_seeds(full, "logmel-maha", "workshop", "quick") == [0]
    next((tmp_path / "sounds" / "fan" / "train").glob("*.wav")).write_bytes(b"another")
    assert api.computed_seeds(full, "logmel-maha", "workshop", "quick") == []


def test_what_the_command_line_made_counts_as_computed(tmp_path, built):
    from asd_core import config, pipeline
    from asd_core.engine import local

    workspace = api.Workspace(tmp_path / "workspace")
    context = pipeline.Context(workspace, scan(built / "sounds", "workshop", "simulated"), "cpu")
    local.run(pipeline.plan([config.load_system("logmel-knn")], config.load_profile("quick"), context), context)
    assert api.computed_seeds(workspace, "logmel-knn", "workshop", "quick") == [0]
    assert api.computed_seeds(workspace, "logmel-knn", "workshop", "quick", ["fan"]) == []
    assert api.computed_seeds(workspace, "logmel-knn", "workshop", "full") == []


def test_all_missing_systems_queue(open_app, full):
    app = open_app(full, "train")
    states = api.system_states(full, "workshop", "quick")
    missing = sorted(name for name in set(states["name"]) - set(example.SYSTEMS) if "+" not in name)
    app.button(key="train_missing").click().run()
    assert not app.exception
    started = jobs.list_jobs(full.jobs)
    assert sorted(job.arguments[1] for job in started) == missing
    assert [job.state for job in started[::-1]] == [jobs.RUNNING] + [jobs.QUEUED] * (len(missing) - 1)
    assert "train_missing" not in [button.key for button in app.button], "they are on their way"
    for job in started:
        jobs.cancel(job.folder, force=True)


def test_a_finished_job_leads_to_its_own_result(full, built):
    names = []
    for seed in (1, 2):
        names.append(example.add_run(full, api.data_set(full, "workshop"), "logmel-maha", 1.0, seed))
        time.sleep(0.02)
    job_id = api.start_training(full, "logmel-maha", "workshop", seeds=[1])
    job = api.job(full, job_id)
    jobs.cancel(job.folder, force=True)
    assert api.result_of(full, job).record["run_id"] == names[0]


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
    monkeypatch.setattr(overview, "data_sets", lambda workspace: {})  # the demo may be on this machine
    app = open_app(empty, "home")
    app.button(key="demo").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(empty.jobs)
    assert job.arguments[:2] == ("data", "simulate")
    jobs.cancel(job.folder, force=True)


def fill_in(app, institute: str = "LU"):
    entries = {"firstname_0": "Ada", "lastname_0": "Byron", "email_0": "ada@example.org", "institute": institute}
    for key, value in (entries | {"institution_0": "London University"}).items():
        app.text_input(key=key).set_value(value)
    return app.run()


PAPER = b"%PDF-1.7\n1 0 obj <</Type /Page>> endobj\n%%EOF\n"


def build(app, report: bytes = PAPER):
    app.file_uploader(key="report").upload("report.pdf", report, "application/pdf").run()
    app.button(key="build").click().run()
    assert not app.exception, [one.value for one in app.exception]
    return app


def test_a_package_is_built_and_checked(open_app, full):
    app = open_app(full, "export")
    assert app.button(key="build").disabled
    fill_in(app)
    assert "Still missing or not in the right form: [technical report" in texts(app)
    assert app.button(key="build").disabled
    build(app, report=b"%PDF-1.7\n%%EOF\n")
    assert (full.exports / "Byron_LU_task2.zip").is_file()
    findings = next(one.value for one in app.dataframe if "Finding" in one.value)
    failed = findings[findings["Result"].str.startswith("✗")]
    assert set(failed["Rule"]) == {"the technical report, a PDF with pages"}
    assert any("1 finding stands in the way" in one.value for one in app.error)
    assert "[technical report (step 3)](#step-3)" in texts(app)
    assert all(button.disabled for button in app.get("download_button"))


def test_packages_stay_at_hand_and_are_compared(open_app, full):
    app = build(fill_in(open_app(full, "export")))
    (first,) = api.packages(full)
    assert not any(button.disabled for button in app.get("download_button"))
    build(app)
    assert len(api.packages(full)) == 1, "the same bytes are the same package"
    others = [run for run in api.runs(full) if run.record["run_id"] != app.multiselect(key="export_runs").value[0]]
    app.multiselect(key="export_runs").set_value([others[0].record["run_id"]]).run()
    build(app)
    newest, replaced = api.packages(full)
    assert (replaced.sha256, replaced.is_newest, newest.is_newest) == (first.sha256, False, True)
    changes = next(one.value for one in app.dataframe if "Rank correlation" in one.value)
    assert list(changes["Machine"]) == [example.UNLABELLED]
    assert (changes["Other score"] == changes["Clips in both"]).all()
    assert changes["Rank correlation"].between(-1, 1).all()
    refreshed = open_app(full, "export", tab="Packages")
    listed = next(one.value for one in refreshed.dataframe if "SHA-256" in one.value)
    assert list(listed["SHA-256"]) == [newest.sha256, replaced.sha256]
    assert list(listed["Version"]) == ["newest", "replaced"]
    assert not listed["Check"].str.contains("✗").any()
    assert not any(button.disabled for button in refreshed.get("download_button"))


def test_authors_come_and_go_and_one_is_corresponding(open_app, full):
    app = fill_in(open_app(full, "export"))
    app.button(key="add_author").click().run()
    assert "first name of author 2" in texts(app)
    entries = {"firstname_1": "Émile", "lastname_1": "de l'Étoile", "email_1": "e@example.org", "institution_1": "X"}
    for key, value in entries.items():
        app.text_input(key=key).set_value(value)
    app.run()
    assert "Byron_LU_task2_1" in texts(app)
    app.radio(key="corresponding").set_value(1).run()
    assert "delEtoile_LU_task2_1" in texts(app)
    build(app)
    (package,) = api.packages(full)
    meta = yaml.safe_load(
        zipfile.ZipFile(package.path).read("task2/delEtoile_LU_task2_1/delEtoile_LU_task2_1.meta.yaml")
    )
    assert [author.get("corresponding", False) for author in meta["submission"]["authors"]] == [False, True]
    app.button(key="remove_1").click().run()
    assert "Byron_LU_task2_1" in texts(app)
    assert not app.radio


def test_the_collector_is_spared_once_per_page(open_app, full):
    """What is frozen is never collected, so it must not be done at every click."""
    gc.unfreeze()
    st.cache_resource.clear()
    app = open_app(full, "results")
    frozen = gc.get_freeze_count()
    assert frozen > 0
    app.button(key="next").click().run()
    assert gc.get_freeze_count() <= frozen
    gc.unfreeze()
