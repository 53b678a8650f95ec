"""The Fusion page: sliders that keep their sum, figures of the core, honest words, and a system that can be kept."""

import sys

import numpy as np
import pytest

from asd_core import api, config, jobs
from asd_core.artifacts import finish, write_table
from asd_core.data.manifest import DataSet, scan
from asd_core.files import read_json, write_json
from tests.app import example
from tests.app.test_pages import place, texts


@pytest.fixture
def weak(full):
    """Three runs none of which tells anomalies well."""
    data = api.data_set(full, "workshop")
    for seed, name in enumerate(example.SYSTEMS, 1):
        (full.run(f"{name}--workshop--quick--seed0") / "meta.json").unlink()
        example.add_run(full, data, name, 0.6, seed)
    return full


def ids(workspace) -> dict[str, str]:
    """System → run."""
    return {run.record["system"]: run.record["run_id"] for run in api.runs(workspace)}


def open_with(open_app, workspace, *systems: str, **query: str):
    known = ids(workspace)
    return open_app(workspace, "fusion", members=",".join(known[name] for name in systems), **query)


def weights(app) -> list[float]:
    return [slider.value for slider in app.slider]


def metric(app, label: str) -> str:
    return next(one.value for one in app.metric if one.label.startswith(label))


def test_one_run_is_not_enough(open_app, tmp_path, built):
    workspace = api.Workspace(tmp_path / "workspace")
    data = scan(built / "sounds", "workshop", "simulated")
    about = {"name": data.name, "kind": data.kind, "root": str(data.root)}
    write_json(workspace.dataset(data.name) / "dataset.json", about)
    example.add_run(workspace, data, "logmel-knn", 1.0)
    app = open_app(workspace, "fusion")
    assert "workshop has 1" in texts(app)
    assert not app.slider


def test_the_best_two_systems_are_there_at_once(open_app, full):
    app = open_app(full, "fusion")
    assert not app.error
    best = api.fusion_candidates(api.runs(full))["run_id"].head(2)
    assert place(app, "members") == ",".join(best)
    assert weights(app) == [0.5, 0.5]
    runs = [next(run for run in api.runs(full) if run.record["run_id"] == run_id) for run_id in best]
    figures = api.fusion_figures(api.align_runs(runs), [0.5, 0.5])
    assert metric(app, "Ω of the fusion") == f"{figures.omega:.2f} %"
    assert metric(app, "Best member") == f"{figures.omega_best:.2f} %"


def test_sliders_keep_their_sum_and_move_omega(open_app, weak):
    app = open_with(open_app, weak, *example.SYSTEMS)
    assert weights(app) == [0.34, 0.33, 0.33]
    before = metric(app, "Ω of the fusion")
    app.slider[0].set_value(0.9).run()
    assert weights(app) == [0.9, 0.05, 0.05]
    assert place(app, "weights") == "0.9,0.05,0.05"
    assert metric(app, "Ω of the fusion") != before
    assert "set by hand in view of Ω" in texts(app)
    app.button(key="equal").click().run()
    assert weights(app) == [0.34, 0.33, 0.33]
    assert metric(app, "Ω of the fusion") == before
    assert "set by hand" not in texts(app)


def test_members_picked_by_omega_or_tuned_before_are_told_beside_the_figures(open_app, full):
    app = open_app(full, "fusion")
    assert "Members picked by their Ω" in texts(app)
    folder = full.run(place(app, "members").split(",")[0])
    record = read_json(folder / "run.json")
    (folder / "meta.json").unlink()
    record["config"]["fusion"] = {"name": "weighted", "weights": [1.0], "tuned_on": "Tuned on every machine."}
    write_json(folder / "run.json", record)
    finish(folder, key=folder.name)
    app = open_app(full, "fusion")
    assert weights(app) == [0.5, 0.5]
    assert f"{record['system']} was tuned itself. Tuned on every machine." in texts(app).replace("\\", "")
    app = open_with(open_app, full, *example.SYSTEMS)
    assert "Members picked in view of Ω" in texts(app)


def test_saved_fusions_stand_back_and_overlaps_are_told(open_app, full):
    runs = {run.record["system"]: run for run in api.runs(full)}
    best = [runs["logmel-maha"], runs["logmel-knn"]]
    fused = api.save_fusion(full, best, "fusion-1", "ztrain", [0.5, 0.5])
    other = api.save_fusion(full, [runs["logmel-maha"], runs["official-mse"]], "fusion-2", "ztrain", [0.5, 0.5])
    app = open_app(full, "fusion")
    assert not {fused, other} & set(place(app, "members").split(","))
    assert not any("counts twice" in one.value for one in app.warning)
    app = open_app(full, "fusion", members=f"{fused},{best[0].record['run_id']}")
    told = "fusion-1 (seed 0) contains logmel-maha (seed 0): what both hold counts twice."
    assert told in texts(app).replace("\\", "")
    again = api.save_fusion(full, [api.load_run(full, fused), runs["official-mse"]], "fusion-3", "ztrain", [0.5, 0.5])
    picked = [api.load_run(full, one) for one in (other, again)]
    assert api.overlaps(full, picked) == ["fusion-3 (seed 0) contains fusion-2 (seed 0): what both hold counts twice."]
    assert api.overlaps(full, [api.load_run(full, one) for one in (fused, other)])[0].startswith(
        "fusion-1 (seed 0) shares"
    )
    assert api.overlaps(full, best) == []


def test_a_link_shows_exactly_this_fusion(open_app, full):
    app = open_with(open_app, full, "logmel-maha", "official-mse", weights="0.25,0.75", normalise="ecdf")
    assert not app.warning or all("There is no" not in one.value for one in app.warning)
    assert sorted(weights(app)) == [0.25, 0.75]
    assert app.selectbox(key="normalise_picker").value == "ecdf"


@pytest.mark.parametrize("odd", ["0.5", "0.5,x", "2,-1", "0.5,0.6", "nan,0.5", "<b>x</b>,1"])
def test_odd_weights_are_said_and_not_used(open_app, full, odd):
    app = open_with(open_app, full, "logmel-maha", "logmel-knn", weights=odd)
    assert weights(app) == [0.5, 0.5]
    assert "Shown instead: equal weights" in texts(app)


def test_odd_members_and_too_many(open_app, full):
    app = open_with(open_app, full, "logmel-maha", "logmel-knn")
    odd = place(app, "members") + ",../../etc/passwd"
    app = open_app(full, "fusion", members=odd, normalise="sideways")
    said = " ".join(one.value for one in app.warning)
    assert "etc/passwd" in said
    assert "sideways" in said
    assert len(app.slider) == 2
    data = api.data_set(full, "workshop")
    many = [example.add_run(full, data, "logmel-knn", 1.0, seed) for seed in range(8)]
    app = open_app(full, "fusion", members=",".join(many))
    assert len(app.slider) == api.MOST_MEMBERS
    assert "at most" in " ".join(one.value for one in app.warning)


def test_another_data_set_has_members_of_its_own(open_app, full, built):
    other = scan(built / "sounds", "other", "simulated")
    about = {"name": other.name, "kind": other.kind, "root": str(other.root)}
    write_json(full.dataset(other.name) / "dataset.json", about)
    for name in ("logmel-maha", "logmel-knn"):
        example.add_run(full, other, name, 1.0)
    app = open_app(full, "fusion", data="workshop", weights="0.9,0.1")
    app.selectbox(key="data_picker").set_value("other").run()
    assert not app.warning or all("There is no" not in one.value for one in app.warning)
    assert all("--other--" in one for one in place(app, "members").split(","))
    assert weights(app) == [0.5, 0.5]


def test_no_or_one_member_asks_for_more(open_app, full):
    for members in ("none", ids(full)["logmel-maha"]):
        app = open_app(full, "fusion", members=members)
        assert "at least two runs" in texts(app)
        assert not app.slider


def test_ranks_among_test_clips_are_called_transductive(open_app, full):
    app = open_with(open_app, full, "logmel-maha", "logmel-knn", normalise="rank_test")
    assert "Transductive" in " ".join(one.value for one in app.warning)


def test_unlabelled_recordings_have_no_omega_but_flips_and_saving(open_app, tmp_path, built):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    (sounds / example.UNLABELLED).symlink_to(built / "sounds" / example.UNLABELLED)
    data = scan(sounds, "unlabelled", "local recordings")
    workspace = api.Workspace(tmp_path / "workspace")
    about = {"name": data.name, "kind": data.kind, "root": str(sounds)}
    write_json(workspace.dataset(data.name) / "dataset.json", about)
    for name, strength in example.SYSTEMS.items():
        example.add_run(workspace, data, name, strength)
    app = open_with(open_app, workspace, "logmel-maha", "official-mse")
    assert "carry no labels" in texts(app)
    assert not app.metric
    assert app.button(key="suggest").disabled
    assert "get another decision" in texts(app)
    app.button(key="save").click().run()
    assert not app.error
    assert "fusion-1" in ids(workspace)
    (run,) = [run for run in api.runs(workspace) if run.record["system"] == "fusion-1"]
    assert run.metrics is None


def test_members_with_other_clips_are_named_and_cannot_be_saved(open_app, full, built):
    part = scan(built / "sounds", "workshop", "simulated")
    part = DataSet(part.name, part.kind, part.root, part.of("fan"), part.truth)
    example.add_run(full, part, "tsz-baseline", 5.0)
    app = open_with(open_app, full, "logmel-maha", "tsz-baseline")
    said = " ".join(one.value for one in app.warning)
    assert "tsz-baseline lacks" in said.replace("\\", "")
    assert "bearing, drone, valve" in said
    assert "machines differ" in app.error[0].value
    assert "save" not in [button.key for button in app.button]


def test_a_saved_fusion_is_a_system_like_any_other(open_app, full):
    app = open_with(open_app, full, "logmel-maha", "official-mse")
    omega = metric(app, "Ω of the fusion")
    path = api.fusion_file(full, "both of them")
    app.text_input(key="fusion_name").set_value("both of them").run()
    assert str(path) in texts(app), "the place is said before anything is written"
    assert not path.exists()
    app.button(key="save").click().run()
    assert not app.error
    run_id = ids(full)["both of them"]
    assert config.load_system(str(path)).name == "both of them"
    board = open_app(full, "results", run=run_id)
    assert not board.error
    assert not board.exception
    shown = board.dataframe[0].value.set_index("Name")["Ω"]
    assert f"{shown['both of them']:.2f} %" == omega
    export = open_app(full, "export")
    assert "both of them" in "".join(export.multiselect(key="export_runs").options)
    again = open_with(open_app, full, "logmel-maha", "official-mse")
    again.text_input(key="fusion_name").set_value("both of them").run()
    assert again.button(key="save").disabled
    assert "There is a system both of them already" in texts(again)


@pytest.mark.parametrize("name", ["../up", "a+b", "", "studio-1", "<img src=x>", ".hidden"])
def test_names_are_checked_before_anything_is_written(open_app, full, name):
    app = open_with(open_app, full, "logmel-maha", "logmel-knn")
    app.text_input(key="fusion_name").set_value(name).run()
    assert app.button(key="save").disabled
    picked = api.runs(full)[:2]
    with pytest.raises(api.AsdError):
        api.save_fusion(full, picked, name, "ztrain", [0.5, 0.5])
    assert not (full.root / "systems").exists()


def test_weights_are_suggested_once_and_marked(open_app, weak, monkeypatch):
    monkeypatch.setattr(jobs, "WORKER", (sys.executable, "-m", "asd_core"))
    app = open_with(open_app, weak, "logmel-maha", "logmel-knn", "official-mse")
    app.button(key="suggest").click().run()
    assert not app.error
    (job,) = jobs.list_jobs(weak.jobs)
    assert job.arguments[0] == "tune"
    while jobs.reconcile(weak.jobs)[0].is_active:
        assert jobs.reconcile(weak.jobs)[0].silence < 60
    assert jobs.read(job.folder).state == jobs.DONE, jobs.log_tail(job.folder)
    app.run()
    picked = [next(r for r in api.runs(weak) if r.record["run_id"] == one) for one in place(app, "members").split(",")]
    found = api.suggestion(weak, picked, "ztrain")
    aligned = api.align_runs(picked)
    assert weights(app) == api.suggested_weights(found, aligned.names)
    assert "They are on the sliders" in texts(app)
    assert found["said"][:40] in texts(app).replace("\\", "")
    if not api.counts_alike(weights(app)):
        assert "Weights tuned on the labelled test clips" in texts(app)
    assert app.button(key="suggest").disabled
    app.button(key="equal").click().run()
    assert weights(app) == [0.34, 0.33, 0.33]
    app.button(key="suggest").click().run()  # no second job: the result is kept
    assert weights(app) == api.suggested_weights(found, aligned.names)
    assert len(jobs.list_jobs(weak.jobs)) == 1


def test_a_flipped_clip_is_shown(open_app, weak):
    app = open_with(open_app, weak, "logmel-maha", "official-mse", weights="0.1,0.9")
    table = next(one.value for one in app.dataframe if "Change" in one.value)
    assert len(table)
    clip_id = place(app, "clip")
    assert clip_id.rpartition("/")[2].removesuffix(".wav") == table["Clip"].iloc[0]
    assert set(table["Fusion"]) <= {"✓ right", "✗ wrong", "unknown"}


@pytest.mark.parametrize("moved", range(3))
def test_weights_are_rebalanced_in_proportion(moved):
    found = api.rebalanced([0.6, 0.3, 0.1], moved)
    assert sum(found) == pytest.approx(1)
    for value in (0.0, 0.37, 1.0):
        given = [0.6, 0.3, 0.1]
        given[moved] = value
        found = api.rebalanced(given, moved)
        assert found[moved] == value
        assert sum(found) == pytest.approx(1)
        rest = [i for i in range(3) if i != moved]
        assert found[rest[0]] / given[rest[0]] == pytest.approx(found[rest[1]] / given[rest[1]], abs=0.06)


def test_others_without_weight_share_what_is_left():
    assert api.rebalanced([0.6, 0.0, 0.0], 0) == [0.6, 0.2, 0.2]
    assert api.rebalanced([0.0, 1.0], 0) == [0.0, 1.0]


@pytest.mark.parametrize("members", range(2, 7))
def test_equal_weights_have_the_sum_1(members):
    found = api.equal_weights(members)
    assert sum(found) == pytest.approx(1)
    assert api.counts_alike(found)
    assert all(round(100 * one) == pytest.approx(100 * one) for one in found)


def test_a_changed_run_is_read_anew(open_app, weak):
    app = open_with(open_app, weak, "logmel-maha", "logmel-knn")
    before = metric(app, "Ω of the fusion")
    run = next(run for run in api.runs(weak) if run.record["system"] == "logmel-maha")
    scores = run.scores
    write_table(run.folder / "scores.parquet", scores.assign(score=np.random.default_rng(0).normal(size=len(scores))))
    meta = read_json(run.folder / "meta.json")
    meta["files"]["scores.parquet"] = (run.folder / "scores.parquet").stat().st_size
    write_json(run.folder / "meta.json", meta)
    assert metric(open_with(open_app, weak, "logmel-maha", "logmel-knn"), "Ω of the fusion") != before
