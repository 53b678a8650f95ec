"""Loose recordings, scored with what a run has left."""

import shutil

import numpy as np
import pytest
import soundfile

from asd_core import config, pipeline
from asd_core.artifacts import Workspace, list_runs
from asd_core.data.manifest import scan
from asd_core.engine import local
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

    def loose():
        return pipeline.score_files(context.workspace, run.record["run_id"], "fan", [path])

    (score,) = run.scores.query("split == 'test'")["score"]
    np.testing.assert_allclose(loose()["score"], score)
    shutil.rmtree(context.workspace.root / "tasks" / kind)
    with pytest.raises(
        AsdError, match=r"is gone or damaged. Run again \(logmel-knn --data data --profile full --seeds 0"
    ):
        loose()
    local.run(tasks, context)
    np.testing.assert_allclose(loose()["score"], score)
