"""The Train page beyond one click: the queue, several systems at once, what it will cost, and deleting results."""

import time

import pytest

from asd_core import api, jobs
from asd_core.artifacts import finish
from asd_core.files import read_json, write_json
from tests.app import example
from tests.app.test_pages import place, texts


@pytest.fixture
def waiting(full, monkeypatch) -> list[str]:
    """Three queued jobs, none of which is ever launched."""
    monkeypatch.setattr(jobs, "_launch", lambda job: None)
    names = []
    for title in ("One", "Two", "Three"):
        names.append(jobs.start(full.jobs, ["run", title.lower()], title, title))
        time.sleep(0.01)
    return names


def order(workspace: api.Workspace) -> list[str]:
    queued = [job for job in api.all_jobs(workspace) if job.state == jobs.QUEUED]
    return [job.title for job in sorted(queued, key=lambda job: job.position)]


def test_the_queue_is_shown_and_reordered(open_app, full, waiting):
    one, _, three = waiting
    app = open_app(full, "train")
    assert "Queue" in [header.value for header in app.header]
    assert app.button(key=f"earlier_{one}").disabled
    assert app.button(key=f"later_{three}").disabled
    app.button(key=f"earlier_{three}").click().run()
    assert order(full) == ["One", "Three", "Two"]
    app.button(key=f"later_{one}").click().run()
    assert order(full) == ["Three", "One", "Two"]
    app.button(key=f"remove_{one}").click().run()
    assert order(full) == ["Three", "Two"]
    assert not (full.jobs / one).exists()
    assert not app.exception
    later = jobs.start(full.jobs, ["run", "four"], "Four", "4")
    assert order(full) == ["Three", "Two", "Four"]
    api.move_job(full, later, 1)  # at the end nothing happens
    assert order(full)[-1] == "Four"


def test_the_order_is_the_order_of_launching(full, waiting, monkeypatch):
    launched = []
    monkeypatch.setattr(jobs, "_launch", lambda job: launched.append(job.title))
    api.move_job(full, waiting[2], -1)
    api.move_job(full, waiting[2], -1)
    jobs.reconcile(full.jobs)
    assert launched == ["Three"]


def test_what_has_begun_is_no_longer_moved_or_removed(full):
    first = jobs.start(full.jobs, ["run"], "First", "1")
    with pytest.raises(api.AsdError, match="not in the queue"):
        api.move_job(full, first, 1)
    with pytest.raises(api.AsdError, match="cancel it first"):
        api.delete_job(full, first)
    api.cancel(full, first, force=True)


def test_ticked_systems_are_trained_one_after_the_other(open_app, full):
    app = open_app(full, "train")
    assert app.button(key="train_selected").disabled
    app.session_state["ticked"] = ["studio-1", "tsz-baseline"]
    app.run()
    assert app.button(key="train_selected").label == "Train selected (2)"
    app.button(key="train_selected").click().run()
    assert not app.exception
    assert sorted(job.arguments[1] for job in jobs.list_jobs(full.jobs)) == ["studio-1", "tsz-baseline"]
    assert app.button(key="train_selected").disabled, "they are on their way"
    for job in jobs.list_jobs(full.jobs):
        jobs.cancel(job.folder, force=True)


def test_systems_are_filtered(open_app, full):
    states = api.system_states(full, "workshop", "quick")
    app = open_app(full, "train", family="SATLab")
    listed = app.dataframe[0].value
    assert set(listed["Family"]) == {"SATLab"}
    app.pills(key="family").set_value([]).run()
    app.pills(key="state").set_value(["done"]).run()
    assert sorted(app.dataframe[0].value["Name"]) == sorted(example.SYSTEMS)
    assert place(app, "system") == "logmel-knn", "the one in view stays, whatever is listed"
    app.pills(key="family").set_value(["SATLab"]).run()
    assert "No system is in such a state" in texts(app)
    assert not app.exception
    assert len(states) > len(example.SYSTEMS)


def test_estimates_go_by_earlier_runs_in_proportion(open_app, full):
    own = api.estimate(full, "logmel-maha", "quick", machines=2, seeds=3)
    assert own.seconds == pytest.approx(41.0 * 3 * 2 / 4)
    assert "logmel-maha on 4 machines of workshop" in own.source
    assert own.bytes > 0
    assert api.estimate(full, "neu-1", "quick", 4).seconds is None
    assert api.estimate(full, "logmel-maha", "full", 4).seconds is None
    example.add_run(full, api.data_set(full, "workshop"), "satlab-1", 1.0)
    assert "satlab-1" in api.estimate(full, "satlab-3", "quick", 4).source, "the same network, generated clips too"
    assert "At most about 41 s" in texts(open_app(full, "train", system="logmel-maha"))
    assert "No earlier run tells" in texts(open_app(full, "train", system="neu-1"))


def test_an_unknown_system_has_no_estimate(full):
    with pytest.raises(api.AsdError, match=r'There is no system "logmel-kn"\. Did you mean "logmel-knn"'):
        api.estimate(full, "logmel-kn", "quick", 1)


def test_results_with_other_settings_are_told(open_app, full):
    run_id = "logmel-maha--workshop--quick--seed0"
    assert api.other_settings(full, "logmel-maha", "workshop", "quick") == ([], [])
    record = read_json(full.run(run_id) / "run.json")

    def keep(**changes) -> None:
        (full.run(run_id) / "meta.json").unlink()
        write_json(full.run(run_id) / "run.json", record | changes)
        finish(full.run(run_id), key=run_id)

    keep(config=record["config"] | {"idea": "Another one."})
    _, told = api.other_settings(full, "logmel-maha", "workshop", "quick")
    assert told == [f"idea was Another one., is {record['config']['idea']}"]
    assert "There are results with other settings (seed 0): idea was" in texts(
        open_app(full, "train", system="logmel-maha")
    )
    keep(data=record["data"] | {"fingerprint": "other"})
    assert api.other_settings(full, "logmel-maha", "workshop", "quick") == ([0], ["the recordings have changed"])
    keep()
    assert api.other_settings(full, "logmel-maha", "workshop", "quick", ["fan"])[1][0].startswith("machines: ")


def test_a_cancelled_job_takes_nothing_from_a_result(full):
    def state(ended: str) -> str:
        folder = full.jobs / "one"
        arguments = api.training_arguments(full, ["logmel-maha"], "workshop", "quick", [7], [])
        arguments[arguments.index("--data") + 1] = api.data_sets(full)["workshop"].argument
        spec = {"title": "Job", "key": "k", "arguments": arguments, "created": time.time()}
        write_json(folder / "spec.json", spec)
        write_json(folder / "result.json", {"state": ended, "message": "", "ended": time.time()})
        return api.system_states(full, "workshop", "quick").set_index("name").loc["logmel-maha", "state"]

    assert state(jobs.CANCELLED) == "done"
    assert state(jobs.FAILED) == "failed"


def test_a_restricted_job_says_so(full):
    started = [
        api.start_training(full, "logmel-knn", "workshop", machines=machines)
        for machines in ([], ["fan"], ["fan", "valve"], list(api.data_set(full, "workshop").machines))
    ]
    titles = [api.job(full, one).title.rpartition(" · ")[2] for one in started]
    for one in started:
        api.cancel(full, one, force=True)
    assert titles == ["seed 0", "fan", "fan, valve", "4 machines"]


def test_needs_and_changes_of_a_profile(open_app, full):
    states = api.system_states(full, "workshop", "full").set_index("name")
    assert states.loc["wistlab-1", "weights"] != ()
    assert states.loc["satlab-1", "generated"]
    assert states["two_microphones"].any()
    changes = api.config_changes("wistlab-1", "quick").set_index("option")
    checkpoints = [name for name in changes.index if name.endswith("backbone.checkpoint")]
    assert checkpoints
    assert changes.loc[checkpoints, "used"].eq("studio_mini").all()
    assert api.config_changes("logmel-knn", "quick").empty
    assert api.config_changes("wistlab-1", "full").empty
    assert "generated clips (made by it)" in texts(open_app(full, "train", system="satlab-1"))


def test_what_would_be_generated(full):
    wanted = api.generated_for(full, "satlab-1", "workshop", "quick")
    assert list(wanted.columns) == ["condition", "recorded", "wanted", "why"]
    assert (wanted["wanted"] > 0).all()
    assert api.generated_for(full, "logmel-knn", "workshop", "quick").empty


def test_a_result_is_deleted_after_a_word_on_its_size(open_app, full):
    run_id = "logmel-maha--workshop--quick--seed0"
    report, scored = full.root / "reports" / run_id, full.root / "scored" / "one"
    for folder in (report, scored):
        folder.mkdir(parents=True)
    for form in ("html", "pdf"):
        (report / f"alone.{form}").write_text("told")
    write_json(scored / "meta.json", {"run_id": run_id})
    app = open_app(full, "train", system="logmel-maha")
    assert not [box for box in app.checkbox if box.key == f"sure_{run_id}"], "folded away, nothing is measured"
    app.session_state["delete_box"] = True
    app.run()
    assert "Recordings, dropped ones too, generated clips and packages stay" in texts(app)
    assert "its reports (2), its verdicts on dropped recordings (1)" in texts(app)
    assert app.button(key="delete_run").disabled
    app.checkbox(key=f"sure_{run_id}").check().run()
    app.button(key="delete_run").click().run()
    assert not app.exception
    assert not [folder for folder in (full.run(run_id), report, scored) if folder.exists()]
    listed = app.dataframe[0].value.set_index("Name")
    assert listed.loc["logmel-maha", "State"] == "○ not started"


LOG = """step 1
WARNING  a first sign
         that goes on
step 2
error: it ended
"""


def test_the_log_is_filtered(open_app, full):
    folder = full.jobs / "one"
    write_json(folder / "spec.json", {"title": "Job", "key": "k", "arguments": ["run", "x"], "created": time.time()})
    write_json(folder / "result.json", {"state": jobs.FAILED, "message": "It was so.", "ended": time.time()})
    (folder / "log.txt").write_text(LOG)
    job = api.job(full, "one")
    assert api.job_log(job) == LOG.splitlines()
    assert api.job_log(job, problems=True) == ["WARNING  a first sign", "         that goes on", "error: it ended"]
    assert api.job_log(job, text="STEP") == ["step 1", "step 2"]
    app = open_app(full, "train", job="one")
    app.segmented_control(key="log_level_one").set_value("Warnings and errors").run()
    app.text_input(key="log_text_one").set_value("sign").run()
    assert "WARNING  a first sign" in [block.value for block in app.code]
    assert not app.exception


def test_a_cluster_is_offered_where_one_is_configured(open_app, full, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "cluster" not in [one.key for one in open_app(full, "train", data="workshop").segmented_control]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    app = open_app(full, "train", data="workshop", system="logmel-knn")
    where = app.segmented_control(key="cluster")
    assert [one.replace("\\", "") for one in where.options] == ["This computer", "Ray cluster at head:6379"]
    assert "--engine" not in "".join(one.value for one in app.code), "this computer, if nothing is said"
    where.set_value("head:6379").run()
    assert "--engine ray --address head:6379" in "".join(one.value for one in app.code)
    app.button(key="train").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(full.jobs)
    jobs.cancel(job.folder, force=True)
    assert job.title.endswith("on head:6379")
    place = job.arguments.index("--engine")
    assert job.arguments[place : place + 4] == ("--engine", "ray", "--address", "head:6379")
    with pytest.raises(api.AsdError, match="not at elsewhere:1"):
        api.start_training(full, "logmel-knn", "workshop", cluster="elsewhere:1")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head")
    app = open_app(full, "train", data="workshop")
    assert "running Ray cluster" in "".join(one.value for one in app.error)
