"""Loose recordings, scored with what a run has left."""

import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from asd_core import config, pipeline
from asd_core.artifacts import Workspace, is_done, list_runs, read_evidence
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.files import read_json
from asd_core.pipeline import loose
from asd_core.types import SAMPLE_RATE, AsdError


@pytest.mark.parametrize("kind", ["score", "embed"])
def test_what_is_gone_can_be_made_again(tmp_path, kind):
    rng = np.random.default_rng(0)
    for name in ("train/section_00_source_train_normal_0000.wav", "test/section_00_0000.wav"):
        path = tmp_path / "data" / "fan" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * rng.normal(size=(SAMPLE_RATE // 2, 2)), SAMPLE_RATE)
    context = pipeline.Context(Workspace(tmp_path / "ws"), scan(tmp_path / "data"), "cpu")
    tasks = pipeline.plan([config.load_system("logmel-knn")], config.load_profile("full"), context)
    local.run(tasks, context)
    (run,) = list_runs(context.workspace)

    def score():
        return pipeline.score_files(context.workspace, run.record["run_id"], "fan", [path])

    (expected,) = run.scores.query("split == 'test'")["score"]
    np.testing.assert_allclose(score()["score"], expected)
    shutil.rmtree(context.workspace.root / "tasks" / kind)
    with pytest.raises(
        AsdError, match=r"is gone or damaged. Run again \(python -m asd_core run logmel-knn --data data --profile full"
    ):
        score()
    local.run(tasks, context)
    np.testing.assert_allclose(score()["score"], expected)


def test_what_stands_behind_a_score_is_kept(tmp_path):
    """A training clip, scored again: it is its own nearest one, and all its local scores are nothing."""
    rng = np.random.default_rng(1)
    names = [f"train/section_00_source_train_normal_{i:04d}_spd_{i}.wav" for i in range(6)]
    for name in (*names, "test/section_00_0000.wav"):
        path = tmp_path / "data" / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=(SAMPLE_RATE, 2)), SAMPLE_RATE, subtype="FLOAT")
    context = pipeline.Context(Workspace(tmp_path / "ws"), scan(tmp_path / "data"), "cpu")
    local.run(pipeline.plan([config.load_system("logmel-knn")], config.load_profile("full"), context), context)
    (run,) = list_runs(context.workspace)
    paths = [tmp_path / "data" / "fan" / names[4], path]
    judged = loose.judge_files(context.workspace, run.record["run_id"], "fan", paths)
    pd.testing.assert_frame_equal(
        judged.table, pipeline.score_files(context.workspace, run.record["run_id"], "fan", paths)
    )
    first = judged.neighbours[judged.neighbours["rank"] == 1].set_index("row")
    assert first.loc[0, "clip_id"] == f"fan/{names[4]}"
    assert first.loc[0, "attributes"] == "spd_4"
    assert first.loc[0, "distance"] == pytest.approx(0, abs=1e-9)
    assert first.loc[1, "distance"] > 0
    loose.keep(judged, tmp_path / "kept", run.record["run_id"], "fan", "00")
    assert is_done(tmp_path / "kept")
    for about in read_json(tmp_path / "kept" / "meta.json")["local"]:
        evidence, files, ids = read_evidence(tmp_path / "kept" / about["file"])
        assert files.tolist() == [str(one) for one in paths]
        assert ids[evidence.clip[0]].ravel()[0] == f"fan/{names[4]}"
        assert about["of_run"], "the run has kept evidence of its test clip"
    loose.keep(judged, tmp_path / "kept", run.record["run_id"], "fan", "00")  # over what it has written itself


def test_the_colours_are_those_that_results_gives_the_run_s_own_clips(tmp_path):
    """One clip of another kind is flagged, and neither there nor here does it fade the others."""
    rng = np.random.default_rng(2)
    names = [f"train/section_00_source_train_normal_{i:04d}.wav" for i in range(12)]
    names += [f"test/section_00_{i:04d}.wav" for i in range(10)]
    normal = 0.1 * rng.normal(size=(12, SAMPLE_RATE // 2, 2))
    waves = [*normal, *(one * (1 + 0.01 * i) for i, one in enumerate(normal[:9])), 9 * normal[0] ** 3]
    for name, wave in zip(names, waves, strict=True):
        path = tmp_path / "data" / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, SAMPLE_RATE, subtype="FLOAT")
    context = pipeline.Context(Workspace(tmp_path / "ws"), scan(tmp_path / "data"), "cpu")
    local.run(pipeline.plan([config.load_system("logmel-knn")], config.load_profile("full"), context), context)
    (run,) = list_runs(context.workspace)
    scores = run.scores
    unflagged = scores.loc[scores["decision"] == 0, "clip_id"]
    assert 5 <= len(unflagged) < 10
    (told,) = loose.judge_files(context.workspace, run.record["run_id"], "fan", [path]).local.values()
    (key,) = run.record["scores"]["fan"].values()
    kept, ids, _ = read_evidence(context.workspace.task("score", key) / "evidence-00.npz")
    marks = np.percentile(kept.values[np.isin(ids, unflagged)], [1, 99.5, 99])
    assert told.scale == pytest.approx(tuple(marks))
    assert told.scale[1] < np.percentile(kept.values, 99.5)
    assert told.of_run
    assert told.is_calm


def test_a_verdict_is_not_written_among_other_things(tmp_path):
    """Finishing a folder removes what is hidden there: of a checkout, its history."""
    judged = loose.Judged(pd.DataFrame({"file": ["a.wav"]}), pd.DataFrame({"row": [0]}), {})
    (tmp_path / ".git").mkdir()
    with pytest.raises(AsdError, match=r"holds other things, such as \.git"):
        loose.keep(judged, tmp_path, "run", "fan", "00")
    assert [one.name for one in tmp_path.iterdir()] == [".git"]
    (tmp_path / "file").touch()
    with pytest.raises(AsdError, match="is a file"):
        loose.require_place(tmp_path / "file")
