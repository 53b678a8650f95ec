"""The workspace: nothing stale, nothing mixed up, nothing half done."""

import json
import shutil

import numpy as np
import pytest
import yaml

from asd_core import config, pipeline
from asd_core.artifacts import Workspace, finish, is_done, list_runs
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.types import AsdError
from tests.conftest import SYSTEMS


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of one labelled machine that a test may change."""
    tiny = scan(tiny_data)
    machine = next(m for m in tiny.machines if tiny.is_labelled(m))
    shutil.copytree(tiny_data / machine, tmp_path / "data" / machine)
    return tmp_path / "data"


def execute(data, workspace, *systems, machines=None, seeds=(0,)):
    """Plan and run; returns the context and what the engine reused and computed."""
    context = pipeline.Context(Workspace(workspace), scan(data), "cpu")
    loaded = [config.load_system(str(name)) for name in systems]
    tasks = pipeline.plan(loaded, config.load_profile("full"), context, machines, seeds)
    return tasks, local.run(tasks, context)


def test_two_sections_have_thresholds_of_their_own(data, tmp_path):
    machine = scan(data).machines[0]
    rng = np.random.default_rng(0)
    for path in [*(data / machine / "train").iterdir(), *(data / machine / "test").iterdir()]:
        if rng.random() < 0.5:
            path.rename(path.with_name(path.name.replace("section_00", "section_01")))
    execute(data, tmp_path / "ws", "logmel-knn")
    (run,) = list_runs(Workspace(tmp_path / "ws"))
    thresholds = run.record["thresholds"][machine]
    assert set(thresholds) == {"00", "01"}
    assert thresholds["00"] != thresholds["01"]
    assert (run.scores["score"] > 0).all()
    for section in ("00", "01"):
        rows = run.scores.query("section == @section and split == 'test'")
        paths = [data / machine / "test" / clip_id.rpartition("/")[2] for clip_id in rows["clip_id"]][:2]
        loose = pipeline.score_files(Workspace(tmp_path / "ws"), run.record["run_id"], machine, paths, section)
        np.testing.assert_allclose(loose["score"], rows["score"][:2], rtol=1e-6)
        np.testing.assert_allclose(loose["threshold"], thresholds[section], rtol=1e-9)
    with pytest.raises(AsdError, match="has no section 07"):
        pipeline.score_files(Workspace(tmp_path / "ws"), run.record["run_id"], machine, paths, "07")


def test_a_section_without_test_clips_is_scored_all_the_same(data, tmp_path):
    machine = scan(data).machines[0]
    for path in sorted((data / machine / "train").iterdir())[:5]:
        path.rename(path.with_name(path.name.replace("section_00", "section_01")))
    execute(data, tmp_path / "ws", "logmel-knn")
    (run,) = list_runs(Workspace(tmp_path / "ws"))
    assert (run.scores.query("section == '01'")["score"] > 0).all()


def test_a_test_section_without_training_is_refused_before_any_work(data, tmp_path):
    path = next((scan(data).root / scan(data).machines[0] / "test").iterdir())
    path.rename(path.with_name(path.name.replace("section_00", "section_03")))
    with pytest.raises(AsdError, match="no training clips of section 03"):
        execute(data, tmp_path / "ws", "logmel-knn")
    assert not list((tmp_path / "ws").glob("tasks/*/*"))


def test_changed_recordings_make_a_new_run_and_keep_the_old_one(data, tmp_path):
    execute(data, tmp_path / "ws", "logmel-knn")
    (before,) = list_runs(Workspace(tmp_path / "ws"))
    scores = before.scores
    path = next((data / scan(data).machines[0] / "train").iterdir())
    path.unlink()
    execute(data, tmp_path / "ws", "logmel-knn")
    runs = list_runs(Workspace(tmp_path / "ws"))
    assert len(runs) == 2
    again = next(r for r in runs if r.record["run_id"] == before.record["run_id"])
    assert again.scores.equals(scores)


def test_more_test_clips_do_not_retrain(data, tmp_path):
    system = SYSTEMS / "tiny-autoencoder.yaml"
    execute(data, tmp_path / "ws", system)
    clip = next(iter(sorted((data / scan(data).machines[0] / "test").iterdir())))
    shutil.copy(clip, clip.with_name(clip.name.replace("_0000_", "_0999_")))
    tasks, outcome = execute(data, tmp_path / "ws", system)
    assert outcome.computed == len(tasks) - 1
    assert tasks[0].kind == "train"


def test_defaults_are_part_of_the_key(data, tmp_path):
    """A spelled-out default is the same work; another value is not."""
    values = yaml.safe_load((config.CONFIGS / "systems" / "logmel-knn.yaml").read_text())
    keys = []
    for view in (
        {"name": "logmel_statistics"},
        {"name": "logmel_statistics", "hop": 512},
        {"name": "logmel_statistics", "hop": 256},
    ):
        values["branches"][0]["view"] = view
        context = pipeline.Context(Workspace(tmp_path / "ws"), scan(data), "cpu")
        tasks = pipeline.plan([config.validate(config.System, values, "test")], config.load_profile("full"), context)
        keys.append(next(t.key for t in tasks if t.kind == "embed"))
    assert keys[0] == keys[1] != keys[2]


def test_equal_branches_under_two_names_share_their_work(data, tmp_path):
    values = yaml.safe_load((config.CONFIGS / "systems" / "logmel-knn.yaml").read_text())
    values["branches"].append(values["branches"][0] | {"name": "twin"})
    path = tmp_path / "twins.yaml"
    path.write_text(yaml.safe_dump(values | {"name": "twins"}))
    execute(data, tmp_path / "ws", "logmel-knn")
    _, outcome = execute(data, tmp_path / "ws", path)
    assert outcome.computed == 1
    run = next(r for r in list_runs(Workspace(tmp_path / "ws")) if r.record["system"] == "twins")
    machine = run.record["machines"][0]
    clip = next((data / machine / "test").iterdir())
    assert len(pipeline.score_files(Workspace(tmp_path / "ws"), run.record["run_id"], machine, [clip])) == 1


def test_two_folders_of_one_name_are_not_mixed_up(data, tmp_path):
    other = tmp_path / "elsewhere" / "data"
    shutil.copytree(data, other)
    execute(data, tmp_path / "ws", "logmel-knn")
    with pytest.raises(AsdError, match="already stands for"):
        execute(other, tmp_path / "ws", "logmel-knn")


def test_a_moved_folder_is_found_again_without_recomputing(data, tmp_path):
    execute(data, tmp_path / "ws", "logmel-knn")
    (tmp_path / "new").mkdir()
    moved = shutil.move(data, tmp_path / "new" / "data")
    _, outcome = execute(moved, tmp_path / "ws", "logmel-knn")
    assert outcome.computed == 0
    assert json.loads((tmp_path / "ws/datasets/data/dataset.json").read_text())["root"] == str(moved)


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_damaged_result_is_made_again(data, tmp_path, damage):
    system = SYSTEMS / "tiny-autoencoder.yaml"
    execute(data, tmp_path / "ws", system)
    (weights,) = (tmp_path / "ws").glob("tasks/train/*/model.safetensors")
    content = weights.read_bytes()
    weights.unlink() if damage == "missing" else weights.write_bytes(b"")
    _, outcome = execute(data, tmp_path / "ws", system)
    assert outcome.computed == 1
    assert weights.read_bytes() == content


def test_remains_of_a_killed_write_are_removed(data, tmp_path):
    tasks, _ = execute(data, tmp_path / "ws", "logmel-knn")
    folder = tasks[0].folder(Workspace(tmp_path / "ws"))
    (folder / "meta.json").unlink()
    (folder / ".train.npz.abc.part").write_bytes(b"half")
    execute(data, tmp_path / "ws", "logmel-knn")
    assert is_done(folder)
    assert not list(folder.glob(".*.part"))


def test_clean_leaves_what_somebody_works_on(data, tmp_path):
    workspace = Workspace(tmp_path / "ws")
    execute(data, workspace.root, "logmel-knn")
    abandoned, busy = workspace.task("train", "abandoned"), workspace.task("train", "busy")
    for folder in (abandoned, busy):
        folder.mkdir(parents=True)
    with workspace.locked(busy):
        assert workspace.clean() == 1
    assert busy.is_dir()
    assert not abandoned.exists()
    assert len(list_runs(workspace)) == 1


def test_clean_asks_again_once_it_holds_the_lock(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    folder = workspace.task("train", "slow")
    folder.mkdir(parents=True)
    seen = workspace.unfinished()
    monkeypatch.setattr(Workspace, "unfinished", lambda self: seen)
    finish(folder)  # between the look and the lock
    assert workspace.clean() == 0
    assert is_done(folder)


def test_only_target_clips_train_the_autoencoder(data, tmp_path):
    machine = scan(data).machines[0]
    for path in (data / machine / "train").glob("*source*"):
        path.unlink()
    execute(data, tmp_path / "ws", SYSTEMS / "tiny-autoencoder.yaml")
    (run,) = list_runs(Workspace(tmp_path / "ws"))
    assert any("No source clip" in notice for notice in run.record["notices"])


def test_a_machine_that_lacks_clips_is_left_out_with_a_notice(tiny_data, tmp_path, caplog):
    root = tmp_path / "data"
    machines = scan(tiny_data).machines[:2]
    for machine in machines:
        (root / machine).mkdir(parents=True)
        (root / machine / "train").symlink_to(tiny_data / machine / "train")
    (root / machines[0] / "test").symlink_to(tiny_data / machines[0] / "test")
    execute(root, tmp_path / "ws", "logmel-knn")
    (run,) = list_runs(Workspace(tmp_path / "ws"))
    assert run.record["machines"] == [machines[0]]
    assert f"left out: {machines[1]} has no test clips" in caplog.text
    with pytest.raises(AsdError, match=f"{machines[1]} has no test clips"):
        execute(root, tmp_path / "ws", "logmel-knn", machines=[machines[1]])
